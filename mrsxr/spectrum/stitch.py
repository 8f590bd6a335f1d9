"""Stitching: the spectra of several bands scaled to each other and joined to one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs, units
from mrsxr._version import __version__
from mrsxr.arguments import reads
from mrsxr.attributes import headers_of, split
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.io import products_header
from mrsxr.limits import Band, Positive, checked
from mrsxr.notes import listen, noted, notes_of, tell
from mrsxr.step import plain_parameters, read_history
from mrsxr.sums import correlation_length
from mrsxr.threads import how

from .wavelengths import correct_wavelengths, measure_velocity

Method = Literal["none", "multiplicative", "additive"]
Overlap = Literal["cut", "average"]
_MIN_SAMPLES = 3
_VELOCITY_ERROR = 2.0  # km/s
STITCHED = "stitched_band"  # dimension of what is a number of each band
#: Attributes of a product that is not of one band, or not the file it came from.
_OF_PRODUCT = (
    "level",
    "band",
    "bands",
    "exposures",
    "fits_header",
    "history_json",
    "key",
    "notes",
    "variant",
    "mrsxr_version",
    "wcs",
)
_FREE_ROUNDS = 5  # of clipping, in which samples may come back
#: variable: (the variance that goes with it, does an additive offset move it)
_VALUES = {"flux": "var", "surface_brightness": "surface_brightness_var"}
#: variable without residual fringes: its variance, and whose offset moves it
_FRINGELESS = {"rf_flux": ("rf_flux_var", "flux"), "rf_surf_bright": ("rf_surf_bright_var", "surface_brightness")}
#: what else is scaled with a band, and by which power of the factor
_WITH_BAND = {
    "background": 1, "rf_background": 1, "leak": 1, "background_var": 2, "var_systematic": 2, "var_simple": 2,
    "surface_brightness_var_systematic": 2, "surface_brightness_var_simple": 2, "rf_flux_var": 2,
    "rf_surf_bright_var": 2,
}  # fmt: skip
#: variable: its variance by errors common to all samples, where it has one
_SYSTEMATIC = {"flux": "var_systematic", "surface_brightness": "surface_brightness_var_systematic"}


@dataclass(frozen=True)
class Scaling:
    """How one band is brought to the others: value * factor + offset, with the error of each."""

    factor: float = 1.0
    factor_error: float = 0.0
    flux_offset: float = 0.0  # in the units of the flux
    brightness_offset: float = 0.0  # in those of the surface brightness


@reads()
@checked
def stitch_bands(
    spectra: Sequence[xr.Dataset],
    *,
    method: Method = "none",
    reference_band: Band | None = None,
    overlap: Overlap = "cut",
    clip_sigma: Positive = 3.0,
    min_snr: Positive = 5.0,
    tie_velocities: bool = False,
) -> xr.Dataset:
    """Join the spectra of several bands to one, rising in wavelength.

    Parameters
    ----------
    spectra : sequence of Dataset, level "spectrum"
        One per band, in any order, all of the same source type. Spectra are small: values are computed.
    method : {"none", "multiplicative", "additive"}
        How neighbouring bands are matched in their overlap, outwards from the reference band.
    reference_band : str, optional
        The band left as it is; by default that of the shortest wavelength.
    overlap : {"cut", "average"}
        Cut both bands at the middle of the overlap, or average them there by inverse variance.
    clip_sigma : float
        Samples of an overlap beyond this many standard deviations do not enter the match.
    min_snr : float
        A factor is applied only where the light of both bands in the overlap, and the factor itself, stand so many
        standard deviations above 0; else the bands are joined unscaled, which is told.
    tie_velocities : bool
        First bring the wavelengths of each band to those of its neighbour (:func:`measure_velocity`), outwards from the
        reference band, where an overlap tells them to 2 km/s.

    Returns
    -------
    Dataset, level "spectrum"
        All variables of the input on the joint ``wavelength`` [um] with coordinate ``band``;
        ``flux_unscaled`` and ``surface_brightness_unscaled`` keep the values before the match, ``scale`` the
        factor of each sample. Along ``stitched_band`` stand the coordinates ``scale_factor``, ``scale_error`` (NaN:
        joined unscaled), ``flux_offset`` and ``brightness_offset`` (in the units of the spectra), ``velocity_offset``
        [km/s] where bands were tied, and attributes in which the bands differ.

    Raises
    ------
    MrsxrError
        Where there are no spectra, an argument is not known, a band comes twice, or the bands differ in units or
        type of source.

    Notes
    -----
    The match compares ``flux`` (POINT) or ``surface_brightness`` (EXTENDED), the finer band interpolated to
    the samples of the coarser one: factor = sum(w a) / sum(w b), offset = sum(w (a - b)) / sum(w) with w
    from both variances. Variances are multiplied by factor^2; the error of the factors is common to a whole
    band and stays apart, in ``scale_error``.

    Examples
    --------
    >>> whole = mx.spectrum.stitch_bands([spectrum, other_spectrum])
    >>> sorted(set(whole.band.values.tolist()))
    ['1A', '2A']
    """
    _check(spectra)
    bands = sorted((ds.compute(**how()) for ds in spectra), key=lambda ds: float(ds["wavelength"].min()))
    bands = [ds.sortby("wavelength") for ds in bands]
    names = [str(ds.attrs["band"]) for ds in bands]
    reference = reference_band or names[0]
    if reference not in names:
        raise MrsxrError(f"reference_band {reference} is not among the spectra; expected one of {', '.join(names)}")
    velocities: list[float] = []
    with listen() as heard:
        if tie_velocities:
            bands, velocities = _tied(bands, names.index(reference))
        scalings = _match_all(bands, names.index(reference), method, clip_sigma, min_snr)
    scaled = [_apply(ds, scaling) for ds, scaling in zip(bands, scalings, strict=True)]
    joined = _join(scaled, overlap)
    params = {
        "method": method, "reference_band": reference, "overlap": overlap, "clip_sigma": clip_sigma, "min_snr": min_snr,
        "tie_velocities": tie_velocities,
    }  # fmt: skip
    common, by_band = split([{k: v for k, v in ds.attrs.items() if k not in _OF_PRODUCT} for ds in bands], STITCHED)
    joined = joined.drop_attrs(deep=False).assign_attrs(common | _attrs(bands, names, params))
    by_band = {name: one for name, one in by_band.items() if name not in joined.variables}
    joined = joined.assign_coords(by_band | _scalings(bands, names, scalings))
    if tie_velocities:
        joined = joined.assign_coords(velocity_offset=(STITCHED, velocities, {"units": "km/s"}))
    return noted(joined, [*notes_of(*bands), *heard])


def _check(spectra: Sequence[xr.Dataset]) -> None:
    if not spectra:
        raise MrsxrError("no spectra to stitch")
    for ds in spectra:
        if ds.attrs.get("level") != "spectrum":
            raise LevelError(f"stitch_bands needs data of level spectrum, got {ds.attrs.get('level')}")
    names = [str(ds.attrs.get("band")) for ds in spectra]
    if len(set(names)) < len(names):
        raise MrsxrError(f"bands {', '.join(names)}: a band comes twice; average its spectra first")
    kinds = {str(ds.attrs.get("source_type")) for ds in spectra}
    if len(kinds) > 1:
        raise MrsxrError(
            f"spectra of source types {' and '.join(sorted(kinds))} cannot be stitched; extract them alike"
        )
    _check_units(spectra)


def _check_units(spectra: Sequence[xr.Dataset]) -> None:
    """Raise where bands hold a quantity in different units."""
    first = spectra[0]
    for ds in spectra[1:]:
        for name in ("wavelength", *first.data_vars):
            if name not in ds.variables:
                continue
            one, other = (d.variables[name].attrs.get("units") for d in (first, ds))
            if one != other and (not one or not other or units.parse(one) != units.parse(other)):
                raise MrsxrError(
                    f"'{name}' of band {first.attrs['band']} is in {one or 'no units'}, that of {ds.attrs['band']} in "
                    f"{other or 'no units'}; bring them to one unit by convert_units(ds, ...) before they are stitched"
                )


def _good(ds: xr.Dataset, name: str = "flux") -> np.ndarray:
    return flags.good(ds[name].values, ds["dq"].values)


def _reach(ds: xr.Dataset) -> tuple[float, float]:
    """Return the wavelength range [um] of the good samples, of all samples where none is good."""
    wavelength, good = ds["wavelength"].values, _good(ds)
    wavelength = wavelength[good] if good.any() else wavelength
    return float(wavelength[0]), float(wavelength[-1])


def _common(a: xr.Dataset, b: xr.Dataset, name: str) -> list[np.ndarray]:
    """Return values and variances of both bands at the samples of the coarser one within the overlap."""
    low, high = max(_reach(a)[0], _reach(b)[0]), min(_reach(a)[1], _reach(b)[1])
    steps = [float(np.median(np.diff(ds["wavelength"].values))) if ds.sizes["wavelength"] > 1 else 0.0 for ds in (a, b)]
    grid = (a if steps[0] >= steps[1] else b)["wavelength"].values
    grid = grid[(grid >= low) & (grid <= high)]
    columns = []
    for ds in (a, b):
        good = _good(ds, name)
        for variable in (name, _VALUES[name]):
            values = np.where(good, ds[variable].values, np.nan)
            columns.append(np.interp(grid, ds["wavelength"].values, values))
    keep = np.isfinite(columns[0]) & np.isfinite(columns[2])
    known = keep & np.isfinite(columns[1]) & np.isfinite(columns[3])
    keep = known if known.any() else keep  # spectra without errors are matched by their values alone
    return [column[keep] for column in columns]


def _match(
    fixed: xr.Dataset, moving: xr.Dataset, name: str, method: str, clip_sigma: float, min_snr: float
) -> tuple[float, float]:
    """Return factor or offset, and its error, that bring ``moving`` to ``fixed`` in their overlap."""
    a, var_a, b, var_b = _common(fixed, moving, name)
    neutral = 1.0 if method == "multiplicative" else 0.0
    if len(a) < _MIN_SAMPLES:
        tell(
            f"bands {fixed.attrs['band']} and {moving.attrs['band']} share {len(a)} good samples of "
            f"{name}; expected at least {_MIN_SAMPLES}; it is joined unscaled",
            stacklevel=5,
        )
        return neutral, float("nan")
    total = var_a + var_b
    weight = 1.0 / np.where(total > 0, total, 1.0) if (total > 0).all() else np.ones_like(total)
    kept = np.ones(len(a), dtype=bool)
    value, error = neutral, 0.0
    alike = np.sqrt(0.5 * (correlation_length(fixed) + correlation_length(moving)))  # of samples that share pixels
    for round_ in range(_FREE_ROUNDS + len(a)):
        w, p, q = weight[kept], a[kept], b[kept]
        if method == "multiplicative":
            norm = np.sum(w * q)  # not that of a regression, which noise in q would make too small
            value = float(np.sum(w * p) / norm) if norm > 0 else -1.0
            residual = a - value * b
        else:
            norm = np.sum(w)
            value = float(np.sum(w * (p - q)) / norm)
            residual = a - b - value
        error = float(alike * np.sqrt(np.sum(w**2 * residual[kept] ** 2)) / abs(norm)) if norm else np.nan
        inside = np.abs(residual - np.median(residual[kept])) <= clip_sigma * np.std(residual[kept]) + 1e-300
        if round_ >= _FREE_ROUNDS:  # what was clipped stays so: sets of samples that take turns would not converge
            inside &= kept
        if (inside == kept).all() or inside.sum() < _MIN_SAMPLES:
            break
        kept = inside
    if method == "additive":
        return value, error
    w = weight[kept]
    scatter = np.full(len(a), np.var((a - value * b)[kept]) / (1.0 + value**2))  # of spectra without errors
    snr = min(
        _over(np.sum(w * values[kept]), alike * np.sqrt(np.sum(w**2 * np.where(np.isfinite(own), own, scatter)[kept])))
        for values, own in ((a, var_a), (b, var_b))
    )
    snr = min(snr, _over(value, error))
    if snr >= min_snr:
        return value, error
    tell(
        f"bands {fixed.attrs['band']} and {moving.attrs['band']}: their factor, {value:.3g} +- {error:.2g}, rests on "
        f"light of S/N {snr:.1f} in the overlap; expected at least {min_snr:g}; they are joined unscaled; "
        "subtract the background first or match by 'additive'",
        stacklevel=5,
    )
    return 1.0, float("nan")


def _over(value: float, error: float) -> float:
    """Return a value in units of its error; infinite without an error, 0 where it is not known."""
    if not np.isfinite(value) or np.isnan(error):
        return 0.0
    return float(value / error) if error > 0 else float(np.inf * np.sign(value)) if value else 0.0


def _tied(bands: list[xr.Dataset], reference: int) -> tuple[list[xr.Dataset], list[float]]:
    """Return the bands with the wavelengths of the reference, and by which velocity [km/s] each was off."""
    out, found = list(bands), [0.0] * len(bands)
    chain = [(i, i - 1) for i in range(reference + 1, len(bands))]
    chain += [(i, i + 1) for i in range(reference - 1, -1, -1)]
    for i, before in chain:
        velocity, error = measure_velocity(bands[i], reference=bands[before])
        if not error < _VELOCITY_ERROR:
            names = [str(bands[k].attrs["band"]) for k in (before, i)]
            tell(f"bands {names[0]} and {names[1]}: no lines tie their wavelengths to {_VELOCITY_ERROR:g} km/s; they "
                 "are moved alike", stacklevel=4)  # fmt: skip
            velocity = 0.0
        found[i] = found[before] + velocity
        if found[i]:
            out[i] = correct_wavelengths(bands[i], velocity=found[i])
    return out, found


def _match_all(
    bands: list[xr.Dataset], reference: int, method: str, clip_sigma: float, min_snr: float
) -> list[Scaling]:
    """Return the scaling of each band, chained outwards from the reference."""
    scalings = [Scaling() for _ in bands]
    if method == "none":
        return scalings
    name = "flux" if bands[0].attrs.get("source_type") == "POINT" else "surface_brightness"
    chain = [(i, i - 1) for i in range(reference + 1, len(bands))]
    chain += [(i, i + 1) for i in range(reference - 1, -1, -1)]
    for i, before in chain:
        past = scalings[before]
        if method == "multiplicative":
            factor, error = _match(bands[before], bands[i], name, method, clip_sigma, min_snr)
            relative = np.hypot(error / factor, past.factor_error / past.factor)
            scalings[i] = Scaling(factor * past.factor, float(relative * factor * past.factor))
        else:
            flux, _ = _match(bands[before], bands[i], "flux", method, clip_sigma, min_snr)
            brightness, _ = _match(bands[before], bands[i], "surface_brightness", method, clip_sigma, min_snr)
            scalings[i] = Scaling(1.0, 0.0, flux + past.flux_offset, brightness + past.brightness_offset)
    return scalings


def _apply(ds: xr.Dataset, scaling: Scaling) -> xr.Dataset:
    """Return a spectrum multiplied and shifted, with the values before beside it."""
    out = ds.copy()
    offsets = {"flux": scaling.flux_offset, "surface_brightness": scaling.brightness_offset}
    for name, variance in _VALUES.items():
        out[f"{name}_unscaled"] = ds[name].copy()
        out[name] = (ds[name] * scaling.factor + offsets[name]).assign_attrs(ds[name].attrs)
        out[variance] = (ds[variance] * scaling.factor**2).assign_attrs(ds[variance].attrs)
    for name, (_, like) in _FRINGELESS.items():
        if name in ds:
            out[name] = (ds[name] * scaling.factor + offsets[like]).assign_attrs(ds[name].attrs)
    for name, power in _WITH_BAND.items():
        if name in ds:
            out[name] = (ds[name] * scaling.factor**power).assign_attrs(ds[name].attrs)
    scale = np.full(ds.sizes["wavelength"], scaling.factor)
    out["scale"] = ("wavelength", scale, {"units": "1", "long_name": "factor of the band"})
    return out


def _join(bands: list[xr.Dataset], overlap: str) -> xr.Dataset:
    """Return the bands as one Dataset, cut or averaged where they overlap."""
    pieces = list(bands)
    for i in range(len(pieces) - 1):
        left, right = pieces[i], pieces[i + 1]
        low, high = _reach(right)[0], _reach(left)[1]
        middle = 0.5 * (low + high)
        if overlap == "average" and high > low:
            pieces[i] = _averaged(left, right, low, high)
            pieces[i + 1] = right.isel(wavelength=right["wavelength"].values > high)
        else:
            pieces[i] = left.isel(wavelength=left["wavelength"].values < middle)
            pieces[i + 1] = right.isel(wavelength=right["wavelength"].values >= middle)
    names = set.intersection(*(set(piece.data_vars) for piece in pieces))
    names = {n for n in names if pieces[0][n].dims == ("wavelength",)}  # scores are those of bands
    kept = [n for n in pieces[0].data_vars if n in names]
    pieces = [piece[kept] for piece in pieces if piece.sizes["wavelength"]]
    joined = xr.concat(pieces, dim="wavelength", data_vars="all", coords="minimal", compat="override",
                       join="override", combine_attrs="override")  # fmt: skip
    return joined.sortby("wavelength")


def _averaged(left: xr.Dataset, right: xr.Dataset, low: float, high: float) -> xr.Dataset:
    """Return ``left`` up to the end of the overlap, averaged by inverse variance with ``right`` in it."""
    wavelength = left["wavelength"].values
    out = left.isel(wavelength=wavelength <= high).copy(deep=True)
    inside = (out["wavelength"].values >= low) & (out["wavelength"].values <= high)
    grid = out["wavelength"].values[inside]
    pairs = _VALUES | {name: variance for name, (variance, _) in _FRINGELESS.items()}
    for name, variance in pairs.items():
        if name not in out or name not in right:
            continue
        own = variance in out and variance in right
        spread = variance if own else _VALUES[_FRINGELESS[name][1]]
        good = _good(right, name)
        values, variances = (
            np.interp(grid, right["wavelength"].values, np.where(good, right[v].values, np.nan)) for v in (name, spread)
        )
        mine, my_variance = out[name].values[inside], left[spread].values[wavelength <= high][inside]
        w = np.where(
            _good(out, name)[inside] & (my_variance > 0), 1.0 / np.where(my_variance > 0, my_variance, 1.0), 0.0
        )
        v = np.where(np.isfinite(values) & (variances > 0), 1.0 / np.where(variances > 0, variances, 1.0), 0.0)
        blind = not (w > 0).any() and not (v > 0).any()
        if blind:  # without errors all samples count alike, and stay without
            w, v = _good(out, name)[inside].astype(float), np.isfinite(values).astype(float)
        norm = w + v
        use = (norm > 0) & (v > 0)
        mixed = (w * np.nan_to_num(mine) + v * np.nan_to_num(values))[use] / norm[use]
        place = np.flatnonzero(inside)[use]
        out[name].values[place] = mixed
        if own:
            out[variance].values[place] = np.nan if blind else 1.0 / norm[use]
        common = _SYSTEMATIC.get(name)
        if common is not None and common in out and common in right:  # one error of both bands: not averaged down
            ours = np.sqrt(out[common].values[inside])
            theirs = np.interp(grid, right["wavelength"].values, np.sqrt(right[common].values))
            both = (w * np.nan_to_num(ours) + v * np.nan_to_num(theirs))[use] / norm[use]
            out[common].values[place] = both**2
    mended = np.isfinite(out["flux"].values[inside]) & ~_good(left.isel(wavelength=wavelength <= high))[inside]
    out["dq"].values[np.flatnonzero(inside)[mended]] &= ~np.uint32(flags.DO_NOT_USE)
    return out


def _attrs(bands: list[xr.Dataset], names: list[str], params: Any) -> dict[str, Any]:
    entry = {
        "step": "spectrum.stitch_bands",
        "version": __version__,
        "params": plain_parameters(params),
        "refs": {},
        "inputs": {name: read_history(ds) for name, ds in zip(names, bands, strict=True)},
    }
    common: dict[str, Any] = {}
    if exposures := dict.fromkeys(name for ds in bands for name in ds.attrs.get("exposures") or ()):
        common["exposures"] = list(exposures)
    if any(ds.attrs.get("fits_header") for ds in bands):
        common["fits_header"] = json.dumps(products_header([headers_of(ds)[0] for ds in bands]))
    return common | {
        "level": "spectrum",
        "band": names[0] if len(names) == 1 else "MULTIPLE",
        "bands": [name for name in mrs.BANDS if name in names] or names,
        "stitch_method": params["method"],
        "reference_band": params["reference_band"],
        "mrsxr_version": __version__,
        "history_json": json.dumps([entry]),
    }  # fmt: skip


def _scalings(bands: Sequence[xr.Dataset], names: list[str], scalings: Sequence[Scaling]) -> dict[str, xr.Variable]:
    """Return how each band was scaled, as coordinates."""
    of_unit = {"flux_offset": "flux", "brightness_offset": "surface_brightness"}
    fields = {"scale_factor": "factor", "scale_error": "factor_error", **{name: name for name in of_unit}}
    units_of = {name: bands[0][of_unit[name]].attrs.get("units", "1") if name in of_unit else "1" for name in fields}
    made = {name: xr.Variable(STITCHED, [getattr(one, field) for one in scalings], {"units": units_of[name]})
            for name, field in fields.items()}  # fmt: skip
    return made | {STITCHED: xr.Variable(STITCHED, names)}
