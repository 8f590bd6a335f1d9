"""The samples of background matching: robust means of the cells of all exposures, where they lie on the sky."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.geometry.sky import Pointing, slicer_to_sky, tangent_frame, tangent_offsets
from mrsxr.mrs import BANDS, SLICE_WIDTH
from mrsxr.notes import tell
from mrsxr.threads import each

from ._background_match_misfit import Table
from ._background_match_solve import spline_basis
from ._sampling import Cells, Samples, bin_centre, cell_samples, check_wcs, make_cells

CHOICES = ("typical", "lowest")
#: Size of the cells along a slice, in widths of a slice.
_STEP = 1.0
#: Wavelength bins of a knot, at least.
_BINS_OF_KNOT = 3


@dataclass(frozen=True)
class Member:
    """One band of one exposure."""

    exposure: str
    setting: str
    band: str
    samples: Samples
    ra: np.ndarray
    dec: np.ndarray


def read_members(exposures: xr.Dataset | Iterable[xr.Dataset]) -> list[Member]:
    """Take the samples of all exposures, one exposure a core at a time."""
    members: list[Member] = []
    for ds in [exposures] if isinstance(exposures, xr.Dataset) else exposures:
        check_wcs(ds)
        found = each(partial(_of_exposure, ds, make_cells(ds, _STEP)), range(ds.sizes["dither"]))
        members += itertools.chain.from_iterable(found)
    if not members:
        raise MrsxrError("background matching got no exposures; expected Datasets of level cal")
    names = [(m.exposure, m.band) for m in members]
    double = {n for n in names if names.count(n) > 1}
    if double:
        raise MrsxrError(f"exposure {min(double)[0]} was given twice to background matching; give each once")
    return members


def _of_exposure(ds: xr.Dataset, cells: Cells, dither: int) -> list[Member]:
    pointing, members = Pointing.of(ds, dither), []
    for band, samples in cell_samples(ds, dither, cells).items():
        samples = _at_bin_centre(samples)
        ra, dec = slicer_to_sky(samples.alpha, samples.beta, band, ds, pointing)
        members.append(Member(str(ds["exposure"].values[dither]), str(ds.attrs["setting"]), band, samples, ra, dec))
    return members


def _at_bin_centre(samples: Samples) -> Samples:
    """Take samples to the middle of their wavelength bin along the slope of the median spectrum of the exposure."""
    bins, number = np.unique(samples.spectral_bin, return_inverse=True)
    if bins.size < 2:
        return samples
    order = np.argsort(number, kind="stable")
    edges = np.searchsorted(number[order], np.arange(bins.size + 1))
    level = np.array([np.median(samples.flux[order[a:b]]) for a, b in itertools.pairwise(edges)])
    slope = np.gradient(level, bin_centre(bins))[number]
    return replace(samples, flux=samples.flux - slope * (samples.wavelength - bin_centre(samples.spectral_bin)))


def make_table(members: list[Member], spacing: float, gradients: bool, tie_bands: bool) -> tuple[Table, list[str]]:
    """Put the samples of all members into one table, sorted by sky bin; return it and the bands of the members."""
    bands = [m.band for m in members]
    parts = [m.samples for m in members]
    sizes = [p.flux.size for p in parts]
    member = np.repeat(np.arange(len(members)), sizes)
    spectral_bin = join([p.spectral_bin for p in parts]).astype(np.int64)
    width = np.array([SLICE_WIDTH[int(b[0])] for b in bands])[member]
    sky_bin = spectral_bin.copy()
    if tie_bands:
        widest = np.zeros(int(spectral_bin.max(initial=0)) + 1)
        np.maximum.at(widest, spectral_bin, width)
        width = widest[spectral_bin]
    else:
        sky_bin += 4096 * np.array([BANDS.index(b) for b in bands])[member]
    ra, dec = join([m.ra for m in members]), join([m.dec for m in members])
    x, y = np.zeros(ra.size), np.zeros(ra.size)
    if ra.size:
        x, y = tangent_offsets(ra, dec, tangent_frame(float(ra[0]), float(dec[0])))
    alpha, beta = join([p.alpha for p in parts]), join([p.beta for p in parts])
    terms = np.stack([np.ones(alpha.size), *((alpha, beta) if gradients else ())], axis=1)
    order = np.lexsort((member, sky_bin))
    whole = Table(
        member, sky_bin, spectral_bin, x / (spacing * width), y / (spacing * width), terms,
        join([p.flux for p in parts]), np.sqrt(join([p.var for p in parts])),
        np.unique(width, return_inverse=True)[1],
    )  # fmt: skip
    return whole.take(order), bands


def join(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0)


def knots_of(members: list[Member], band: str, n_knots: int) -> np.ndarray:
    found = join([m.samples.wavelength for m in members if m.band == band])
    low, high = (float(found.min()), float(found.max())) if found.size else (0.0, 1.0)
    return np.linspace(low, high, n_knots) if n_knots > 1 else np.array([0.5 * (low + high)])


def supported_knots(table: Table, of_band: np.ndarray, n_knots: int) -> int:
    """Return how many knots the wavelengths of every band determine, ``n_knots`` at most; ``of_band``: by member."""
    pairs = np.unique(np.stack([of_band[table.member], table.spectral_bin]), axis=1)
    counts = np.unique(pairs[0], return_counts=True)[1]
    return max(1, min(n_knots, int(counts.min(initial=_BINS_OF_KNOT * n_knots)) // _BINS_OF_KNOT))


def basis_of(table: Table, member: int, knots: np.ndarray) -> dict[int, np.ndarray]:
    bins = np.unique(table.spectral_bin[table.member == member])
    return dict(zip(bins.tolist(), spline_basis(knots, bin_centre(bins)), strict=True))


def check_reference(reference: str | Sequence[str], members: list[Member]) -> None:
    """Raise where a name is that of no exposure or of one without any good sample, tell where bands have none."""
    for part in [reference] if isinstance(reference, str) else reference:
        named = [m for m in members if part in m.exposure]
        if part in CHOICES:
            continue
        if not named:
            raise MrsxrError(f"reference '{part}' is in the name of no exposure; expected one of "
                             f"{', '.join(sorted({m.exposure for m in members}))}, {' or '.join(CHOICES)}")  # fmt: skip
        good = {m.band for m in named if m.samples.flux.size}
        if not good:
            raise MrsxrError(f"reference '{part}' has no good pixel in any band (all NaN or flagged); name another "
                             f"exposure, or take {' or '.join(CHOICES)}")  # fmt: skip
        lost = sorted({m.band for m in named} - good)
        if lost:
            tell(f"reference '{part}' has no good pixel in band {', '.join(lost)}: another exposure is the one there")
