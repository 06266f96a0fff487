"""Statements: closed periods with digests that anybody can compute and verify."""
