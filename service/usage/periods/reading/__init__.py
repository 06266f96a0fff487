"""Reads of kept periods: few chunks answer most requests."""
