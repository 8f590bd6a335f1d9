"""Cubes of neighbouring bands brought to one scale, by the light that both see where they overlap in wavelength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.arguments import reads
from mrsxr.attributes import varied
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.geometry.place import sky_of
from mrsxr.limits import Arcsec, Band, Place, Positive, Range, checked
from mrsxr.notes import listen, noted, tell
from mrsxr.robust import middle_and_scatter
from mrsxr.spaxels import spaxel_area
from mrsxr.step import recorded
from mrsxr.threads import how

from .psf import match_psf
from .resample import regrid

Method = Literal["multiplicative", "additive", "both"]
Ratio = Annotated[float, Range(above=1, high=10)]
_LEAST = 12  # spaxels in common
_FREE = 5  # rounds of clipping in which spaxels may come back
_MIN_SNR = 5.0
_SCALED = {"flux": 1, "var": 2, "var_systematic": 2}


@dataclass(frozen=True)
class Scaling:
    """value * factor + offset [MJy/sr], and the error of each."""

    factor: float = 1.0
    factor_error: float = 0.0
    offset: float = 0.0
    offset_error: float = 0.0

    def after(self, other: Scaling) -> Scaling:
        """Return this scaling followed by another one."""
        factor = self.factor * other.factor
        relative = np.hypot(self.factor_error / self.factor, other.factor_error / other.factor)
        errors = other.factor * self.offset_error, other.offset_error, other.factor_error * self.offset
        return Scaling(factor, float(factor * relative), other.factor * self.offset + other.offset,
                       float(np.sqrt(np.sum(np.square(errors)))))  # fmt: skip


@reads()
@checked
def match_bands(
    cubes: Sequence[xr.Dataset], *, method: Method = "multiplicative", reference_band: Band | None = None,
    center: Place | None = None, radius: Arcsec | None = None, psf: Mapping[str, Positive] | None = None,
    clip_sigma: Positive = 4.0, largest: Ratio = 1.5,
) -> list[xr.Dataset]:  # fmt: skip
    """Bring the cubes of several bands to one scale, each by one factor, one offset, or both.

    Parameters
    ----------
    cubes : sequence of Dataset, level "cube"
        One per band, in any order, on any spaxels, of one source.
    method : {"multiplicative", "additive", "both"}
        What is matched between neighbours, outwards from the reference band. Both are told apart by how the light
        varies over the field, which must do so.
    reference_band : str, optional
        The cube left as it is; by default that of the shortest wavelength.
    center : (float, float), optional
        Only spaxels within ``radius`` [arcsec] of this place [deg]; by default the whole field that both see.
    radius : float, optional
    psf : mapping of band to float, optional
        FWHM of a point source in a cube [arcsec] at its overlaps, where bands are not equally sharp there: the sharper
        one is smoothed by :func:`match_psf`.
    clip_sigma : float
        Spaxels beyond this many standard deviations do not enter a match.
    largest : float
        A factor beyond this, or below one over it, is not applied.

    Returns
    -------
    list of Dataset, level "cube"
        In the order given: ``flux`` = factor flux + offset, variances by factor^2; attrs ``scale_factor``,
        ``scale_factor_error``, ``scale_offset`` and ``scale_offset_error`` [MJy/sr], by which all voxels err alike
        (SCALEFAC, SCALFERR, SCALEOFF and SCALOERR of its file).
        Lazy where they were; the overlaps are computed. A cube that shares no good light with its neighbour is scaled
        with it, which is told.

    Raises
    ------
    MrsxrError
        Where there are fewer than two cubes, a band comes twice, or the reference band is none of them.

    Notes
    -----
    Of each pair the planes of the overlap are averaged to an image, and the finer one is brought onto the spaxels of
    the other (:func:`regrid`). Factor = sum(w a) / sum(w b), offset = mean of a - b, weights from both variances, as of
    spectra (:func:`mrsxr.spectrum.stitch_bands`); both: a line with errors in both images (Deming). Errors are those of
    the residuals, as many spaxels as make a PSF taken for one. Cubes of one grid and one PSF for all bands:
    ``[regrid(match_psf(c, fwhm=1.0), like=cubes[-1]) for c in match_bands(cubes)]``.

    Examples
    --------
    >>> from mrsxr.simulate import simulate_cube
    >>> one = simulate_cube(band="1A", wavelength=(5.6, 5.74), noise=0.5)
    >>> other = simulate_cube(band="1B", wavelength=(5.66, 5.8), noise=0.5, seed=2)
    >>> other["flux"] = (1.05 * other.flux).assign_attrs(units="MJy/sr")
    >>> _, matched = match_bands([one, other])
    >>> bool(abs(1.05 * matched.attrs["scale_factor"] - 1) < 0.01)
    True
    """
    ordered = _checked(cubes)
    names = [str(ds.attrs["band"]) for ds in ordered]
    if reference_band is not None and reference_band not in names:
        raise MrsxrError(f"reference_band is {reference_band}; expected one of the cubes, {', '.join(names)}")
    if (center is None) != (radius is None):
        raise MrsxrError("center and radius go together; give both or none")
    start = names.index(reference_band) if reference_band else 0
    out = {start: _apply(ordered[start], Scaling(), method, names[start])}
    scalings = {start: Scaling()}
    chain = [(i, i - 1) for i in range(start + 1, len(ordered))] + [(i, i + 1) for i in range(start - 1, -1, -1)]
    for i, before in chain:
        with listen() as told:
            pair = _pair((ordered[before], ordered[i]), (center, radius), psf or {})
            found = _fit(pair, method, clip_sigma) if isinstance(pair, tuple) else pair
            scalings[i] = _accepted(found, f"{names[before]} and {names[i]}", largest).after(scalings[before])
        out[i] = noted(_apply(ordered[i], scalings[i], method, names[start]), told)
    return [out[names.index(str(ds.attrs["band"]))] for ds in cubes]


def _checked(cubes: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Return the cubes by wavelength."""
    for ds in cubes:
        if ds.attrs.get("level") != "cube":
            raise LevelError(f"match_bands needs data of level cube, got {ds.attrs.get('level')}")
    names = [str(ds.attrs.get("band")) for ds in cubes]
    if len(cubes) < 2 or len(set(names)) < len(names) or not set(names) <= set(mrs.BANDS):
        raise MrsxrError(f"match_bands got cubes of {', '.join(names) or 'nothing'}; expected two or more, one a band")
    return sorted(cubes, key=lambda ds: float(ds["wavelength"].min()))


