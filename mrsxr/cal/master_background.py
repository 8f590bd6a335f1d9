"""Step master_background: subtract a background spectrum that was measured on other exposures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr

from mrsxr.arguments import as_bands, reads
from mrsxr.blocks import map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.geometry.sky import barycentric
from mrsxr.limits import Band
from mrsxr.mrs import bands_of_setting
from mrsxr.notes import tell
from mrsxr.step import step

from .background import has_background_subtracted


@step(needs="cal", jwst="master_background", keyword="S_MSBSUB")
@reads(bands=as_bands)
def subtract_master_background(
    ds: xr.Dataset,
    *,
    background: xr.Dataset,
    bands: Sequence[Band] | None = None,
    outside: Literal["zero", "edge"] = "zero",
    propagate_errors: bool = False,
) -> xr.Dataset:
    """Subtract a background spectrum, the same at every place of the field.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr] (dither, y, x) with slice coordinates.
    background : Dataset, level "spectrum"
        ``background`` [MJy/sr] against ``wavelength`` [um], coordinate ``band``: what
        ``spectrum.extract_spectrum`` measures on a cube of background exposures (EXTENDED), or ``combine_backgrounds``
        makes of several. Where that has mixed the bands, all its samples serve every band.
    bands : sequence of str, optional
        Subtract in these bands only; by default in both of the setting.
    outside : {"zero", "edge"}
        What is subtracted beyond the ends of the spectrum: nothing, as jwst, or its end values.
    propagate_errors : bool
        Add the variance ``background_var`` of the spectrum to ``var_background``; jwst leaves the errors as they are.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` less the spectrum, interpolated linearly in wavelength; with ``propagate_errors`` also
        ``var_background`` [MJy2/sr2], common to all pixels of a wavelength. ``attrs["master_background"] = 1``.

    Raises
    ------
    MrsxrError
        Where the pixels have no wavelengths yet, a band has no background, or one was subtracted before, as spectrum
        or pixel by pixel.
    """
    setting = ds.attrs.get("setting", "")
    if "wavelength" not in ds.coords:
        raise MrsxrError(f"setting {setting}: assign_wcs must run before the background is subtracted")
    if ds.attrs.get("master_background"):
        raise MrsxrError(f"setting {setting}: a master background was subtracted already")
    if ds.attrs.get("field_background"):
        raise MrsxrError(f"setting {setting}: a background over the field was subtracted already; use that or this one")
    if has_background_subtracted(ds):
        raise MrsxrError(
            f"setting {setting}: the background was subtracted pixel by pixel already; use that or the master "
            "background"
        )
    names = ["background", "background_var"] if propagate_errors else ["background"]
    if names[-1] not in background:
        raise MrsxrError(f"setting {setting}: the background spectrum has no '{names[-1]}'; leave propagate_errors out")
    wanted = bands_of_setting(setting) if bands is None else bands
    spectra = {int(band[0]): _spectrum_of(background, band, setting) for band in wanted}
    if not any(one.background.values.any() for one in spectra.values()):
        tell(f"setting {setting}: the background spectrum is zero at all its wavelengths; nothing is subtracted")
        return ds
    velosys = xr.DataArray(ds.velosys.values[:, None, None], dims=("dither", "y", "x"))
    samples = {c: (one.wavelength.values, [one[name].values for name in names]) for c, one in spectra.items()}
    flux, *variance = map_ramps(
        subtract_spectrum, xr.DataArray(ds.flux.variable), frame_coordinate(ds, "wavelength"),
        frame_coordinate(ds, "channel"), velosys, core=[[]] * 4, out_core=[[]] * len(names),
        dtypes=["float32"] * len(names), samples=samples, ends=0.0 if outside == "zero" else None,
    )  # fmt: skip
    out = {"flux": flux.variable}
    out["flux"].attrs = dict(ds.flux.attrs)
    if propagate_errors:
        known = ds.var_background if "var_background" in ds else xr.zeros_like(ds.flux)
        spread = (known + variance[0]).where(ds.flux.notnull())
        out["var_background"] = spread.assign_attrs(units="MJy2/sr2")
    return ds.assign(out).assign_attrs(master_background=1)


def subtract_spectrum(flux, wavelength, channel, velosys, *, samples, ends):
    """Return frames less a spectrum [MJy/sr] and, where there is one, its variance, float32 (dither, y, x).

    Parameters
    ----------
    flux : (dither, y, x)
    wavelength, channel : (y, x)
        As observed [um].
    velosys : (dither, 1, 1) [m/s]
        Takes the wavelengths to the barycentre.
    samples : dict of channel to (wavelengths, [spectrum, variance if any])
    ends : float or None
        Value beyond the ends of the spectrum, None for its end values.
    """
    n = max(len(values) for _, values in samples.values())
    levels = np.zeros((n, *flux.shape), dtype=np.float32)
    for number, (places, values) in samples.items():
        inside = channel == number
        for d, velocity in enumerate(velosys[:, 0, 0]):
            at = barycentric(wavelength[inside], velocity)
            for level, one in zip(levels, values, strict=True):
                level[d][inside] = np.interp(at, places, one, left=ends, right=ends)
    return (flux - levels[0], *levels[1:]) if n > 1 else flux - levels[0]


def _spectrum_of(background: xr.Dataset, band: str, setting: str) -> xr.Dataset:
    """Return the samples that serve a band: those of the band, or all where bands were mixed."""
    known = background.background.notnull().values
    if not background.attrs.get("mixed_bands"):
        known = known & (background.band == band).values
    one = background.isel(wavelength=known)
    if one.sizes["wavelength"] < 2:
        raise MrsxrError(f"setting {setting}: the background spectrum has no valid sample in band {band}")
    return one
