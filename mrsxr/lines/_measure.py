"""From fitted parameters to the numbers of a line: choice of the model, fluxes, velocities, widths, errors, flags."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._window import Blend, C

#: Bits of ``fit_flags``.
FLAGS = {"low_snr": 1, "at_bound": 2, "failed": 4, "few_voxels": 8, "fringe_like": 16, "unresolved": 32,
         "no_errors": 64, "ambiguous": 128}  # fmt: skip
LINE_VALUES = (
    "flux", "flux_err", "velocity", "velocity_err", "dispersion", "dispersion_err", "snr", "continuum",
    "continuum_err", "ew", "ew_err", "upper_limit", "fit_flags",
)  # fmt: skip
COMPONENT_VALUES = tuple(
    f"component_{name}{err}" for name in ("flux", "velocity", "dispersion", "width") for err in ("", "_err")
)
BLEND_VALUES = ("n_components", "p_value", "dof", "noise_scale", "correlation")
MC_VALUES = ("flux_err_mc", "velocity_err_mc", "dispersion_err_mc")
NARROWEST = 0.7  # of the instrument width: the law of R is good to 10 - 15 %, and noise narrows too
WIDEST = 1000.0  # km/s, observed sigma, and FWHM below a third of the window
LIMIT_WIDTH = 100.0  # km/s, intrinsic sigma of upper limits
FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
F_TEST = 0.003
FRINGE_CHANCE = 0.01
UNRESOLVED = 1.1
AMBIGUOUS = 9.0  # of chi2, scaled as the errors are: a solution elsewhere that is less worse than this is told


@dataclass(frozen=True)
class Options:
    """How a blend is fitted: see :func:`mrsxr.lines.fit_line`."""

    components: int | str
    degree: int
    criterion: str
    threshold: float
    noise: str
    absorption: bool
    monte_carlo: int
    seed: int
    window: float

    @property
    def most(self) -> int:
        """The largest number of components that is fitted."""
        return 2 if self.components == "auto" else int(self.components)


def columns(options: Options) -> dict[str, slice]:
    """Return where each variable stands among the numbers of a line; several of components, models or powers."""
    most = options.most
    widths = dict.fromkeys(LINE_VALUES + (MC_VALUES if options.monte_carlo else ()), 1)
    widths |= dict.fromkeys(COMPONENT_VALUES, most) | dict.fromkeys(BLEND_VALUES, 1)
    widths |= {"chi2": most + 1, "bic": most + 1, "continuum_poly": options.degree + 1}
    ends = np.cumsum(list(widths.values()))
    return {name: slice(int(end) - n, int(end)) for (name, n), end in zip(widths.items(), ends, strict=True)}


def fit_block(
    flux: np.ndarray, var: np.ndarray, bad: np.ndarray, seed: np.ndarray, *, blend: Blend, options: Options,
) -> np.ndarray:  # fmt: skip
    """Fit a block of spectra, the wrapper that dask calls.

    Parameters
    ----------
    flux, var : (..., voxel)
        In the units of the data.
    bad : (..., voxel) bool
    seed : (...) int
        Number of each spectrum, for the Monte Carlo draws.
    blend, options

    Returns
    -------
    (..., line, number) float64
        In the order of :func:`columns`.
    """
    shape = flux.shape[:-1]
    n = int(np.prod(shape, dtype=int))
    out = np.full((n, len(blend.labels), columns(options)["continuum_poly"].stop), np.nan)
    for a in range(0, n, 2048):
        part = slice(a, a + 2048)
        one, two, three = (
            np.ascontiguousarray(np.reshape(v, (n, v.shape[-1]))[part]) for v in np.broadcast_arrays(flux, var, bad)
        )
        out[part] = _fit_spectra(one, two, three, np.reshape(seed, n)[part], blend, options)
    return out.reshape(*shape, *out.shape[1:])


def _fit_spectra(
    flux: np.ndarray, var: np.ndarray, bad: np.ndarray, seed: np.ndarray, blend: Blend, options: Options,
) -> np.ndarray:  # fmt: skip
    from ._fit_kernels import draw, fit

    with np.errstate(invalid="ignore"):
        factor = blend.factor(blend.wave)
        errors = np.sqrt(var.astype(float)) * factor
        values = np.where(bad | ~blend.use, np.nan, flux.astype(float) * factor)
        known = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    blind = np.zeros(len(values), dtype=bool)
    if options.noise == "residual":
        blind = _fill_errors(values, errors, known)
    scale = np.where(known, errors, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    scale = np.where(scale > 0, scale, 1.0)[:, None]
    spectra = (values / scale, errors / scale, blend.lo, blend.hi, blend.variable(blend.wave), blend.shape(blend.wave))
    arrays = (spectra, (blend.mu0, blend.inst, blend.group, blend.reach))
    facts: dict[str, Any] = {
        "n_cont": options.degree + 1, "k_max": options.most, "both_signs": options.absorption,
        "narrowest": NARROWEST, "widest": min(WIDEST, 2.0 * options.window / 3.0 / FWHM),
    }  # fmt: skip
    fitted = fit(*arrays, **facts, always=options.components != "auto", limit_width=LIMIT_WIDTH)
    with np.errstate(all="ignore"):
        chosen, noise, choice = choose(fitted, blend, options)
        out = collect(fitted, chosen, noise, choice, scale[:, 0], blend, options)
        if options.monte_carlo:
            draws = draw(*arrays, **facts, theta=fitted["theta"], components=chosen, noise=np.nan_to_num(noise),
                         seeds=_seeds(seed, options.seed), n_draws=options.monte_carlo)  # fmt: skip
            _add_draws(out, draws, scale, blend, options)
    at = columns(options)["fit_flags"].start
    out[:, :, at] = out[:, :, at].astype(int) | (FLAGS["no_errors"] * blind)[:, None]
    return out


def _fill_errors(values: np.ndarray, errors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give samples without an error the middle one of their spectrum, all alike where it has none; return where.

    Samples of value 0 are taken for empty. The residuals scale the errors in the end.
    """
    missing = np.isfinite(values) & ~known & (values != 0.0)
    blind: np.ndarray = missing.any(axis=-1)
    for k in np.flatnonzero(blind):
        own = errors[k, known[k]]
        size = float(np.median(own)) if own.size else float(np.mean(np.abs(values[k, missing[k]])))
        errors[k, missing[k]] = size if size > 0 else 1.0
    known |= missing
    return blind


