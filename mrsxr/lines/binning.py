"""Spaxels put together until the signal is enough: bins, binned cubes, one spectrum a bin and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.arguments import as_um_range, reads
from mrsxr.attributes import varied
from mrsxr.errors import MrsxrError
from mrsxr.geometry.overlap import same_sky
from mrsxr.limits import LineName, NotNegative, Positive, checked
from mrsxr.notes import tell
from mrsxr.robust import real_variances
from mrsxr.spaxels import facts_of
from mrsxr.step import recorded

from ._side_bands import need_cube
from ._tessellate import Method, tessellate
from .moment_maps import moments

Covariance = NotNegative | Callable[[np.ndarray], np.ndarray]
_LEAST = 0.5  # part of the spaxels of a bin that must have data in a plane


@reads(wavelength=as_um_range)
@checked
def bin_spaxels(
    cube: xr.Dataset, *, snr: Positive, line: LineName | None = None,
    wavelength: tuple[float, float] | slice | None = None, maps: xr.Dataset | None = None, method: Method = "weighted",
    covariance: Covariance = 0.0, min_snr: NotNegative = 0.0, **options: Any,
) -> tuple[xr.Dataset, xr.Dataset]:  # fmt: skip
    """Put spaxels together until each bin reaches a signal to noise, and average the cube over the bins.

    Parameters
    ----------
    cube : Dataset, level "cube"
    snr : float
        Signal to noise to reach in a bin.
    line : str or float, optional
        Signal is the flux of this line (:func:`mrsxr.lines.moments`, which takes ``options``: redshift, extent, ...).
    wavelength : (float, float) or slice, optional
        Signal is the mean surface brightness of these planes [um], noise that of a single plane.
    maps : Dataset, optional
        Signal and noise are ``moment0`` or ``flux`` and its error; of one line, on the spaxels of the cube. One of
        the three is wanted.
    method : {"weighted", "voronoi"}
        Weighted Voronoi bins made here, or the bins of the package ``vorbin``; see :func:`bin_labels`.
    covariance : float or callable
        Noise of a bin of N spaxels is (1 + a log10 N) times that of independent ones, a this number,
        at least 0; or a function of N that gives the factor.
    min_snr : float
        Spaxels with less are left out of all bins; 0: none is, also where noise makes the signal negative. A limit
        keeps the spaxels that noise made brighter: the flux of a disc down to its faintest parts comes out 1.3 times
        too large with a limit of 1, right without one; a note tells of it.
    **options
        Of :func:`mrsxr.lines.moments`, with ``line``.

    Returns
    -------
    bins : Dataset, level "bins"
        As of :func:`bin_labels`.
    binned : Dataset, level "cube"
        As of :func:`bin_cube`; lazy where the cube is.

    Raises
    ------
    MrsxrError
        Where not exactly one of line, wavelength and maps is given, the maps lie on other spaxels, no spaxel has
        signal, or vorbin is not installed.

    Notes
    -----
    Bins depend on the data: signal and noise are computed here.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> bins, binned = mx.lines.bin_spaxels(disc, line="[Ne II] 12.81", snr=30)
    >>> maps = mx.lines.moments(binned, "[Ne II] 12.81")
    """
    cube = need_cube(cube, "bin_spaxels")
    if sum(v is not None for v in (line, wavelength, maps)) != 1:
        raise MrsxrError("the signal is not clear; expected exactly one of line, wavelength and maps")
    if line is not None:
        maps = moments(cube, line, **options)
    signal, noise = _of_planes(cube, wavelength) if maps is None else _of_maps(maps)
    if maps is not None:
        _need_place(maps, cube, "maps")
    bins = bin_labels(signal, noise, snr=snr, method=method, covariance=covariance, min_snr=min_snr)
    frame = cube.drop_vars(list(cube.data_vars)).drop_dims("wavelength")
    bins = frame.assign(bins.data_vars).assign_attrs(level="bins", **bins.attrs)
    return bins, bin_cube(cube, bins, covariance=covariance)


@checked
def bin_labels(
    signal: xr.DataArray, noise: xr.DataArray, *, snr: Positive, method: Method = "weighted",
    covariance: Covariance = 0.0, min_snr: NotNegative = 0.0,
) -> xr.Dataset:  # fmt: skip
    """Return which bin every spaxel is in.

    Parameters
    ----------
    signal, noise : DataArray (y, x)
        Of each spaxel, in one unit; NaN, or noise not above 0: in no bin.
    snr, method, covariance, min_snr
        As of :func:`bin_spaxels`.

    Returns
    -------
    Dataset
        ``bin`` int32 (y, x), from 0, -1 outside; ``bin_snr`` and ``bin_size`` (y, x), signal to noise and number of
        spaxels of the bin of each spaxel. attrs ``n_bins``, ``target_snr``.

    Raises
    ------
    MrsxrError
        Where no spaxel has signal, the method is unknown, or vorbin is not installed.

    Notes
    -----
    "weighted": bins grow from the brightest spaxel by the nearest ones (Cappellari & Copin 2003, MNRAS 342, 345,
    section 5.1), then a multiplicatively weighted Voronoi tessellation (Diehl & Statler 2006, MNRAS 368, 497) evens out
    their signal to noise: bins scatter by 10 to 20 % around the target. "voronoi": ``vorbin`` by Cappellari, whose
    licence allows non-commercial use only; it is not installed with this package.
    """
    s, e = (np.asarray(v.transpose("y", "x").values, float) for v in (signal, noise))
    good = np.isfinite(s) & np.isfinite(e) & (e > 0)
    if min_snr > 0:
        seen, good[good] = good.sum(), s[good] / e[good] >= min_snr
        if good.sum() < seen:
            tell(f"{seen - good.sum()} of {seen} spaxels are below min_snr = {min_snr:g} and in no bin; those left are "
                 "brighter by their own noise, and so are the fluxes of faint bins", aloud=False)  # fmt: skip
    if not good.any() or not (s[good] > 0).any():
        raise MrsxrError(f"no spaxel has signal and noise above a ratio of {min_snr:g}; nothing can be binned")
    y, x = np.nonzero(good)
    found = tessellate(x.astype(float), y.astype(float), s[good], e[good], snr, _factor(covariance), method)
    labels = np.full(s.shape, -1, np.int32)
    labels[y, x] = found
    n = int(found.max()) + 1
    size = np.bincount(found, minlength=n)
    total, square = np.bincount(found, s[good], n), np.bincount(found, e[good] ** 2, n)
    ratio = total / (np.sqrt(square) * _factor(covariance)(size))
    spread = {name: np.where(labels >= 0, values[labels], none)
              for name, values, none in (("snr", ratio, np.nan), ("size", size, 0))}  # fmt: skip
    dims = ("y", "x")
    out = xr.Dataset(
        {
            "bin": (dims, labels, {"units": "1", "long_name": "number of the bin, -1 outside"}),
            "bin_snr": (dims, spread["snr"], {"units": "1", "long_name": "signal to noise of the bin"}),
            "bin_size": (dims, spread["size"].astype(np.int32), {"units": "1", "long_name": "spaxels in the bin"}),
        },
        {d: signal[d] for d in dims if d in signal.coords},
    )
    return out.assign_attrs(n_bins=n, target_snr=float(snr), method=method)


@reads()
@checked
def bin_cube(cube: xr.Dataset, bins: xr.Dataset | xr.DataArray, *, covariance: Covariance = 0.0) -> xr.Dataset:
    """Give every spaxel the mean spectrum of its bin.

    Parameters
    ----------
    cube : Dataset, level "cube"
    bins : Dataset or DataArray
        ``bin`` (y, x) of :func:`bin_labels`.
    covariance
        As of :func:`bin_spaxels`.

    Returns
    -------
    Dataset, level "cube"
        ``flux`` [MJy/sr] the mean over the good voxels of the bin in each plane, ``var`` the variance of the mean,
        ``var_systematic`` that of errors in common; ``weight`` summed; ``bin`` as a coordinate. Spaxels outside, and
        planes in which less than half of a bin has data, are NaN and DO_NOT_USE. It can be fitted and mapped as any
        cube; all spaxels of a bin give one result. Lazy where the cube is.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> bins, binned = mx.lines.bin_spaxels(disc, line="[Ne II] 12.81", snr=30)
    >>> smooth = mx.lines.bin_cube(disc, bins)
    """
    cube = need_cube(cube, "bin_cube")
    labels = _labels(bins, cube)
    options = {"labels": labels, "factor": _factor(covariance)(np.arange(1, labels.size + 1)), "spread": True}
    means = _averaged(cube, options, ("wavelength", "y", "x"), labels.shape)
    out = cube.drop_vars([n for n in cube.data_vars if n not in means]).assign(means)
    out = out.assign_coords(bin=(("y", "x"), labels, {"units": "1", "long_name": "number of the bin, -1 outside"}))
    return recorded(cube, varied(out, "binned"), "lines.bin_cube", covariance=_named(covariance))


@reads()
@checked
def bin_spectra(cube: xr.Dataset, bins: xr.Dataset | xr.DataArray, *, covariance: Covariance = 0.0) -> xr.Dataset:
    """Return the mean spectrum of each bin, once: the quick way to fit a binned cube.

    Parameters
    ----------
    cube, bins, covariance
        As of :func:`bin_cube`.

    Returns
    -------
    Dataset, level "cube"
        A cube of one column, ``y`` the number of the bin and ``x`` of size 1, without place on the sky. What is fitted
        to it goes back onto the sky by :func:`paint_bins`.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> bins, binned = mx.lines.bin_spaxels(disc, line="[Ne II] 12.81", snr=30)
    >>> spectra = mx.lines.bin_spectra(disc, bins)
    >>> maps = mx.lines.paint_bins(mx.lines.moments(spectra, "[Ne II] 12.81"), bins)
    """
    cube = need_cube(cube, "bin_spectra")
    labels = _labels(bins, cube)
    n = int(labels.max()) + 1
    if n < 1:
        raise MrsxrError("no spaxel is in a bin; expected labels from 0")
    options = {"labels": labels, "factor": _factor(covariance)(np.arange(1, labels.size + 1)), "spread": False}
    out = _averaged(cube, options, ("wavelength", "y", "x"), (n, 1))
    number = ("y", np.arange(n, dtype=float), {"units": "1", "long_name": "number of the bin"})
    bare = cube.drop_dims(["y", "x"]).assign(out).assign_coords(y=number, x=np.zeros(1))
    bare.attrs = {k: v for k, v in bare.attrs.items() if k != "wcs"} | facts_of(cube)
    return recorded(cube, varied(bare, "binned"), "lines.bin_spectra", covariance=_named(covariance))


@reads()
@checked
def paint_bins(found: xr.Dataset, bins: xr.Dataset, *, like: xr.Dataset | None = None) -> xr.Dataset:
    """Bring what was found for each bin back onto the spaxels.

    Parameters
    ----------
    found : Dataset
        Of a fit or of moments of :func:`bin_spectra`: variables on (..., y = bin, x = 1).
    bins : Dataset
        ``bin`` (y, x) of :func:`bin_spaxels`.
    like : Dataset, optional
        The cube, for its place on the sky; by default that of ``bins``.

    Returns
    -------
    Dataset
        Maps on (..., y, x): NaN, 0 of integers or "" outside the bins. Fluxes are per spaxel.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> bins, binned = mx.lines.bin_spaxels(disc, line="[Ne II] 12.81", snr=30)
    >>> found = mx.lines.moments(mx.lines.bin_spectra(disc, bins), "[Ne II] 12.81")
    >>> maps = mx.lines.paint_bins(found, bins)
    >>> maps.moment0.dims
    ('y', 'x')
    """
    frame = bins if like is None else like
    labels = _labels(bins, frame)
    if found.sizes.get("x") != 1 or labels.max() >= found.sizes.get("y", 0):
        raise MrsxrError(
            f"the results are on {dict(found.sizes)}; expected y = {int(labels.max()) + 1} bins and x = 1, "
            "those of bin_spectra"
        )
    rows = np.maximum(labels, 0)
    out: dict[Any, Any] = {}
    for name in found.data_vars:
        array = found[name]
        if not {"y", "x"} <= set(array.dims):
            out[name] = array
            continue
        array = array.isel(x=0).transpose(..., "y")
        values = array.variable.data[..., rows.ravel()].reshape(*array.shape[:-1], *labels.shape)
        none = np.nan if array.dtype.kind == "f" else np.zeros((), array.dtype)[()]
        module = da if isinstance(values, da.Array) else np
        out[name] = ((*array.dims[:-1], "y", "x"), module.where(labels >= 0, values, none), array.attrs)
    sky = frame.drop_vars(list(frame.data_vars))
    sky = sky.drop_dims([d for d in sky.dims if d not in ("y", "x")])
    coords = {n: c for n, c in found.coords.items() if not {"y", "x"} & {n, *c.dims}}
    result = sky.assign_coords(coords).assign(out)
    result.attrs = found.attrs | {k: frame.attrs[k] for k in ("wcs",) if k in frame.attrs}
    return recorded(found, varied(result, "binned"), "lines.paint_bins")


def average_bins(*arrays: np.ndarray, labels: np.ndarray, factor: np.ndarray, spread: bool) -> np.ndarray:
    """Return means over bins (variable, plane, y, x) or, not ``spread``, (variable, plane, bin, 1); float32.

    Parameters
    ----------
    *arrays
        flux, var, perhaps var_systematic, weight, dq (plane, y, x).
    labels : int (y, x)
    factor : float array
        On the error of a mean over 1, 2, ... spaxels.
    spread : bool
    """
    *data, dq = (np.asarray(a) for a in arrays)
    data[1] = real_variances(data[1])
    lit = labels >= 0
    where = labels[lit]
    n, size = int(labels.max()) + 1, np.bincount(where)
    good = flags.good(data[0], dq)[:, lit]
    out = np.full((len(data), len(dq), n), np.nan)
    mean: np.ndarray
    for k in range(len(dq)):
        count = np.bincount(where[good[k]], minlength=n)
        enough = (count >= _LEAST * size) & (count > 0)
        safe = np.maximum(count, 1)
        for i, values in enumerate(data):
            plane = np.where(good[k], np.asarray(values[k][lit], float), 0.0)
            if i == 0:
                mean = np.bincount(where, plane, n) / safe
            elif i == 1:
                mean = np.bincount(where, plane, n) / safe**2 * factor[safe - 1] ** 2
            elif i == len(data) - 1:
                mean = np.bincount(where, plane, n)
            else:
                mean = (np.bincount(where, np.sqrt(plane), n) / safe) ** 2
            out[i, k] = np.where(enough, mean, np.nan)
    out = out.astype(np.float32)
    if not spread:
        return out[..., None]
    return np.where(lit, out[..., np.maximum(labels, 0)], np.float32(np.nan))


def _averaged(
    cube: xr.Dataset, options: dict[str, Any], dims: tuple[str, ...], shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return the variables of a binned cube, lazy where the cube is."""
    kept = names = [name for name in ("flux", "var", "var_systematic", "weight") if name in cube]
    if "weight" not in names:
        cube, names = cube.assign(weight=xr.ones_like(cube["flux"])), [*names, "weight"]
    arrays = [cube[name].transpose("wavelength", "y", "x").variable.data for name in (*names, "dq")]
    lazy = [a for a in arrays if isinstance(a, da.Array)]
    if not lazy:
        found = average_bins(*arrays, **options)
    else:
        planes = lazy[0].chunks[0]
        arrays = [da.asarray(a).rechunk((planes, -1, -1)) for a in arrays]
        found = da.map_blocks(
            average_bins, *arrays, dtype=np.float32, new_axis=0, meta=np.empty((0, 0, 0, 0), np.float32),
            chunks=((len(names),), planes, (shape[0],), (shape[1],)), **options,
        )  # fmt: skip
    out = {name: (dims, found[i], cube[name].attrs) for i, name in enumerate(kept)}
    blind = (found[0] != found[0]).astype(np.uint32) * np.uint32(flags.DO_NOT_USE)
    if cube["flux"].shape == found[0].shape:
        outside = cube["dq"].transpose(*dims).variable.data & np.uint32(flags.NON_SCIENCE)
        blind = blind | (outside * (blind > 0)).astype(np.uint32)
    return out | {"dq": (dims, blind, cube["dq"].attrs)}


