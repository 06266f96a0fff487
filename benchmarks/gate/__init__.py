"""Gate for regressions: measures this checkout beside another revision of it."""
