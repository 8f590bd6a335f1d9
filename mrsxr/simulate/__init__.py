"""Simulated MRS observations with known truth, in the file formats of JWST and CRDS."""

from .exposure import Effects
from .geometry_files import write_geometry
from .observation import Simulation, simulate_observation, true_spectrum
from .products import simulate_cube, simulate_spectrum
from .psf import Psf
from .reference_files import write_reference
from .scene import Background, Line, LineDisc, PointSource, PowerLaw, Scene, encircled_energy

__all__ = [
    "simulate_observation", "Simulation", "Effects", "Scene", "PointSource", "LineDisc", "Line", "PowerLaw",
    "Background", "encircled_energy", "true_spectrum", "simulate_cube", "simulate_spectrum", "write_reference",
    "write_geometry", "Psf",
]  # fmt: skip