def _need_place(found: xr.Dataset | xr.DataArray, cube: xr.Dataset, what: str) -> None:
    """Refuse what was found on other spaxels than those of the cube; labels without a place are taken as they lie."""
    own = found if isinstance(found, xr.Dataset) else found.to_dataset(name="bin")
    placed = "wcs" in own.attrs or hasattr(own.xindexes.get("ra"), "wcs")
    frame = cube if placed else cube.drop_vars(["ra", "dec"], errors="ignore").drop_attrs(deep=False)
    if not same_sky(own, frame):
        raise MrsxrError(
            f"the {what} lie on other spaxels than the cube (of another cube, or one of both was cut or flipped); find "
            "them in this cube, or cut both alike"
        )


def _labels(bins: xr.Dataset | xr.DataArray, cube: xr.Dataset) -> np.ndarray:
    if isinstance(bins, xr.Dataset) and "bin" not in bins:
        raise MrsxrError(
            f"the bins are data of level {bins.attrs.get('level')} without 'bin'; find them by bin_spaxels"
        )
    labels = bins["bin"] if isinstance(bins, xr.Dataset) else bins
    values = np.asarray(labels.transpose("y", "x").values)
    if values.shape != (cube.sizes["y"], cube.sizes["x"]) or values.dtype.kind not in "iu":
        raise MrsxrError(
            f"the bins are {values.dtype} on {values.shape} spaxels; expected integers on "
            f"{(cube.sizes['y'], cube.sizes['x'])}, those of the cube"
        )
    _need_place(bins, cube, "bins")
    return values.astype(np.int32)


