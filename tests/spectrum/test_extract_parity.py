"""Spectra from planes of a cube of jwst beside what its extract_1d gave (tests/parity/make_spectra_parity.py)."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mrsxr import dq
from mrsxr.spectrum import extract_spectrum
from mrsxr.spectrum.aperture import pixel_to_sky
from mrsxr.spectrum.centre import target_of

STORED = Path(__file__).parents[1] / "parity" / "data" / "spectra_1a.npz"
BASELINE = {"centering": "daofind", "like_jwst": True, "autocen": False}
CASES = {
    "target": {"source_type": "POINT"},
    "autocen": {"source_type": "POINT", "autocen": True, "radius_factor": 1.3},
    "wide": {"source_type": "POINT", "autocen": True, "radius_factor": 3.0},
    "extended": {"source_type": "EXTENDED"},
}
VARIABLES = {
    "FLUX": "flux", "FLUX_ERROR": "var", "SURF_BRIGHT": "surface_brightness", "SB_ERROR": "surface_brightness_var",
    "BACKGROUND": "background", "BKGD_ERROR": "background_var", "NPIXELS": "n_pixels",
}  # fmt: skip


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as file:
        return dict(file)


@pytest.fixture(scope="module")
def cube(stored):
    dims, flux = ("wavelength", "y", "x"), stored["flux"].astype("f4")
    ny, nx = flux.shape[1:]
    variables = {
        "flux": (dims, flux, {"units": "MJy/sr"}),
        "var": (dims, stored["err"].astype("f4") ** 2, {"units": "MJy2/sr2"}),
        "weight": (dims, stored["weight"].astype("f4"), {"units": "1"}),
        "dq": (dims, np.where(np.isfinite(flux), 0, 513).astype("u4"), dq.PIXEL_DQ_ATTRS),
    }  # fmt: skip
    coords = {
        "wavelength": ("wavelength", stored["target_WAVELENGTH"], {"units": "um"}),
        "y": ("y", (np.arange(ny) - ny // 2) * 0.13, {"units": "arcsec"}),
        "x": ("x", (np.arange(nx) - nx // 2) * 0.13, {"units": "arcsec"}),
    }
    ra, dec = map(float, stored["target"])
    attrs = {"level": "cube", "band": "1A", "channels": "1", "wcs": str(stored["header"]), "pixel_scale": 0.13,
             "target_ra": ra, "target_dec": dec, "history_json": "[]"}  # fmt: skip
    return xr.Dataset(variables, coords, attrs)


@pytest.fixture(scope="module")
def references(stored):
    names = {"radius": "radius", "inner_background": "inner_bkg", "outer_background": "outer_bkg"}
    extract1d = xr.Dataset(
        {new: ("wavelength", stored[f"extract1d_{old}"]) for new, old in names.items()},
        {"wavelength": stored["extract1d_wavelength"]},
    )
    dims = ("aperture", "wavelength")
    apcorr = xr.Dataset(
        {"radius": (dims, stored["apcorr_radius"]), "correction": (dims, stored["apcorr_apcorr"])},
        {"wavelength": stored["apcorr_wavelength"]},
    )
    return {"extract1d": extract1d, "apcorr": apcorr}


@pytest.mark.parametrize("case", CASES)
def test_every_column_is_that_of_jwst(stored, cube, references, case):
    middle = pixel_to_sky(cube, *np.rint(target_of(cube)))  # jwst moves the target to the middle of its spaxel
    center = middle if case == "target" else None
    out = extract_spectrum(cube, center=center, **references, **(BASELINE | CASES[case]))
    np.testing.assert_array_equal(out.dq, stored[f"{case}_DQ"])
    assert np.isfinite(stored[f"{case}_FLUX"]).all()
    for column, name in VARIABLES.items():
        found = np.sqrt(out[name]) if name.endswith("var") else out[name]
        np.testing.assert_allclose(found, stored[f"{case}_{column}"], rtol=3e-5, err_msg=column)


def test_clamping_is_another_correction_beyond_the_table(stored, cube, references):
    options = BASELINE | CASES["autocen"] | {"like_jwst": False}
    with pytest.warns(UserWarning, match="outside its radii"):
        out = extract_spectrum(cube, **references, **options)
    assert np.abs(out.flux.values / stored["autocen_FLUX"] - 1).min() > 0.005
