"""Step photom: slopes to surface brightness."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.blocks import map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.geometry.sky import SPEED_OF_LIGHT
from mrsxr.limits import NotNegative, Ref
from mrsxr.schema import VARIANCES, units_of
from mrsxr.step import step
from mrsxr.threads import how

from ._invalid import apply_factor, reference_images

DAYS_OF_YEAR = 365.0
COLUMNS = {1: (0, 512), 2: (512, 1031), 3: (512, 1031), 4: (0, 512)}  # of the time law in jwst

_KEYWORDS = ("photmjsr", "pixar_sr", "pixar_a2", "crds_context")  # for the header of the product


@step(needs="rate", gives="cal", jwst="photom", keyword="S_PHOTOM")
def calibrate_flux(
    ds: xr.Dataset,
    *,
    photom: Ref,
    apply_time_correction: bool = True,
    barycentric_time_law: bool = True,
    propagate_errors: bool = False,
    time_law_error: NotNegative = 0.0,
) -> xr.Dataset:
    """Multiply slopes by the flux conversion and undo the loss of throughput with time.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], variances [DN2/s2]; ``wavelength`` [um] and ``mid_time`` [MJD] where a time law is used.
    photom : Dataset, kind "photom"
        ``conversion`` [MJy/sr per DN/s], ``pixel_area`` [arcsec2], ``dq``; the time law where the file has one;
        ``conversion_err`` with ``propagate_errors``.
    apply_time_correction : bool
        Divide by the throughput at the time of the exposure.
    barycentric_time_law : bool
        Look the throughput up at the barycentric wavelength, as jwst does. False: at the wavelength that the
        instrument sees, whose loss it is; they differ by up to 1e-4 of the wavelength.
    propagate_errors : bool
        Add ``var_photom`` [MJy2/sr2] = flux^2 times the relative variance of the conversion and of the time law, which
        jwst leaves out. It is common to all pixels and no part of their scatter (:data:`mrsxr.schema.SCATTER`).
    time_law_error : float
        Standard error of the lost share 1 - C of the throughput, relative to it; the files tell none.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` [MJy/sr], the variances [MJy2/sr2], ``dq``; NaN and DO_NOT_USE where the conversion is NaN, infinite
        or 0, so everywhere between the slices.

    Raises
    ------
    ReferenceFileError
        Where the photom reference is missing, of another kind, detector, band or shape, or has no error to propagate.
    MrsxrError
        Where a time law is asked for before assign_wcs, or the error of the time law is negative.

    Notes
    -----
    As jwst's photom, which takes a conversion of 0 for a flux of 0, and which with ``inverse`` divides by the
    throughput all the same; there is no such option here. Throughput
    ``C = min(1, year1value ((d + tsoft)/(365 + tsoft))^alpha)``, d = days since t0, at each wavelength bin; linear in
    between and beyond (Law et al. 2025). Reference-file type PHOTOM.

    Examples
    --------
    >>> located = mx.cal.assign_wcs(rate, distortion=refs.get("distortion", rate), specwcs=refs.get("specwcs", rate))
    >>> cal = mx.cal.calibrate_flux(located, photom=refs.get("photom", rate))
    >>> cal.attrs["level"], cal.flux.attrs["units"]
    ('cal', 'MJy/sr')
    """
    from ._scale_kernels import photom_factor

    names = ["conversion", "dq", "pixel_area", *(["conversion_err"] if propagate_errors else [])]
    conversion, flags, area, *error = reference_images(ds, photom, "photom", names)
    inputs: list[xr.DataArray] = [conversion, *error]
    core: list[list[str]] = [[] for _ in inputs]
    use_law = apply_time_correction and "time_alpha" in photom
    if use_law:
        inputs += _time_law(ds, photom, barycentric_time_law)
        core += [[], [], ["side", "bin"], ["side", "bin"], []]
    factor, relative = map_ramps(
        photom_factor, *inputs, core=core, out_core=[[], []], dtypes=["float32", "float32"],
        loss_error=float(time_law_error), error=propagate_errors, law=use_law,
    )  # fmt: skip
    if "var_flat" not in ds:
        ds = ds.assign(var_flat=xr.zeros_like(ds.variables["var_read"]))
    out = apply_factor(
        ds, "rate", factor, flags=flags, match=True,
        relative=relative if propagate_errors else None, variance="var_photom" if propagate_errors else None,
    ).rename(rate="flux")  # fmt: skip
    out["flux"].attrs["units"] = units_of("cal", "flux")
    for variance in (v for v in VARIANCES if v in out):
        out[variance].attrs["units"] = units_of("cal", "var_poisson")
    kept = {key: photom.attrs[key] for key in _KEYWORDS if key in photom.attrs}
    area = area.astype("float32").compute(**how()).assign_attrs(units="arcsec2")
    return out.assign_coords(pixel_area=area).assign_attrs(kept)


def throughput(ds: xr.Dataset, photom: xr.Dataset, *, barycentric: bool = True) -> xr.DataArray:
    """Return the throughput of each pixel at the time of each exposure, (dither, y, x), 1 where unknown.

    Parameters
    ----------
    ds : Dataset, level "rate" or "cal"
        With ``wavelength`` and ``mid_time``.
    photom : Dataset, kind "photom"
        With a time law.
    barycentric : bool
        As ``barycentric_time_law`` of :func:`calibrate_flux`.
    """
    from mrsxr.compiled import read_only

    from ._scale_kernels import throughput_at

    wavelength, side, bins, values, doppler = (a.values for a in _time_law(ds, photom, barycentric))
    out = np.empty((ds.sizes["dither"], *wavelength.shape))
    wavelength, values = read_only(wavelength, values[..., 0, 0])
    for d in range(ds.sizes["dither"]):
        throughput_at(wavelength, side[0], bins[..., 0, 0] / doppler[d, 0, 0], values[d], out[d])
    return xr.DataArray(out, dims=("dither", "y", "x"))


def _time_law(ds: xr.Dataset, photom: xr.Dataset, barycentric: bool) -> list[xr.DataArray]:
    """Return wavelength, side of each column, wavelength bins and throughput there, and 1 / Doppler shift.

    Bins divided by the last are their wavelengths before the barycentric correction.
    """
    if "wavelength" not in ds.coords:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: assign_wcs must run before the time law of photom")
    channels = [int(c) for c in ds.attrs["channels"]]
    x, days = ds.x.values, ds.mid_time.values
    side = np.full(x.size, -1)
    length = photom.sizes["time_bin"]
    bins, values = np.full((2, length), np.nan), np.full((days.size, 2, length), np.nan)
    for number, channel in enumerate(channels):
        first, last = COLUMNS[channel]
        side[(x >= first) & (x < last)] = number
        law = photom[[f"time_{n}" for n in ("wavelength", "alpha", "year1value", "tsoft", "t0")]]
        law = law.sel(channel=channel).compute(**how())
        order = np.argsort(law.time_wavelength.values)[: int(np.isfinite(law.time_wavelength.values).sum())]
        law = law.isel(time_bin=order)
        bins[number, : order.size] = law.time_wavelength.values
        for d, day in enumerate(days):
            values[d, number, : order.size] = _law_at_bins(law, float(day))
    shift = np.ones(days.size)
    if barycentric:
        velocity = np.nan_to_num(ds.velosys.values.astype(float))
        shift = 1.0 / (1.0 + velocity / SPEED_OF_LIGHT)
    return [
        frame_coordinate(ds, "wavelength"),
        xr.DataArray(side[None], dims=("y", "x")),
        xr.DataArray(bins[..., None, None], dims=("side", "bin", "y", "x")),
        xr.DataArray(values[..., None, None], dims=("dither", "side", "bin", "y", "x")),
        xr.DataArray(shift[:, None, None], dims=("dither", "y", "x")),
    ]


def _law_at_bins(law: xr.Dataset, day: float) -> np.ndarray:
    """Return the throughput at the wavelength bins on a day [MJD]; 1 before the law begins."""
    soft, alpha, first_year, start = (law[f"time_{n}"].values.astype(float) for n in ("tsoft", "alpha", "year1value",
                                                                                      "t0"))  # fmt: skip
    since = day - start + soft
    base = np.where(since > 0, since, 1.0) / (DAYS_OF_YEAR + soft)
    return np.where(since > 0, np.minimum(first_year * base**alpha, 1.0), 1.0)
