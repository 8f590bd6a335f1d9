"""Step master_background: subtract a background spectrum that was measured on other exposures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.geometry.sky import barycentric
from mrsxr.mrs import bands_of_setting
from mrsxr.step import step

from .background import has_background_subtracted


@step(needs="cal")
def subtract_master_background(
    ds: xr.Dataset, *, background: xr.Dataset, bands: Sequence[str] | None = None
) -> xr.Dataset:
    """Subtract a background spectrum, the same at every place of the field.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr] (dither, y, x) with slice coordinates.
    background : Dataset, level "spectrum"
        ``background`` [MJy/sr] against ``wavelength`` [um], coordinate ``band``: what
        ``spectrum.extract_spectrum`` measures on a cube of background exposures (EXTENDED).
    bands : sequence of str, optional
        Subtract in these bands only; by default in both of the setting.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` less the spectrum, interpolated linearly in wavelength band by band; beyond the ends of the
        spectrum its end values. The errors stay as they are, as in jwst. ``attrs["master_background"] = 1``.

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
    if has_background_subtracted(ds):
        raise MrsxrError(
            f"setting {setting}: the background was subtracted pixel by pixel already; use that or the master "
            "background"
        )
    planes = np.zeros((ds.sizes["dither"], ds.sizes["y"], ds.sizes["x"]), dtype=np.float32)
    channel = ds.channel.values
    for band in bands_of_setting(setting) if bands is None else bands:
        one = background.isel(wavelength=(background.band == band).values & background.background.notnull().values)
        if one.sizes["wavelength"] < 2:
            raise MrsxrError(f"setting {setting}: the background spectrum has no valid sample in band {band}")
        inside = channel == int(band[0])
        wavelength = ds.wavelength.values[inside]
        for d, velosys in enumerate(ds.velosys.values):
            planes[d][inside] = np.interp(
                barycentric(wavelength, velosys), one.wavelength.values, one.background.values
            )
    level = xr.DataArray(planes, dims=("dither", "y", "x"))
    if ds.flux.chunks:
        level = level.chunk(dict(zip(ds.flux.dims, ds.flux.chunks, strict=True)))  # type: ignore[arg-type]
    return ds.assign(flux=(ds.flux - level).assign_attrs(ds.flux.attrs)).assign_attrs(master_background=1)
