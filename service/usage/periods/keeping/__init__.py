"""Keeping: snapshots become revisions, and old periods are closed or removed."""