def _pair(
    cubes: tuple[xr.Dataset, xr.Dataset], circle: tuple[Any, Any], psf: Mapping[str, float],
) -> tuple[Any, ...] | str:  # fmt: skip
    """Return images of the overlap (a, b), their variances and the spaxels a PSF; what is missing, where it is."""
    low, high = 0.0, np.inf
    for ds in cubes:
        wave = ds["wavelength"].values
        near = ds.isel(wavelength=(wave >= low) & (wave <= high))
        low, high = max(low, float(wave.min())), min(high, float(wave.max()))
        if not near.sizes["wavelength"] or low >= high:
            return "they do not overlap"
    parts = [ds.sel(wavelength=slice(low, high)) for ds in cubes]
    images = [_image(part[["flux", "var", "dq"]].compute(**how())) for part in parts]
    law = float(mrs.psf_fwhm(0.5 * (low + high)))
    widths = [float(psf.get(str(ds.attrs["band"]), law)) for ds in cubes]
    images = [_smoothed(image, max(widths), width) for image, width in zip(images, widths, strict=True)]
    coarse = int(spaxel_area(images[1]) > spaxel_area(images[0]))
    try:
        images[1 - coarse] = regrid(images[1 - coarse], images[coarse], min_coverage=0.99)
    except MrsxrError as error:  # other fields
        return str(error)
    seen = np.ones(images[0]["flux"].shape[1:], bool)
    for image in images:
        seen &= flags.good(image["flux"].values[0], image["dq"].values[0])
    if circle[0] is not None:
        seen &= _inside(images[coarse], *circle)
    if seen.sum() < _LEAST:
        return f"they share {int(seen.sum())} good spaxels; expected {_LEAST} or more"
    values = [image[name].values[0][seen].astype(float) for name in ("flux", "var") for image in images]
    return (*values, max(1.0, 0.25 * np.pi * max(widths) ** 2 / spaxel_area(images[coarse])))


