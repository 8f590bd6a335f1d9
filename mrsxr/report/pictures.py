"""Sections with pictures: detector before and after, cubes, spectrum, lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure

from mrsxr import dq, plot
from mrsxr.errors import MrsxrError
from mrsxr.io import FileInfo
from mrsxr.spectrum import stitch_bands

from .gather import Contents
from .markup import join, macros, paragraph, picture, strong

Tell = Callable[[], None]
_MOST_SETTINGS = 6
_MOST_PIXELS = 344  # of a detector image, along an axis
_DPI = 100  # dots per inch


def count_pictures(contents: Contents) -> int:
    """Return how many pictures of exposures and cubes the page will have."""
    return sum(len(files) for files in _exposure_pairs(contents).values()) + len(contents.cubes())


def detector(contents: Contents, tell: Tell) -> Markup:
    """Return the first science exposure of each setting as count rates and as calibrated."""
    pairs = _exposure_pairs(contents)
    if not pairs:
        raise MrsxrError("no exposures of level ramp, rate or cal in this folder")
    parts = []
    for setting, files in list(pairs.items())[:_MOST_SETTINGS]:
        for file in files:
            ds = contents.open(file)
            level, bad = str(ds.attrs["level"]), ""
            of = "pixels in slices" if level == "cal" else "pixels"
            if "dq" in ds:
                bad = f", {100 * _unusable(ds):.1f} % of the {of} are not to be used"
            drawn = plot.detector_image(ds, int(ds.dither[0]), pixels=_MOST_PIXELS, title=f"{setting}   {level}")
            alt = f"Detector image of setting {setting}, level {level}: first science exposure{bad}"
            caption = join(strong(f"{setting}, {level}"), f" {file.exposure}{bad}")
            parts.append(picture(drawn, alt, caption, dpi=80, noisy=True))
            tell()
    more = len(pairs) - _MOST_SETTINGS
    text = "The first science exposure of each setting, before and after calibration. Grey: no value."
    text += f" {more} more settings are left out." if more > 0 else ""
    return join(paragraph(text), macros.pictures(parts, "two"))


def _exposure_pairs(contents: Contents) -> dict[str, list[FileInfo]]:
    """Return, for each setting, the first exposure before and after: rate and cal, else what there is."""
    out: dict[str, list[FileInfo]] = {}
    for setting in dict.fromkeys(f.node for f in contents.exposures()):
        found = {}
        for product in ("uncal", "ramp", "rate", "cal", "crf"):
            found[product] = next((f for f in contents.of(product) if f.node == setting), None)
        before = next((found[k] for k in ("rate", "ramp", "uncal") if found[k]), None)
        after = next((found[k] for k in ("cal", "crf") if found[k]), None)
        out[setting] = [f for f in (before, after) if f is not None]
    return out


def _unusable(ds: xr.Dataset) -> float:
    bits = ds["dq"].isel(dither=0).values
    seen = (bits & np.uint32(dq.REFERENCE_PIXEL | dq.NON_SCIENCE)) == 0
    return float(np.mean((bits[seen] & np.uint32(dq.DO_NOT_USE)) != 0)) if seen.any() else 1.0


def cubes(contents: Contents, tell: Tell) -> Markup:
    """Return every cube of a band, collapsed over wavelength, with the aperture of its spectrum."""
    found = contents.cubes()
    if not found:
        raise MrsxrError("no cubes of single bands in this folder")
    spectra = {f.node: ds for f, ds in reversed(contents.spectra())}
    parts = []
    for band, file in found.items():
        ds = contents.open(file)
        circle = aperture_of(spectra[band]) if band in spectra and "wcs" in ds.attrs else None
        what = "" if circle is None else f", aperture of {circle[2]:.2f} arcsec" if circle[2] else ", centre marked"
        alt = f"Cube of band {band} collapsed over wavelength, on the sky{what}"
        low, high = float(ds.wavelength[0]), float(ds.wavelength[-1])
        size = f"{ds.sizes['x']} × {ds.sizes['y']} spaxels"
        caption = join(strong(band), f" {low:.2f}–{high:.2f} µm, {size}{what}")
        parts.append(picture(_cube_image(ds, circle), alt, caption, dpi=_DPI))
        tell()
    text = "Median over wavelength of each band."
    return join(paragraph(text), macros.pictures(parts, "three"))


def _cube_image(ds: xr.Dataset, circle: tuple[Any, ...] | None) -> Any:
    """Draw a cube into a figure that is small enough for its letters to be read beside others."""
    if "wcs" not in ds.attrs:
        return plot.cube_image(ds)
    figure = Figure(figsize=(4.6, 3.7), facecolor="white")
    ax = plot.sky_axes(ds, figure, (0.2, 0.14, 0.6, 0.76))
    return plot.cube_image(ds, ax=ax, aperture=circle, font_size=8.0)


def aperture_of(ds: xr.Dataset) -> tuple[float, float, float | None] | None:
    """Return RA and Dec [deg] and median radius [arcsec] of an aperture, None where unknown."""
    if "aperture_ra" not in ds.attrs or "aperture_dec" not in ds.attrs:
        return None
    radius = None
    if "aperture_radius" in ds and np.isfinite(ds["aperture_radius"].values).any():
        radius = float(np.nanmedian(ds["aperture_radius"].values))
    return float(ds.attrs["aperture_ra"]), float(ds.attrs["aperture_dec"]), radius


def whole_spectra(contents: Contents) -> list[tuple[str, xr.Dataset]]:
    """Return (what, spectrum) of all bands together: stitched ones, or the bands side by side."""
    found = [(_branch(ds), ds) for _, ds in contents.stitched()]
    found += [("stitched", contents.open(p)) for p, level in contents.others.items() if level == "spectrum"]
    if found:
        return found
    bands = list({f.node: ds for f, ds in reversed(contents.spectra())}.values())
    if len(bands) > 1:
        bands = sorted(bands, key=lambda ds: float(ds.wavelength[0]))
        return [("bands side by side", stitch_bands(bands, method="none"))]
    return [(f"band {ds.attrs.get('band')}", ds) for ds in bands]


def _branch(ds: xr.Dataset) -> str:
    kind = str(ds.attrs.get("source_type", "")).lower()
    return f"all bands, {kind} source" if kind in ("point", "extended") else "all bands"


def spectrum(contents: Contents, redshift: float | None) -> Markup:
    """Return the picture of the spectrum of all bands with its lines marked."""
    found = whole_spectra(contents)
    if not found:
        raise MrsxrError("no spectra in this folder")
    parts = []
    for what, ds in found:
        low, high = float(ds.wavelength.min()), float(ds.wavelength.max())
        alt = f"Spectrum of {what} from {low:.2f} to {high:.2f} micrometres, lines marked"
        caption = f"Spectrum, {what}; shaded: one standard deviation."
        parts.append(picture(plot.spectrum(ds, redshift=redshift), alt, caption, dpi=_DPI, wide=True))
    return join(*parts)


def line_pictures(ds: xr.Dataset, fit: xr.Dataset, labels: Sequence[str]) -> Markup:
    """Return a zoom on each of some lines: data, model, components, residuals."""
    parts = []
    for label in labels:
        row: Any = fit.sel(line=label)
        alt = f"{label}: spectrum around the line with the fitted model and residuals, S/N {float(row.snr):.0f}"
        parts.append(picture(_line_image(ds, fit, label), alt, strong(label), dpi=_DPI))
    return macros.pictures(parts, "two")


def _line_image(ds: xr.Dataset, fit: xr.Dataset, label: str) -> Any:
    figure = Figure(figsize=(6.2, 4.6), facecolor="white")
    return plot.line_fit(ds, fit, label, figure.add_axes((0.12, 0.12, 0.85, 0.72)))
