"""The serving process: listener, connections, workers."""
