"""Slices into coherent volumes."""
