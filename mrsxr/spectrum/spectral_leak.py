"""Step spectral_leak: second-order light of 6.1 um that falls on 12.2 um."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.attributes import share_done
from mrsxr.errors import MrsxrError
from mrsxr.limits import Ref
from mrsxr.notes import tell
from mrsxr.references.leak import holds_band, leak_fraction, samples_of
from mrsxr.step import step

LEAKING, LEAKED = "1B", "3A"
#: Data and the variance that goes with them; those that a spectrum lacks are left out.
_VALUES = (
    ("flux", "var"), ("surface_brightness", "surface_brightness_var"),
    ("rf_flux", None), ("rf_surf_bright", None),
)  # fmt: skip
_MUCH = 0.05  # of the most that leaks, where it is told that the light of band 1B is not known
#: Surface brightness and the flux over the same area.
_PAIRS = [("surface_brightness", "flux"), ("rf_surf_bright", "rf_flux")]


@step(
    needs="spectrum",
    jwst="spectral_leak",
    keyword="S_SPLEAK",
    once="spectral_leak",
    without={"mrsptcorr": "the spectral leak 1B to 3A stays"},
)
def correct_spectral_leak(
    ds: xr.Dataset, *, leaking: xr.Dataset, mrsptcorr: Ref, in_cube: bool | None = None
) -> xr.Dataset:
    """Subtract from the spectrum of band 3A what leaks in from band 1B in the second order.

    Parameters
    ----------
    ds : Dataset, level "spectrum"
        Of band 3A, alone or among others (of a joint cube); spectra of other bands are returned as they are.
        ``flux`` [Jy], ``surface_brightness`` [MJy/sr] and their variances on (wavelength [um]).
    leaking : Dataset, level "spectrum"
        Of band 1B, alone or among others, of the same source and extracted alike (both POINT or both EXTENDED). Samples
        flagged DO_NOT_USE do not count; a note says where its light ends before the leak does.
    mrsptcorr : Dataset, kind "mrsptcorr"
        ``frac_leak``, ``err_leak`` (wavelength [um]).
    in_cube : bool, optional
        The light was taken off the cube already (:func:`mrsxr.cube.correct_spectral_leak_cube`), by default as the
        history says: only its variance is added, of which the errors of voxels hold too little, as the fraction errs
        alike in all of them.

    Returns
    -------
    Dataset, level "spectrum"
        Corrected, with the variances of the subtracted spectrum and of the fraction added; ``leak`` (wavelength) [Jy]
        is what was subtracted from ``flux``, here or in the cube. As it is, with a note, where ``leaking`` has no good
        sample.

    Raises
    ------
    MrsxrError
        Where ``leaking`` is of another band or another source type, or the leak is off this spectrum already.
    ReferenceFileError
        Where the reference file has no leak table, or one whose fractions are none.

    Notes
    -----
    F_3A -= F_1B(wavelength / 2) frac_leak(wavelength), as jwst's spectral_leak; variance += (frac_leak err_1B)^2 +
    (F_1B err_leak)^2, which jwst leaves out, and surface brightness is corrected by that of band 1B. jwst skips
    EXTENDED spectra. What depends on the area, surface brightness of a POINT and flux of EXTENDED light, is corrected
    by the other over the area of band 3A. Reference-file type MRSPTCORR, table LEAKCOR; what its fraction is of:
    :mod:`mrsxr.references.leak`.

    Examples
    --------
    >>> leaking, ds = mx.simulate.simulate_spectrum(band="1B"), mx.simulate.simulate_spectrum(band="3A")
    >>> out = mx.spectrum.correct_spectral_leak(ds, leaking=leaking, mrsptcorr=refs.get("mrsptcorr", cal))
    >>> out.leak.attrs["units"]
    'Jy'
    """
    if not holds_band(ds, LEAKED):
        return ds
    if not holds_band(leaking, LEAKING):
        raise MrsxrError(f"the leaking spectrum is of band {leaking.attrs.get('band')}; expected {LEAKING}")
    kinds = [str(one.attrs.get("source_type")) for one in (ds, leaking)]
    if kinds[0] != kinds[1]:
        raise MrsxrError(f"spectra of bands {LEAKED} and {LEAKING} are {kinds[0]} and {kinds[1]}; extract them alike")
    good = samples_of(leaking, LEAKING) & flags.good(leaking["flux"].values, leaking["dq"].values)
    leaking = leaking.isel(wavelength=good).sortby("wavelength")
    if not good.any():
        tell(f"band {LEAKING} has no good sample: its light of the second order stays in {LEAKED}", stacklevel=3)
        return ds
    in_cube = bool(share_done(ds, "spectral_leak_cube")) if in_cube is None else in_cube
    here = samples_of(ds, LEAKED)
    fraction, spread = (
        xr.DataArray(part * here, dims="wavelength") for part in leak_fraction(ds.wavelength.values, mrsptcorr)
    )
    _tell_of_ends(ds.wavelength.values[fraction > _MUCH * fraction.max()], leaking.wavelength.values)
    out = {}
    for name, variance in _VALUES:
        if name not in ds or name not in leaking:
            continue
        source, area = _source_of(name, ds, leaking)
        light = doubled(leaking[source], ds.wavelength) * area
        if not in_cube:
            out[name] = (ds[name] - light * fraction).assign_attrs(ds[name].attrs)
        if name == "flux":
            attrs = {"units": ds[name].attrs.get("units"), "long_name": "subtracted light of the second order"}
            out["leak"] = (light * fraction).assign_attrs(attrs)
        if variance is not None:
            more = doubled(leaking[dict(_VALUES)[source]], ds.wavelength) * (fraction * area) ** 2
            out[variance] = (ds[variance] + more + (light * spread) ** 2).assign_attrs(ds[variance].attrs)
    return ds.assign(out)


def _source_of(name: str, ds: xr.Dataset, leaking: xr.Dataset) -> tuple[str, xr.DataArray | float]:
    """Return which values of band 1B are subtracted, and what makes them those of band 3A.

    The flux of a POINT and the surface brightness of EXTENDED light do not depend on the area; the other follows over
    the area of band 3A, in Jy per MJy/sr.
    """
    point = str(ds.attrs.get("source_type")) == "POINT"
    source = dict(_PAIRS if point else [pair[::-1] for pair in _PAIRS]).get(name)
    if source not in leaking or source not in ds or "n_pixels" not in ds or "pixel_area_sr" not in ds.attrs:
        return name, 1.0
    area = xr.DataArray(ds["n_pixels"].values, dims="wavelength") * float(ds.attrs["pixel_area_sr"]) * 1e6
    return str(source), 1.0 / area if point else area


def _tell_of_ends(leaks: np.ndarray, given: np.ndarray) -> None:
    """Tell of the wavelengths [um] where light leaks that band 1B, whose good samples are given, does not reach."""
    step = np.max(np.diff(given), initial=0.0)
    beyond = leaks[(leaks < 2.0 * (given[0] - step)) | (leaks > 2.0 * (given[-1] + step))]
    if beyond.size:
        tell(
            f"the good samples of band {LEAKING} end at {given[0]:.3f} and {given[-1]:.3f} um: what leaks into "
            f"{LEAKED} at {beyond.min():.2f} to {beyond.max():.2f} um is that of their ends",
            aloud=False,
        )


def doubled(values: xr.DataArray, wavelength: xr.DataArray) -> xr.DataArray:
    """Return values of band 1B at half of the wavelengths [um]; beyond its ends the value there, as in jwst."""
    good = np.isfinite(values.values)
    if not good.any():  # of a variance or a column beside the flux
        return xr.DataArray(np.full(wavelength.size, np.nan), dims="wavelength")
    found = np.interp(wavelength.values, 2.0 * values.wavelength.values[good], values.values[good])
    return xr.DataArray(found, dims="wavelength")
