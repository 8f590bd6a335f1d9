"""Fit emission and absorption lines of spectra and of every spaxel of cubes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.arguments import as_kms, parameters_of, reads
from mrsxr.dq import DO_NOT_USE
from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.limits import Interval, NotNegative, Range, Redshift, Whole
from mrsxr.notes import tell
from mrsxr.spaxels import facts_of
from mrsxr.step import step

from ._measure import COMPONENT_VALUES, FLAGS, Options, columns, fit_block
from ._window import Blend, Line, Resolution, find_lines, gather_blends, make_blend, redshift_of
from .linelist import in_range, line_list

SPECTRA_PER_BLOCK = 1024
Components = Literal[1, 2, 3, "auto"]
Criterion = Literal["bic", "ftest"]
Noise = Literal["residual", "given"]
Draws = Annotated[int, Range(0, 100_000)]
Window = Annotated[float, Range(100, 30_000, unit="km/s")]
_UNITS = {
    "flux": "W m-2", "velocity": "km/s", "dispersion": "km/s", "width": "km/s", "ew": "um", "upper_limit": "W m-2",
}  # fmt: skip
_MEANING = {
    "flux": "flux of the line", "velocity": "velocity relative to the redshift",
    "dispersion": "dispersion without the instrument",
    "snr": "flux over its error", "continuum": "continuum at the line", "ew": "equivalent width, positive in emission",
    "upper_limit": "3 sigma limit of the flux at velocity 0 and an intrinsic dispersion of 100 km/s",
    "width": "observed dispersion", "n_components": "components of the chosen model",
    "chi2": "chi2 of each model with the errors as given", "bic": "Bayesian information criterion of each model",
    "p_value": "chance of the gain by the last component (F-test)", "dof": "degrees of freedom of the chosen model",
    "noise_scale": "factor from the errors as given to those that were used", "fit_flags": "quality of the fit",
    "correlation": "correlation length of the errors [voxels]",
    "continuum_poly": "continuum polynomial in (wavelength - window_middle) / window_half",
}  # fmt: skip


@step(needs=("spectrum", "cube"), gives="lines")
@reads(window=as_kms)
def fit_line(
    ds: xr.Dataset,
    line: Line | Sequence[Line],
    *,
    redshift: Redshift | None = None,
    components: Components = 1,
    window: Window = 2500.0,
    degree: Literal[0, 1, 2, 3] = 1,
    resolution: Resolution = None,
    tie: bool = True,
    criterion: Criterion = "bic",
    threshold: NotNegative = 6.0,
    noise: Noise = "residual",
    absorption: bool = False,
    exclude: Sequence[Interval] | None = None,
    monte_carlo: Draws = 0,
    seed: Whole = 0,
) -> xr.Dataset:
    """Fit one line, or the lines of a blend together, by Gaussians on a polynomial continuum.

    Parameters
    ----------
    ds : Dataset, level "spectrum" or "cube"
        ``flux`` [Jy] or [MJy/sr], ``var``, ``dq``; samples with DO_NOT_USE or without a finite flux are left out. Those
        without a positive finite variance get the middle error of the others, and where no sample has one all count
        alike (``fit_flags`` 64); with ``noise`` "given" they are left out. A cube gives a fit for each spaxel, lazy
        where the cube is.
    line : str, float or list of them
        Label of :func:`mrsxr.lines.line_list` ("[Ne II] 12.81", also as "[NeII]" or "Ne II 12.8" where that is one line
        only) or rest wavelength [um], a number, a Quantity or "18.71 um". Several are fitted together in one window.
    redshift : float, optional
        Redshift; by default ``ds.attrs["redshift"]``, else 0. Velocities are relative to it.
    components : 1, 2, 3 or "auto"
        Gaussians of each line; "auto": 1 or 2 by ``criterion``.
    window : float
        Half width of the window [km/s].
    degree : int
        Of the polynomial of the continuum in the units of the data, 0 to 3.
    resolution : float or callable, optional
        Resolving power, or a function of the wavelength [um]; by default :func:`mrsxr.mrs.resolving_power`. Refused
        where sigma of the instrument is less than 0.2 of a sample (R of 12000 and more on the planes of the detector).
    tie : bool
        Lines of a blend share velocities and dispersions.
    criterion : {"bic", "ftest"}
        Two components are taken where BIC falls by more than ``threshold``, or where the F-test gives p < 0.003, and in
        both cases where, in the brightest line, both have flux above 3 sigma, differ in width by a factor of 1.5 or in
        velocity by 1.5 times the smaller width, no parameter is at a bound and both peaks stand twice above any wave
        of the period of fringes in the residuals.
    threshold : float
        Of BIC.
    noise : {"residual", "given"}
        "residual": errors are scaled to the residuals of the fit, also for data without variances; "given": errors are
        those of the data. Both are multiplied by the square root of the correlation length: that of voxels which share
        detector pixels (:func:`mrsxr.sums.wavelength_correlation`), or of the residuals where theirs is longer.
    absorption : bool
        Lines may be in absorption: the start is the strongest feature of either sign, and components may be negative.
        The flux of a single component may be negative anyway, so that faint lines are not biased.
    exclude : list of (minimum, maximum), optional
        Observed wavelengths [um] to leave out.
    monte_carlo : int
        Number of noisy copies of the model that are fitted for ``flux_err_mc``, ``velocity_err_mc`` and
        ``dispersion_err_mc`` (half of the middle 68 %); 0: none.
    seed : int
        Of these copies; a spaxel has the same ones in any chunk.

    Returns
    -------
    Dataset, level "lines"
        On (line) or (line, y, x), float64, NaN where there is no fit; with the sky coordinates and attrs of the cube.

        ``flux``, ``upper_limit`` [W m-2, of a cube per spaxel], ``velocity``, ``dispersion`` [km/s, without the
        instrument], ``continuum`` [units of the data, at the line], ``ew`` [um, positive in emission], their ``_err``,
        and ``snr`` (flux over its error): of the whole line, the sum, mean and second moment of its components.
        Where no line is, ``snr`` exceeds 3 in 1 of 20 spectra and 4 in 1 of 400, as the velocity is free.

        ``component_flux``, ``component_velocity``, ``component_dispersion``, ``component_width`` [km/s, observed
        sigma] and ``_err`` on (line, component, ...): the brightest component first (of tied lines: in their sum).
        ``n_components``, ``dof``, ``noise_scale`` (factor to the errors), ``correlation`` (length [voxels]), ``chi2``
        (errors as given) and ``bic`` on (line, n_model, ...) for the continuum alone and 1 .. components; ``p_value``
        of the last component that was tried (F-test); ``continuum_poly`` on (line, power, ...).
        ``fit_flags``: 1 S/N below 3, 2 velocity or width at a bound, 4 failed, 8 data in less than 75 % of the window
        or in fewer than two voxels at the line, 16 peak below twice the wave of fringes, 32 observed width below 1.1
        times that of the instrument, 64 samples without errors were used, 128 ambiguous: another solution, its lines or
        components elsewhere, is hardly worse (chi2 within 9, scaled as the errors). Errors then reach to that one
        (those of ``monte_carlo`` do not).

    Raises
    ------
    MrsxrError
        Where the line is unknown or outside the data, the window holds too few wavelengths, or an option is wrong.

    Notes
    -----
    Each component is the mean over the voxel of a Gaussian, by differences of erf: the line spread function spans 1.4
    to 2.4 voxels. The width is free down to 0.7 of the instrument's, since the law of R is good to 10 - 15 %; a width
    below that of the instrument gives the dispersion 0, with an error that reaches to the end of the 1 sigma interval.
    Errors are those of the covariance (J^T J)^-1. Fluxes and continuum are solved linearly at each step (variable
    projection; Golub & Pereyra 1973, SIAM J. Numer. Anal. 10, 413); two components start from six different places.
    The upper limit is 3 sigma at velocity 0 and an intrinsic dispersion of 100 km/s: what noise alone seldom gives, not
    the most that a line may have. A line of just this flux stays below S/N 3 in 6 of 10 spectra, one of 5/3 of it in 1
    of 10, as velocity and width are free. A curved continuum is not in the errors: a bend of half the noise of a voxel
    over the window takes half an error from a line of S/N 20 with ``degree`` 1, nothing with 2, whose errors are a
    tenth larger.

    Measured on simulated lines: flux, velocity and dispersion scatter as their errors say, within 10 % from S/N 5 on,
    of one Gaussian, and of doublets whose lines lie two observed dispersions apart or more; at S/N 3 velocities
    scatter 1.4 times as much. Chi2 of nearer ones has up to three minima: both lines, or one wide line at the place of
    either. The least is taken, negative fluxes (but with ``absorption``) and velocities beyond 250 km/s being less
    likely, and what stands alone (one line above 3 sigma) being taken for the line nearest to the redshift unless chi2
    gains 9; where another is near to it, flag 128. So 1 in 40 velocities of lines 100 - 600 km/s apart is off by more
    than 3 errors, most of them where the fainter line has S/N below 4: give the redshift well. Of lines more than 4
    observed dispersions apart no flag says so.

    Two components of an S/N at which "auto" would not take them scatter up to six times as much as their errors say;
    their sum is good. "auto" takes two of one Gaussian in 1 of 1000 spectra by "bic" and 1 of 200 by "ftest", in 1 of
    60 where neighbouring voxels are correlated and their errors do not tell.

    Examples
    --------
    >>> spectrum = mx.simulate.simulate_spectrum(band="3A")
    >>> fit = mx.lines.fit_line(spectrum, "[Ne II] 12.81", components="auto")
    >>> bool(fit.snr.item() > 10)
    True
    >>> maps = mx.lines.fit_line(cube, "[Fe II] 5.34", redshift=0.0225)
    >>> maps.velocity.dims
    ('line', 'y', 'x')
    """
    options = _options(components, window, degree, criterion, threshold, noise, absorption, monte_carlo, seed)
    lines = find_lines(line)
    groups = [0] * len(lines) if tie else list(range(len(lines)))
    redshift = redshift_of(ds, redshift)
    blend = make_blend(
        ds, lines, redshift=redshift, window=options.window, resolution=resolution, groups=groups, exclude=exclude
    )
    return _fit(ds, [blend], options, redshift)


@step(needs=("spectrum", "cube"), gives="lines")
@reads(window=as_kms)
@parameters_of(fit_line)
def fit_lines(
    ds: xr.Dataset,
    lines: xr.Dataset | Iterable[Line] | None = None,
    *,
    redshift: Redshift | None = None,
    resolution: Resolution = None,
    tie: bool = True,
    exclude: Sequence[Interval] | None = None,
    **parameters: Any,
) -> xr.Dataset:
    """Fit many lines, each in its window, near ones together.

    Parameters
    ----------
    ds : Dataset, level "spectrum" or "cube"
    lines : list of labels or rest wavelengths, or Dataset like :func:`mrsxr.lines.line_list`, optional
        By default all lines of the list that lie in the data, without dust bands. Lines outside the data, or nearer to
        their end than 500 km/s or two FWHM of the instrument, are left out; a note tells of those that were given.
    tie : bool
        Lines of a blend that are nearer than 1000 km/s to the next one share velocities and dispersions.
    redshift, components, window, degree, resolution, criterion, threshold, noise, absorption, exclude, monte_carlo, \
    seed
        As of :func:`fit_line`.

    Returns
    -------
    Dataset, level "lines"
        As of :func:`fit_line`, by rest wavelength. Lines that lie within each other's window are fitted together; the
        coordinate ``blend`` numbers what was. Where bands overlap, a line is taken from the one that reaches farther
        on both of its sides.

    Raises
    ------
    MrsxrError
        Where no line lies in the data, or an option is wrong.

    Examples
    --------
    >>> spectrum = mx.simulate.simulate_spectrum(band="3A")
    >>> fits = mx.lines.fit_lines(spectrum)
    >>> "[Ne II] 12.81" in fits.line
    True
    """
    options = _options(**parameters)
    redshift = redshift_of(ds, redshift)
    wave = ds["wavelength"].values
    low, high = float(wave.min()), float(wave.max())
    table = in_range(line_list(), low, high, redshift)
    wanted = find_lines(table.isel(line=table["kind"].values != "PAH") if lines is None else lines)
    blends = _blends(ds, wanted, redshift, options.window, resolution, tie, exclude)
    held = {label for blend in blends for label in blend.labels}
    if lost := [label for label, _ in wanted if label not in held and not isinstance(lines, xr.Dataset | None)]:
        tell(f"{', '.join(lost)}: outside the data ({low:.3f} to {high:.3f} um, z = {redshift:g}) or too near to their "
             "end; not fitted", aloud=False)  # fmt: skip
    return _fit(ds, blends, options, redshift)


def _blends(
    ds: xr.Dataset, lines: list[tuple[str, float]], redshift: float, window: float, resolution: Any, tie: bool,
    exclude: Any,
) -> list[Blend]:  # fmt: skip
    """Return the blends of the lines that lie in the data; raise where none does."""
    given = {"redshift": redshift, "window": window, "resolution": resolution, "exclude": exclude}
    wanted, first_error = [], None
    for line in lines:
        try:
            make_blend(ds, [line], groups=[0], **given)
            wanted.append(line)
        except ParameterError:
            raise
        except MrsxrError as error:
            first_error = first_error or error
    if not wanted:
        low, high = float(ds["wavelength"].min()), float(ds["wavelength"].max())
        if len(lines) == 1 and first_error is not None:
            raise first_error
        raise MrsxrError(
            f"none of {len(lines)} lines lies in the data, {low:.3f} to {high:.3f} um (z = {redshift:g}); choose "
            "others or another redshift"
        )
    blends = []
    for members, groups in gather_blends(wanted, window, tie):
        try:
            blends.append(make_blend(ds, members, groups=groups, **given))
        except MrsxrError:  # of several bands: no band holds all
            blends.extend(make_blend(ds, [line], groups=[0], **given) for line in members)
    return blends


def _options(
    components: int | str, window: float, degree: int, criterion: str, threshold: float, noise: str, absorption: bool,
    monte_carlo: int, seed: int,
) -> Options:  # fmt: skip
    """Return the checked options."""
    if monte_carlo == 1:
        raise MrsxrError(f"monte_carlo is {monte_carlo!r}; expected 0 or a number of draws of at least 2")
    return Options(components, int(degree), criterion, float(threshold), noise, bool(absorption), int(monte_carlo),
                   int(seed), float(window))  # fmt: skip


def _fit(ds: xr.Dataset, blends: list[Blend], options: Options, redshift: float) -> xr.Dataset:
    """Return the Dataset of level "lines" of some blends."""
    _check_errors(ds, options)
    numbers = xr.Variable.concat([_fit_blend(ds, blend, options) for blend in blends], dim="line")
    variables = _variables(numbers, options, ds["flux"].attrs.get("units", ""))
    out = ds.coords.to_dataset().drop_dims("wavelength").assign(variables)
    flat = [(label, blend, i) for blend in blends for i, label in enumerate(blend.labels)]
    order = np.argsort([blend.rest[i] for _, blend, i in flat], kind="stable")
    number = {id(blend): i for i, blend in enumerate(blends)}
    coords: dict[str, Any] = {
        "line": np.array([label for label, _, _ in flat]),
        "wavelength_rest": ("line", [b.rest[i] for _, b, i in flat], _attrs("um", "rest wavelength in vacuum")),
        "band": ("line", np.array([b.band for _, b, _ in flat]), {"long_name": "band of the line"}),
        "instrument_dispersion": ("line", [b.inst[i] for _, b, i in flat],
                                  _attrs("km/s", "dispersion of the instrument, sigma")),
        "blend": ("line", [number[id(b)] for _, b, _ in flat], _attrs("1", "lines of one number were fitted together")),
        "window_middle": ("line", [b.middle for _, b, _ in flat], _attrs("um", "middle of the window")),
        "window_half": ("line", [b.half for _, b, _ in flat], _attrs("um", "half width of the window")),
        "component": np.arange(1, options.most + 1),
        "n_model": np.arange(options.most + 1),
        "power": np.arange(options.degree + 1),
    }  # fmt: skip
    attrs = {"redshift": redshift, "window": options.window, "degree": options.degree, "noise": options.noise,
             "components": str(options.components), "criterion": options.criterion,
             "absorption": int(options.absorption)}  # fmt: skip
    out = out.assign_coords(coords).isel(line=order)
    return out.assign_attrs(attrs | (facts_of(ds) if ds.attrs["level"] == "cube" else {}))


def _check_errors(ds: xr.Dataset, options: Options) -> None:
    """Say that a spectrum in memory has no errors at all; raise where they are asked for."""
    var = ds["var"].variable.data
    if isinstance(var, da.Array) or bool((np.isfinite(var) & (var > 0)).any()):
        return
    if options.noise == "given":
        raise MrsxrError("the data have no errors; noise 'given' needs them, take noise 'residual'")
    tell("the data have no errors: those of the lines are from the scatter of the residuals", stacklevel=4)


def _attrs(unit: str, meaning: str) -> dict[str, str]:
    return {"units": unit, "long_name": meaning}


def _fit_blend(ds: xr.Dataset, blend: Blend, options: Options) -> xr.Variable:
    """Return the numbers of a blend on (line, number, [y, x])."""
    part = {"wavelength": slice(blend.first, blend.last)}
    flux, var, dq = (xr.DataArray(ds[name].variable.isel(part)) for name in ("flux", "var", "dq"))
    dims = tuple(str(d) for d in flux.dims if d != "wavelength")
    sizes = [flux.sizes[d] for d in dims]
    number = xr.DataArray(np.arange(int(np.prod(sizes, dtype=int))).reshape(sizes), dims=dims)
    arrays = [flux, var, (dq & np.uint32(DO_NOT_USE)) != 0]
    if any(isinstance(a.variable.data, da.Array) for a in arrays):
        rows = {"y": max(1, SPECTRA_PER_BLOCK // max(flux.sizes["x"], 1)), "x": -1} if "y" in dims else {}
        arrays = [a.chunk({"wavelength": -1, **rows}) for a in arrays]
        number = number.chunk(rows)
    sizes_out = {"line": len(blend.labels), "number": columns(options)["continuum_poly"].stop}
    found = xr.apply_ufunc(
        fit_block, *arrays, number, kwargs={"blend": blend, "options": options},
        input_core_dims=[["wavelength"]] * 3 + [[]], output_core_dims=[["line", "number"]], dask="parallelized",
        output_dtypes=["float64"], dask_gufunc_kwargs={"output_sizes": sizes_out},
    )  # fmt: skip
    return found.variable.transpose("line", "number", *dims)


def _variables(numbers: xr.Variable, options: Options, unit: str) -> dict[str, xr.Variable]:
    """Return the variables that the numbers of lines are."""
    kinds = {"fit_flags": "uint8", "n_components": "int8", "dof": "int16"}
    second = {"chi2": "n_model", "bic": "n_model", "continuum_poly": "power"}
    second |= dict.fromkeys(COMPONENT_VALUES, "component")
    out = {}
    for name, place in columns(options).items():
        if name in second:
            variable = numbers.isel(number=place)
            variable = xr.Variable(("line", second[name], *variable.dims[2:]), variable.data)
        else:
            variable = numbers.isel(number=place.start).astype(kinds.get(name, "float64"))
        variable.attrs = _describe(name, unit)
        out[name] = variable
    return out


def _describe(name: str, unit: str) -> dict[str, Any]:
    """Return units and meaning of a variable."""
    stem = name.removesuffix("_mc").removesuffix("_err").removeprefix("component_")
    attrs: dict[str, Any] = dict(_attrs(_UNITS.get(stem, "1"), _MEANING[stem]))
    if stem in ("continuum", "continuum_poly"):
        attrs["units"] = unit
    if name.startswith("component_"):
        attrs["long_name"] = attrs["long_name"].replace("the line", "a component") + ", the brightest component first"
    if "_err" in name:
        attrs["long_name"] = "error of: " + attrs["long_name"] + (" (Monte Carlo)" if name.endswith("_mc") else "")
    if name == "fit_flags":
        attrs |= {"flag_masks": np.array(list(FLAGS.values()), dtype=np.uint8), "flag_meanings": " ".join(FLAGS)}
    return attrs
