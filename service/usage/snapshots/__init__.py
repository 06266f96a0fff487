"""Snapshots: one period's messages, priced, as immutable columns; and queries on them.

`store` and what it imports also run in a child process, which loads nothing else.
"""
