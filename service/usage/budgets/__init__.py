"""Budgets: thresholds of credits that fire once per period, and signed webhooks."""
