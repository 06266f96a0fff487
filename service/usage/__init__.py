"""Usage of the current billing period: messages, reports, prices, answers."""
