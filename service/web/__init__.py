"""What every endpoint shares: routes, problems, request context, documentation."""
