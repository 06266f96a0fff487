"""Vehicles by their VIN: asked of vPIC once, kept, and given while vPIC is away."""
