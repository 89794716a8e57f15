"""Mixing and changing training volumes: cuboid merging and the classical stack."""
