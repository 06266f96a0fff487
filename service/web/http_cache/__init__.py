"""Cached answers over HTTP: encodings, freshness, conditional requests."""
