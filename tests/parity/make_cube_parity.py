"""Run jwst cube_build on an exposure with made-up pixel values and store the cubes; needs an environment with jwst.

python tests/parity/make_cube_parity.py CAL CUBEPAR      writes cube_drizzle.npz and cube_emsm.npz in tests/parity/data

CAL is a cal file of jwst of a simulated exposure of 12A (parametric geometry), CUBEPAR a simulated cubepar file.
"""

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "data"
LIMITS = (5.300, 5.309)
POINTING = ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref")


def pixels(shape=(1024, 1032)):
    """Return value, error and flags of every pixel by a formula."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    value = (3.0 + np.sin(0.9 * x) * np.cos(0.7 * y) + 0.01 * (x % 7) * (y % 5)).astype("f4")
    error = (0.1 + 0.05 * np.cos(0.3 * x + 1.1 * y) ** 2).astype("f4")
    flags = np.where((x * 7 + y * 13) % 29 == 0, 1, 0).astype("u4")
    flags[(y % 64 < 40) & (x > 200) & (x < 217)] |= 513
    value[flags % 2 == 1] = np.nan
    return value, error, flags


def run(path, cubepar, weighting):
    from jwst.cube_build import CubeBuildStep
    from stdatamodels.jwst import datamodels as dm

    model = dm.IFUImageModel(path)
    model.data, model.err, model.dq = pixels()
    for name in ("var_poisson", "var_rnoise", "var_flat"):  # NaN in one of them flags a pixel
        setattr(model, name, np.zeros(model.data.shape, "f4"))
    with tempfile.TemporaryDirectory() as folder:
        cube = CubeBuildStep.call(
            model, channel="1", weighting=weighting, wavemin=LIMITS[0], wavemax=LIMITS[1], override_cubepar=cubepar,
            output_dir=folder,
        )[0]  # fmt: skip
    wcs = cube.meta.wcsinfo
    out = {"flux": cube.data, "err": cube.err, "dq": cube.dq, "weight": cube.weightmap.astype("f4")}
    out["crval"] = np.array([wcs.crval1, wcs.crval2, wcs.crval3])
    out["pointing"] = np.array([getattr(model.meta.wcsinfo, name) for name in POINTING])
    out["more"] = np.array([model.meta.velocity_aberration.scale_factor, model.meta.wcsinfo.velosys])
    return out


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for name in ("drizzle", "emsm"):
        np.savez_compressed(OUT / f"cube_{name}.npz", **run(sys.argv[1], sys.argv[2], name))
