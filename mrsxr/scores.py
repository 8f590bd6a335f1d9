"""What steps of the optimal mode say of themselves: scores on data that they did not fit, and what was decided by them.

A step that offers a better method than the baseline judges it on data that the method has not seen: samples, columns,
dithers or groups left out. Its *score* is the misfit there over the misfit with what the baseline does (which may be
nothing). Only below the limit is the method taken; else, and where it cannot be judged (NaN), the result is that of
the baseline, number for number. Score and decision stand in the product as a variable ``score_<step>``, by exposure,
slice, spectrum or whatever was judged by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from .threads import how

PREFIX = "score_"
LIMIT = 1.0


def score(
    step: str, values: Any, dims: str | Sequence[str] = (), *, method: str, instead: str, held_out: str,
    limit: float = LIMIT,
) -> dict[str, xr.Variable]:  # fmt: skip
    """Return the score of a step as a variable, to be assigned to its result.

    Parameters
    ----------
    step : str
        Name of the step in jwst: "residual_fringe", "straylight" ...
    values : array
        Held-out misfit of ``method`` over that of ``instead``; NaN: not judged. May be lazy.
    dims : str or sequence of str
        What was judged by itself: "dither", ("dither", "slice_label"), ("y", "x"), or () for the whole.
    method, instead : str
        The method in question, and what is done where it shows no gain.
    held_out : str
        What it was judged on, in a few words.
    limit : float
        The method is taken below it.

    Returns
    -------
    dict of ``score_<step>`` to Variable, float32

    Examples
    --------
    >>> import xarray as xr
    >>> found = score("straylight", [0.8, 1.1], "dither", method="fitted", instead="kernel", held_out="gaps")
    >>> [one.text for one in decisions(xr.Dataset(found))]
    ["straylight: 'fitted' taken in 1 of 2, else 'kernel'; misfit on gaps 0.95 (0.80 to 1.10) of that of 'kernel'"]
    """
    data = values.astype(np.float32) if hasattr(values, "dask") else np.asarray(values, dtype=np.float32)
    attrs = {
        "units": "1", "long_name": f"misfit on {held_out}: {method} over {instead}", "method": method,
        "instead": instead, "held_out": held_out, "limit": float(limit),
    }  # fmt: skip
    return {f"{PREFIX}{step}": xr.Variable((dims,) if isinstance(dims, str) else tuple(dims), data, attrs)}


def gains(values: Any, limit: float = LIMIT) -> Any:
    """Return where a score is below the limit; False where it is NaN."""
    return values < limit


def of_band(data: xr.Dataset, band: str) -> dict[str, xr.Variable]:
    """Return the scores along ``band`` of what looked at several exposures, of one band; for the cube made of them.

    Parameters
    ----------
    data : Dataset, level "cal"
    band : str

    Returns
    -------
    dict of ``score_<step>`` to Variable
    """
    names = [str(name) for name in data.data_vars if str(name).startswith(PREFIX) and "band" in data[name].dims]
    at = list(data["band"].values).index(band) if names else 0
    return {name: data[name].variable.isel(band=at) for name in names}


@dataclass(frozen=True, eq=False)
class Decision:
    """What a step decided: ``scores`` (n) of all that was judged by itself, NaN where it could not be."""

    step: str
    method: str
    instead: str
    held_out: str
    limit: float
    scores: np.ndarray

    @property
    def n_taken(self) -> int:
        """How many took the method."""
        return int(np.sum(gains(self.scores, self.limit)))

    @property
    def spread(self) -> tuple[float, float, float]:
        """Least, median and largest score, NaN where nothing was judged."""
        judged = self.scores[np.isfinite(self.scores)]
        low, middle, high = np.quantile(judged, [0.0, 0.5, 1.0]).tolist() if judged.size else [float("nan")] * 3
        return low, middle, high

    @property
    def text(self) -> str:
        """The decision in one line."""
        n, (low, middle, high) = self.scores.size, self.spread
        if not np.isfinite(middle):
            return f"{self.step}: '{self.method}' could not be judged, '{self.instead}' taken"
        taken = f"taken in {self.n_taken} of {n}" if n > 1 else ("taken" if self.n_taken else "not taken")
        spread = f" ({low:.2f} to {high:.2f})" if high > low else ""
        return (
            f"{self.step}: '{self.method}' {taken}, else '{self.instead}'; misfit on {self.held_out} "
            f"{middle:.2f}{spread} of that of '{self.instead}'"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """The decision for machines, without the single scores."""
        keys, values = ("least", "median", "largest"), self.spread
        spread = {k: round(v, 4) if np.isfinite(v) else None for k, v in zip(keys, values, strict=True)}
        return {
            "step": self.step, "method": self.method, "instead": self.instead, "held_out": self.held_out,
            "limit": self.limit, "n": int(self.scores.size), "taken": self.n_taken, **spread,
        }  # fmt: skip


def decisions(data: xr.Dataset) -> list[Decision]:
    """Return what the steps decided that a Dataset went through, in order; this computes the scores, no more.

    Parameters
    ----------
    data : Dataset

    Returns
    -------
    list of Decision
    """
    out = []
    for name in [str(name) for name in data.variables if str(name).startswith(PREFIX)]:
        at = data[name].attrs
        values = np.asarray(data[name].variable.compute(**how()).values, dtype=float).ravel()
        method, instead, held_out = (str(at.get(key, "")) for key in ("method", "instead", "held_out"))
        limit = float(at.get("limit", LIMIT))
        out.append(Decision(name.removeprefix(PREFIX), method, instead, held_out, limit, values))
    return out


def merged(found: Iterable[Decision]) -> list[Decision]:
    """Return the decisions of several products, one of each step and method."""
    together: dict[tuple[str, str, str], list[Decision]] = {}
    for one in found:
        together.setdefault((one.step, one.method, one.instead), []).append(one)
    return [replace(many[0], scores=np.concatenate([one.scores for one in many])) for many in together.values()]
