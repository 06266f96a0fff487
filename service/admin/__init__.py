"""Operation by hand: the state of all workers, refreshes, log level and circuits."""
