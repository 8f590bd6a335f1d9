"""Refuse reference files whose numbers cannot be: planes of NaN, infinite gain, negative read noise, empty tables.

The ranges are wide, ten times or more beyond anything that MIRI has. Single pixels without a value (NaN; gain, flat,
conversion or threshold of 0 or less) are what reference files rightly have, and the steps flag them as jwst does.
Single pixels with an impossible value (infinite, negative read noise ...) are taken as NaN, and that is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.errors import ReferenceFileError
from mrsxr.mrs import BANDS, WAVELENGTH_LIMITS
from mrsxr.notes import tell

#: Share of impossible pixels up to which they are taken as NaN.
FEW = 1e-3
_MANY_PLANES = 4  # groups of an integration that are looked at, and integrations


@dataclass(frozen=True)
class Limits:
    """What a quantity can be: usable values from low to high, the share of them that there must be.

    Values below ``never`` cannot be, even in single pixels.
    """

    low: float
    high: float
    share: float = 0.5
    never: float = -np.inf


#: Of images on the detector, by kind and variable.
IMAGE_LIMITS: dict[str, dict[str, Limits]] = {
    "gain": {"gain": Limits(0.05, 1e3)},
    "readnoise": {"read_noise": Limits(1e-3, 1e4, never=0.0)},
    "saturation": {"threshold": Limits(1.0, 1e6, 0.3)},
    "linearity": {"coefficients": Limits(-1e6, 1e6)},
    "dark": {"dark": Limits(-1e6, 1e6, never=-1e6)},
    "reset": {"reset": Limits(-1e6, 1e6, never=-1e6)},
    "flat": {"flat": Limits(1e-3, 1e3, 0.1)},
    "fringe": {"fringe": Limits(1e-3, 1e3, 0.1)},
    "photom": {"conversion": Limits(1e-9, 1e6, 0.1), "pixel_area": Limits(1e-5, 1e2, 0.1)},
}
#: Of tables and geometry; a NaN in them is a gap, anything else must be in the range.
TABLE_LIMITS: dict[str, dict[str, Limits]] = {
    "rscd": {"group_skip": Limits(0, 1e4, 1.0), "group_skip1": Limits(0, 1e4, 1.0)},
    "ipc": {"kernel": Limits(-2.0, 2.0, 1.0)},
    "latent": {"decay_time": Limits(1e-3, 1e9, 1.0)},
    "pfpc": {"pattern": Limits(-1e3, 1e3)},
    "psf": {"psf": Limits(-1e3, 1e6, 1.0), "psf_wavelength": Limits(1.0, 100.0, 1.0),
            "psf_step": Limits(1e-3, 1.0, 1.0)},
    "mrsxartcorr": {name: Limits(-1e5, 1e5, 1.0) for name in ("lor_fwhm", "lor_scale", "gau_fwhm", "gau_xoff")},
    "mrsptcorr": {"frac_leak": Limits(-1.0, 1.0, 0.1)},
    "fringefreq": {"ffreq": Limits(1e-6, 1e4, 0.1), "max_amplitude": Limits(0.0, 10.0)},
    "cubepar": {"spaxel_size": Limits(1e-2, 10.0, 1.0), "wavelength_step": Limits(1e-6, 1.0, 1.0),
                "wavelength_min": Limits(1.0, 100.0, 1.0), "wavelength_max": Limits(1.0, 100.0, 1.0)},
    "extract1d": {"wavelength": Limits(1.0, 100.0, 1.0), "radius": Limits(1e-2, 60.0, 0.9)},
    "apcorr": {"wavelength": Limits(1.0, 100.0, 1.0), "radius": Limits(1e-2, 60.0, 0.9),
               "correction": Limits(0.1, 1e3, 0.9)},
    "emicorr": {"frequency": Limits(1e-6, 1e6, 1.0), "waveform": Limits(-1e6, 1e6, 0.1)},
    "wavelengthrange": {"limits": Limits(0.1, 100.0, 1.0)},
    "regions": {"regions": Limits(0, 500, 1.0)},
    "distortion": {name: Limits(-np.inf, np.inf, 1.0) for name in (
        "alpha_coefficients", "slice_beta", "slice_width", "beta_zero", "x_coefficients", "y_coefficients",
        "v2_coefficients", "v3_coefficients", "alpha_from_v2v3", "beta_from_v2v3")},
    "specwcs": {"wavelength_coefficients": Limits(-np.inf, np.inf, 1.0)},
}  # fmt: skip
_ORDERED = {"wavelengthrange": ("limits", "limits"), "cubepar": ("wavelength_min", "wavelength_max")}


def impossible_pixels(kind: str, name: str, image: xr.Variable, where: str) -> int:
    """Return how many pixels of an image of a reference file have a value that cannot be.

    Parameters
    ----------
    kind, name : str
        Kind of the file and its variable.
    image : Variable (..., y, x)
        Not held in memory; some planes of it are read.
    where : str
        The file, for messages.

    Returns
    -------
    int
        0 where there is nothing to do; few enough to be taken as NaN.

    Raises
    ------
    ReferenceFileError
        Where a plane has too few usable values, or too many that cannot be.
    """
    limits = IMAGE_LIMITS.get(kind, {}).get(name)
    if limits is None:
        return 0
    if 0 in image.shape:
        raise ReferenceFileError(f"{where}: {name} of the {kind} file is empty {image.shape}; get the file anew")
    number = 0
    for text, plane in _planes(kind, image):
        low = (0.01, 100.0) if text == "order 1" else (limits.low, limits.high)
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(plane) & (plane >= low[0]) & (plane <= low[1])
            wild = np.isinf(plane) | (plane > limits.high) | (plane < limits.never)
        if usable.mean() < limits.share or wild.mean() > FEW:
            raise ReferenceFileError(
                f"{where}: {name} of the {kind} file{f' ({text})' if text else ''} has {usable.mean():.0%} usable "
                f"values, {low[0]:g} to {low[1]:g}, and {int(wild.sum())} that cannot be ({_example(plane)}); "
                f"expected {limits.share:.0%} or more and none; get the file anew"
            )
        number += int(wild.sum())
    return number


def without_impossible(kind: str, name: str, image: xr.Variable, number: int, where: str) -> xr.Variable:
    """Return an image with NaN in place of the values that cannot be, and tell it; the same where there are none."""
    if not number:
        return image
    limits = IMAGE_LIMITS[kind][name]
    tell(f"{where}: {number} values of {name} cannot be (infinite, beyond {limits.high:g}); taken as NaN")
    low = limits.never if np.isfinite(limits.never) else -np.finfo(np.float32).max
    return image.where((image >= low) & (image <= limits.high))


def _planes(kind: str, image: xr.Variable) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (text for messages, plane) of some planes of an image; of the linearity, of its linear terms."""
    leading = image.shape[:-2]
    if kind == "linearity":
        if leading[0] < 2:
            raise ReferenceFileError(f"the linearity file has {leading[0]} coefficient a pixel; expected two or more")
        yield "order 1", np.asarray(image[1].values)
        return
    chosen = [np.unique(np.linspace(0, size - 1, min(size, _MANY_PLANES)).astype(int)) for size in leading]
    for place in np.stack(np.meshgrid(*chosen, indexing="ij"), axis=-1).reshape(-1, len(chosen)) if chosen else [()]:
        parts = zip(image.dims, place, strict=False)
        yield ", ".join(f"{dim} {i + 1}" for dim, i in parts), np.asarray(image[tuple(place)].values)


