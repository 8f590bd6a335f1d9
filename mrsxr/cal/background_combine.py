"""One background spectrum from those of several exposures and bands, as jwst combines them or better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view

from mrsxr import dq as flags
from mrsxr.arguments import reads
from mrsxr.attributes import keyword
from mrsxr.errors import MrsxrError
from mrsxr.limits import Count, checked
from mrsxr.schema import meaning_of, units_of
from mrsxr.threads import how

_CLUMP = 0.8  # of the mean scatter of its neighbours, below which wavelengths count as a clump (jwst)
_SUMMED = ("flux", "background", "n_pixels")


@reads()
@checked
def combine_backgrounds(
    spectra: Sequence[xr.Dataset],
    *,
    like_jwst: bool = True,
    exposure_times: Sequence[float] | None = None,
    median_kernel: Count = 1,
) -> xr.Dataset:
    """Combine the background spectra of several exposures to one.

    Parameters
    ----------
    spectra : sequence of Dataset, level "spectrum"
        Of background exposures: ``background`` [MJy/sr] against ``wavelength`` [um], ``flux`` [Jy], ``dq``; its
        variance is ``background_var`` or the square of ``bkgd_error``, unknown without both. Computed here.
    like_jwst : bool
        Combine the samples of all bands together where bands overlap, although they have other steps of wavelength and
        other errors of calibration; weight spectra by exposure time; let every sample count for the nearest wavelength
        of the output. False: each band by itself, weighted by the inverse of the mean variance, interpolated linearly;
        samples beyond the ends of a spectrum do not count.
    exposure_times : sequence of float, optional
        One for each spectrum [s]; by default the keyword EFFEXPTM of its header, all alike where one has none.
    median_kernel : int
        Samples of a running median along the result, 1 for none; an even number is lowered by one.

    Returns
    -------
    Dataset, level "spectrum", in memory
        ``background`` and ``surface_brightness`` [MJy/sr] both hold the combined background, ``background_var`` and
        ``surface_brightness_var`` its variance; ``flux``, ``n_pixels`` averages and ``n_spectra`` the number of
        samples; wavelengths rise, within each band where bands are not mixed. Where bands are mixed, ``band`` is that
        of the nearest sample and ``attrs["mixed_bands"]`` 1.

    Raises
    ------
    MrsxrError
        Where there is no spectrum with finite flux.

    Notes
    -----
    Baseline: combine_1d as master_background of jwst 3.0.0 calls it. The output wavelengths are means of clumps of
    input wavelengths. Samples with NaN flux or DO_NOT_USE are skipped even where their background is good, spectra
    without finite flux or with wavelengths that do not go one way altogether.

    Examples
    --------
    >>> sky = [mx.spectrum.extract_spectrum(one, source_type="EXTENDED") for one in (cube, cube)]
    >>> mx.cal.combine_backgrounds(sky, like_jwst=False).background.attrs["units"]
    'MJy/sr'
    """
    times = _times(spectra, exposure_times)
    rows = [_columns(ds, time) for ds, time in zip(spectra, times, strict=True)]
    if like_jwst:
        groups = [[r for r in rows if _usable(r)]]
    else:
        bands = sorted({str(b) for r in rows for b in np.unique(r["band"])})
        groups = [[c for c in (_cut(r, r["band"] == band) for r in rows) if _usable(c)] for band in bands]
    parts = [_combine(group, like_jwst, median_kernel) for group in groups if group]
    if not parts:
        raise MrsxrError(
            "no background spectrum has finite flux at two wavelengths or more; give spectra of backgrounds"
        )
    return _result({k: np.concatenate([p[k] for p in parts]) for k in parts[0]}, like_jwst, spectra)


def output_wavelengths(spectra: Sequence[np.ndarray]) -> np.ndarray:
    """Return the wavelengths of the combination of spectra: means of clumps of their wavelengths, as jwst's combine_1d.

    Parameters
    ----------
    spectra : sequence of ndarray
        Wavelengths [um] of each, rising or falling.

    Returns
    -------
    ndarray, rising
    """
    wave = np.sort(np.concatenate([w for w in spectra if w.size > 1]))
    count = np.zeros(wave.size, dtype=np.int64)
    for w in (np.sort(w) for w in spectra if w.size > 1):
        low, high = w[0] - 0.5 * (w[1] - w[0]), w[-1] + 0.5 * (w[-1] - w[-2])
        count += (wave >= low) & (wave < high)
    scatter, mean = np.full(wave.size, 9999.0), np.full(wave.size, -99.0)
    scatter[count == 1], mean[count == 1] = 0.0, wave[count == 1]
    for n in np.unique(count[count > 1]):
        k = np.flatnonzero(count == n)
        first = k + n // 2 + 1 - n
        inside = (first >= 0) & (first + n <= wave.size)
        windows = sliding_window_view(wave, int(n))[first[inside]]
        scatter[k[inside]], mean[k[inside]] = windows.std(axis=1), windows.mean(axis=1)
    around = np.full(wave.size, np.nan)
    around[1:-1] = 0.5 * (scatter[:-2] + scatter[2:])
    around[0], around[-1] = scatter[min(1, wave.size - 1)], scatter[max(wave.size - 2, 0)]
    clump = (scatter == 0.0) | (scatter < _CLUMP * around)
    found = np.where(clump, mean, -99.0)
    _fill_gaps(wave, count, found)
    return np.unique(found[found > 0])


def _fill_gaps(wave: np.ndarray, count: np.ndarray, found: np.ndarray) -> None:
    """Put the mean of a group of wavelengths where there is no clump; in place."""
    i = 0
    while i < wave.size:
        n = int(count[i])
        if i + n // 2 < wave.size:
            n = int(count[i + n // 2])
            if i + n < wave.size and found[max(i - 1, 0) : min(i + n + 1, wave.size - 1)].max() <= 0:
                found[i] = wave[i : i + n].mean()
        i += max(n, 1)


def _times(spectra: Sequence[xr.Dataset], given: Sequence[float] | None) -> list[float]:
    if given is not None:
        if len(given) != len(spectra) or not all(t > 0 for t in given):
            raise MrsxrError(
                f"{len(given)} exposure times for {len(spectra)} spectra; expected a positive one for each"
            )
        return [float(t) for t in given]
    found = []
    for ds in spectra:
        found.append(keyword(ds, "EFFEXPTM")[0] or None)
    return [1.0] * len(spectra) if None in found else [float(t) for t in found if t is not None]


def _columns(ds: xr.Dataset, time: float) -> dict[str, np.ndarray]:
    ds = ds[[v for v in ds.data_vars if ds[v].dims == ("wavelength",)]].compute(**how())
    out = {name: ds[name].values.astype(np.float64) for name in ("wavelength", *_SUMMED)}
    if "background_var" in ds:
        out["var"] = ds["background_var"].values.astype(np.float64)
    else:
        error = ds["bkgd_error"].values if "bkgd_error" in ds else np.full(out["flux"].shape, np.nan)
        out["var"] = error.astype(np.float64) ** 2
    out["flux_var"] = ds["var"].values.astype(np.float64)
    out["dq"] = ds["dq"].values.astype(np.uint32)
    out["band"] = ds["band"].values.astype("U2")
    out["time"] = np.full(out["flux"].shape, time)
    return out


def _cut(columns: dict[str, np.ndarray], inside: np.ndarray) -> dict[str, np.ndarray]:
    return {k: v[inside] for k, v in columns.items()}


def _usable(columns: dict[str, np.ndarray]) -> bool:
    step = np.diff(columns["wavelength"])
    return bool(step.size and ((step > 0).all() or (step < 0).all()) and np.isfinite(columns["flux"]).any())


def _combine(group: list[dict[str, np.ndarray]], like_jwst: bool, kernel: int) -> dict[str, np.ndarray]:
    wave = output_wavelengths([c["wavelength"] for c in group])
    names = (*_SUMMED, "var", "flux_var", "weight", "count")
    planes = {name: np.zeros((len(group), wave.size)) for name in names}
    bits, band = np.zeros(wave.size, dtype=np.uint32), np.full(wave.size, "", dtype="U2")
    for s, columns in enumerate(group):
        good = ((columns["dq"] & flags.DO_NOT_USE) == 0) & ~np.isnan(columns["flux"])
        columns = {**_cut(columns, good), "count": np.ones(int(good.sum()))}
        columns["weight"] = columns["time"] if like_jwst else _inverse_variance(columns)
        if not like_jwst and good.sum() > 1:
            columns = _interpolated(columns, wave)
        place = np.interp(columns["wavelength"], wave, np.arange(wave.size), left=np.nan, right=np.nan)
        inside = np.isfinite(place)
        k = np.rint(place[inside]).astype(np.intp)
        for name in names:
            planes[name][s, k] = columns[name][inside]
        np.bitwise_or.at(bits, k, columns["dq"][inside])
        band[k] = columns["band"][inside]
    weight = planes["weight"]
    total = weight.sum(axis=0)
    norm = np.where(total > 0, total, 1.0)
    out = {name: np.nansum(planes[name] * weight, axis=0) / norm for name in _SUMMED}
    out |= {name: np.nansum(planes[name] * weight**2, axis=0) / norm**2 for name in ("var", "flux_var")}
    out |= {"wavelength": wave, "dq": bits, "band": band, "n_spectra": planes["count"].sum(axis=0)}
    out = _cut(out, out["n_spectra"] > 0)
    kernel -= 1 - kernel % 2
    if kernel > 1:
        from scipy.signal import medfilt

        out |= {name: medfilt(out[name], kernel) for name in ("flux", "background")}
    return out


def _inverse_variance(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return the inverse of the mean variance of the band of each sample, 0 where it has none."""
    out = np.zeros(columns["flux"].shape)
    for band in np.unique(columns["band"]):
        inside = columns["band"] == band
        known = columns["var"][inside]
        known = known[np.isfinite(known) & (known > 0)]
        out[inside] = 1.0 / known.mean() if known.size else 0.0
    return out


