"""Geometry: detector pixels, slices, the telescope frame, the sky and the grid of a cube."""
