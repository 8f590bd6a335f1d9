"""Step emicorr: remove electromagnetic interference, periodic noise that is fixed to the clock of the detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import scores
from mrsxr.attributes import keyword
from mrsxr.blocks import call_for_one, read_again
from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.limits import Count, Positive, Range, Reference
from mrsxr.notes import tell
from mrsxr.schema import RAMP_DIMS
from mrsxr.step import step

from ._exposure import DETECTOR_COLUMNS, integration_numbers

MINIMUM_GROUPS = 3
SEQUENTIAL_MINIMUM_GROUPS = 4
LAST_QUAD_LATE = 3  # clocks by which the last four columns of a full row are read later, for "sequential"
SEQUENTIAL_GROUPS = 10  # with fewer, another method is recommended
CLOCK = 1e-5  # s
MAX_BINS = 500
MAX_HARMONICS = 8
SMEAR = 0.2  # rad by which the phase of the highest harmonic may change within a cell of columns

#: Clocks of a row and of a frame, for frequencies given by hand without a reference file.
SUBARRAY_CLOCKS = {
    "FULL_FAST": (271, 277504), "FULL_SLOW": (2333, 2388992), "BRIGHTSKY": (162, 86528), "SUB256": (96, 29952),
    "SUB128": (44, 11904), "SUB64": (28, 8512), "SLITLESSPRISM": (28, 15904), "MASKLYOT": (90, 32400),
    "MASK1065": (82, 23968), "MASK1140": (82, 23968), "MASK1550": (82, 23968),
}  # fmt: skip

Method = Literal["joint", "sequential", "harmonics"]


@dataclass(frozen=True)
class _Case:
    """What is to be corrected: the clocks of the subarray, frequencies [Hz] and their waveforms [DN]."""

    row_clocks: float
    frame_clocks: float
    frequencies: list[float]
    waveforms: list[np.ndarray]  # none for frequencies given by hand


@dataclass(frozen=True)
class _Clocks:
    """When samples are read, in clocks: starts (integration, group) + rows (y) + quads (x // 4)."""

    starts: np.ndarray
    rows: np.ndarray
    quads: np.ndarray
    samples: int  # clocks from a quad to the next


@dataclass(frozen=True)
class _Fit:
    """Fitted waves (dither, wave, number), lazy, how many tables of amplifiers and integrations each has, the score."""

    waves: da.Array
    n_amplifiers: int = 1
    n_tables: int = 1
    score: da.Array | None = None  # (dither)


@step(
    needs="ramp", jwst="emicorr", keyword="S_MIREMI", precedes=("jump",), without={"emicorr": "the interference stays"}
)
def correct_emi(
    ds: xr.Dataset,
    *,
    emicorr: Annotated[xr.Dataset | None, Reference()] = None,
    method: Method = "joint",
    nints_to_phase: Count | None = None,
    nbins: Annotated[int, Range(2, 10_000)] | None = None,
    scale_reference: bool = True,
    onthefly_corr_freq: Sequence[Positive] | None = None,
    use_n_cycles: Count | None = 3,
    fit_ints_separately: bool = False,
    n_harmonics: Annotated[int, Range(1, 50)] | None = None,
    per_amplifier: bool = False,
    fit_frequency: bool = True,
    measured_on: xr.Dataset | None = None,
) -> xr.Dataset:
    """Fit and subtract periodic interference (10 Hz in full frames).

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x), ``pixel_dq``; right after the bad-pixel flags.
    emicorr : Dataset, kind "emicorr", optional
        ``frequency`` [Hz] (name), ``waveform`` [DN] (name, phase_bin), ``row_clocks``, ``frame_clocks``,
        ``order``. Not needed with ``onthefly_corr_freq``.
    method : {"joint", "sequential", "harmonics"}
        "joint", jwst's default: amplitude and phase of the reference's waveform that make the ramps straightest;
        one frequency after the other. "sequential", jwst's older one: residuals of straight ramps are folded with
        the period; 10 groups or more. "harmonics": least squares in the sines and cosines of all frequencies,
        together with level and slope of every ramp and with drifts that all pixels share; ramps with an outlying
        difference (cosmic rays, saturation) are left out, and no waveform is needed. Judges itself, see Notes.
    nints_to_phase, use_n_cycles : int, optional
        sequential: integrations to fold; by default as many as hold ``use_n_cycles`` periods, all where both are
        None.
    nbins : int, optional
        sequential: phase bins; by default half the period in clocks, at most 500.
    scale_reference : bool
        sequential: scale the reference's waveform to the folded one, not only shift it.
    onthefly_corr_freq : sequence of float, optional
        Frequencies [Hz] to correct without a reference; joint becomes sequential and subtracts the folded waveform.
    fit_ints_separately : bool
        joint, harmonics: fit every integration by itself.
    n_harmonics : int, optional
        harmonics: how many of each frequency; by default those that hold 99.99 % of the power of the reference's
        waveform (at most 8), 4 without a reference.
    per_amplifier : bool
        harmonics: a wave for each of the four amplifiers.
    fit_frequency : bool
        harmonics: refine the frequencies where the wave is clear.
    measured_on : Dataset, level "ramp", optional
        Measure the wave on these ramps, of which ``ds`` is a part (columns in whole groups of four); by default on
        ``ds`` itself.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] corrected; unchanged, with a warning, where jwst skips the step: read pattern other than FAST or
        SLOW, fewer than 3 groups, or no case for this subarray and detector. With "harmonics" ``score_emicorr``
        (dither), see Notes.

    Raises
    ------
    ReferenceFileError
        Where there is no reference, or the reference names a frequency that it does not hold.
    MrsxrError
        Where the columns are not whole groups of four (and, where the wave is measured, next to each other), or the
        method is unknown.

    Notes
    -----
    As jwst's emicorr 3.0.0, but the parabola through the best three phases goes on across phase 0, and "sequential"
    gives the last four columns a wave of the right phase, where the clocks of jwst overflow.

    harmonics fits the waves of the early half of all ramps and those of the late half, and subtracts from each half
    the waves of the other (of odd and even integrations where a half has fewer than 3 groups). The score is what is
    left over what was there, both without level and slope of each half and without drifts that all pixels share, plus
    two standard errors; where it is not below 1, or a single integration is too short to be halved, nothing is
    subtracted. The halves share neither read noise nor photons, and the bend of bright ramps, which a slow wave can
    imitate, does not go on from one half to the other with the phase of the clock. Only a refined frequency, a single
    number and refined only where the wave is clear, comes from both halves.

    The ramps are read once more for each reduction (twice in joint) and once to subtract the wave; they
    are not held in between.

    Examples
    --------
    >>> out = mx.rate.correct_emi(ramp, emicorr=refs.get("emicorr", ramp), method="harmonics")
    """
    by_hand = onthefly_corr_freq is not None
    case = _case_by_hand(ds, onthefly_corr_freq or ()) if by_hand else _case_of_reference(ds, emicorr)
    if method == "joint" and by_hand:
        method = "sequential"
    refusal = case if isinstance(case, str) else _too_short(ds, method)
    if isinstance(case, str) or refusal:
        tell(f"no EMI correction ({ds.attrs.get('setting')}): {refusal}", stacklevel=3)
        return ds
    fits = _measure(
        ds if measured_on is None else measured_on, case, method, nints_to_phase=nints_to_phase, nbins=nbins,
        scale_reference=scale_reference, use_n_cycles=use_n_cycles, separately=fit_ints_separately,
        n_harmonics=n_harmonics, n_amplifiers=4 if per_amplifier else 1, fit_frequency=fit_frequency,
    )  # fmt: skip
    sci, data = _ramps(ds)
    clocks = _clocks(ds, case, LAST_QUAD_LATE if method == "sequential" else 0)
    for fit in fits:
        data = _subtract(data, fit, clocks)
    found = [data, *(fit.score for fit in fits if fit.score is not None)]
    if not sci.chunks:
        found = dask.compute(*found, scheduler="synchronous")
    out = ds.assign(sci=sci.copy(data=found[0]).transpose(*ds.sci.dims).assign_attrs(ds.sci.attrs))
    if len(found) > 1:
        out = out.assign(scores.score("emicorr", found[1], "dither", method="harmonics", instead="none",
                                      held_out="the other half of the ramps"))  # fmt: skip
    return out


# --- which frequencies and clocks ------------------------------------------------------------------------------------


def _speed(ds: xr.Dataset) -> str | None:
    """Return FAST or SLOW, None for a read pattern that the step does not know."""
    pattern = str(ds.attrs.get("readpatt", "")).upper()
    return pattern.removesuffix("R1") if pattern in ("FAST", "FASTR1", "SLOW", "SLOWR1") else None


def _case_name(ds: xr.Dataset) -> str:
    subarray = str(ds.attrs.get("subarray", "FULL"))
    return f"{subarray}_{_speed(ds)}" if "FULL" in subarray else subarray


def _case_by_hand(ds: xr.Dataset, frequencies: Sequence[float]) -> _Case | str:
    if _speed(ds) is None:
        return f"read pattern {ds.attrs.get('readpatt')}, expected FASTR1 or SLOWR1"
    if _case_name(ds) not in SUBARRAY_CLOCKS or not frequencies:
        return f"no clocks of {_case_name(ds)} or no frequency given"
    return _Case(*SUBARRAY_CLOCKS[_case_name(ds)], [float(f) for f in frequencies], [])


def _case_of_reference(ds: xr.Dataset, emicorr: xr.Dataset | None) -> _Case | str:
    """Return what the reference says of subarray, read pattern and detector, or in words why it says nothing."""
    if emicorr is None:
        raise ReferenceFileError("correct_emi got no emicorr reference; give one, or frequencies (onthefly_corr_freq)")
    where = str(emicorr.attrs.get("ref_id", "emicorr"))
    speed = _speed(ds)
    if speed is None:
        return f"read pattern {ds.attrs.get('readpatt')}, expected FASTR1 or SLOWR1"
    cases, name = [str(case) for case in emicorr["case"].values], _case_name(ds)
    detector = str(ds.attrs.get("detector"))
    places: list[int] = []
    if name in cases and detector in emicorr["detector"].values:
        case = emicorr.sel(case=name, speed=speed, detector=detector)
        order = case["order"].values
        places = [int(np.flatnonzero(order == number)[0]) for number in range(1, int(order.max(initial=0)) + 1)]
    if not places or not np.isfinite(case["row_clocks"] * case["frame_clocks"]):
        held = ", ".join(cases) or "none"
        return f"{where} has no frequency for {name}, {speed}, {detector} (cases: {held})"
    names = [str(emicorr["name"].values[k]) for k in places]
    waves = [np.asarray(emicorr["waveform"].values[k], dtype=float) for k in places]
    waves = [wave[: 1 + np.flatnonzero(np.isfinite(wave)).max(initial=-1)] for wave in waves]
    for name, wave in zip(names, waves, strict=True):
        if len(wave) < 4 or not np.isfinite(wave).all():
            raise ReferenceFileError(f"{where}: the waveform of '{name}' needs at least 4 finite samples")
    frequencies = [float(emicorr["frequency"].values[k]) for k in places]
    return _Case(float(case["row_clocks"]), float(case["frame_clocks"]), frequencies, waves)


def _too_short(ds: xr.Dataset, method: str) -> str:
    n = ds.sizes["group"]
    least = SEQUENTIAL_MINIMUM_GROUPS if method == "sequential" else MINIMUM_GROUPS
    if n >= least and method == "sequential" and n < SEQUENTIAL_GROUPS:
        tell(
            f"the sequential EMI fit has {n} groups, expected {SEQUENTIAL_GROUPS}; use method='joint'",
            stacklevel=4,
        )  # fmt: skip
    return f"{n} groups, {method} needs {least}" if n < least else ""


def _clocks(ds: xr.Dataset, case: _Case, late: int) -> _Clocks:
    """Return the clocks of all samples; after an integration of FASTR1 or SLOWR1 a frame passes for the reset."""
    n_groups = int(ds.attrs.get("n_groups", ds.sizes["group"]))
    n_groups += int(str(ds.attrs["readpatt"]).upper().endswith("R1"))
    groups = ds["group"].values - 1 if "group" in ds.coords else np.arange(ds.sizes["group"])
    frames = groups + (np.array(integration_numbers(ds)) - 1)[:, None] * n_groups
    columns, rows = (ds[d].values if d in ds.coords else np.arange(ds.sizes[d]) for d in ("x", "y"))
    quads = columns[::4] // 4
    if not np.array_equal(columns, (4 * quads[:, None] + np.arange(4)).ravel()):
        raise MrsxrError(
            f"the {len(columns)} columns {columns[0]} to {columns[-1]} are not whole groups of four, which are read at "
            "the same time; correct EMI before cutting columns out"
        )
    samples = next((int(n) for n in keyword(ds, "NSAMPLES") if n), 9 if _speed(ds) == "SLOW" else 1)
    delay = np.where(quads == DETECTOR_COLUMNS // 4 - 1, float(late), 0.0)
    return _Clocks(frames * case.frame_clocks, rows * case.row_clocks, quads * float(samples) + delay, samples)


def _folded_integrations(case: _Case, ds: xr.Dataset, nints_to_phase: int | None, use_n_cycles: int | None) -> int:
    """Return how many integrations the sequential method folds."""
    n = ds.sizes["integration"]
    if nints_to_phase is None and use_n_cycles is not None:
        clocks = use_n_cycles / (case.frequencies[0] * CLOCK)
        nints_to_phase = math.ceil(clocks / (case.frame_clocks * ds.sizes["group"]))
    return n if nints_to_phase is None else max(1, min(n, nints_to_phase))


def _harmonics_of(waveform: np.ndarray) -> int:
    """Return how many harmonics hold 99.99 % of the power of a waveform."""
    power = np.abs(np.fft.rfft(waveform))[1:] ** 2
    if not power.sum() > 0:
        return 1
    return min(MAX_HARMONICS, 1 + int(np.searchsorted(np.cumsum(power), 0.9999 * power.sum())))


# --- the passes over the ramps ---------------------------------------------------------------------------------------


def _ramps(ds: xr.Dataset) -> tuple[xr.DataArray, da.Array]:
    """Return the ramps as float32 in the order of the schema, and as a dask array in blocks of whole rows."""
    sci = ds.sci.astype("float32", copy=False).transpose(*RAMP_DIMS)
    ramps = sci.data if sci.chunks else da.from_array(sci.values, chunks=(1, -1, -1, -1, -1), name=False)
    whole = {n: -1 for n in (1, 2, 4) if ramps.numblocks[n] > 1}
    return sci, ramps.rechunk(whole) if whole else ramps


def _flags(ds: xr.Dataset, ramps: da.Array) -> da.Array:
    """Return the pixel flags in the blocks of the ramps."""
    flags = ds.pixel_dq.transpose("dither", "y", "x").data
    flags = flags if isinstance(flags, da.Array) else da.from_array(flags, chunks=-1, name=False)
    return flags.rechunk((ramps.chunks[0], ramps.chunks[3], ramps.chunks[4]))


def _by_row(values: np.ndarray, ramps: da.Array) -> da.Array:
    return da.from_array(values, chunks=(ramps.chunks[3],))


def _subtract(ramps: da.Array, fit: _Fit, clocks: _Clocks) -> da.Array:
    from ._emicorr_kernels import subtract_waves

    return da.blockwise(
        subtract_waves, "digyx", ramps, "digyx", fit.waves, "dwp", _by_row(clocks.rows, ramps), "y",
        clocks.quads, None, starts=clocks.starts, n_amplifiers=fit.n_amplifiers, n_tables=fit.n_tables,
        concatenate=True, dtype="float32", meta=np.empty((0,) * 5, "float32"),
    )  # fmt: skip


def _measure(ds: xr.Dataset, case: _Case, method: str, **options: Any) -> list[_Fit]:
    """Return the fits, lazy."""
    clocks = _clocks(ds, case, LAST_QUAD_LATE if method == "sequential" else 0)
    if not np.all(np.diff(clocks.quads)[:-1] == clocks.samples):
        raise MrsxrError(
            "the columns that EMI is measured on are not next to each other; give whole rows (measured_on)"
        )
    ramps = _ramps(ds)[1]
    if method == "harmonics":
        return [_measure_harmonics(ramps, _flags(ds, ramps), case, clocks, options)]
    fits: list[_Fit] = []
    for number in range(len(case.frequencies)):
        if method == "joint":
            fits.append(_measure_jointly(ramps, _flags(ds, ramps), case, number, clocks, fits, options["separately"]))
        else:
            folded = _folded_integrations(case, ds, options["nints_to_phase"], options["use_n_cycles"])
            fits.append(_measure_sequentially(ramps, case, number, clocks, fits, folded, options))
    return fits


def _read_again(ramps: da.Array, label: str, fits: list[_Fit], clocks: _Clocks) -> da.Array:
    """Return the ramps less the waves fitted before, under names of their own: dask reads them again, holds nothing."""
    again = read_again(ramps, f"emicorr {label} {len(fits)}")
    for fit in fits:
        again = _subtract(again, fit, clocks)
    return again


def _fit(function: Any, sums: da.Array, index: str, n_waves: int, size: int, *more: Any, **options: Any) -> da.Array:
    """Return the waves (dither, wave, number) that a function finds in the sums of a whole exposure."""
    return da.blockwise(
        function, "dwp", sums, index, *more, new_axes={"w": n_waves, "p": size}, concatenate=True, dtype="float64",
        meta=np.empty((0, 0, 0)), **options,
    )  # fmt: skip


def _measure_jointly(
    ramps: da.Array, flags: da.Array, case: _Case, number: int, clocks: _Clocks, fits: list[_Fit], separately: bool
) -> _Fit:
    """Fit the waveform of one frequency after the others were subtracted."""
    from ._emicorr_fit_kernels import fit_joint
    from ._emicorr_kernels import phase_sums, ramp_scatter, twice_median

    n_integration, n_group = ramps.shape[1:3]
    period, waveform = 1 / case.frequencies[number] / CLOCK, case.waveforms[number]
    one, two = (_read_again(ramps, label, fits, clocks) for label in ("scatter", "sums"))
    scatter = da.blockwise(ramp_scatter, "diyx", one, "digyx", concatenate=True, dtype="float32",
                           meta=np.empty((0,) * 4, "float32"))  # fmt: skip
    limit = da.blockwise(twice_median, "d", scatter, "diyx", concatenate=True, dtype="float64", meta=np.empty(0))
    sums = da.blockwise(
        phase_sums, "dyxibs", two, "digyx", scatter, "diyx", flags, "dyx", limit, "d",
        _by_row(clocks.rows, ramps), "y", clocks.quads, None, period=period, n_bins=len(waveform),
        adjust_chunks={"y": 1, "x": 1}, new_axes={"b": len(waveform), "s": n_group + 1}, concatenate=True,
        dtype="float64", meta=np.empty((0,) * 6),
    ).sum(axis=(1, 2))  # fmt: skip
    n_tables = n_integration if separately else 1
    waves = _fit(
        fit_joint, sums, "dibs", 1, 3 + n_integration + n_tables * 4 * (len(waveform) + 1), period=period,
        pieces=_spline_pieces(waveform), starts=clocks.starts, times=np.arange(n_group, dtype=float),
        fit_ints_separately=separately,
    )  # fmt: skip
    return _Fit(waves, n_tables=n_tables)


def _spline_pieces(waveform: np.ndarray) -> np.ndarray:
    """Return the cubic spline of a waveform as pieces (sample + 1, 4), from the last sample to the first again."""
    from scipy import interpolate  # takes a second to load

    around = np.concatenate([waveform[-1:], waveform, waveform[:1]])
    return np.ascontiguousarray(interpolate.CubicSpline(np.arange(len(around)), around).c[::-1].T)


def _measure_sequentially(
    ramps: da.Array, case: _Case, number: int, clocks: _Clocks, fits: list[_Fit], folded: int, options: dict[str, Any]
) -> _Fit:
    """Fold the residuals with one period after the others were subtracted."""
    from ._emicorr_fit_kernels import fit_sequential, nearest_lower
    from ._emicorr_kernels import quad_residuals

    period = 1 / case.frequencies[number] / CLOCK
    reference = case.waveforms[number] if case.waveforms else None
    n_bins = options["nbins"] or int(period / 2.0)
    n_bins = n_bins if n_bins <= MAX_BINS + 1 else MAX_BINS
    again = _read_again(ramps, "residuals", fits, clocks)[:, :folded]
    residuals = da.blockwise(
        quad_residuals, "digyx", again, "digyx", adjust_chunks={"x": len(clocks.quads)}, dtype="float32",
        meta=np.empty((0,) * 5, "float32"),
    )  # fmt: skip
    size = len(nearest_lower(np.zeros(n_bins) if reference is None else reference, period))
    waves = _fit(
        fit_sequential, residuals, "digyx", 1, 3 + ramps.shape[1] + 4 * size, clocks.rows, None, clocks.quads, None,
        starts=clocks.starts, period=period, n_bins=n_bins, reference=reference,
        scale_reference=options["scale_reference"],
    )  # fmt: skip
    return _Fit(waves)


def _measure_harmonics(ramps: da.Array, flags: da.Array, case: _Case, clocks: _Clocks, options: dict[str, Any]) -> _Fit:
    """Fit sines and cosines of all frequencies at once."""
    from ._emicorr_fit_kernels import N_PIECES, fit_harmonics
    from ._emicorr_kernels import cell_sums

    n_integration, n_group = ramps.shape[1:3]
    wanted = options["n_harmonics"]
    numbers = [wanted or _harmonics_of(wave) for wave in case.waveforms] or [wanted or 4] * len(case.frequencies)
    low, high = (1, n_group - 1) if n_group >= 6 else (0, n_group)  # the first and the last group are offset
    frequencies = [f * CLOCK for f in case.frequencies]
    highest = 2 * np.pi * max(f * n for f, n in zip(frequencies, numbers, strict=True))
    n_quads = len(clocks.quads)
    n_cells = math.ceil(n_quads / max(1, int(SMEAR / (highest * clocks.samples))))
    edges = np.linspace(0, n_quads, n_cells + 1).round().astype(int)
    n_amplifiers = options["n_amplifiers"]
    again = _read_again(ramps, "cells", [], clocks)
    sums = da.blockwise(
        call_for_one, "daisyc", again, "digyx", flags, "dyx", wrapper=cell_sums,
        options={"edges": edges, "low": low, "high": high, "n_amplifiers": n_amplifiers},
        new_axes={"a": n_amplifiers, "s": high - low + 1, "c": n_cells}, dtype="float32",
        meta=np.empty((0,) * 6, "float32"),
    )  # fmt: skip
    n_tables = n_integration if options["separately"] else 1
    waves = _fit(
        fit_harmonics, sums, "daisyc", len(frequencies), 4 + n_integration + n_amplifiers * n_tables * N_PIECES * 4,
        clocks.rows, None, cells=np.array([clocks.quads[a:b].mean() for a, b in pairwise(edges)]),
        width=clocks.samples * n_quads / n_cells, starts=clocks.starts[:, low:high], frequencies=frequencies,
        harmonics=numbers, fit_ints_separately=options["separately"], fit_frequency=options["fit_frequency"],
    )  # fmt: skip
    return _Fit(waves[..., :-1], n_amplifiers, n_tables, waves[:, 0, -1])
