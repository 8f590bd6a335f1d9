"""Background matching: bring the backgrounds of dithers, tiles and neighbouring bands to one level."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.limits import Band, Count, NotNegative, Positive, checked
from mrsxr.mrs import BANDS, bands_of_setting
from mrsxr.notes import tell
from mrsxr.schema import meaning_of
from mrsxr.scores import gains, score
from mrsxr.step import step
from mrsxr.threads import each, one_blas_thread

from ._background_match_errors import Scores, covariance, held_out, scores
from ._background_match_misfit import Table
from ._background_match_samples import (
    CHOICES,
    Member,
    basis_of,
    check_reference,
    join,
    knots_of,
    make_table,
    read_members,
    supported_knots,
)
from ._background_match_solve import (
    Unknowns,
    components,
    eliminate,
    make_bins,
    mean_of,
    shared_samples,
    solve,
    solve_robustly,
    tied_groups,
    touching_constants,
)  # fmt: skip
from ._background_match_tables import later, tables_of
from ._field_functions import subtract_tables
from ._sampling import check_wcs

TERMS = ("1", "alpha", "beta")


@reads()
@checked
def fit_background_match(
    exposures: xr.Dataset | Iterable[xr.Dataset],
    *,
    reference: str | Sequence[str] = "typical",
    reference_band: Band | None = None,
    n_knots: Count = 6,
    gradients: bool = True,
    tie_bands: bool = True,
    spacing: Positive = 1.0,
    significance: NotNegative = 3.0,
) -> xr.Dataset:
    """Fit the additive functions that make the backgrounds of exposures differ.

    Parameters
    ----------
    exposures : Dataset of level "cal", or several
        Dithers of a setting along ``dither``; other settings, tiles and visits as further Datasets. Needs ``flux``
        [MJy/sr], ``var_poisson``, ``var_read``, ``dq`` and the coordinates of assign_wcs. One exposure a core is in
        memory at a time; its robust means, some 1 MB, are kept.
    reference : str or sequence of str
        The exposure that stays as it is: (part of) its name, or several names where groups of exposures do not
        overlap. "typical": the one that is nearest to the median of all functions, so free of what few exposures
        have. "lowest": the one of the lowest background, as stray light, showers and afterglow only add.
    reference_band : str, optional
        The band that stays as it is where bands are tied; by default that of the shortest wavelength.
    n_knots : int
        Knots of the cubic splines in each band, 1 (constant), 2 (straight line) or more; fewer where rows are cut, one
        for three wavelength bins of the band that has the fewest.
    gradients : bool
        Let the functions be linear in alpha and beta, else constant over the field.
    tie_bands : bool
        Also bring every band to the next one, by a constant, where they overlap in wavelength.
    spacing : float
        Spacing of the nodes of the sky, in widths of a slice.
    significance : float
        Functions, and steps between bands, that differ from zero by fewer sigma are zero: nothing is done where
        nothing differs. 0: whatever is found is subtracted.

    Returns
    -------
    Dataset, kind "background_match"
        On ``member`` (a band of an exposure, coordinates ``exposure`` and ``band``): ``coefficients`` (term, knot), the
        values of the function at its knots [MJy/sr], of 1, and of alpha and beta [arcsec]; their ``covariance``, flat
        over term and knot; ``knots`` [um]; ``held`` (1: the reference of its group), ``left_alone`` (1: no function of
        its own, but perhaps the constant of its band), ``group`` (members of a band that see common sky), ``level``
        (its mean in the middle of the field) and ``level_err`` [MJy/sr], ``significance`` [sigma] of what was measured
        without the constant, ``distance`` (from the median function, 1 is that of half of the exposures),
        ``score`` and ``score_tie`` (misfit on patches of the sky that were not fitted, with the function over without
        it, and with the constants of bands over without; above 1 they are left out; NaN: not judged), ``n_samples`` and
        ``scatter`` (of the samples, in units of their errors).

    Raises
    ------
    MrsxrError
        Where there is no exposure, no coordinates, a parameter out of range, or a reference unknown or without a good
        pixel.

    Notes
    -----
    For every exposure cal = sky(ra, dec, wavelength) + F(alpha, beta, wavelength) + noise. The sky is free at the nodes
    of a grid in every bin of 0.35 % of the wavelength, of quadratic splines between; all exposures are solved at once,
    on four grids half a spacing apart, whose equations are added: beside a sharp source each is off another way.
    Lines, hits and the cores of sources do not count: each sample is a clipped mean of a cell of the detector, and
    residuals are weighted by Tukey's function. What the sky of a source has left does not average out along wavelength:
    places count less by as much as their means over wavelength exceed the noise. The covariance is that of the scores
    of patches of the sky, raised by what a patch holds of the solution itself, no smaller than the noise of the mean
    over the grids, and what these differ by beyond what noise makes of it; a source that few patches see shows its
    misfit in few directions, so that none is surer than all are on average; such errors are unsure themselves, so that
    significance is that of F with the degrees of freedom of patches and grids (Satterthwaite 1946). A function is taken
    where it is significant and lowers the misfit of patches that it was not fitted to (four-fold). An exposure that
    shares no sky with others keeps its background. Not in jwst (mrs_imatch, since removed, matched sky polynomials of
    channels).

    Examples
    --------
    >>> rows = cal.isel(y=slice(400, 450))  # a part, as all takes seconds
    >>> match = mx.cal.fit_background_match(rows)
    >>> matched = mx.cal.match_backgrounds(rows, match=match)
    """
    members = read_members(exposures)
    return _fitted(
        [members], reference=reference, reference_band=reference_band, n_knots=n_knots, gradients=gradients,
        tie_bands=tie_bands, spacing=spacing, significance=significance,
    )  # fmt: skip


def match_later(exposures: Sequence[xr.Dataset], **options: Any) -> list[xr.Dataset]:
    """Return for each Dataset what :func:`match_backgrounds` takes of :func:`fit_background_match`, without fitting.

    Parameters
    ----------
    exposures : sequence of Dataset, level "cal"
        Lazy, all of one target.
    **options
        Of :func:`fit_background_match`.

    Returns
    -------
    list of Dataset, lazy
        All are fitted together when one is computed.
    """
    given = inspect.signature(fit_background_match).bind(exposures, **options)
    given.apply_defaults()
    values = dict(list(given.arguments.items())[1:])
    n_term = len(TERMS) if values["gradients"] else 1
    number = sum(ds.sizes["dither"] for ds in exposures)
    return later(_fitted, exposures, n_term, _facts(number, values["significance"]), **values)


def _facts(n_exposures: int, significance: float) -> dict[str, Any]:
    return {"level": "reference", "kind": "background_match", "ref_id": f"background match of {n_exposures} exposures",
            "judged": int(significance > 0)}  # fmt: skip


@one_blas_thread()
def _fitted(
    parts: Sequence[Sequence[Member]], *, reference: str | Sequence[str], reference_band: str | None, n_knots: int,
    gradients: bool, tie_bands: bool, spacing: float, significance: float,
) -> xr.Dataset:  # fmt: skip
    """Fit the functions of members; see :func:`fit_background_match`."""
    members = [one for part in parts for one in part]
    check_reference(reference, members)
    table, bands = make_table(members, spacing, gradients, tie_bands)
    table = table.take(np.flatnonzero(shared_samples(table)))
    fit = _Fit(members, bands, table, n_knots, reference_band)
    if not fit.found.converged:
        tell(
            f"background matching did not converge in {fit.found.rounds} rounds: what it finds may be off by its error"
        )
    distance = _distance(fit.functions(), fit.group, members)
    held = {g: [_choose(fit, g, distance, reference)] for g in range(fit.n_group)}
    fit.solve(held, fit.common)
    references = [first for (first,) in held.values()]
    measured = fit.significances()
    if significance > 0:
        fit.judge()
        fit.leave_alone(significance)
    found = _result(fit, references, distance, measured)
    return found.assign_attrs(_facts(len({one.exposure for one in members}), significance))


class _Fit:
    """The samples of all members and their solution; first with the first member of each group held at zero."""

    def __init__(self, members: list[Member], bands: list[str], table: Table, n_knots: int, reference_band: str | None):
        self.members, self.table = members, table
        self.of_band = np.array([BANDS.index(band) for band in bands])
        n_knots = supported_knots(table, self.of_band, n_knots)
        self.knots = {band: knots_of(members, band, n_knots) for band in np.unique(bands)}
        self.group = components(table, self.of_band)
        self.n_group = int(self.group.max()) + 1
        self.n_term, self.n_knots = table.terms.shape[1], n_knots
        self.n_each = self.n_term * n_knots
        basis = [basis_of(table, m, self.knots[band]) for m, band in enumerate(bands)]
        # nodes of the sky on four grids: the others lie half a spacing beside the first, along x, y and both
        shifts = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))
        self.grids = each(lambda shift: make_bins(table, basis, shift), shifts)
        self.held = {g: [int(np.flatnonzero(self.group == g)[0])] for g in range(self.n_group)}
        self.common = self._constants(reference_band)
        self.unknowns = self._layout()
        found = solve_robustly(table, self.grids[0], self.unknowns, self.of_band)
        others = each(lambda bins: eliminate(table, bins, found.weight), self.grids[1:])
        self.found = replace(found, skies=[*found.skies, *others])
        self.equations = mean_of(self.found.skies)
        self._solve()
        self.score: Scores
        self.score_of, self.score_of_tie = np.full(self.group.size, np.nan), np.full(self.n_group, np.nan)

    def _constants(self, reference_band: str | None) -> np.ndarray:
        """Return for each group the number of its constant: -1 for the reference of those tied together."""
        tied = tied_groups(self.table, self.group)
        band_of_group = np.array([self.of_band[self.group == g][0] for g in range(self.n_group)])
        out = np.arange(self.n_group)
        for number in np.unique(tied):
            inside = np.flatnonzero(tied == number)
            wanted = [g for g in inside if reference_band and BANDS[band_of_group[g]] == reference_band]
            out[wanted[0] if wanted else inside[np.argmin(band_of_group[inside])]] = -1
        return out

    def _layout(self) -> Unknowns:
        first, size = np.full(self.group.size, -1), 0
        for m, g in enumerate(self.group):
            if m not in self.held[int(g)]:
                first[m], size = size, size + self.n_each
        shared = np.full(self.group.size, -1)
        for number in np.unique(self.common[self.common >= 0]):
            shared[np.isin(self.group, np.flatnonzero(self.common == number))], size = size, size + 1
        return Unknowns(first, shared, size, self.n_term, self.n_knots)

    def _solve(self) -> None:
        values, factor = solve(self.equations, self.unknowns)
        self.found = replace(self.found, values=values, factor=factor)

    def solve(self, held: dict[int, list[int]], common: np.ndarray) -> None:
        """Solve again, with the weights found, with other members held at zero and other constants."""
        self.held, self.common = held, common
        self.unknowns = self._layout()
        self._solve()
        sigma = self.table.sigma * self.found.scale[self.of_band[self.table.member]]
        self.score = scores(self.table, self.grids, self.unknowns, self.found, sigma)

    def functions(self) -> np.ndarray:
        """Return the functions (member, term, knot) with the constants of their groups."""
        return self.unknowns.coefficients(self.found.values)

    def covariance(self, member: int) -> np.ndarray:
        """Return the covariance of the coefficients of a member, those of its group's constant included."""
        first, common = self.unknowns.first[member], self.unknowns.common[member]
        columns = [*range(first, first + self.n_each)] if first >= 0 else []
        way = np.zeros((self.n_each, len(columns) + (common >= 0)))
        way[: len(columns), : len(columns)] = np.eye(len(columns))
        if common >= 0:
            columns.append(int(common))
            way[: self.n_knots, -1] = 1.0
        if not columns:
            return np.zeros((self.n_each, self.n_each))
        return way @ covariance(self.found, self.score, np.array(columns))[0] @ way.T

    def significances(self) -> np.ndarray:
        """Return by how many sigma the function of each member, without the constant of its group, is not zero."""
        from scipy.special import fdtrc, ndtri

        out = np.zeros(self.group.size)
        for m in np.flatnonzero(self.unknowns.first >= 0):
            columns = self.unknowns.first[m] + np.arange(self.n_each)
            c = self.found.values[columns]
            spread, freedom = covariance(self.found, self.score, columns)
            square = float(c @ np.linalg.pinv(spread, hermitian=True) @ c) / self.n_each
            out[m] = float(-ndtri(0.5 * max(float(fdtrc(self.n_each, freedom, square)), 1e-300)))
        return out

    def judge(self) -> None:
        """Score functions and constants on patches of the sky that they were not fitted to."""
        of_member, of_group = held_out(self.table, self.grids[0], self.unknowns, self.found.weight, self.group)
        self.score_of = np.where(self.unknowns.first >= 0, of_member, np.nan)
        self.score_of_tie = np.where(self.common >= 0, of_group, np.nan)

    def leave_alone(self, significance: float) -> None:
        """Hold members whose function is not significant or shows no gain, and make constants equal that do not differ
        significantly; those that show no gain are zero.
        """
        common = np.where(gains(self.score_of_tie), self.common, -1)
        while True:
            low = (self.significances() < significance) | ~gains(self.score_of)
            low &= self.unknowns.first >= 0
            held = {g: [*ms, *np.flatnonzero(low & (self.group == g)).tolist()] for g, ms in self.held.items()}
            if not low.any() and (common == self.common).all():
                break
            self.solve(held, common)
            common = self._merged(significance)

    def _merged(self, significance: float) -> np.ndarray:
        """Return the numbers of the constants, those made one that are nearest in units of their error."""
        common = self.common.copy()
        numbers = np.unique(common[common >= 0])
        if numbers.size == 0:
            return common
        columns = np.array([self.unknowns.common[np.isin(self.group, np.flatnonzero(common == k))][0] for k in numbers])
        values = np.append(self.found.values[columns], 0.0)  # the last is that of the reference
        spread = np.zeros((values.size, values.size))
        spread[:-1, :-1] = covariance(self.found, self.score, columns)[0]
        label = np.append(numbers, -1)
        near = touching_constants(self.table, common[self.group][self.table.member], label)
        while True:
            pair = _nearest(values, spread, near, label, significance)
            if pair is None:
                return common
            i, j = pair
            gone, kept = (label[i], label[j]) if label[i] > label[j] else (label[j], label[i])
            way = np.zeros(values.size)
            way[i], way[j] = 1.0, -1.0
            gain = spread @ way / (way @ spread @ way)
            values = values - gain * (way @ values)
            spread = spread - np.outer(gain, way @ spread)
            common[common == gone] = kept
            label[label == gone] = kept


