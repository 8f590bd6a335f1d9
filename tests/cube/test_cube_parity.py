"""Cubes of one exposure against stored cubes of jwst 3.0.0 (tests/parity/make_cube_parity.py)."""

import numpy as np
import pytest
import xarray as xr
from helpers import of_jwst
from parity.make_cube_parity import LIMITS, POINTING, pixels
from simulated import cal_of

from mrsxr import mrs
from mrsxr.cube import build_cube
from mrsxr.geometry.grid import CubeGrid
from mrsxr.simulate import Scene
from mrsxr.simulate.reference_files import EMSM_DEFAULTS


@pytest.fixture(scope="module")
def cubepar():
    low, high = mrs.WAVELENGTH_LIMITS["1A"]
    names = ("spaxel_size", "wavelength_step", "wavelength_min", "wavelength_max", "emsm_roi_spatial",
             "emsm_roi_spectral", "emsm_scalerad")  # fmt: skip
    values = (0.13, 0.0008, low, high, *EMSM_DEFAULTS[1])
    return xr.Dataset({n: ("band", [v]) for n, v in zip(names, values, strict=True)}, {"band": ["1A"]})


@pytest.fixture(scope="module")
def cal():
    """The geometry of a simulated exposure with the pixel values of the formula."""
    ds = cal_of(Scene(339.015, 33.976, background=np.zeros_like), "12A", [(0.0, 0.0)])
    value, error, flags = pixels()
    data = {"flux": value, "var_poisson": error.astype("f8") ** 2, "var_read": 0 * error, "var_flat": 0 * error}
    ds = ds.assign({n: ds[n].copy(data=v[None].astype("f4")) for n, v in data.items()})
    return ds.assign(dq=ds.dq.copy(data=flags[None]))


@pytest.mark.parametrize("weighting", ["drizzle", "emsm"])
def test_cube_of_jwst(cal, cubepar, weighting):
    theirs = of_jwst(f"cube_{weighting}")
    coords = dict(zip((*POINTING, "va_scale", "velosys"), (*theirs["pointing"], *theirs["more"]), strict=True))
    ds = cal.assign_coords({name: cal[name].copy(data=[value]) for name, value in coords.items()})
    cube = build_cube(
        ds, band="1A", cubepar=cubepar, weighting=weighting, wavelength_min=LIMITS[0], wavelength_max=LIMITS[1]
    )
    grid = CubeGrid.of(cube)
    assert grid.shape == theirs["flux"].shape
    np.testing.assert_allclose((grid.ra, grid.dec, grid.wavelengths[0]), theirs["crval"], rtol=0, atol=1e-11)
    good = np.isfinite(theirs["flux"])
    assert good.sum() > 5000
    np.testing.assert_array_equal(np.isfinite(cube.flux.values), good)
    np.testing.assert_allclose(cube.flux.values[good], theirs["flux"][good], rtol=2e-5)
    np.testing.assert_allclose(np.sqrt(cube["var"].values[good]), theirs["err"][good], rtol=2e-5)
    assert np.mean(cube.weight.values[good] == theirs["weight"][good]) > 0.999
    assert np.mean(cube.dq.values == theirs["dq"]) > 0.99
