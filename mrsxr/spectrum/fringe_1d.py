"""Step residual_fringe on spectra: the fringes that are left after the fringe flat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.fringes import correct_spectra
from mrsxr.step import step

#: Variable, its variance, what it becomes, and whether it carries the aperture correction.
_VALUES = (
    ("flux", "var", "rf_flux", True),
    ("surface_brightness", "surface_brightness_var", "rf_surf_bright", True),
    ("background", "background_var", "rf_background", False),
)


@step(needs="spectrum")
def correct_residual_fringe_1d(
    ds: xr.Dataset,
    *,
    method: str = "columns",
    max_amplitude: float = 0.4,
    dichroic_only: bool = False,
    ignore_regions: Sequence[tuple[float, float]] = (),
) -> xr.Dataset:
    """Add the spectrum without residual fringes beside the spectrum itself.

    Parameters
    ----------
    ds : Dataset, level "spectrum"
        Of one band, before stitching. A lazy spectrum is computed: fringes run over the whole band.
    method : {"columns", "slices"}
        The fit of jwst, or the cross-validated one that takes away no more than it can predict; see
        :func:`mrsxr.fringes.correct_spectra`.
    max_amplitude : float
        Largest amplitude of fringes.
    dichroic_only : bool
        Only the fringes of the dichroics, channels 3 and 4.
    ignore_regions : sequence of (minimum, maximum) [um]
        Wavelengths to leave out of the fit.

    Returns
    -------
    Dataset, level "spectrum"
        With ``rf_flux`` [Jy], ``rf_surf_bright``, ``rf_background`` [MJy/sr] (the columns RF_ of jwst) and the variances
        ``rf_flux_var``, ``rf_surf_bright_var``, which hold what the correction adds where the method tells it.

    Raises
    ------
    MrsxrError
        Where the spectrum is of several bands.

    Notes
    -----
    ``ifu_rfcorr`` of jwst's extract_1d: flux, surface brightness and background are fitted each by itself, before the
    aperture correction.
    """
    band = str(ds.attrs.get("band"))
    if band not in mrs.BANDS:
        raise MrsxrError(f"the spectrum is of band {band}; fringes are corrected band by band, before stitching")
    ds = ds.compute()
    wave = np.asarray(ds["wavelength"].values, dtype=float)
    correction = ds["aperture_correction"].values if "aperture_correction" in ds else np.ones(wave.size)
    out = {}
    for name, variance, new, corrected in _VALUES:
        if name not in ds:
            continue
        scale = correction if corrected else np.ones(wave.size)
        values = np.asarray(ds[name].values, dtype=float) / scale
        spread = (
            np.asarray(ds[variance].values, dtype=float) / scale**2 if variance in ds else np.full(wave.size, np.nan)
        )
        with np.errstate(invalid="ignore"):
            error = np.sqrt(spread)
        clean, added = correct_spectra(
            wave, values, None if variance not in ds else error, channel=int(band[0]), method=method,
            dichroic_only=dichroic_only, max_amplitude=max_amplitude, ignore=ignore_regions,
        )  # fmt: skip
        meaning = {"units": ds[name].attrs.get("units"), "long_name": f"{name} without residual fringes"}
        out[new] = ("wavelength", clean * scale, meaning)
        if variance in ds and new != "rf_background":
            with np.errstate(invalid="ignore", divide="ignore"):
                ratio = np.where(values != 0, clean / values, 1.0)
            meaning = {"units": ds[variance].attrs.get("units"), "long_name": f"variance of {new}"}
            out[f"{new}_var"] = ("wavelength", (spread * ratio**2 + added) * scale**2, meaning)
    return ds.assign(out)
