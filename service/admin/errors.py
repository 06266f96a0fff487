"""Errors of operation by hand."""


class CircuitNotFound(Exception):
    """No circuit has this name; the text lists the known ones."""