def _example(plane: np.ndarray) -> str:
    finite = plane[np.isfinite(plane)]
    middle = f"median {np.median(finite):.4g}" if finite.size else "no finite value"
    return f"{middle}, {int(np.isinf(plane).sum())} infinite, {int(np.isnan(plane).sum())} NaN"


def check_table(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return the Dataset of a table or geometry file, or raise ReferenceFileError where its numbers cannot be."""
    kind = str(ds.attrs.get("kind"))
    for name, limits in TABLE_LIMITS.get(kind, {}).items():
        if name not in ds.variables:
            continue
        values = np.asarray(ds[name].values, dtype=float)
        if values.size == 0:
            raise ReferenceFileError(f"{where}: {name} of the {kind} file is empty; get the file anew")
        with np.errstate(invalid="ignore"):
            inside = np.isfinite(values) & (values >= limits.low) & (values <= limits.high)
        wild = ~inside & ~np.isnan(values)
        if inside.mean() < limits.share or wild.any():
            raise ReferenceFileError(
                f"{where}: {name} of the {kind} file is not {limits.low:g} to {limits.high:g} "
                f"{ds[name].attrs.get('units', '')} throughout ({_example(values)}); get the file anew"
            )
    if kind == "regions" and not (ds["regions"].values > 0).any():
        raise ReferenceFileError(f"{where}: the regions file holds no slice; get the file anew")
    if kind == "psf":
        _check_psf(ds, where)
    if kind in _ORDERED and _ORDERED[kind][0] in ds:
        low, high = (ds[one].values for one in _ORDERED[kind])
        low, high = (low[:, 0], high[:, 1]) if low.ndim == 2 else (low, high)
        if not (low < high).all():
            raise ReferenceFileError(f"{where}: a lower wavelength of the {kind} file is not below the upper one")
    return ds


def _check_psf(ds: xr.Dataset, where: str) -> None:
    """Raise where images of a PSF are of no band, of no light, or of a source that is not in their middle."""
    bands: Any = ds["psf_band"].values if "psf_band" in ds else []
    for band, wave, image in zip(bands, ds["psf_wavelength"].values, ds["psf"].values, strict=True):
        middle = image[tuple(n // 2 for n in image.shape)]
        if str(band) not in BANDS:
            raise ReferenceFileError(f"{where}: an image of the psf file is of band '{band}'; expected one of the MRS")
        low, high = WAVELENGTH_LIMITS[str(band)]
        if not 0.8 * low < wave < 1.25 * high:
            raise ReferenceFileError(f"{where}: the psf of {band} is of {wave:g} um; expected {low:g} to {high:g}")
        if not middle > 0.5 * image.max():
            raise ReferenceFileError(
                f"{where}: the psf of {band} at {wave:g} um has {middle:.3g} in its middle and {image.max():.3g} at "
                "its peak; expected the source in the middle"
            )


def check_dataset(ds: xr.Dataset) -> xr.Dataset:
    """Return a reference that was given as a Dataset, without values that cannot be, or refuse it.

    Lazy variables are taken as they are: they are of files, which were looked at when they were opened.
    """
    kind, where = str(ds.attrs.get("kind")), str(ds.attrs.get("ref_id", "the Dataset"))
    wanted = IMAGE_LIMITS.get(kind) or TABLE_LIMITS.get(kind, {})
    needed = next((name for name in (wanted if kind == "psf" else list(wanted)[:1]) if name not in ds.variables), None)
    if needed is not None:
        raise ReferenceFileError(
            f"{where}: the {kind} reference has no variable '{needed}'; found {', '.join(map(str, ds))}"
        )
    if kind not in IMAGE_LIMITS:
        return check_table(ds, where)
    mended = {}
    for name in IMAGE_LIMITS[kind]:
        if name in ds and ds[name].chunks is None:
            number = impossible_pixels(kind, name, ds[name].variable, where)
            if number:
                mended[name] = without_impossible(kind, name, ds[name].variable, number, where)
    return ds.assign(mended) if mended else ds