def _nearest(
    values: np.ndarray, covariance: np.ndarray, near: np.ndarray, label: np.ndarray, significance: float,
) -> tuple[int, int] | None:  # fmt: skip
    """Return the two touching constants of different label that differ by the fewest sigma, below a limit."""
    variance = np.diag(covariance)
    spread = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 1e-30))
    same = label[:, None] == label[None, :]
    touching = (same.astype(int) @ near.astype(int) @ same.astype(int)) > 0
    off = np.where(touching & ~same, np.abs(values[:, None] - values[None, :]) / spread, np.inf)
    i, j = np.unravel_index(np.argmin(off), off.shape)
    return (int(i), int(j)) if off[i, j] < significance else None


@step(needs="cal", jwst="match_backgrounds", once="background_match")
def match_backgrounds(ds: xr.Dataset, *, match: xr.Dataset) -> xr.Dataset:
    """Subtract from every exposure its function of ``fit_background_match``.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr] (dither, y, x) with the coordinates of assign_wcs and ``exposure``.
    match : Dataset, kind "background_match"
        Of :func:`fit_background_match`, or of :func:`match_later`.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` less the function, and ``var_background`` [MJy2/sr2] with the variance of the function added, common to
        all pixels of an exposure. Flags stay. Exposures of reference are as they were.
        ``background_level`` (dither, band) [MJy/sr] is the mean level taken off.

    Raises
    ------
    MrsxrError
        Where an exposure is not in ``match``, was matched before or has no coordinates.

    Examples
    --------
    >>> rows = cal.isel(y=slice(400, 450))  # a part, as all takes seconds
    >>> match = mx.cal.fit_background_match(rows, gradients=False)
    >>> matched = mx.cal.match_backgrounds(rows, match=match)
    """
    check_wcs(ds)
    setting = ds.attrs.get("setting")
    if match.attrs.get("kind") != "background_match":
        raise MrsxrError(f"setting {setting}: expected a Dataset of kind background_match, got "
                         f"{match.attrs.get('kind') or 'one of no kind'}; make it by fit_background_match")  # fmt: skip
    if "table" not in match:
        match = tables_of(match, [str(name) for name in ds["exposure"].values], str(setting))
    out = subtract_tables(ds, match["table"].data, match["facts"].data, match.attrs["n_term"])
    if match.attrs.get("judged", 1):
        judge = partial(score, instead="none", held_out="patches of the sky")
        own, tied = match["score"].data, match["score_tie"].data[0]
        out = out.assign(judge("match_backgrounds", own, ("dither", "band"), method="own function"))
        out = out.assign(judge("band_ties", tied, "band", method="tied to the next band"))
    about = {"units": "MJy/sr", "long_name": meaning_of("cal", "background_level")}
    out = out.assign(background_level=(("dither", "band"), match["background_level"].data, about))
    return out.assign_coords(band=list(bands_of_setting(str(setting))))


