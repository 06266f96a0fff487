"""Errors of operation by hand."""


class CircuitNotFound(Exception):
    """No circuit has this name; the text lists the known ones."""


class NoSchemas(Exception):
    """The service collects no events, so it has no schemas."""
