"""Calling others: one client with bounds on time, size, tries and concurrency."""