def _interpolated(columns: dict[str, np.ndarray], wave: np.ndarray) -> dict[str, np.ndarray]:
    """Put a spectrum on other wavelengths; a variance is that of the nearer sample, as noise does not shrink there."""
    order = np.argsort(columns["wavelength"])
    own = columns["wavelength"][order]
    target = wave[(wave >= own[0]) & (wave <= own[-1])]
    nearest = np.clip(np.searchsorted(0.5 * (own[1:] + own[:-1]), target), 0, own.size - 1)
    linear = {name: np.interp(target, own, columns[name][order]) for name in _SUMMED}
    return {**{name: values[order][nearest] for name, values in columns.items()}, **linear, "wavelength": target}


def _result(columns: dict[str, np.ndarray], mixed: bool, spectra: Sequence[xr.Dataset]) -> xr.Dataset:
    values = {
        "flux": columns["flux"], "var": columns["flux_var"], "surface_brightness": columns["background"],
        "surface_brightness_var": columns["var"], "background": columns["background"],
        "n_pixels": columns["n_pixels"],
    }  # fmt: skip
    variables: dict[str, tuple[Any, ...]] = {
        name: ("wavelength", v, {"units": units_of("spectrum", name), "long_name": meaning_of("spectrum", name)})
        for name, v in values.items()
    }
    variables["background_var"] = ("wavelength", columns["var"], {"units": "MJy2/sr2"})
    variables["n_spectra"] = ("wavelength", columns["n_spectra"].astype(np.int32), {"units": "1"})
    variables["dq"] = ("wavelength", columns["dq"], dict(flags.PIXEL_DQ_ATTRS))
    coords = {
        "wavelength": ("wavelength", columns["wavelength"], {"units": "um"}),
        "band": ("wavelength", columns["band"]),
    }
    names = [str(ds.attrs.get("exposure", ds.attrs.get("band", ""))) for ds in spectra]
    attrs = {"level": "spectrum", "source_type": "EXTENDED", "mixed_bands": int(mixed), "n_combined": len(spectra),
             "ref_id": f"combined background of {len(names)} spectra", "history_json": "[]"}  # fmt: skip
    return xr.Dataset(variables, coords, attrs)
