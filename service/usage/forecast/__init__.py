"""Forecasts: how many credits the current period will have used at its end."""
