"""Step latents: predict what earlier exposures left behind in the detector, subtract and flag it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.attributes import of_each
from mrsxr.blocks import add_flags, map_ramps
from mrsxr.errors import LevelError, MrsxrError, ReferenceFileError
from mrsxr.limits import Positive, Ref
from mrsxr.step import step

DAY = 86400.0  # s
Weighting = Literal["parabola", "uniform"]
_TABLE = ("decay_time", "amplitude", "amplitude_err", "saturated_amplitude")
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


@dataclass(frozen=True)
class _Exposure:
    """One exposure on the clock of the detector."""

    ds: xr.Dataset
    dither: int
    start: float  # MJD
    length: float  # s

    @property
    def name(self) -> str:
        return str(self.ds.exposure.values[self.dither]) if "exposure" in self.ds.coords else ""

    @property
    def end(self) -> float:
        return self.start + self.length / DAY


@step(needs="rate", jwst="latents", once=True)
def subtract_latents(
    ds: xr.Dataset,
    *,
    latent: Ref,
    history: xr.Dataset | Sequence[xr.Dataset] = (),
    state: xr.Dataset | None = None,
    n_sigma: Positive = 3.0,
    weighting: Weighting = "parabola",
) -> xr.Dataset:
    """Subtract the charge that a pixel still releases after earlier exposures, and flag where it matters.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, y, x); ``start_time``, ``mid_time``
        [MJD], ``exposure_time`` [s].
    latent : Dataset, kind "latent"
        For one detector, on (component): ``decay_time`` [s]; ``amplitude``, the share of the charge that a pixel traps
        and releases with this time constant; ``amplitude_err``; ``saturated_amplitude``, the share in exposures where
        the pixel is SATURATED (of the same relative error). Attribute ``full_well`` [DN]: what a pixel collects in the
        first group at least where it has no slope for being saturated. In a file: a table LATENT of these columns
        (upper case) and the keyword FULLWELL.
    history : Dataset or sequence of Dataset, level "rate", optional
        Other exposures of the same detector, of any grating, target or programme. All that started before an exposure
        count, and so do the earlier dithers of ``ds``; exposures of the same name count once.
    state : Dataset, kind "latent_state", optional
        What :func:`latent_state` found after an earlier run; by default the detector starts dark.
    n_sigma : float
        PERSISTENCE is set where the latent slope is larger than this many sigma of the rate.
    weighting : str
        How a slope weighs the latent, which fades during the ramp: "parabola", the line fit where read noise
        dominates (and to a good approximation that of jwst); "uniform", where photon noise does.

    Returns
    -------
    Dataset, level "rate"
        ``rate`` less the latent slope, ``var_latent`` [DN2/s2] by the error of the amplitudes, ``dq`` with
        PERSISTENCE.

    Raises
    ------
    MrsxrError
        Where a parameter is out of range, or the data are of several detectors or sizes.
    ReferenceFileError
        Where the latent reference lacks a column or is of another detector.

    Notes
    -----
    Not in jwst, which flags only. Each component obeys ``dL/dt = (a S - L) / tau``: under the slope S the latent grows
    towards a S, afterwards it decays, so that an exposure of length T leaves ``a S (1 - exp(-T / tau))``; for T much
    shorter than tau that is the accumulated signal times a / tau. The slopes S are taken as measured; where one is NaN
    the pixel counts as dark, or as ``full_well`` / group time where it is SATURATED.

    Examples
    --------
    >>> values = {"decay_time": [100.0], "amplitude": [1e-3], "amplitude_err": [1e-4], "saturated_amplitude": [2e-3]}
    >>> latent = xr.Dataset({key: ("component", value) for key, value in values.items()})
    >>> latent = latent.assign_attrs(kind="latent", detector=rate.attrs["detector"], full_well=50000.0)
    >>> out = mx.cal.subtract_latents(rate, latent=latent)
    """
    table = _table_of(latent, ds)
    timeline = _timeline([ds, *_as_list(history)])
    found: dict[int, tuple[xr.DataArray, xr.DataArray]] = {}
    for exposure, before, gap in _walk(timeline, table, state):
        if exposure.ds is ds:
            found[exposure.dither] = _predicted(exposure, before, gap, table, weighting)
        if len(found) == ds.sizes["dither"]:
            break
    order = range(ds.sizes["dither"])
    slope, variance = (xr.concat([found[i][k] for i in order], dim="dither") for k in range(2))
    noise = ds.var_poisson + ds.var_read
    bit = np.uint32(dq.FLAGS["PERSISTENCE"])
    # both sides are positive: the squares compare without a root
    flags = (slope * slope > np.float32(n_sigma) ** 2 * noise) & (slope > 0)
    return ds.assign(
        rate=(ds.rate - slope).astype("float32").assign_attrs(ds.rate.attrs),
        var_latent=variance.where(ds.rate.notnull()).astype("float32").assign_attrs(units="DN2/s2"),
        dq=add_flags(ds.dq, flags.astype("uint32") * bit).assign_attrs(dq.PIXEL_DQ_ATTRS),
    )


@reads()
def latent_state(
    datasets: xr.Dataset | Sequence[xr.Dataset], *, latent: Ref, state: xr.Dataset | None = None
) -> xr.Dataset:
    """Return what a detector still holds after its last exposure, for the exposures that follow.

    Parameters
    ----------
    datasets : Dataset or sequence of Dataset, level "rate"
        Exposures of one detector.
    latent : Dataset, kind "latent"
        As for :func:`subtract_latents`.
    state : Dataset, kind "latent_state", optional
        The state before them.

    Returns
    -------
    Dataset, kind "latent_state"
        ``latent_slope`` (component, y, x) [DN/s] at ``attrs["time"]`` [MJD], the end of the last exposure.

    Examples
    --------
    >>> values = {"decay_time": [100.0], "amplitude": [1e-3], "amplitude_err": [1e-4], "saturated_amplitude": [2e-3]}
    >>> latent = xr.Dataset({key: ("component", value) for key, value in values.items()})
    >>> latent = latent.assign_attrs(kind="latent", detector=rate.attrs["detector"], full_well=50000.0)
    >>> held = mx.cal.latent_state(rate, latent=latent)
    >>> held.latent_slope.dims
    ('component', 'y', 'x')
    """
    found = _as_list(datasets)
    if not found:
        raise MrsxrError("latent_state needs at least one exposure, got none")
    table = _table_of(latent, found[0])
    timeline = _timeline(found)
    last = None
    for exposure, before, gap in _walk(timeline, table, state):
        last = _advanced(exposure, before, gap, table)
    if last is None:
        raise MrsxrError("latent_state needs at least one exposure, got none")
    attrs = {"kind": "latent_state", "detector": found[0].attrs.get("detector", ""),
             "time": max(e.end for e in timeline), "ref_id": f"{len(timeline)} exposures"}  # fmt: skip
    return xr.Dataset({"latent_slope": last.isel(dither=0).assign_attrs(units="DN/s")}, attrs=attrs)


def _as_list(datasets: xr.Dataset | Sequence[xr.Dataset]) -> list[xr.Dataset]:
    return [datasets] if isinstance(datasets, xr.Dataset) else list(datasets)


def _table_of(latent: xr.Dataset, ds: xr.Dataset) -> dict[str, Any]:
    """Return the columns of the reference as arrays, and the slope [DN/s] of a pixel without one for saturation."""
    name = latent.attrs.get("ref_id", "the latent reference")
    missing = [column for column in _TABLE if column not in latent]
    if missing or "full_well" not in latent.attrs:
        raise ReferenceFileError(
            f"{name} has no {missing[0] if missing else 'attribute full_well'}; give a kind 'latent'"
        )
    detector = latent.attrs.get("detector", "")
    if detector and detector != ds.attrs.get("detector"):
        raise ReferenceFileError(f"{name} is of {detector}, the data are of {ds.attrs.get('detector')}")
    table: dict[str, Any] = {column: np.atleast_1d(latent[column].values).astype(float) for column in _TABLE}
    shares = np.concatenate([table["amplitude"], table["saturated_amplitude"], table["amplitude_err"]])
    if not (np.all(table["decay_time"] > 0) and np.all(shares >= 0) and np.all(shares < 1)):
        raise ReferenceFileError(f"{name}: expected decay times above 0 s and amplitudes from 0 to 1")
    table["full_well"] = float(latent.attrs["full_well"])
    return table


def _timeline(datasets: Sequence[xr.Dataset]) -> list[_Exposure]:
    """Return all exposures in the order of their start; those of one name once."""
    first = datasets[0]
    found: list[_Exposure] = []
    known: set[str] = set()
    for ds in datasets:
        if ds.attrs.get("level") != "rate":
            raise LevelError(
                f"latents need data of level rate, got {ds.attrs.get('level') or 'a Dataset without level'}"
            )
        for what, ours, theirs in (
            ("detector", ds.attrs.get("detector"), first.attrs.get("detector")),
            *((d, ds.sizes[d], first.sizes[d]) for d in ("y", "x")),
        ):
            if ours != theirs:
                raise MrsxrError(f"exposures differ in {what}: {theirs} and {ours}; give the history of one detector")
        for i in range(ds.sizes["dither"]):
            start, middle, used = (float(ds[n].values[i]) for n in ("start_time", "mid_time", "exposure_time"))
            if not np.isfinite(start):
                raise MrsxrError(
                    f"exposure {i + 1} of setting {ds.attrs.get('setting')} has no start time; latents need it"
                )
            one = _Exposure(ds, i, start, float(np.nanmax([2 * (middle - start) * DAY, used, 0.0])))
            if one.name and one.name in known:
                continue
            known.add(one.name)
            found.append(one)
    return sorted(found, key=lambda e: e.start)


def _walk(
    timeline: Sequence[_Exposure], table: dict[str, Any], state: xr.Dataset | None
) -> Iterator[tuple[_Exposure, xr.DataArray, float]]:
    """Yield each exposure with the latent slopes before it and the time [s] since they held."""
    n = table["decay_time"].size
    if state is None:
        zero = xr.zeros_like(_plane(timeline[0], "rate")).expand_dims(component=n)
        before, when = zero.transpose("dither", "component", "y", "x"), timeline[0].start
    else:
        before, when = _checked(state, timeline[0], n), float(state.attrs["time"])
        timeline = [e for e in timeline if e.start > when - e.length / DAY]
    for exposure in timeline:
        gap = max(0.0, (exposure.start - when) * DAY)
        yield exposure, before, gap
        before, when = _advanced(exposure, before, gap, table), max(when, exposure.end)


def _checked(state: xr.Dataset, first: _Exposure, n: int) -> xr.DataArray:
    slope = state.latent_slope if "latent_slope" in state and "time" in state.attrs else None
    if (
        slope is None
        or slope.sizes.get("component") != n
        or state.attrs.get("detector") != first.ds.attrs.get("detector")
    ):
        raise MrsxrError(
            f"the state is not of {n} components of {first.ds.attrs.get('detector')}; take it from latent_state "
            "with the same reference"
        )
    return slope.drop_vars(list(slope.coords)).drop_attrs().expand_dims("dither")


def _plane(exposure: _Exposure, name: str) -> xr.DataArray:
    """Return one exposure of a variable, without coordinates, dither kept."""
    array = exposure.ds[name].isel(dither=[exposure.dither])
    return array.drop_vars(list(array.coords)).drop_attrs()


def _advanced(exposure: _Exposure, before: xr.DataArray, gap: float, table: dict[str, Any]) -> xr.DataArray:
    group_time = float(exposure.ds.attrs.get("group_time") or 0.0)
    (after,) = map_ramps(
        advance, before, _plane(exposure, "rate"), _plane(exposure, "dq"),
        core=[["component"], [], []], out_core=[["component"]], dtypes=["float32"],
        gap_decay=np.exp(-gap / table["decay_time"]), amplitude=table["amplitude"],
        saturated_amplitude=table["saturated_amplitude"], charge=-np.expm1(-exposure.length / table["decay_time"]),
        saturated_rate=table["full_well"] / group_time if group_time > 0 else 0.0,
    )  # fmt: skip
    return after


def _predicted(exposure: _Exposure, before: xr.DataArray, gap: float, table: dict[str, Any], weighting: str) -> Any:
    tau = table["decay_time"]
    amplitude = np.where(table["amplitude"] > 0, table["amplitude"], table["saturated_amplitude"])
    n = _integrations(exposure)
    weight = np.exp(-gap / tau) * mean_decay(exposure.length, tau, n, weighting)
    error = np.divide(table["amplitude_err"], amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
    return map_ramps(
        predict, before, core=[["component"]], out_core=[[], []], dtypes=["float32", "float32"],
        weight=weight, relative_error=error,
    )  # fmt: skip


def mean_decay(length: float, decay_time: np.ndarray, n_integrations: int, weighting: str) -> np.ndarray:
    """Return the mean of exp(-t / tau) over an exposure as its slope measures it, one for each tau.

    Parameters
    ----------
    length : float
        Length of the exposure [s].
    decay_time : array
        tau [s].
    n_integrations : int
        Ramps of equal length; their slopes are averaged.
    weighting : str
        "parabola": a slope weighs the current with ``6 u (1 - u)``, u from 0 to 1 along the ramp; "uniform".

    Returns
    -------
    float64 array
    """
    x = length / n_integrations / np.asarray(decay_time, dtype=float)
    u = 0.5 * (_NODES + 1)
    weights = 0.5 * _WEIGHTS * (6 * u * (1 - u) if weighting == "parabola" else 1.0)
    ramp = np.exp(-np.outer(x, u)) @ weights
    starts = np.exp(-np.outer(x, np.arange(n_integrations))).mean(axis=1)
    return ramp * starts


def _integrations(exposure: _Exposure) -> int:
    """Return how many ramps an exposure has, by its own attribute where exposures that were joined differ."""
    return max(1, int(of_each(exposure.ds, "n_integrations")[exposure.dither] or 1))


def advance(
    state: np.ndarray, rate: np.ndarray, bits: np.ndarray, *, gap_decay: np.ndarray, amplitude: np.ndarray,
    saturated_amplitude: np.ndarray, charge: np.ndarray, saturated_rate: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the latent slopes at the end of an exposure, float32 (dither, component, y, x) [DN/s].

    A component traps a share of the charge and releases it with the time constant tau: ``dL/dt = (a S - L) / tau``, so
    that the latent slope L [DN/s] grows towards a S under a slope S and decays as exp(-t / tau).

    state : latent slopes at the time that the gap before the exposure starts
    rate, bits : slope [DN/s] and flags (dither, y, x) of the exposure; NaN counts as saturated_rate [DN/s] where it is
        SATURATED, else as none
    gap_decay, amplitude, saturated_amplitude, charge : one for each component: exp(-gap / tau); shares that a pixel
        traps; 1 - exp(-T / tau)
    """
    saturated = dq.any_of(bits, "SATURATED")
    slope = np.where(np.isfinite(rate), rate.astype(float), np.where(saturated, saturated_rate, 0.0))
    slope = np.maximum(slope, 0.0)[:, None]
    decay, usual, of_saturated, new = (
        np.asarray(v, float)[:, None, None] for v in (gap_decay, amplitude, saturated_amplitude, charge)
    )
    share = np.where(saturated[:, None], of_saturated, usual)
    return (decay * state * (1.0 - new) + share * slope * new).astype(np.float32)


def predict(state: np.ndarray, *, weight: np.ndarray, relative_error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the latent slope [DN/s] that a fit measures in the next exposure and its variance, float32 (dither, y, x).

    state : latent slopes at the end of the exposure before (dither, component, y, x)
    weight, relative_error : one for each component: share of the slope that is left, on the mean over the exposure;
        relative error of the amplitude
    """
    parts = np.asarray(weight, float)[:, None, None] * state
    square = (np.asarray(relative_error, float)[:, None, None] * parts) ** 2
    return parts.sum(axis=1).astype(np.float32), square.sum(axis=1).astype(np.float32)
