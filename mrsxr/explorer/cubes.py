"""What the page shows: the cubes that were given, and why some cannot be shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import mrs, tree
from mrsxr.convert import convert_units
from mrsxr.errors import MrsxrError
from mrsxr.geometry.place import Place
from mrsxr.inputs import in_order, require_um, rising
from mrsxr.io import find_files, load
from mrsxr.io.files import FileInfo
from mrsxr.spaxels import solid_angle, spaxel_size
from mrsxr.spectrum.lost_light import good_weight, state_of
from mrsxr.sums import wavelength_correlation

_ROLE = "science"
_MAPS = {"flux": "W m-2", "velocity": "km/s", "dispersion": "km/s"}


@dataclass
class Found:
    """Cubes by name, by wavelength, where they came from, what could not be taken, and the files beside them."""

    cubes: dict[str, xr.Dataset] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    beside: list[FileInfo] = field(default_factory=list)

    def add(self, name: str, ds: Any, path: str = "") -> None:
        """Take a cube, or note why it cannot be shown."""
        try:
            cube = _checked(ds)
        except (MrsxrError, ValueError, KeyError) as error:
            known = getattr(ds, "attrs", {}).get("band") or type(ds).__name__
            self.problems.append(f"{name or path or known}: {error}")
            return
        band = str(cube.attrs.get("band") or name or "cube")
        key, number = band, 2
        while key in self.cubes:
            key, number = f"{band} ({number})", number + 1
        self.cubes[key], self.paths[key] = cube, path

    def ordered(self) -> Found:
        """Return the same, by wavelength."""
        order = sorted(self.cubes, key=lambda key: float(self.cubes[key]["wavelength"].values[0]))
        return Found({key: self.cubes[key] for key in order}, self.paths, self.problems, self.beside)


def find_cubes(given: Any) -> Found:
    """Return the cubes of a folder, a file, a glob, a Dataset, a tree, a mapping or a sequence of these."""
    found = Found()
    for name, one, path in _each(given, found):
        found.add(name, one, path)
    return found.ordered()


def _each(given: Any, found: Found) -> Iterator[tuple[str, Any, str]]:
    if isinstance(given, xr.Dataset):
        yield "", given, ""
    elif isinstance(given, xr.DataTree):
        for path, ds in tree.leaves(given):
            if ds.attrs.get("level") == "cube" and not ds.attrs.get("background"):
                yield path, ds, ""
    elif isinstance(given, Mapping):
        for name, one in given.items():
            yield from ((str(name), ds, path) for _, ds, path in _each(one, found))
    elif isinstance(given, str | os.PathLike):
        yield from _opened(Path(given), found)
    elif isinstance(given, list | tuple):
        for one in given:
            yield from _each(one, found)
    else:
        yield "", given, ""


def _opened(path: Path, found: Found) -> Iterator[tuple[str, Any, str]]:
    """Yield the cubes of a file, a folder or a glob; what cannot be opened is noted."""
    if path.is_file():
        files = [path]
    else:
        infos = find_files(str(path), on_error="skip").files
        files = [info.path for info in infos if info.product == "s3d" and info.role == _ROLE]
        found.beside += [info for info in infos if info.product not in ("s3d", "x1d")]
        if not files:
            raise MrsxrError(f"{path}: holds no cubes (s3d); expected the folder of `mrsxr run`, or one with cubes")
    for file in files:
        try:
            yield file.name, load(file), str(file)
        except (MrsxrError, OSError) as error:
            said = str(error).replace(f"{file}: ", "").replace(str(file), file.name)  # of a page that goes to others
            found.problems.append(f"{file.name}: {said}")


def _checked(ds: Any) -> xr.Dataset:
    if not isinstance(ds, xr.Dataset) or "flux" not in ds or not {"wavelength", "y", "x"} <= set(ds["flux"].dims):
        raise MrsxrError("is no cube; expected a Dataset with flux on (wavelength, y, x)")
    require_um(ds, "the page")
    cube = rising(in_order(ds)).transpose("wavelength", "y", "x", ...)
    if "wavelength" not in cube.coords or cube.sizes["wavelength"] < 2:
        raise MrsxrError(f"has {cube.sizes['wavelength']} plane(s) or no wavelengths; expected a cube of 2 or more")
    Place.of(cube)
    spaxel_size(cube)
    return cube if cube["flux"].attrs.get("units") == "MJy/sr" else convert_units(cube, "MJy/sr")


def arrays_of(cube: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flux, var and which voxels are good, as extract_spectrum takes them; computes what is lazy."""
    names = [name for name in ("flux", "var", "weight", "dq") if name in cube]
    own = cube[names].compute()
    flux = own["flux"].values
    var = own["var"].values if "var" in own else np.full(flux.shape, np.nan, np.float32)
    dq = own["dq"].values if "dq" in own else np.zeros(flux.shape, np.uint32)
    weight = own["weight"].values if "weight" in own else np.full(flux.shape, np.nan, np.float32)
    return flux, var, state_of(flux, good_weight(weight, dq), dq) > 0


