"""An upstream to run against: periods of any size, and faults on demand."""