def _factor(covariance: Covariance) -> Callable[[np.ndarray], np.ndarray]:
    if callable(covariance):
        return lambda n: np.asarray(covariance(np.maximum(n, 1)), float)
    a = float(covariance)
    return lambda n: 1.0 + a * np.log10(np.maximum(n, 1))


def _named(covariance: Covariance) -> float | str:
    return getattr(covariance, "__name__", "callable") if callable(covariance) else float(covariance)


def _of_maps(maps: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    name = next((n for n in ("moment0", "flux") if n in maps and f"{n}_err" in maps), None)
    if name is None:
        raise MrsxrError("the maps have no moment0 or flux with an error; expected the result of moments or fit_line")
    signal, noise = maps[name], maps[f"{name}_err"]
    if "line" in signal.dims:
        if signal.sizes["line"] != 1:
            raise MrsxrError(f"the maps hold {signal.sizes['line']} lines; expected one: maps.sel(line=...)")
        signal, noise = signal.isel(line=0), noise.isel(line=0)
    return signal, noise


def _of_planes(cube: xr.Dataset, wavelength: Sequence[float] | slice | None) -> tuple[xr.DataArray, xr.DataArray]:
    """Return mean flux and noise of one plane in a range of wavelengths."""
    if wavelength is None:
        raise MrsxrError("no range of wavelengths is given; expected (low, high) in um")
    pair = wavelength if isinstance(wavelength, slice) else slice(*wavelength)
    part = cube.sel(wavelength=pair)
    if part.sizes["wavelength"] == 0:
        raise MrsxrError(f"no plane lies between {pair.start} and {pair.stop} um")
    good = ~flags.has(part["dq"], "DO_NOT_USE") & np.isfinite(part["flux"])
    signal = part["flux"].where(good).mean("wavelength")
    known = good & np.isfinite(part["var"]) & (part["var"] >= 0)
    return signal, part["var"].where(known).mean("wavelength") ** 0.5
