"""Errors of sums: noise of detector pixels through the flight geometry, scatter over the errors that are told.

``before`` is what the code of commit 579176f told for the same draws: no covariance along wavelength, no terms of point
sources in the errors of sums.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OFFSETS = ((0.0, 0.0), (1.2, -1.13), (-1.1, 1.3), (-0.3, -0.9))
N_PLANES = 48
PLANES_BEFORE = {"1A": (1.214, 1.229), "1C": (1.333, 1.334), "3A": (1.126, 1.149), "4A": (1.070, 1.094)}


def run(table, shared: Path | None, quick: bool) -> None:
    """Add the figures of errors to a table."""
    sys.path[:0] = [str(HERE.parent / "tests" / part) for part in ("", "cube", "geometry")]
    for setting, band, dithers in (("12A", "1A", 4), ("34A", "4A", 1), ("12C", "1C", 2), ("34A", "3A", 4)):
        if shared is not None and not (quick and setting == "12C"):
            sums_over_planes(table, shared / "data", setting, band, dithers, 100 if quick else 400)


def sums_over_planes(table, data: Path, setting: str, band: str, dithers: int, number: int) -> None:
    """Sums over 8 planes of spectra of apertures and of single spaxels; a lopsided source of noise in the middle."""
    import xarray as xr
    from made_instrument import real_labels, real_model
    from noise_draws import draws_of, flight_cal

    from mrsxr import mrs
    from mrsxr.cube import build_cube, sum_variance
    from mrsxr.sums import variance_of_sum

    ds = flight_cal(real_model(data, setting), real_labels(data, setting), setting, OFFSETS[:dithers])
    middle, half = np.mean(mrs.WAVELENGTH_LIMITS[band]), (0.5 * N_PLANES - 0.3) * mrs.WAVELENGTH_STEP[int(band[0])]
    cube = build_cube(ds, band=band, wavelength_min=middle - half, wavelength_max=middle + half).compute()
    noise = draws_of(ds, cube, number)
    seen = np.isfinite(noise).all(axis=(0, 1))
    y, x = np.nonzero(seen)
    radius = np.hypot(cube.y - cube.y[int(y.mean())], cube.x - cube.x[int(x.mean())])
    weights = (radius < (1.2 if band[0] == "4" else 0.6)).astype(float) * xr.ones_like(cube.wavelength)
    spectra = np.nansum(noise * weights.transpose("wavelength", "y", "x").values, axis=(2, 3))
    exact = sum_variance(ds, cube=cube, weights=weights.transpose("wavelength", "y", "x"))
    exact = exact.assign_attrs(cube.attrs)
    found, voxels = [], []
    for start in range(0, N_PLANES - 7, 8):
        part = slice(start, start + 8)
        here = {"wavelength": part}
        found.append(spectra[:, part].sum(axis=1) / float(variance_of_sum(exact.isel(here))) ** 0.5)
        voxels.append(noise[:, part].sum(axis=1)[:, seen] / variance_of_sum(cube.isel(here)).values[seen] ** 0.5)
    names = ("aperture", "single spaxels")
    for name, pulls, before in zip(names, (found, voxels), PLANES_BEFORE[band], strict=True):
        width = float(np.std(pulls))
        table.add(f"{band}, {name}: sums over 8 planes, scatter / error", f"{width:.3f}", "1.00 +- 0.05",
                  abs(width - 1) <= 0.05, before=before)  # fmt: skip
