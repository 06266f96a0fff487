"""A fake upstream for tests and trials: periods of any size, and faults on demand."""
