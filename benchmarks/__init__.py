"""Benchmarks: what `make bench` runs, printed as ratios. Nothing here is a test."""
