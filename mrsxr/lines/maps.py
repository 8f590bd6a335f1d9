"""What is done with line maps: masks by signal to noise, ratios of lines."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.geometry.overlap import same_sky
from mrsxr.limits import LineName, NotNegative, checked
from mrsxr.schema import LINE_LIMITS, is_measured
from mrsxr.step import join_histories, read_history, recorded

from .linelist import find_line, held


@reads()
@checked
def mask_maps(
    maps: xr.Dataset, *, snr: NotNegative = LINE_LIMITS["flux"], velocity: NotNegative = LINE_LIMITS["velocity"],
    dispersion: NotNegative = LINE_LIMITS["dispersion"],
) -> xr.Dataset:  # fmt: skip
    """Blank what is too faint to be believed: NaN where the signal to noise is below a limit.

    Parameters
    ----------
    maps : Dataset
        Fits of lines (level "lines"), of maps or of spectra, or moments (level "moments"): ``snr`` and any of the
        variables below.
    snr : float
        Limit for ``flux``, ``ew``, ``component_flux``, ``moment0``. Of fits of spaxels without a line 1 in 20 passes 3
        by chance, 1 in 400 passes 4, as their velocity is free.
    velocity : float
        Limit for ``velocity``, ``component_velocity``, ``moment1``.
    dispersion : float
        Limit for ``dispersion``, ``component_dispersion``, ``component_width``, ``moment2``.

    Returns
    -------
    Dataset
        The same with NaN there, in the errors too. Components must reach the limits with their own flux as well. Values
        of failed fits (``fit_flags`` bit 4) are NaN, and velocities and widths where one of them is at the limit of
        what was allowed (bit 2). Ambiguous ones (bit 128) stay, as their errors reach to the other solution. Upper
        limits, continuum and statistics stay. Fits with ``absorption`` count by the absolute signal to noise.

    Raises
    ------
    MrsxrError
        Where there is no ``snr``.

    Notes
    -----
    The limits 3, 5 and 8 are usual practice: a velocity needs more signal than a flux, a width more than a velocity.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> good = mx.lines.mask_maps(mx.lines.fit_line(disc, "[Ne II] 12.81"), snr=5)
    """
    if "snr" not in maps:
        raise MrsxrError("the maps have no 'snr'; expected the result of fit_lines or moments")
    limits = {"flux": snr, "velocity": velocity, "dispersion": dispersion}
    out = {}
    for name in map(str, maps.data_vars):
        kept = is_measured(maps, name, limits)
        if kept is not None:
            out[name] = maps[name].where(kept).transpose(*maps[name].dims).assign_attrs(maps[name].attrs)
    return recorded(maps, maps.assign(out), "lines.mask_maps", snr=snr, velocity=velocity, dispersion=dispersion)


@reads()
@checked
def line_ratio(
    maps: xr.Dataset, numerator: LineName, denominator: LineName, *, snr: NotNegative = 3.0,
    denominator_maps: xr.Dataset | None = None,
) -> xr.Dataset:  # fmt: skip
    """Return the ratio of the fluxes of two lines and its error.

    Parameters
    ----------
    maps : Dataset
        Fits of lines on (line, ...), of maps or of a spectrum; or moments of one line.
    numerator, denominator : str, float or Quantity
        Label of the line, a name that is unique in ``maps`` ("[O IV]"), or rest wavelength [um].
    snr : float
        Both lines must reach it, else the ratio is NaN.
    denominator_maps : Dataset, optional
        Where the second line is, if not in ``maps``: on the same sky grid.

    Returns
    -------
    Dataset
        ``ratio`` and ``ratio_err`` [1] on the dims of a map, and ``lower_limit`` and ``upper_limit`` [1] where only the
        numerator or only the denominator is seen: the line that is not seen is taken as ``snr`` times its error.

    Raises
    ------
    MrsxrError
        Where a line is missing, or the maps lie on different sky grids.

    Notes
    -----
    sigma_r / r = sqrt((sigma_a / a)^2 + (sigma_b / b)^2), both lines independent. Ratios of bands are honest where both
    cubes have one PSF, see :func:`mrsxr.cube.match_psf`.

    Examples
    --------
    >>> fits = mx.lines.fit_lines(mx.simulate.simulate_spectrum(band="3A"))
    >>> ratio = mx.lines.line_ratio(fits, "H2 S(2) 12.28", "[Ne II] 12.81")
    >>> bool(0 < ratio.ratio < 1)
    True
    """
    other = maps if denominator_maps is None else denominator_maps
    (a, a_err, a_label), (b, b_err, b_label) = _flux_of(maps, numerator), _flux_of(other, denominator)
    if "y" in a.dims and not same_sky(maps, other):
        raise MrsxrError(
            f"{a_label} ({_size(a)} spaxels) and {b_label} ({_size(b)}) lie on different sky grids; bring one onto the "
            "other first: regrid(maps, like=other_maps), before the fit match_psf and regrid the cube"
        )
    a, a_err, b, b_err = (v.drop_vars([n for n, c in v.coords.items() if c.ndim == 0]) for v in (a, a_err, b, b_err))
    if "y" in a.dims:  # one grid to rounding: take the coordinates of the first
        b, b_err = (a.copy(data=v.transpose(*a.dims).data) for v in (b, b_err))
    seen_a, seen_b = a >= snr * a_err, b >= snr * b_err
    error_known = np.isfinite(a_err) & np.isfinite(b_err) & (a_err > 0) & (b_err > 0)
    ratio = a / b
    both = seen_a & seen_b & error_known
    spread = ((a_err / b) ** 2 + (ratio * b_err / b) ** 2) ** 0.5
    text = f"{a_label} / {b_label}"
    out = xr.Dataset(
        {
            "ratio": ratio.where(both).assign_attrs(units="1", long_name=text),
            "ratio_err": spread.where(both).assign_attrs(units="1", long_name=f"error of {text}"),
            "lower_limit": (a / (snr * b_err)).where(seen_a & ~seen_b & error_known)
            .assign_attrs(units="1", long_name=f"lower limit of {text}"),
            "upper_limit": (snr * a_err / b).where(~seen_a & seen_b & error_known)
            .assign_attrs(units="1", long_name=f"upper limit of {text}"),
        },
        attrs={k: v for k, v in maps.attrs.items() if k not in ("history_json", "band")},
    ).assign_attrs(level="line_ratio", numerator=a_label, denominator=b_label)  # fmt: skip
    made_of = {"numerator": read_history(maps), "denominator": read_history(other)}
    both_histories = maps.assign_attrs(history_json=json.dumps(join_histories(made_of)))
    return recorded(both_histories, out, "lines.line_ratio", numerator=a_label, denominator=b_label, snr=snr)


def _flux_of(maps: xr.Dataset, line: LineName) -> tuple[xr.DataArray, xr.DataArray, str]:
    """Return flux, its error and the label of one line."""
    if "moment0" in maps:
        label = str(maps["line"].values) if "line" in maps.coords else "the line"
        wanted = find_line(line)
        if "wavelength_rest" in maps.coords and abs(float(maps["wavelength_rest"]) / wanted[1] - 1.0) > 1e-4:
            raise MrsxrError(f"the moments are of {label}; expected {wanted[0]}")
        return maps["moment0"], maps["moment0_err"], label
    if "flux" not in maps or "flux_err" not in maps or "line" not in maps["flux"].dims:
        raise MrsxrError("the maps have no 'flux' and 'flux_err' on 'line'; expected the result of fit_lines, moments")
    labels = [str(label) for label in maps["line"].values]
    hits = held(line, labels, maps["wavelength_rest"].values if "wavelength_rest" in maps.coords else ())
    if len(hits) != 1:
        found = "is not in the maps" if not hits else "stands for several lines"
        raise MrsxrError(f"{line!r} {found}; expected one of {', '.join(labels)}")
    k = hits[0]
    return maps["flux"].isel(line=k), maps["flux_err"].isel(line=k), labels[k]


def _size(flux: xr.DataArray) -> str:
    return " x ".join(str(flux.sizes[d]) for d in ("y", "x") if d in flux.dims)
