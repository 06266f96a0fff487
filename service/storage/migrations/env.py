"""Entry point of Alembic: runs migrations on the connection of `upgrade`."""

from alembic import context

from service.storage.migrations import CONNECTION

context.configure(
    connection=context.config.attributes[CONNECTION],
    # The caller has one transaction for all revisions.
    transactional_ddl=True,
)
context.run_migrations()
