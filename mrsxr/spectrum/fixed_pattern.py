"""Step pfpc: the fixed pattern that a point source shows at each place of its dither pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.limits import Ref
from mrsxr.notes import tell
from mrsxr.references.exposure import header_of
from mrsxr.robust import MAD_TO_SIGMA, middle_and_scatter
from mrsxr.scores import gains, score
from mrsxr.step import step
from mrsxr.tree import dither_of

#: Keyword and attribute of the reference file that say for which pattern of dithers it is.
_PATTERN = {"PATTTYPE": "dither_type", "DITHDIRC": "dither_direction", "DITHOPFR": "dither_optimized_for"}
#: What is divided, by which power of the pattern.
_DIVIDED = {
    "flux": 1, "surface_brightness": 1, "rf_flux": 1, "rf_surf_bright": 1, "var": 2, "surface_brightness_var": 2,
    "var_systematic": 2, "surface_brightness_var_systematic": 2, "rf_flux_var": 2, "rf_surf_bright_var": 2,
}  # fmt: skip
_SMOOTH = 61  # samples of the running median, some periods of fringes
_BLOCKS, _LEAST = 20, 200
_LARGEST = 0.5  # deviation of a vector from 1 that is no noise of its making (4C beyond 28 um)
_CLIP = 5.0  # sigma, beyond which a sample is a line, or a hole of the data


@step(
    needs="spectrum", jwst="pfpc", keyword="S_PFPC", once="fixed_pattern",
    without={"pfpc": "the fixed pattern of point sources stays"},
)  # fmt: skip
def correct_fixed_pattern(ds: xr.Dataset, *, dithers: Sequence[xr.Dataset] | None = None, pfpc: Ref) -> xr.Dataset:
    """Divide the spectrum of a point source by the pattern that all such sources show at their dither places.

    Parameters
    ----------
    ds : Dataset, level "spectrum"
        Of one band and of type POINT: of all dithers, or of one.
    dithers : sequence of Dataset, level "spectrum", optional
        The spectra of the single exposures behind ``ds``, of cubes with its planes
        (:func:`mrsxr.cube.build_exposure_cubes`) and extracted alike; by default ``ds`` is of one exposure.
    pfpc : Dataset, kind "pfpc"
        ``pattern`` (position, wavelength) of the band, and for which dithers it is.

    Returns
    -------
    Dataset, level "spectrum"
        Light and errors divided by ``fixed_pattern``; ``score_pfpc``. As it was, with a note, where the source is no
        point or the dithers are others than those of the file.

    Raises
    ------
    MrsxrError
        Where the spectrum is of several bands or exposures that are not given, was corrected before, or ``dithers``
        are on other wavelengths.

    Notes
    -----
    fixed_pattern = sum of F_d P_d over sum of F_d, over the exposures d with median flux F_d and vector P_d: the
    spectrum becomes the mean of corrected exposures. It judges itself, as vectors of another place do harm, or any
    after residual fringes were taken off. Nothing is fitted to the data; the misfit is that of the exposures'
    differences (relative to running medians over 61 samples), and that of their mean, with over without the
    correction; the larger ratio, with two standard errors, is the score. Lines of the source go out of the first, and
    of the second by clipping. What four dithers have each for itself goes out of their mean by itself; what all have
    in common stays, and is what this takes away. Vectors of Gordon & Law (2026), the mean over flux standards and
    asteroids.

    Examples
    --------
    >>> import json
    >>> import numpy as np
    >>> import xarray as xr
    >>> from mrsxr.simulate import simulate_spectrum
    >>> spectrum = simulate_spectrum(band="2C", snr=1e4).assign_attrs(
    ...     fits_header=json.dumps({"PRIMARY": {"PATT_NUM": 1}}))
    >>> waves = 1 + 0.01 * np.sin(200 * spectrum.wavelength.values)
    >>> coords = {"position": [1], "wavelength": spectrum.wavelength}
    >>> vectors = xr.Dataset({"pattern": (("position", "wavelength"), waves[None])}, coords, {"kind": "pfpc"})
    >>> seen = spectrum.assign(flux=(spectrum.flux * waves).assign_attrs(units="Jy"))
    >>> out = correct_fixed_pattern(seen, pfpc=vectors)
    >>> bool(out.score_pfpc < 0.1), bool(np.allclose(out.flux, spectrum.flux))
    (True, True)
    """
    if ds.attrs.get("band") not in mrs.BANDS:
        raise MrsxrError(f"the spectrum is of band {ds.attrs.get('band')}; fixed patterns are those of one band")
    parts = [ds] if dithers is None else list(dithers)
    for part in parts:
        if not np.array_equal(part["wavelength"].values, ds["wavelength"].values):
            raise MrsxrError("a spectrum of a single exposure has other wavelengths; build its cube on the same planes")
    numbers = [_number(part, pfpc) for part in parts]
    unfit = "the source is no point" if ds.attrs.get("source_type") != "POINT" else next(
        (one for one in numbers if isinstance(one, str)), "")  # fmt: skip
    if unfit:
        tell(f"band {ds.attrs['band']}: {unfit}; its fixed pattern stays", aloud=False)
        return ds
    both = [(part["flux"].values, part["dq"].values) for part in parts]
    flux = np.array([np.where(flags.good(*one), one[0], np.nan) for one in both], float)
    vectors = _vectors(pfpc, numbers, ds["wavelength"].values)
    value = _misfit_ratio(flux, vectors)
    judged = score("pfpc", value, method="divided", instead="none", held_out="differences and mean of the exposures")
    if not gains(value):
        return ds.assign(judged)
    pattern = _mean_pattern(flux, vectors)
    attrs = {"units": "1", "long_name": "fixed pattern that the light was divided by"}
    factor = xr.DataArray(pattern, dims="wavelength")
    out = {
        name: (ds[name] / factor**power).astype(ds[name].dtype).assign_attrs(ds[name].attrs)
        for name, power in _DIVIDED.items() if name in ds
    }  # fmt: skip
    return ds.assign(out | judged | {"fixed_pattern": ("wavelength", pattern, attrs)})


def _number(ds: xr.Dataset, pfpc: xr.Dataset) -> int | str:
    """Return the number of the dither position of an exposure, or why the vectors are not for it."""
    header: Mapping[str, Any] = header_of(ds)
    for keyword, attr in _PATTERN.items():
        wanted, found = str(pfpc.attrs.get(attr) or ""), str(header.get(keyword) or "none")
        if wanted and found != wanted:
            return f"{keyword} is {found}, and the vectors of {pfpc.attrs.get('ref_id')} are for {wanted}"
    number = dither_of(header)
    held = [int(one) for one in pfpc["position"].values]
    return number if number in held else f"there is no vector for dither position {number or 'unknown'}"


def _vectors(pfpc: xr.Dataset, numbers: Sequence[int | str], wavelength: np.ndarray) -> np.ndarray:
    """Return the vector of each exposure at the wavelengths, 1 beyond its ends."""
    out = np.ones((len(numbers), wavelength.size))
    for row, number in zip(out, numbers, strict=True):
        vector = pfpc["pattern"].sel(position=number)
        known = np.abs(vector.values - 1.0) < _LARGEST
        row[:] = np.interp(wavelength, vector["wavelength"].values[known], vector.values[known], left=1.0, right=1.0)
    return out


def _mean_pattern(flux: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return what the mean of exposures is to be divided by to become that of the corrected ones."""
    level = np.nanmedian(flux, axis=1, keepdims=True)  # a sample that one exposure lacks moves no other
    light = np.where(np.isfinite(flux), level, 0.0)
    total = light.sum(axis=0)
    return np.where(total > 0, (light * vectors).sum(axis=0) / np.where(total > 0, total, 1.0), 1.0)


