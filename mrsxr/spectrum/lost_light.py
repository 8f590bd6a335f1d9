"""What a spectrum lacks: light of the aperture without data or saturated, a background without room, errors."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.arguments import reads
from mrsxr.notes import listen, noted, tell

from .aperture import circle_shares
from .profile import CORE, WING, WING_SHARE, Profile, Psf, expected

#: Part of the light (POINT) or of the area (EXTENDED) of an aperture from which on a sample is flagged.
FLAGGED = 0.01
#: From which on it is NaN: of the light of a point source, of the area of extended light, of what a profile makes up.
LOST = {"POINT": 0.2, "EXTENDED": 0.5, "optimal": 0.5}
#: The same for the area of an annulus that is subtracted.
ANNULUS_FLAGGED, ANNULUS_LOST = 0.5, 0.9
DO_NOT_USE, SATURATED = flags.DO_NOT_USE, flags.SATURATED
_FEW = 0.01  # of the samples: what a few of them lack is noted without a warning
FLUX_ESTIMATED = flags.FLAGS["FLUX_ESTIMATED"]


def state_of(flux: np.ndarray, weight: np.ndarray, dq: np.ndarray) -> np.ndarray:
    """Return uint8 of the voxels: 0 no data (not finite, DO_NOT_USE or weight 0), 1 good, 2 saturated."""
    bad = ~np.isfinite(flux) | (weight <= 0) | ((dq & np.uint32(DO_NOT_USE)) != 0)
    return np.where(bad, 0, np.where((dq & np.uint32(SATURATED)) != 0, 2, 1)).astype(np.uint8)


def good_weight(weight: np.ndarray, dq: np.ndarray) -> np.ndarray:
    """Return the weights of voxels, 0 where they are DO_NOT_USE and 1 where a cube has no weights."""
    weight = np.ascontiguousarray(weight)
    out = np.where(np.isnan(weight), np.float32(1), weight)
    good = (np.ascontiguousarray(dq) & np.uint32(DO_NOT_USE)) == 0
    return np.where(good, out, np.float32(0)).astype(np.float32)


def sigmas_of(
    wavelength: np.ndarray, pixel_scale: float, psf: Psf | None, profile: Profile | None
) -> tuple[np.ndarray, float]:
    """Return sigma [pixel] of core and wing (wavelength, 2) of a point source, and the share of the wing."""
    if profile is not None:
        return profile.sigmas(wavelength, pixel_scale, psf), profile.share
    fwhm = expected(wavelength, psf) / pixel_scale / np.sqrt(8.0 * np.log(2.0))
    return fwhm[:, None] * np.array([CORE, WING]), WING_SHARE


def lost_of_circles(
    flux: np.ndarray, weight: np.ndarray, dq: np.ndarray, radii: np.ndarray, sigmas: np.ndarray, *,
    place: tuple[float, float], share: float, subpixels: int,
) -> np.ndarray:  # fmt: skip
    """Return what is lost of a block of planes (plane, 3): of light, of light by saturation, of the annulus.

    Parameters
    ----------
    flux, weight, dq : arrays (plane, y, x)
    radii : float64 (plane, 1, 3)
        Aperture radius, inner and outer radius of the annulus [pixel]; an infinite aperture asks for nothing.
    sigmas : float64 (plane, 1, 2)
        Of core and wing of the point source [pixel]; 0: extended, all of the aperture counts alike.
    place : (float, float)
        Centre (x, y) [pixel], counted from 0.
    share : float
        Part of the light in the wing.
    subpixels : int
        As of :func:`mrsxr.spectrum.aperture.circle_shares`.
    """
    state = state_of(flux, weight, dq)
    return np.array([
        _lost_of_plane(here, circle[0], sigma[0], place, share, subpixels)
        for here, circle, sigma in zip(state, radii, sigmas, strict=True)
    ]).reshape(-1, 3)  # fmt: skip


def _lost_of_plane(
    state: np.ndarray, radii: np.ndarray, sigmas: np.ndarray, place: tuple[float, float], share: float, subpixels: int,
) -> tuple[float, float, float]:  # fmt: skip
    far = max(radii[0], radii[2])
    if not far < 1e4:
        return 0.0, 0.0, 0.0
    columns, rows = (np.arange(np.floor(p - far), np.ceil(p + far) + 1) for p in place)
    shift = (place[0] - columns[0], place[1] - rows[0])
    circle, ring = (part[0] for part in circle_shares((rows.size, columns.size), shift, radii[None], subpixels))
    if sigmas[0] > 0.0:
        square = -0.5 * ((columns - place[0]) ** 2 + (rows[:, None] - place[1]) ** 2)
        core, wing = (np.exp(square / sigma**2) / sigma**2 for sigma in sigmas)
        circle = circle * ((1.0 - share) * core + share * wing)
    seen = np.zeros(circle.shape, np.uint8)  # beyond the field there are no data
    inside = tuple((index >= 0) & (index < n) for index, n in zip((rows, columns), state.shape, strict=True))
    seen[np.ix_(*inside)] = state[np.ix_(*(i[m].astype(int) for i, m in zip((rows, columns), inside, strict=True)))]
    ring = ring if radii[2] > radii[1] else 0.0 * ring
    of_circle, of_ring = circle.sum() or 1.0, ring.sum() or 1.0
    return circle[seen == 0].sum() / of_circle, circle[seen == 2].sum() / of_circle, ring[seen == 0].sum() / of_ring


def lost_of_region(
    flux: np.ndarray, weight: np.ndarray, dq: np.ndarray, *, share: np.ndarray, area: float,
) -> np.ndarray:  # fmt: skip
    """Return what is lost of a block of planes over a region of so many spaxels (plane, 3)."""
    state = state_of(flux, weight, dq)
    good, saturated = (np.sum(share * here, axis=(1, 2)) / area for here in (state > 0, state == 2))
    return np.stack([np.maximum(1.0 - good, 0.0), saturated, np.zeros(len(good))], axis=1)


def flag_lost(out: dict[str, Any], lost: Any, kind: str, subtracted: bool) -> dict[str, Any]:
    """Return the variables of a spectrum with flags where light is lost, and NaN where too much of it is.

    Parameters
    ----------
    out : dict of str to array (wavelength)
    lost : array (wavelength, 3)
    kind : {"POINT", "EXTENDED", "optimal"}
    subtracted : bool
        Whether the annulus is taken off.
    """
    module = da if isinstance(lost, da.Array) else np
    missing, saturated = lost[:, 0], lost[:, 1]
    ring = lost[:, 2] if subtracted else 0.0 * missing
    gone = (missing > LOST[kind]) | (ring > ANNULUS_LOST)
    gone = gone | ((out["dq"] & np.uint32(DO_NOT_USE)) != 0)
    bits = (((missing > FLAGGED) | (ring > ANNULUS_FLAGGED)) & ~gone) * np.uint32(FLUX_ESTIMATED)
    bits = bits | ((saturated > FLAGGED) * np.uint32(SATURATED)) | (gone * np.uint32(DO_NOT_USE))
    done = {name: module.where(gone, np.nan, out[name]) for name in out if name not in ("dq", *_KEPT)}
    done |= {name: out[name] for name in _KEPT if name in out}
    done |= {"dq": (out["dq"] | bits).astype(np.uint32), "lost_light": missing, "saturated_light": saturated}
    return done | ({"annulus_lost": ring} if subtracted else {})


_KEPT = ("background", "background_var", "n_pixels")


@reads()
def say_what_is_lost(spectrum: xr.Dataset) -> xr.Dataset:
    """Tell what a computed spectrum lacks, and return it with these notes; the step does so for data in memory.

    Parameters
    ----------
    spectrum : Dataset, level "spectrum"
        Of :func:`mrsxr.spectrum.extract_spectrum`, computed.

    Examples
    --------
    >>> told = mx.spectrum.say_what_is_lost(spectrum)
    >>> float(spectrum.lost_light.max()) < 1
    True
    """
    with listen() as heard:
        _tell(spectrum)
    return noted(spectrum, heard)


def _tell(spectrum: xr.Dataset) -> None:
    name, n = f"spectrum {spectrum.attrs.get('band', '')}".strip(), spectrum.sizes["wavelength"]
    dq, seen = spectrum["dq"].values, np.isfinite(spectrum["flux"].values)
    if not seen.any():
        tell(f"{name}: no sample could be measured, all are NaN", stacklevel=3)
    if "lost_light" in spectrum:
        _tell_lost(spectrum, name, n)
    no_error = seen & ~np.isfinite(spectrum["var"].values) & ((dq & np.uint32(DO_NOT_USE)) == 0)
    if no_error.any():
        tell(f"{name}: {no_error.sum()} of {n} samples have no error, as spaxels of the cube have none", stacklevel=3)


def _tell_lost(spectrum: xr.Dataset, name: str, n: int) -> None:
    kind, made_up = str(spectrum.attrs.get("source_type")), spectrum.attrs.get("extraction") == "optimal"
    limit = LOST["optimal" if made_up else kind]
    lost, saturated = spectrum["lost_light"].values, spectrum["saturated_light"].values
    some = np.isfinite(lost) & (lost > FLAGGED) & (lost < 1.0)
    of = "light" if kind == "POINT" else "area"
    if some.any():
        gone = int((lost[some] > limit).sum())
        text = f", {gone} of them more than {100 * limit:.0f} %: NaN" if gone else ""
        what = "is made up for by the fitted profile" if made_up else "is missing in the flux (lost_light tells it)"
        if (saturated > 0).any():
            what += "; beside saturated pixels more may be missing, as their neighbours hold a part of the light only"
        tell(
            f"{name}: {some.sum()} of {n} samples lack up to {100 * lost[some].max():.0f} % of the {of} of the "
            f"aperture (field border, holes){text}; it {what}",
            stacklevel=4, aloud=bool(some.sum() > _FEW * n),
        )  # fmt: skip
    if (saturated > FLAGGED).any():
        tell(f"{name}: {(saturated > FLAGGED).sum()} of {n} samples hold saturated spaxels: SATURATED", stacklevel=4)
    if "annulus_lost" in spectrum:
        ring = spectrum["annulus_lost"].values
        cut = (ring > ANNULUS_FLAGGED) & (lost < 1.0)
        if cut.any():
            tell(
                f"{name}: of {cut.sum()} of {n} samples more than half of the annulus of the background lies outside "
                f"the data; {int((ring[cut] > ANNULUS_LOST).sum())} of them, with less than a tenth left, are NaN",
                stacklevel=4,
            )
