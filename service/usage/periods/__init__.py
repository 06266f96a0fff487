"""Kept periods: what each billing period has used, and what changed in it."""
