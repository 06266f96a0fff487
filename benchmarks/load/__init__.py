"""Load on a running service: Locust scenarios, constant rates, and their processes."""