def _misfit_ratio(flux: np.ndarray, vectors: np.ndarray) -> float:
    """Return the score of the correction (exposure, sample); NaN where too little can be compared."""
    good = np.isfinite(flux).all(axis=0) & (flux > 0).all(axis=0)
    if good.sum() < _LEAST:
        return float("nan")
    before, after = (_relative(one[:, good]) for one in (flux, flux / vectors))
    mean = before.mean(axis=0)
    middle, sigma = middle_and_scatter(mean)
    kept = np.abs(mean - middle) <= _CLIP * sigma
    off = np.abs(before - mean)
    kept &= (off <= _CLIP * MAD_TO_SIGMA * np.median(off) + 1e-12).all(axis=0)
    ratios = [_ratio(after.mean(axis=0)[None, kept], before.mean(axis=0)[None, kept])]
    if len(flux) > 1:
        ratios.append(_ratio(*((one - one.mean(axis=0))[:, kept] for one in (after, before))))
    return max(ratios)


def _relative(flux: np.ndarray) -> np.ndarray:
    """Return spectra over their running medians, less 1."""
    from scipy.ndimage import median_filter

    return flux / median_filter(flux, (1, _SMOOTH), mode="nearest") - 1.0


def _ratio(after: np.ndarray, before: np.ndarray) -> float:
    """Return the ratio of two misfits, with two standard errors from blocks of samples."""
    blocks = np.array_split(np.arange(before.shape[1]), _BLOCKS)
    mine, other = (np.array([np.sum(one[:, block] ** 2) for block in blocks]) for one in (after, before))
    if not other.sum() > 0:
        return float("nan")
    ratio = mine.sum() / other.sum()
    return float(ratio + 2.0 * np.sqrt(np.sum((mine - ratio * other) ** 2)) / other.sum())