def _distance(functions: np.ndarray, group: np.ndarray, members: list[Member]) -> np.ndarray:
    """Return how far each exposure is from the median function of its group, in units of the median distance."""
    out = np.zeros(group.size)
    for g in np.unique(group):
        inside = np.flatnonzero(group == g)
        reach = [1.0, *(_rms(join([getattr(members[m].samples, t) for m in inside])) for t in TERMS[1:])]
        values = functions[inside] * np.array(reach)[: functions.shape[1], None]
        off = np.sqrt(np.mean((values - np.median(values, axis=0)) ** 2, axis=(1, 2)))
        out[inside] = off / max(float(np.median(off)), 1e-30)
    names = np.array([m.exposure for m in members])
    return np.array([out[names == name].mean() for name in names])


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _choose(fit: _Fit, group: int, distance: np.ndarray, reference: str | Sequence[str]) -> int:
    """Return which member of a group is held at zero."""
    inside = np.flatnonzero(fit.group == group)
    wanted = [reference] if isinstance(reference, str) else list(reference)
    named = [m for m in inside for part in wanted if part not in CHOICES and part in fit.members[m].exposure]
    if named:
        return int(named[0])
    level = fit.functions()[inside, 0].mean(axis=1)
    if "lowest" in wanted:
        return int(inside[np.argmin(level)])
    return int(inside[np.lexsort((level, np.round(distance[inside], 3)))[0]])


