"""Shared by all endpoints: routes, problems, request context, documentation."""
