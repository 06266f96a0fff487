"""The Copilot usage service: what the current billing period has used."""
