"""Step spectral_leak on cubes: the light of band 1B that falls on 3A in the second order, spaxel by spaxel."""

from __future__ import annotations

from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.geometry.overlap import overlaps
from mrsxr.geometry.place import sky_of
from mrsxr.limits import Ref
from mrsxr.references.leak import holds_band, leak_fraction, samples_of
from mrsxr.schema import meaning_of, units_of
from mrsxr.spaxels import spaxel_size
from mrsxr.step import step

LEAKING, LEAKED = "1B", "3A"
Shape = Literal["leaking", "leaked"]
Outside = Literal["nearest", "keep", "blank"]
_LEAST = 1e-5  # fractions below are no leak
_TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))


@step(
    needs="cube", jwst="spectral_leak", keyword="S_SPLEAK", once="spectral_leak_cube",
    without={"mrsptcorr": "the spectral leak 1B to 3A stays"},
)  # fmt: skip
def correct_spectral_leak_cube(
    cube: xr.Dataset, *, leaking: xr.Dataset, mrsptcorr: Ref, shape: Shape = "leaking", outside: Outside = "nearest"
) -> xr.Dataset:
    """Subtract from the cube of band 3A what leaks in from band 1B in the second order.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Of band 3A, alone or among others (a joint cube); cubes of other bands are returned as they are. ``flux``
        [MJy/sr], ``var``.
    leaking : Dataset, level "cube"
        Of band 1B, alone or among others, of the same field; its grid may differ.
    mrsptcorr : Dataset, kind "mrsptcorr"
        ``frac_leak``, ``err_leak`` (wavelength [um]), of the light itself (:mod:`mrsxr.references.leak`).
    shape : {"leaking", "leaked"}
        Image of a point source in the leaked light: that of the 1B cube, as diffraction at half the wavelength makes
        it, or blurred to that of the 3A cube.
    outside : {"nearest", "keep", "blank"}
        What becomes of spaxels beyond the smaller field of band 1B: the light of its nearest spaxel is subtracted, with
        an error as large; they stay as they are; or they are NaN and DO_NOT_USE.

    Returns
    -------
    Dataset, level "cube"
        Corrected where the fraction is above 1e-5; ``var`` holds the variance of the subtracted light besides, and
        ``var_systematic`` that of the fraction, which errs alike everywhere (and must not weigh the spaxels). Planes
        for which band 1B has no data at all count as outside, without a nearest spaxel they are blanked. Lazy where one
        of the cubes is, in its blocks of planes.

    Raises
    ------
    MrsxrError
        Where ``leaking`` is of another band, an option is unknown, or the leak is off this cube already.
    ReferenceFileError
        Where the reference file has no leak table.

    Notes
    -----
    F_3A -= frac_leak(wavelength) F_1B(wavelength / 2); variances += frac_leak^2 var_1B and (err_leak F_1B)^2. F_1B is
    linear in wavelength and a mean over each 3A spaxel by areas of overlap (:mod:`mrsxr.geometry.overlap`). Errors
    of neighbouring 1B spaxels are taken for one, and do not average down over a spaxel. jwst corrects extracted spectra
    of point sources only.

    Examples
    --------
    >>> leaking, cube_3a = mx.simulate.simulate_cube(band="1B"), mx.simulate.simulate_cube(band="3A")
    >>> out = mx.cube.correct_spectral_leak_cube(cube_3a, leaking=leaking, mrsptcorr=refs.get("mrsptcorr", cal))
    """
    if not holds_band(cube, LEAKED):
        return cube
    if not holds_band(leaking, LEAKING):
        raise MrsxrError(f"the leaking cube is of band {leaking.attrs.get('band')}; expected {LEAKING}")
    wave = np.asarray(cube["wavelength"].values, dtype=float)
    fraction, spread = (part * samples_of(cube, LEAKED) for part in leak_fraction(wave, mrsptcorr))
    touched, of_blue = np.nonzero(fraction > _LEAST)[0], np.nonzero(samples_of(leaking, LEAKING))[0]
    if touched.size == 0 or of_blue.size < 2:
        return cube
    leaking = leaking.isel(wavelength=slice(int(of_blue[0]), int(of_blue[-1]) + 1))
    if "var_systematic" not in cube:
        attrs = {"units": units_of("cube", "var_systematic"), "long_name": meaning_of("cube", "var_systematic")}
        cube = cube.assign(var_systematic=(cube["var"] * np.float32(0)).assign_attrs(attrs))
    first, last = int(touched[0]), int(touched[-1]) + 1
    here = cube.isel(wavelength=slice(first, last))
    light, noise = _leaked_light(here, leaking, shape, outside)
    share, error = (a[first:last, None, None].astype(np.float32) for a in (fraction, spread))
    blind = np.isnan(light) & ~np.isnan(here["flux"].variable.data)
    added = blind.astype(np.uint32) * np.uint32(flags.DO_NOT_USE)
    parts = {name: here[name].variable.data for name in ("flux", "var", "dq", "var_systematic")}
    parts["flux"] = parts["flux"] - share * light
    parts["var"] = parts["var"] + share**2 * noise
    parts["var_systematic"] = parts["var_systematic"] + (error * light) ** 2
    parts["dq"] = parts["dq"] | added
    return cube.assign({name: (cube[name].dims, _put(cube[name], values, first, last), cube[name].attrs)
                        for name, values in parts.items()})  # fmt: skip


