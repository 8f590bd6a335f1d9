"""Step residual_fringe on spectra: the fringes that are left after the fringe flat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.fringes import TOLERANCE, Method, correct_where_gained, corrected_before, without_dichroics
from mrsxr.limits import Interval, NotNegative, Positive
from mrsxr.notes import tell
from mrsxr.scores import score
from mrsxr.step import step

#: Variable, its variance, what it becomes, and whether it carries the aperture correction.
_VALUES = (
    ("flux", "var", "rf_flux", True),
    ("surface_brightness", "surface_brightness_var", "rf_surf_bright", True),
    ("background", "background_var", "rf_background", False),
)


@step(needs="spectrum", jwst="residual_fringe", keyword="S_RESFRI")
def correct_residual_fringe_1d(
    ds: xr.Dataset,
    *,
    method: Method = "columns",
    max_amplitude: Positive = 0.4,
    dichroic_only: bool = False,
    ignore_regions: Sequence[Interval] = (),
    tolerance: NotNegative = TOLERANCE,
) -> xr.Dataset:
    """Add the spectrum without residual fringes beside the spectrum itself.

    Parameters
    ----------
    ds : Dataset, level "spectrum"
        Of one band, before stitching.
    method : {"columns", "slices"}
        The fit of jwst, or the cross-validated one that takes away no more than it can predict; see
        :func:`mrsxr.fringes.correct_spectra`.
    max_amplitude : float
        Largest amplitude of fringes.
    dichroic_only : bool
        Only the fringes of the dichroics, channels 3 and 4; columns ``RF_*`` of the other bands are
        the spectrum as it is.
    ignore_regions : sequence of (minimum, maximum) [um]
        Wavelengths to leave out of the fit.
    tolerance : float
        Change of chi2 at which the fit "columns" ends; jwst's ends early, 0 goes to the minimum.

    Returns
    -------
    Dataset, level "spectrum"
        With ``rf_flux`` [Jy], ``rf_surf_bright``, ``rf_background`` [MJy/sr] (columns ``RF_*`` of jwst) and the
        variances ``rf_flux_var``, ``rf_surf_bright_var``, which hold what the correction adds where the method tells
        it.
        With "slices" ``score_residual_fringe``, that of the flux: the misfit with over that without the fringes where
        they are predicted from elsewhere. A spectrum where it is not below 1 stays as it is: no method is sure there.

    Raises
    ------
    MrsxrError
        Where the spectrum is of several bands.

    Notes
    -----
    ``ifu_rfcorr`` of jwst's extract_1d: flux, surface brightness and background are fitted each by itself, before the
    aperture correction, the flux as sum over spaxels in MJy/sr (the fit "columns" depends on the unit). As there, it
    follows a correction on the detector as well; a note says so.

    Examples
    --------
    >>> out = mx.spectrum.correct_residual_fringe_1d(spectrum)
    >>> "rf_flux" in out
    True
    """
    band = str(ds.attrs.get("band"))
    if band not in mrs.BANDS:
        raise MrsxrError(f"the spectrum is of band {band}; fringes are corrected band by band, before stitching")
    stays = without_dichroics(band, dichroic_only)
    if not stays and (before := corrected_before(ds)):
        tell(
            f"residual fringes found {before} were corrected before; columns RF_ lack what that left of them",
            aloud=False,
        )
    wave = np.asarray(ds["wavelength"].values, dtype=float)
    options = {"wavelength": wave, "channel": int(band[0]), "method": method, "max_amplitude": float(max_amplitude),
               "dichroic_only": bool(dichroic_only), "ignore": tuple(map(tuple, ignore_regions)),
               "tolerance": float(tolerance)}  # fmt: skip
    work = as_they_are if stays else correct_values
    out: dict[str, object] = {}
    for name, variance, new, corrected in _VALUES:
        if name not in ds:
            continue
        given = [ds[name], ds[variance] if variance in ds else xr.full_like(ds[name], np.nan, dtype=float)]
        with_factor = corrected and "aperture_correction" in ds
        factor = ds["aperture_correction"] if with_factor else xr.ones_like(ds[name], dtype=float)
        given.append(factor * 1e6 * ds.attrs.get("pixel_area_sr", 1e-6) if name == "flux" else factor)
        found = xr.apply_ufunc(
            work, *(g.variable for g in given), kwargs=options, input_core_dims=[["wavelength"]] * 3,
            output_core_dims=[["part", "wavelength"]], dask="parallelized", output_dtypes=[float],
            dask_gufunc_kwargs={"output_sizes": {"part": 3}, "allow_rechunk": True},
        )  # fmt: skip
        meaning = {"units": ds[name].attrs.get("units"), "long_name": f"{name} without residual fringes"}
        out[new] = ("wavelength", found[0].data, meaning)
        if variance in ds and corrected:
            meaning = {"units": ds[variance].attrs.get("units"), "long_name": f"variance of {new}"}
            out[f"{new}_var"] = ("wavelength", found[1].data, meaning)
        if name == "flux" and method == "slices":
            out |= score("residual_fringe", found[2, 0].data, method=method, instead="none", held_out="places left out")
    return ds.assign(out).assign_attrs(residual_fringe_1d=1)


def as_they_are(values: np.ndarray, variance: np.ndarray, factor: np.ndarray, **options: Any) -> np.ndarray:
    """Return what :func:`correct_values` does of a spectrum without fringes."""
    return np.stack([values, variance, np.full(np.shape(values), np.nan)]).astype(float)


def correct_values(
    values: np.ndarray, variance: np.ndarray, factor: np.ndarray, *, wavelength: np.ndarray, channel: int, method: str,
    max_amplitude: float, dichroic_only: bool, ignore: tuple[Any, ...], tolerance: float,
) -> np.ndarray:  # fmt: skip
    """Return a spectrum without fringes, its variance and the score (3, wavelength); the fit is of values / factor."""
    values = np.asarray(values, dtype=float) / factor
    spread = np.asarray(variance, dtype=float) / factor**2
    known = np.isfinite(spread).any()
    with np.errstate(invalid="ignore"):
        error = np.sqrt(spread) if known else None
    clean, added, judged = correct_where_gained(
        wavelength, values, error, channel=channel, method=method, dichroic_only=dichroic_only,
        max_amplitude=max_amplitude, ignore=ignore, tolerance=tolerance,
    )  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(values != 0, clean / values, 1.0)
    changed = [clean * factor, (spread * ratio**2 + added) * factor**2]
    return np.stack([*changed, np.full(values.shape, judged)])
