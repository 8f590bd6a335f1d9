"""cal -> cube: three-dimensional drizzle of the dithers of one band onto a regular grid."""

from .cube_build import build_cube

__all__ = ["build_cube"]
