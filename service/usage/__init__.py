"""What the current billing period has used: messages, reports, prices, answers."""
