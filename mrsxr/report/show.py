"""The right picture for one file of any level."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import plot
from mrsxr.arguments import as_um_place, reads
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.io import load_dataset
from mrsxr.limits import checked
from mrsxr.mrs import N_REFERENCE_COLUMNS
from mrsxr.references.headers import read_facts

_FULL = 50_000.0  # DN: raw ramps above it are taken as saturated
_ROWS = 128  # rows of a ramp looked at together
DETECTOR = ("ramp", "rate", "rateints", "cal")


def open_product(path: str | Path) -> xr.Dataset:
    """Open a product to be shown; a reference file is refused in words.

    Raises
    ------
    InputFileError
        Where the file is no product, saying what it is.

    Examples
    --------
    >>> mx.report.open_product(cube_file).attrs["level"]
    'cube'
    """
    path = Path(path)
    try:
        return load_dataset(path)
    except MrsxrError as error:
        kind = _reference_kind(path)
        if kind:
            raise InputFileError(
                f"{path}: is a reference file ({kind}); `show` draws data: ramps, rates, cal, cubes, spectra, lines"
            ) from error
        raise


def _reference_kind(path: Path) -> str:
    if path.suffix not in (".fits", ".asdf", ".json") or not os.path.isfile(path):
        return ""
    try:
        return str(read_facts(path).kind)
    except Exception:  # whatever it is, it is no reference file
        return ""


@reads(wavelength=as_um_place)
@checked
def draw_file(
    ds: xr.Dataset, *, redshift: float | None = None, dither: int | None = None, dq: bool = False,
    wavelength: tuple[float, float] | None = None, zoom: tuple[float, float] | str | None = None,
    line: str | None = None,
) -> Any:  # fmt: skip
    """Draw what a Dataset of any level is best seen by.

    Parameters
    ----------
    ds : Dataset
        A ramp: the image with the ramps of the brightest unsaturated pixel and of one that was hit; rate and cal
        data: the image with its slices; a cube: collapsed over wavelength; a spectrum with its lines; fitted lines
        of a cube: maps of one line.
    redshift : float, optional
        Redshift, for the marks of lines.
    dither : int, optional
        Number of the exposure; by default the first.
    dq : bool
        Draw the flags instead (ramp, rate, cal, cube).
    wavelength : (float, float), optional
        Range of a cube to collapse [um].
    zoom : (float, float) or str, optional
        Range of a spectrum to draw [um], or the line about which it lies.
    line : str, optional
        Line to map; by default the one with the best S/N. Of a spectrum the line to zoom in on.

    Returns
    -------
    Axes or array of Axes, or None for fitted lines of a single spectrum, which are a table

    Examples
    --------
    >>> picture = mx.report.draw_file(spectrum, redshift=0.0225)
    """
    level = str(ds.attrs.get("level", ""))
    _check_options(level, dither=dither, dq=dq or None, wavelength=wavelength, zoom=zoom, line=line)
    if level in DETECTOR:
        number = dither if dither is not None else int(np.atleast_1d(ds["dither"].values)[0])
        if dq:
            return plot.dq_image(ds, number)
        return _ramp(ds, number) if level == "ramp" else plot.detector_image(ds, number)
    if level == "cube":
        if dq:
            return plot.dq_image(ds, wavelength=None if wavelength is None else sum(wavelength) / 2)
        return plot.cube_image(ds, wavelength)
    if level == "spectrum":
        return plot.spectrum(ds, redshift=redshift, zoom=zoom or line)
    if level == "lines":
        return None if "x" not in ds.dims else plot.line_maps(ds, line or best_line(ds))
    if level == "position_velocity":
        return plot.position_velocity(ds)
    raise InputFileError(f"data of level {level or 'unknown'} have no picture; expected ramp ... spectrum or lines")


def _check_options(level: str, **given: Any) -> None:
    """Refuse what does not fit the level, in words."""
    fits = {"dither": DETECTOR, "dq": (*DETECTOR, "cube"), "wavelength": ("cube",), "zoom": ("spectrum",),
            "line": ("lines", "spectrum")}  # fmt: skip
    for name, value in given.items():
        if value is not None and level not in fits[name]:
            raise MrsxrError(f"--{name} is for data of level {', '.join(fits[name])}; this file is of level {level}")


def best_line(ds: xr.Dataset) -> str:
    """Return the line whose maps have the highest median S/N of the brightest tenth of the spaxels."""
    snr = np.nan_to_num(ds["snr"].values.reshape(ds.sizes["line"], -1))
    return str(ds["line"].values[int(np.argmax(np.percentile(snr, 95, axis=1)))])


def _ramp(ds: xr.Dataset, dither: int) -> np.ndarray:
    """Draw the image of a ramp beside the ramps of two pixels."""
    from matplotlib import pyplot

    bright, hit = telling_pixels(ds, dither)
    figure = pyplot.figure(figsize=(14.0, 7.0))
    image = figure.add_axes((0.055, 0.09, 0.44, 0.82))
    above, below = figure.add_axes((0.645, 0.575, 0.335, 0.345)), figure.add_axes((0.645, 0.09, 0.335, 0.345))
    plot.detector_image(ds, dither, image)
    for ax, (y, x), what in ((above, bright, "brightest unsaturated"), (below, hit, "hit or flagged")):
        plot.ramps(ds, y, x, dither=dither, ax=ax)
        ax.set_title(f"{what}: y {y}, x {x}", fontsize=10)
        image.plot([x], [y], marker="s", ms=9, mfc="none", mec="white", mew=1.4, ls="none", zorder=6)
        image.annotate(what.split(" ")[0], (x, y), (6, 6), textcoords="offset points", color="white", fontsize=9)
    return np.array([image, above, below], dtype=object)


def telling_pixels(ds: xr.Dataset, dither: int = 1) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (y, x) of the brightest unsaturated pixel of a ramp and of the one that shows a hit best.

    The first has large median steps between groups together with its two neighbours along the spectrum, so that it is
    no hot pixel and was not merely hit. The second
    is the pixel with a flagged jump, or without flags any pixel, whose largest step between groups is farthest from
    its median step. Reference pixels and pixels not to be used are left out. The first integration is looked at.
    """
    place = int(np.flatnonzero(np.atleast_1d(ds["dither"].values) == dither)[0]) if "dither" in ds.dims else 0
    one = ds.isel(dither=place, integration=0) if "dither" in ds.dims else ds.isel(integration=0)
    ny, nx = one.sizes["y"], one.sizes["x"]
    rise, step = np.full((ny, nx), -np.inf, dtype=np.float32), np.full((ny, nx), -np.inf, dtype=np.float32)
    jumped = np.zeros((ny, nx), dtype=bool)
    for start in range(0, ny, _ROWS):
        part = one.isel(y=slice(start, start + _ROWS))
        counts = part["sci"].transpose("group", "y", "x").values.astype(np.float32)
        bits = part["group_dq"].transpose("group", "y", "x").values
        rows = slice(start, start + counts.shape[1])
        full = ((bits & flags.SATURATED) != 0).any(axis=0) | (counts.max(axis=0) > _FULL)
        rise[rows] = np.where(full, -np.inf, counts[-1] - counts[0])
        jumped[rows] = ((bits & flags.JUMP_DET) != 0).any(axis=0)
        if counts.shape[0] > 2:
            steps = np.diff(counts, axis=0)
            usual = np.median(steps, axis=0)
            rise[rows] = np.where(full, -np.inf, usual)
            step[rows] = np.where(full, -np.inf, np.abs(steps - usual).max(axis=0))
    bad = (one["pixel_dq"].values & np.uint32(flags.DO_NOT_USE | flags.REFERENCE_PIXEL)) != 0
    bad[:, :N_REFERENCE_COLUMNS] = bad[:, nx - N_REFERENCE_COLUMNS :] = True
    rise[bad], step[bad] = -np.inf, -np.inf
    steady = rise.copy()
    steady[1:-1] = np.minimum(np.minimum(rise[:-2], rise[2:]), rise[1:-1])
    steady[[0, -1]] = -np.inf
    if (jumped & np.isfinite(step)).any():
        step[~jumped] = -np.inf
    return _brightest(steady), _brightest(step)


def _brightest(values: np.ndarray) -> tuple[int, int]:
    y, x = np.unravel_index(int(np.argmax(values)), values.shape)
    return int(y), int(x)
