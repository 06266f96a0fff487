"""Pricing: what a message costs under a plan. Pure: no framework, no log, no I/O."""
