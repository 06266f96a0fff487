"""Snapshots: a period's priced messages as immutable columns, and queries on them.

`store` and its imports also run in a child process, which loads nothing else.
"""