def _smoothed(image: xr.Dataset, target: float, width: float) -> xr.Dataset:
    """Return an image of another FWHM [arcsec], without the border where the kernel reaches out of the field."""
    from scipy.ndimage import binary_erosion

    out = match_psf(image, fwhm=target, psf=width)
    reach = int(np.ceil(np.sqrt(max(target**2 - width**2, 0.0) / spaxel_area(image)) - 1e-3))
    if not reach:
        return out
    inner = binary_erosion(np.isfinite(out["flux"].values[0]), iterations=reach)
    return out.assign(flux=out["flux"].where(xr.DataArray(inner, dims=("y", "x"))).assign_attrs(out["flux"].attrs))


def _image(ds: xr.Dataset) -> xr.Dataset:
    """Return the mean of the planes of a cube as one plane; flagged where a quarter of the good ones is missing."""
    good = flags.good(ds["flux"].values, ds["dq"].values)
    count = good.sum(axis=(1, 2))
    good &= (count > 0.5 * count.max(initial=0))[:, None, None]  # planes of the border hold less
    number = good.sum(axis=0)
    bad = number < max(1.0, 0.75 * number.max(initial=0))
    share = np.where(bad, 1, number)
    flux, var = (np.where(good, ds[name].values, 0.0).sum(axis=0) for name in ("flux", "var"))
    dims = ("wavelength", "y", "x")
    values = {"flux": np.where(bad, np.nan, flux / share), "var": np.where(bad, np.nan, var / share**2)}
    out = {name: (dims, one[None].astype("f4"), ds[name].attrs) for name, one in values.items()}
    dq = np.where(bad, flags.DO_NOT_USE, 0).astype(np.uint32)[None]
    middle = ds["wavelength"].sizes["wavelength"] // 2
    return ds.isel(wavelength=[middle]).assign(out | {"dq": (dims, dq, ds["dq"].attrs)})


def _inside(ds: xr.Dataset, center: tuple[float, float], radius: float) -> np.ndarray:
    x0, y0 = sky_of(ds).wcs_world2pix([center], 0)[0]
    y, x = np.indices((ds.sizes["y"], ds.sizes["x"]))
    return np.hypot(x - x0, y - y0) * np.sqrt(spaxel_area(ds)) <= radius


def _fit(pair: tuple[np.ndarray, ...], method: str, clip_sigma: float) -> Scaling:
    """Return how the second of two images is brought to the first, without spaxels that stand off."""
    a, b, var_a, var_b, alike = pair
    total = var_a + var_b
    weight = 1.0 / total if (np.isfinite(total) & (total > 0)).all() else np.ones_like(a)
    found = _start(a, b, method)
    kept, first = np.ones(a.size, bool), True
    for round_ in range(_FREE + a.size + 1):  # from then on spaxels only go, so that it ends
        residual = a - found.factor * b - found.offset
        middle, spread = middle_and_scatter(residual[kept])
        inside = np.abs(residual - middle) <= clip_sigma * spread + 1e-300
        inside &= kept if round_ > _FREE else True
        if inside.sum() < _LEAST or (not first and (inside == kept).all()):
            break
        kept, first = inside, False
        noise = float(np.median(var_a) / np.median(var_b))
        found = _line(a[kept], b[kept], weight[kept], noise, method, alike)
    return found