def _result(fit: _Fit, references: list[int], distance: np.ndarray, measured: np.ndarray) -> xr.Dataset:
    functions = fit.functions()
    spread = np.stack([fit.covariance(m) for m in range(len(fit.members))])
    mean = np.zeros(fit.n_each)
    mean[: fit.n_knots] = 1.0 / fit.n_knots
    number = np.arange(len(fit.members))
    per_member = {
        "held": np.isin(number, references).astype(np.int8), "left_alone": (fit.unknowns.first < 0).astype(np.int8),
        "group": fit.group.astype(np.int32), "level": functions[:, 0].mean(axis=1),
        "level_err": np.sqrt(np.maximum(np.einsum("i,mij,j->m", mean, spread, mean), 0.0)),
        "significance": measured, "distance": distance,
        "score": fit.score_of, "score_tie": fit.score_of_tie[fit.group],
        "n_samples": np.bincount(fit.table.member, minlength=number.size), "scatter": fit.found.scale[fit.of_band],
    }  # fmt: skip
    units = {"level": "MJy/sr", "level_err": "MJy/sr"}
    knots = np.stack([fit.knots[m.band] for m in fit.members])
    return xr.Dataset(
        {
            "coefficients": (("member", "term", "knot"), functions, {"units": "MJy/sr, for alpha and beta /arcsec"}),
            "covariance": (("member", "coefficient", "coefficient_of"), spread),
            "knots": (("member", "knot"), knots, {"units": "um"}),
            **{k: ("member", v, {"units": units.get(k, "1")}) for k, v in per_member.items()},
        },
        {
            "exposure": ("member", np.array([m.exposure for m in fit.members])),
            "band": ("member", np.array([m.band for m in fit.members])),
            "term": list(TERMS[: fit.n_term]),
        },
        {"rounds": fit.found.rounds, "converged": int(fit.found.converged)},
    )