def facts_of_cube(name: str, cube: xr.Dataset, path: str) -> dict[str, Any]:
    """Return what the page must know of a cube beside its voxels."""
    wave = np.asarray(cube["wavelength"].values, float)
    even = np.allclose(wave, np.linspace(wave[0], wave[-1], wave.size), rtol=0, atol=1e-9)
    return {
        **_place_facts(cube), "name": name, "file": os.path.basename(path), "planes": wave.size,
        "solid": solid_angle(cube),
        "wave": {"start": wave[0], "step": (wave[-1] - wave[0]) / (wave.size - 1)} if even else wave.tolist(),
        "alike": _alike(cube), "colour": _colour(name),
    }  # fmt: skip


def _place_facts(ds: xr.Dataset) -> dict[str, Any]:
    """Return size, tangent point, and offsets to west and north: of the first spaxel, and along x and y."""
    place = Place.of(ds)
    plane = [
        [-sign * (row[0] * place.start[0] + row[1] * place.start[1]), *(-sign * row[k] * place.step[k] for k in (0, 1))]
        for row, sign in zip(place.plane.turn, (1.0, -1.0), strict=True)
    ]
    return {"nx": ds.sizes["x"], "ny": ds.sizes["y"], "crval": list(place.plane.crval), "plane": plane}


def facts_of_maps(maps: xr.Dataset) -> list[dict[str, Any]]:
    """Return flux, velocity and dispersion of each line of fitted maps as images; the last two where S/N is 3 or more.

    Raises
    ------
    MrsxrError
        Where it is no maps of a cube.
    """
    if maps.attrs.get("level") != "lines" or not {"line", "y", "x"} <= set(maps["flux"].dims):
        raise MrsxrError(
            "maps is no result of fit_line or fit_lines for a cube; expected level 'lines' on (line, y, x)"
        )
    place, out = _place_facts(maps), []
    maps = maps[[*_MAPS, "snr"]].compute()
    for label, wave in zip(maps["line"].values, maps["wavelength_rest"].values, strict=True):
        one = maps.sel(line=label).transpose("y", "x")
        for name, unit in _MAPS.items():
            values = one[name].where((one["snr"] >= 3) | (name == "flux")).values.ravel()
            known = {"name": f"{label} {name}", "unit": unit, "wavelength": float(wave), "file": ""}
            out.append(place | known | {"values": [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]})
    return out


def _alike(cube: xr.Dataset) -> list[float]:
    """Return the correlation of the error of a plane with those of the next ones, itself first."""
    try:
        return [float(value) for value in np.median(wavelength_correlation(cube), axis=1)]
    except (MrsxrError, KeyError):
        return [1.0]


def _colour(name: str) -> str:
    from mrsxr.plot._style import BAND_COLOURS

    return BAND_COLOURS.get(name, "#0072B2")


def law() -> dict[str, list[float]]:
    """Return resolving power and width of a point source [arcsec] on wavelengths [um]."""
    wave = np.linspace(4.8, 28.8, 97)
    return {"wave": wave.round(4).tolist(), "power": mrs.resolving_power(wave).tolist(),
            "fwhm": np.asarray(mrs.psf_fwhm(wave), float).round(5).tolist()}  # fmt: skip