def _start(a: np.ndarray, b: np.ndarray, method: str) -> Scaling:
    """Return a scaling by medians, which single spaxels do not move."""
    if method == "additive":
        return Scaling(offset=float(np.median(a - b)))
    middle = float(np.median(a)), float(np.median(b))
    if method == "multiplicative":
        return Scaling(middle[0] / middle[1] if middle[1] else 1.0)
    spread = [float(np.median(np.abs(one - m))) for one, m in zip((a, b), middle, strict=True)]
    factor = spread[0] / spread[1] if spread[1] else 1.0
    return Scaling(factor, offset=middle[0] - factor * middle[1])


def _line(a: np.ndarray, b: np.ndarray, w: np.ndarray, noise: Any, method: str, alike: Any) -> Scaling:
    """Return the scaling of some spaxels; ``noise``: variance of ``a`` over that of ``b``."""
    if method == "multiplicative":
        norm = np.sum(w * b)
        factor = float(np.sum(w * a) / norm) if norm > 0 else -1.0
        error = np.sqrt(alike * np.sum(w**2 * (a - factor * b) ** 2)) / abs(norm) if norm else np.nan
        return Scaling(factor, float(error))
    if method == "additive":
        offset = float(np.sum(w * (a - b)) / w.sum())
        return Scaling(1.0, 0.0, offset, float(np.sqrt(alike * np.sum(w**2 * (a - b - offset) ** 2)) / w.sum()))
    mean_a, mean_b = np.average(a, weights=w), np.average(b, weights=w)
    noise = noise if np.isfinite(noise) and noise > 0 else 1.0
    yy, xx, xy = (np.average(p * q, weights=w) for p, q in ((a - mean_a, a - mean_a), (b - mean_b, b - mean_b),
                                                           (a - mean_a, b - mean_b)))  # fmt: skip
    if not xy > 0:
        return Scaling(-1.0, float("nan"))
    factor = float((yy - noise * xx + np.sqrt((yy - noise * xx) ** 2 + 4 * noise * xy**2)) / (2 * xy))
    residual = a - mean_a - factor * (b - mean_b)
    error = float(np.sqrt(alike * np.sum((w * (b - mean_b) * residual) ** 2)) / (w.sum() * xx))
    level = float(np.sqrt(alike * np.sum((w * residual) ** 2)) / w.sum())
    return Scaling(factor, error, float(mean_a - factor * mean_b), float(np.hypot(level, mean_b * error)))


def _accepted(found: Scaling | str, bands: str, largest: float) -> Scaling:
    """Return a scaling that rests on light, else none, which is told."""
    text = found if isinstance(found, str) else ""
    if isinstance(found, Scaling) and not 1.0 / largest <= found.factor <= largest:
        text = f"their factor is {found.factor:.3g}; expected {1 / largest:.2g} to {largest:g}"
    elif isinstance(found, Scaling) and found.factor_error and not found.factor >= _MIN_SNR * found.factor_error:
        text = f"their factor is {found.factor:.3g} +- {found.factor_error:.2g}; expected S/N {_MIN_SNR:g}"
    if not text and isinstance(found, Scaling):
        return found
    tell(f"bands {bands}: {text}; they are scaled alike", stacklevel=4)
    return Scaling(1.0, 0.0)


def _apply(ds: xr.Dataset, one: Scaling, method: str, reference: str) -> xr.Dataset:
    """Return a cube scaled, with what was done among its attributes."""
    out = {}
    for name, power in _SCALED.items():
        if name in ds:
            values = ds[name] * np.float32(one.factor**power) + np.float32(one.offset if name == "flux" else 0.0)
            out[name] = values.astype(ds[name].dtype).assign_attrs(ds[name].attrs)
    names = ("scale_factor", "scale_factor_error", "scale_offset", "scale_offset_error")
    matched = [float(ds.attrs[name]) for name in names if name in ds.attrs]
    whole = Scaling(*matched).after(one) if len(matched) == len(names) else one  # of all matches so far
    facts = dict(zip(names, (whole.factor, whole.factor_error, whole.offset, whole.offset_error), strict=True))
    scaled = varied(ds.assign(out).assign_attrs(facts), "scaled")
    return recorded(ds, scaled, "cube.match_bands", method=method, reference_band=reference, **facts)
