"""What the reference files say of the second-order light of band 1B that falls on band 3A.

The table LEAKCOR of mrsptcorr is a ratio of surface brightnesses: its maker (STScI-MIRI/miri3d,
mrsptcorr/make_mrsptcorr.py) divides the flux conversion of 3A by the second-order response of the detector to extended
light ("for a given Ch1B flux in MJy/sr, what is the Ch3A flux in MJy/sr"). It is the part of the light itself. jwst and
STScI-MIRI/MRSFringeCor apply such tables to point-source spectra in Jy as they are (the data model says "fractional,
Jy to Jy"), though what leaks is an image of 6 um, of which an aperture of 12 um misses less than its correction makes
up for: in such spectra 2 to 3 % of the leak stay, below 0.1 % of the light of 1B. The star HD 163466 (June 2024) has
1.00 +- 0.03 of the leak that the table of MRSFringeCor tells, which does not tell the two apart.

Nothing is fitted to the data here, and so no step that uses it has a score.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.errors import ReferenceFileError


def leak_fraction(wavelength: np.ndarray, mrsptcorr: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return what part of the light at half the wavelength there is besides, and the error of that part.

    Parameters
    ----------
    wavelength : float array
        [um]
    mrsptcorr : Dataset, kind "mrsptcorr"
        ``frac_leak`` and, optionally, ``err_leak`` on (wavelength [um]).

    Returns
    -------
    (float array, float array)
        Linear between the rows of the table, in whatever order; beyond its ends the value there, as in jwst, and 0
        where rows without a number stand there.

    Raises
    ------
    ReferenceFileError
        Where the reference file has no leak table, or one whose fractions are none.
    """
    if "frac_leak" not in mrsptcorr:
        raise ReferenceFileError(
            f"mrsptcorr {mrsptcorr.attrs.get('ref_id', '')}: no table LEAKCOR; the spectral leak cannot be corrected"
        )
    table = mrsptcorr.isel(wavelength=np.argsort(mrsptcorr["frac_leak"]["wavelength"].values))
    grid, found = np.asarray(table["wavelength"].values, dtype=float), []
    for name in ("frac_leak", "err_leak"):
        rows = np.asarray(table[name].values, dtype=float) if name in table else 0.0 * grid
        known = np.isfinite(rows)
        if not known.any() or rows[known].min() < 0.0 or rows[known].max() > 1.0:
            raise ReferenceFileError(
                f"mrsptcorr {mrsptcorr.attrs.get('ref_id', '')}: {name} is {_range_of(rows[known])}; expected 0 to 1"
            )
        rows = np.interp(grid, grid[known], rows[known], left=0.0, right=0.0)
        found.append(np.interp(wavelength, grid, rows))
    return found[0], found[1]


def _range_of(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}" if values.size else "without a number"


def samples_of(ds: xr.Dataset, band: str) -> np.ndarray:
    """Return which planes or samples are of a band, bool (wavelength): of joint cubes the coordinate ``band`` tells."""
    held = ds["band"].values if "band" in ds.variables else str(ds.attrs.get("band", ""))
    return np.broadcast_to(np.asarray(held).astype(str), (ds.sizes["wavelength"],)) == band


def holds_band(ds: xr.Dataset, band: str) -> bool:
    """Return whether a cube or spectrum, of one band or several, is of a band."""
    return band in str(ds.attrs.get("band", "")).split()