def _seeds(number: np.ndarray, seed: int) -> np.ndarray:
    """Return a number for the draws of each spectrum, whatever block it is in."""
    mixed = (np.asarray(number, dtype=np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    return mixed ^ np.uint64((seed * 0x2545F4914F6CDD1D + 0x632BE59BD9B4E019) % 2**64)


def _add_draws(out: np.ndarray, draws: np.ndarray, scale: np.ndarray, blend: Blend, options: Options) -> None:
    """Fill the Monte Carlo errors: half the range of the middle 68.27 % of the draws."""
    at = columns(options)
    for line, inst in enumerate(blend.inst):
        flux, mean, square = (draws[:, :, line, i] for i in range(3))
        sigma = np.sqrt(np.maximum(square - inst**2, 0.0))
        lost = ~np.isfinite(out[:, line, at["flux"]])
        for name, values in zip(MC_VALUES, (flux * scale, mean, sigma), strict=True):
            low, high = np.percentile(values, [15.865, 84.135], axis=1)
            out[:, line, at[name]] = np.where(lost, np.nan, 0.5 * (high - low)[:, None])


def collect(
    fitted: dict[str, np.ndarray], chosen: np.ndarray, noise: np.ndarray, choice: dict[str, np.ndarray],
    scale: np.ndarray, blend: Blend, options: Options,
) -> np.ndarray:  # fmt: skip
    """Return the numbers (spectrum, line, number) of fits of data that were divided by ``scale``."""
    at = columns(options)
    out = np.full((len(scale), len(blend.labels), at["continuum_poly"].stop), np.nan)
    for name, values in choice.items():
        out[:, :, at[name]] = values.reshape(len(scale), 1, -1)
    out[:, :, at["fit_flags"]] = FLAGS["failed"]
    for k in range(1, options.most + 1):
        some = np.flatnonzero(chosen == k)
        for line in range(len(blend.labels) if some.size else 0):
            for name, values in measure(fitted, some, k, line, noise[some], scale[some], blend, options).items():
                table = values.reshape(len(some), -1)
                first = at[name].start
                out[some, line, first : first + table.shape[1]] = table
    few = FLAGS["few_voxels"] * (fitted["count"] < 0.75 * blend.nominal)
    flags = out[:, :, at["fit_flags"].start]
    out[:, :, at["fit_flags"].start] = flags.astype(int) | few[:, None]
    return out


def choose(
    fitted: dict[str, np.ndarray], blend: Blend, options: Options,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """Return the number of components of each spectrum, its noise scale and what the choice rests on."""
    count, chi2, most = fitted["count"], fitted["chi2"], options.most
    n_lines, n_groups, n_cont = len(blend.labels), len(blend.reach), options.degree + 1
    tried = (fitted["status"] & 4) > 0
    p = n_cont + (n_lines + 2 * n_groups) * np.arange(most + 1)
    dof = count[:, None] - p
    top = tried.sum(axis=1)
    length = np.maximum(np.concatenate([np.ones((len(count), 1)), fitted["length"]], axis=1), blend.length)
    reduced = np.where(dof > 0, chi2 / dof, np.nan) * length
    rows = np.arange(len(count))
    square = reduced[rows, top] if options.noise == "residual" else length[rows, top]
    bic = chi2 / square[:, None] + p * np.log(count / length[rows, top])[:, None]
    chance = _f_test(chi2, dof, p, length[rows, top])
    chosen = top.copy()
    if options.components == "auto":
        two = top == 2
        if options.criterion == "bic":
            two &= bic[:, 1] - bic[:, -1] > options.threshold
        else:
            two &= chance[:, -1] < F_TEST
        two[two] = _two_are_real(fitted, np.flatnonzero(two), square[two], blend, options)
        chosen = np.where(two, 2, np.minimum(top, 1))
    noise = np.sqrt(reduced[rows, chosen]) if options.noise == "residual" else np.sqrt(square)
    facts: dict[str, Any] = {
        "n_components": chosen.astype(float), "p_value": chance[rows, np.maximum(top, 1)],
        "dof": np.where(count > 0, dof[rows, chosen], 0).astype(float), "noise_scale": noise,
        "correlation": length[rows, chosen], "chi2": chi2, "bic": bic,
    }  # fmt: skip
    return chosen, noise, facts


def _f_test(chi2: np.ndarray, dof: np.ndarray, p: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the chance that the last components of each model are noise; NaN for the continuum.

    Correlated residuals count as fewer: chi2 and degrees of freedom are divided by the correlation length.
    """
    from scipy.special import fdtrc

    out = np.full(chi2.shape, np.nan)
    for k in range(1, chi2.shape[1]):
        more = p[k] - p[k - 1]
        ratio = (chi2[:, k - 1] - chi2[:, k]) / more / (chi2[:, k] / dof[:, k]) / length
        free = np.maximum(dof[:, k] / length, 1.0)
        out[:, k] = np.where(dof[:, k] > 0, fdtrc(more, free, np.maximum(ratio, 0.0)), np.nan)
    return out


def _two_are_real(
    fitted: dict[str, np.ndarray], some: np.ndarray, square: np.ndarray, blend: Blend, options: Options,
) -> np.ndarray:  # fmt: skip
    """Return whether both components of the brightest line are more than noise, a continuum or a fringe."""
    n_cont = options.degree + 1
    theta, cov = fitted["theta"][some, 1], fitted["cov"][some, 1]
    good = (fitted["status"][some, 1] & 1) > 0
    first = n_cont + 6 * np.arange(len(blend.labels))
    total = theta[:, first] + theta[:, first + 3]
    line = np.argmax(np.abs(total), axis=1)
    rows, a = np.arange(len(some)), first[line]
    flux = np.stack([theta[rows, a], theta[rows, a + 3]], axis=1)
    error = np.sqrt(np.stack([cov[rows, a, a], cov[rows, a + 3, a + 3]], axis=1) * square[:, None])
    width = np.stack([theta[rows, a + 2], theta[rows, a + 5]], axis=1)
    apart = np.abs(theta[rows, a + 1] - theta[rows, a + 4])
    good &= (np.abs(flux) > 3.0 * error).all(axis=1)
    good &= (apart > 1.5 * width.min(axis=1)) | (width.max(axis=1) > 1.5 * width.min(axis=1))
    free = [cov[rows, a + i, a + i] > 0 for i in (1, 2, 4, 5)]
    peak = np.abs(flux) / width
    wave = fringe_peak(fitted["fringe"][some, 1], np.asarray(blend.mu0)[line])
    return good & np.all(free, axis=0) & (peak > wave[:, None]).all(axis=1)


def fringe_peak(fringe: np.ndarray, mu0: np.ndarray | float) -> np.ndarray:
    """Return what |flux| / width [km/s] must exceed for a peak of twice the fringe beside the line; 0 without one."""
    return np.where(fringe[:, 0] < FRINGE_CHANCE, 2.0 * fringe[:, 1], 0.0) * np.sqrt(2.0 * np.pi) * mu0 / C


def measure(
    fitted: dict[str, np.ndarray], some: np.ndarray, k: int, line: int, noise: np.ndarray, scale: np.ndarray,
    blend: Blend, options: Options,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the numbers of a line in some spectra that are fitted by k components."""
    n_cont, n_lines = options.degree + 1, len(blend.labels)
    size = n_cont + 3 * n_lines * k
    by = np.ones((len(some), size)) * scale[:, None]
    for f in range(n_lines * k):
        by[:, n_cont + 3 * f + 1 : n_cont + 3 * f + 3] = 1.0
    theta = fitted["theta"][some, k - 1, :size] * by
    excess = fitted["excess"][some, k - 1] / noise**2
    noise = noise[:, None] * _shares(theta, fitted["length"][some, k - 1], n_cont, blend)
    cov = (
        fitted["cov"][some, k - 1, :size, :size]
        * by[:, :, None]
        * by[:, None, :]
        * noise[:, :, None]
        * noise[:, None, :]
    )
    noise, a = noise[:, 0], n_cont + 3 * k * line
    held = [cov[:, a + 3 * c + i, a + 3 * c + i] <= 0 for c in range(k) for i in (1, 2)]
    cov, unsure = _cover(theta, cov, fitted["other"][some, k - 1, :size] * by, excess, k, n_cont, blend)
    values = line_values(theta, cov, line, k, n_cont, blend)
    values["snr"] = values["flux"] / values["flux_err"]
    width = values.pop("width")
    core = fitted["core"][some, k - 1, line]
    lost = (core < 2) | ~np.isfinite(values["flux_err"]) | ~(noise > 0)
    peak = (np.abs(theta[:, a : a + 3 * k : 3]) / theta[:, a + 2 : a + 3 * k : 3]).min(axis=1) / scale
    fringe = peak < fringe_peak(fitted["fringe"][some, k - 1], blend.mu0[line])
    ended = (fitted["status"][some, k - 1] & 1) > 0
    flags = (
        FLAGS["low_snr"] * ~((np.abs(values["snr"]) if options.absorption else values["snr"]) >= 3.0)
        | FLAGS["at_bound"] * np.any(held, axis=0)
        | FLAGS["failed"] * (lost | ~ended)
        | FLAGS["few_voxels"] * (core < 2)
        | FLAGS["fringe_like"] * fringe
        | FLAGS["unresolved"] * (width < UNRESOLVED * blend.inst[line])
        | FLAGS["ambiguous"] * unsure
    )
    order = _order(theta, k, n_cont, blend)[:, blend.group[line]]
    values |= component_values(theta, cov, line, k, n_cont, blend, order)
    values = {name: np.where(lost if v.ndim == 1 else lost[:, None], np.nan, v) for name, v in values.items()}
    values["upper_limit"] = 3.0 * fitted["limits"][some, line] * scale * noise
    values["continuum_poly"] = theta[:, :n_cont] / blend.factor(blend.middle)
    return values | {"fit_flags": flags}


def _shares(theta: np.ndarray, length: np.ndarray, n_cont: int, blend: Blend) -> np.ndarray:
    """Return factors (spectrum, parameter) on errors that were multiplied by the root of the correlation length.

    That length is for means over many voxels. Velocity and width follow from differences within the line: what its
    derivatives (those of a Gaussian) have in common with themselves some voxels on counts. Only where the residuals
    show no more correlation than voxels that share pixels have.
    """
    out = np.ones(theta.shape)
    plane = C * float(np.median(blend.hi - blend.lo)) / blend.middle
    lag = np.arange(1, blend.alike.size)[:, None, None]
    width = np.maximum(theta[:, n_cont + 2 :: 3], 1e-3 * plane) / plane
    square = (lag / width) ** 2
    own = 2.0 * blend.alike[1:, None, None] * np.exp(-0.25 * square)
    for first, shape in ((1, 1.0 - square / 2.0), (2, 1.0 - square + square**2 / 12.0)):
        out[:, n_cont + first :: 3] = np.sqrt((1.0 + (own * shape).sum(axis=0)) / blend.length)
    return np.where((length <= blend.length)[:, None], out, 1.0)


def _cover(
    theta: np.ndarray, cov: np.ndarray, other: np.ndarray, excess: np.ndarray, k: int, n_cont: int, blend: Blend,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return covariances that reach to the next likely solution, and where that is elsewhere and hardly worse.

    ``excess`` is what it is worse in chi2, scaled as the errors. It counts by twice its share of the likelihood: whole
    where both are alike. A velocity or width that a bound holds has no error, and gets none.
    """
    near = np.flatnonzero(excess < AMBIGUOUS)
    unsure = np.zeros(len(theta), dtype=bool)
    if not near.size:
        return cov, unsure
    apart, square = _like(theta[near], other[near], k, n_cont, blend) - theta[near], np.diagonal(cov[near], 0, 1, 2)
    beyond = np.abs(apart) > np.sqrt(square)
    shapes = np.arange(theta.shape[1]) >= n_cont
    shapes[n_cont::3] = False
    apart = np.where(shapes & (square <= 0), 0.0, apart)
    near, apart = near[beyond[:, n_cont:].any(axis=1)], apart[beyond[:, n_cont:].any(axis=1)]
    share = np.minimum(2.0 / (1.0 + np.exp(0.5 * excess[near])), 1.0)
    cov = cov.copy()
    cov[near] += share[:, None, None] * apart[:, :, None] * apart[:, None, :]
    unsure[near] = True
    return cov, unsure


def _like(theta: np.ndarray, other: np.ndarray, k: int, n_cont: int, blend: Blend) -> np.ndarray:
    """Return other parameters with the components of each group in the order of those they are most like."""
    out = other.copy()
    for group in range(len(blend.reach) if k > 1 else 0):
        first = n_cont + 3 * k * np.flatnonzero(np.array(blend.group) == group)
        a = first[0] + 3 * np.arange(k)
        orders = np.array(list(itertools.permutations(range(k))))
        off = [((other[:, a[order] + i] - theta[:, a + i]) / theta[:, a + 2]) ** 2 for order in orders for i in (1, 2)]
        best = orders[np.argmin(np.sum(off, axis=2).reshape(len(orders), 2, -1).sum(axis=1), axis=0)]
        for start in first:
            for i in range(3):
                at = start + 3 * np.arange(k) + i
                out[:, at] = np.take_along_axis(other[:, at], best, axis=1)
    return out


def _order(theta: np.ndarray, k: int, n_cont: int, blend: Blend) -> np.ndarray:
    """Return the components of each group (spectrum, group, k), the brightest first (summed over its lines)."""
    flux = np.zeros((len(theta), len(blend.reach), k))
    for line, group in enumerate(blend.group):
        first = n_cont + 3 * k * line
        flux[:, group] += np.abs(theta[:, first : first + 3 * k : 3])
    return np.argsort(-flux, axis=-1, kind="stable")


def line_values(
    theta: np.ndarray, cov: np.ndarray, line: int, k: int, n_cont: int, blend: Blend,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the numbers of a whole line: sums and moments over its components, errors by linear propagation."""
    a = n_cont + 3 * k * line
    flux, v, w = (theta[:, a + i : a + 3 * k : 3] for i in range(3))
    total = flux.sum(axis=1)
    share = flux / total[:, None]
    mean = (share * v).sum(axis=1) if k > 1 else v[:, 0]
    square = (share * (w**2 + (v - mean[:, None]) ** 2)).sum(axis=1) if k > 1 else w[:, 0] ** 2
    off = v - mean[:, None]
    size = theta.shape[1]
    by_flux, by_mean, by_square = (np.zeros((len(theta), size)) for _ in range(3))
    by_flux[:, a : a + 3 * k : 3] = 1.0
    by_mean[:, a : a + 3 * k : 3] = off / total[:, None]
    by_mean[:, a + 1 : a + 3 * k : 3] = share
    by_square[:, a : a + 3 * k : 3] = (w**2 + off**2 - square[:, None]) / total[:, None]
    by_square[:, a + 1 : a + 3 * k : 3] = 2.0 * share * off
    by_square[:, a + 2 : a + 3 * k : 3] = 2.0 * share * w
    width = np.sqrt(np.maximum(square, 0.0))
    width_err = _error(by_square, cov) / (2.0 * width)
    dispersion, dispersion_err = without_instrument(width, width_err, blend.inst[line])
    place = blend.mu0[line] * (1.0 + mean / C)
    by_level = np.zeros((len(theta), size))
    by_level[:, :n_cont] = (blend.shape(place) * blend.variable(place) ** np.arange(n_cont)[:, None]).T
    level = (by_level * theta).sum(axis=1)
    by_ew = by_flux / level[:, None] - by_level * (total / level**2)[:, None]
    back = blend.factor(place)
    return {
        "flux": total, "flux_err": _error(by_flux, cov),
        "velocity": mean, "velocity_err": _positive(_error(by_mean, cov)),
        "dispersion": dispersion, "dispersion_err": dispersion_err,
        "continuum": level / back, "continuum_err": _error(by_level, cov) / back,
        "ew": total / level, "ew_err": _error(by_ew, cov), "width": width,
    }  # fmt: skip


def component_values(
    theta: np.ndarray, cov: np.ndarray, line: int, k: int, n_cont: int, blend: Blend, order: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the numbers (spectrum, component) of the components of a line, in the given order."""
    index = n_cont + 3 * (k * line + order)
    rows = np.arange(len(theta))[:, None]
    flux, v, w = (theta[rows, index + i] for i in range(3))
    flux_err, v_err, w_err = (_positive(np.sqrt(cov[rows, index + i, index + i])) for i in range(3))
    dispersion, dispersion_err = without_instrument(w, w_err, blend.inst[line])
    values = (flux, flux_err, v, v_err, dispersion, dispersion_err, w, w_err)
    return dict(zip(COMPONENT_VALUES, values, strict=True))


def without_instrument(width: np.ndarray, width_err: np.ndarray, inst: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the dispersion sqrt(width^2 - inst^2) and its error; 0 where the line is narrower than the instrument.

    The error is linear, w dw / sigma, where the dispersion is well measured; near 0, where that grows without limit,
    it is sqrt(2 w dw + dw^2) (w: the larger of both), with which dispersion + error is the end of the 1 sigma interval.
    """
    square = width**2 - inst**2
    dispersion = np.sqrt(np.maximum(square, 0.0))
    end = np.sqrt(2.0 * np.maximum(width, inst) * width_err + width_err**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        linear = width * width_err / dispersion
    return dispersion, _positive(np.where(linear < end, linear, end))


def _error(by: np.ndarray, cov: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ni,nij,nj->n", by, cov, by))


def _positive(error: np.ndarray) -> np.ndarray:
    """Return NaN in place of the error 0 of a parameter that is held at a bound."""
    return np.where(error > 0, error, np.nan)