def _put(variable: xr.DataArray, values: Any, first: int, last: int) -> Any:
    """Return the data of a variable with some planes replaced."""
    data = variable.variable.data
    module = da if isinstance(data, da.Array) or isinstance(values, da.Array) else np
    pieces = [data[:first], values.astype(data.dtype), data[last:]]
    out = module.concatenate([p for p in pieces if p.shape[0]], axis=0)
    return out.rechunk((data.chunks[0], -1, -1)) if isinstance(data, da.Array) else out


def _leaked_light(here: xr.Dataset, leaking: xr.Dataset, shape: str, outside: str) -> tuple[Any, Any]:
    """Return flux and variance of band 1B at half of the wavelengths, on the grid of ``here``."""
    n = (here.sizes["y"], here.sizes["x"])
    matrix, area = overlaps(sky_of(leaking), (leaking.sizes["y"], leaking.sizes["x"]), sky_of(here), n)
    waves, halves = np.asarray(leaking["wavelength"].values), 0.5 * np.asarray(here["wavelength"].values)
    low = np.clip(np.searchsorted(waves, halves) - 1, 0, waves.size - 2)
    share = np.clip((halves - waves[low]) / (waves[low + 1] - waves[low]), 0.0, 1.0)
    start, stop = int(low.min()), int(low.max()) + 2
    window = [leaking[n].isel(wavelength=slice(start, stop)).variable.data for n in ("flux", "var", "dq")]
    options = {"low": low - start, "share": share, "means": (matrix / area[:, None]).tocsr(), "n": n,
               "blur": _blur(here, leaking) if shape == "leaked" else 0.0, "outside": outside}  # fmt: skip
    if not any(isinstance(a, da.Array) for a in (*window, here["flux"].variable.data)):
        found = reproject(*window, **options)
        return found[0], found[1]
    whole = [a.rechunk(-1) if isinstance(a, da.Array) else da.from_array(a, chunks=-1) for a in window]
    size = (2, here.sizes["wavelength"], *n)
    found = da.map_blocks(
        reproject, *whole, dtype=np.float32, new_axis=0, chunks=tuple((n,) for n in size),
        meta=np.empty((0, 0, 0, 0), np.float32), **options,
    )  # fmt: skip
    return found[0], found[1]


def _blur(here: xr.Dataset, leaking: xr.Dataset) -> float:
    """Return the sigma [spaxel of 1B] that widens the image of band 1B to that of 3A."""
    wavelength = float(here["wavelength"].mean())
    square = mrs.psf_fwhm(wavelength) ** 2 - mrs.psf_fwhm(0.5 * wavelength) ** 2
    return float(np.sqrt(square)) * _TO_SIGMA / spaxel_size(leaking)


def reproject(
    flux: np.ndarray, var: np.ndarray, dq: np.ndarray, *, low: np.ndarray, share: np.ndarray, means: Any,
    n: tuple[int, int], blur: float, outside: str,
) -> np.ndarray:  # fmt: skip
    """Return flux and variance (2, plane, y, x) float32 of planes between those of a cube, on other spaxels.

    Parameters
    ----------
    flux, var, dq : arrays (plane, y, x)
    low, share : arrays (new plane)
        Plane below and how far to the next.
    means : sparse (new spaxel, spaxel)
        Part of each new spaxel that lies in each one of the cube.
    n : (int, int)
        Rows and columns of new spaxels.
    blur : float
        Sigma [spaxel].
    outside : str
        See :func:`correct_spectral_leak_cube`.
    """
    from scipy import ndimage

    good = flags.good(flux, dq) & np.isfinite(var)
    maps = np.stack([good, np.where(good, flux, 0.0), np.where(good, var, 0.0)], dtype=float)
    if blur > 0:
        maps = ndimage.gaussian_filter(maps, blur, mode="constant", axes=(2, 3))
    out = np.empty((2, low.size, *n), dtype=np.float32)
    for k, (plane, part) in enumerate(zip(low, share, strict=True)):
        between = (1.0 - part) * maps[:, plane] + part * maps[:, plane + 1]
        seen, *both = (means @ between.reshape(3, -1).T).T.reshape(3, *n)
        known = seen > 0.5
        out[:, k] = _fill(np.stack(both) / np.where(known, seen, 1.0), known, outside)
    return out


def _fill(both: np.ndarray, known: np.ndarray, outside: str) -> np.ndarray:
    """Return flux and variance (2, y, x) with something in the place of what is not known."""
    from scipy import ndimage

    if outside == "keep":
        return np.where(known, both, 0.0)
    if outside == "blank" or not known.any():
        return np.where(known, both, np.nan)
    y, x = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    filled = both[:, y, x]
    filled[1] += np.where(known, 0.0, filled[0] ** 2)
    return filled
