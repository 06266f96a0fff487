"""Alembic's entry: runs the steps on the connection that `upgrade` was given."""

from alembic import context

from service.storage.migrations import CONNECTION

context.configure(
    connection=context.config.attributes[CONNECTION],
    # The caller's transaction: all steps, or none.
    transactional_ddl=True,
)
context.run_migrations()
