"""The exposures behind the cubes, for the explorer that is served: frames with their slices, pixels and their ramps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq, mrs
from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.sky import with_sky
from mrsxr.io import find_files
from mrsxr.io.files import FileInfo, classify
from mrsxr.io.products import load_dataset
from mrsxr.pipeline.record import read_runs

from .behind import Behind, pixels_behind

_SHOWN = {"crf": "flux", "cal": "flux", "rate": "rate"}
_RAMPS = ("ramp", "uncal")
_TOP = 254  # codes of values are 1 .. 254; 0 no value, 255 the edge of a slice
_SOFT = 0.03  # of the range, where asinh turns


class Exposures:
    """The exposures of a folder of products, and the raw files that its run was made from.

    Parameters
    ----------
    folder : Path or None
        None where the cubes came from elsewhere: there are no exposures.
    found : sequence of FileInfo, optional
        What the folder holds, where that is known.
    """

    def __init__(self, folder: Path | None, found: Sequence[FileInfo] | None = None) -> None:
        self.files: dict[str, dict[str, Path]] = {}
        self._settings: dict[str, str] = {}
        if folder is None:
            return
        infos = list(find_files(str(folder), on_error="skip") if found is None else found)
        raw = [Path(one["path"]) for run in read_runs(folder) for one in run.get("inputs", ())]
        infos += [classify(path) for path in raw if path.is_file()]
        for info in infos:
            if info.product in (*_SHOWN, *_RAMPS):
                self.files.setdefault(info.exposure, {})[info.product] = info.path
                self._settings[info.exposure] = info.node
        for files in self.files.values():
            if "crf" in files:  # the same frame with the outliers flagged, which the cubes are made of
                files.pop("cal", None)

    def names(self) -> list[dict[str, Any]]:
        """Return what can be shown: exposures and their products."""
        shown = {name: [p for p in _SHOWN if p in files] for name, files in self.files.items()}
        return [{"name": name, "products": products} for name, products in sorted(shown.items()) if products]

    def _open(self, exposure: str, product: str) -> xr.Dataset:
        path = self.files.get(exposure, {}).get(product)
        if path is None:
            raise MrsxrError(f"there is no {product} file of '{exposure}'")
        ds = load_dataset(path)
        return ds.isel(dither=[0]) if "dither" in ds.dims else ds

    def frame(self, exposure: str, product: str) -> dict[str, Any]:
        """Return a frame as bytes on an asinh scale between its 1st and 99.5th percentile, slices outlined."""
        if product not in _SHOWN:
            raise MrsxrError(f"a frame of '{product}' cannot be shown; expected {' or '.join(_SHOWN)}")
        ds = self._open(exposure, product)
        values = ds[_SHOWN[product]].values.reshape(ds.sizes["y"], ds.sizes["x"]).astype(float)
        seen = np.isfinite(values)
        low, high = np.percentile(values[seen], (1.0, 99.5)) if seen.any() else (0.0, 1.0)
        share = np.arcsinh((values - low) / max(high - low, 1e-30) / _SOFT) / np.arcsinh(1.0 / _SOFT)
        codes = np.where(seen, np.clip(np.nan_to_num(share) * _TOP, 1, _TOP), 0).astype(np.uint8)
        made_of = self._made_of(exposure)
        known = self._open(exposure, made_of).variables if made_of else {}
        if "slice" in known:
            labels = np.asarray(known["slice"].values)
            codes[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
        text = base64.b64encode(codes.tobytes()).decode("ascii")
        unit = str(ds[_SHOWN[product]].attrs.get("units", ""))
        return {"nx": ds.sizes["x"], "unit": unit, "low": float(low), "high": float(high), "codes": text}

    def pixel(self, exposure: str, x: int, y: int) -> dict[str, Any]:
        """Return what is known of a pixel, counted from 0: values and flags, place on the sky, and its ramp."""
        facts: list[list[str]] = []
        slope = sky = None
        for product, name in _SHOWN.items():
            if product not in self.files.get(exposure, {}):
                continue
            one = _at(self._open(exposure, product), x, y)
            value, error = float(one[name].values.ravel()[0]), _error(one)
            facts.append([product, f"{value:.5g} ± {error:.2g} {one[name].attrs.get('units', '')}"])
            facts.append([f"flags of {product}", " ".join(dq.describe(int(one["dq"].values.ravel()[0]))) or "none"])
            slope = value if product == "rate" else slope
            if product != "rate":
                told, sky = _place(one)
                facts += told
        return {"facts": facts, "sky": sky, "ramp": self._ramp(exposure, x, y, slope)}

    def behind(self, cube: xr.Dataset, x: int, y: int, plane: int) -> dict[str, Any]:
        """Return the pixels that made a voxel of a cube, those with the largest share first, and their weighted mean.

        ``mean`` is what the voxel holds where nothing moved its light (a trace model, the terms of a point source).
        """
        grid, kind = CubeGrid.of(cube), str(cube.attrs.get("exposure_weights", "none"))
        if not (0 <= plane < grid.nz and 0 <= y < grid.ny and 0 <= x < grid.nx):
            raise MrsxrError(f"there is no voxel of plane {plane}, y = {y}, x = {x} in a cube of {grid.shape}")
        found = []
        for band in str(cube.attrs["band"]).split():
            for name, product in self._of(cube, mrs.setting_of_band(band)):
                ds = self._open(name, product)
                found.append((name, ds, pixels_behind(ds, band, grid, (plane, y, x), kind)))
        if not found:
            raise MrsxrError("the folder holds no cal or crf files of the exposures of this cube")
        good = [one.status == 0 for _, _, one in found]
        total = sum(float(one.weight[ok].sum()) for (_, _, one), ok in zip(found, good, strict=True))
        light = sum(float((one.weight * one.value)[ok].sum()) for (_, _, one), ok in zip(found, good, strict=True))
        rows = [row for name, ds, one in found for row in _rows(name, ds, one, total)]
        value = float(cube["flux"].isel(wavelength=plane, y=y, x=x))
        return {
            "value": value if np.isfinite(value) else None, "mean": light / total if total > 0 else None,
            "pixels": sorted(rows, key=lambda row: -row["share"]), "exposures": len(found),
        }  # fmt: skip

    def _of(self, cube: xr.Dataset, setting: str) -> list[tuple[str, str]]:
        """Return the exposures of a cube and the product of each that it was made of."""
        names = cube.attrs.get("exposures") or self.files
        ours = [name for name in names if self._settings.get(name) == setting]
        return [(name, product) for name in ours if (product := self._made_of(name))]

    def _made_of(self, exposure: str) -> str:
        """Return the product of an exposure that cubes are made of; empty where there is none."""
        return next((product for product in ("crf", "cal") if product in self.files[exposure]), "")

    def _ramp(self, exposure: str, x: int, y: int, slope: float | None) -> dict[str, Any] | None:
        product = next((p for p in _RAMPS if p in self.files.get(exposure, {})), None)
        if product is None:
            return None
        one = _at(self._open(exposure, product), x, y)
        counts = one["sci"].values.reshape(-1, one.sizes["group"]).astype(float)
        bits = one["group_dq"].values.reshape(counts.shape) if "group_dq" in one else np.zeros(counts.shape, int)
        step = float(one.attrs.get("group_time") or 1.0)
        return {
            "product": product, "step": step, "slope": slope if slope is None or np.isfinite(slope) else None,
            "counts": [[float(v) if np.isfinite(v) else None for v in row] for row in counts],
            "flags": [[" ".join(dq.describe(int(bit))) for bit in row] for row in bits],
        }  # fmt: skip


def _at(ds: xr.Dataset, x: int, y: int) -> xr.Dataset:
    if not (0 <= x < ds.sizes["x"] and 0 <= y < ds.sizes["y"]):
        raise MrsxrError(f"there is no pixel x = {x}, y = {y}; expected up to {ds.sizes['x'] - 1}, {ds.sizes['y'] - 1}")
    return ds.isel(x=[x], y=[y]).compute()


def _rows(name: str, ds: xr.Dataset, one: Behind, total: float) -> list[dict[str, Any]]:
    """Return what the page tells of each pixel; shares are of the weight of all good pixels."""
    if not one.x.size:
        return []
    first, last = int(one.y.min()), int(one.y.max()) + 1
    bits, labels = (ds[key].isel(y=slice(first, last)).values.reshape(last - first, -1) for key in ("dq", "slice"))
    return [
        {
            "exposure": name, "x": int(x), "y": int(y), "share": float(weight / total) if total > 0 else 0.0,
            "used": bool(status == 0), "value": f"{value:.5g} ± {error:.2g}", "wavelength": f"{wave:.5f}",
            "slice": int(labels[y - first, x]), "flags": " ".join(dq.describe(int(bits[y - first, x]))),
        }
        for x, y, weight, status, value, error, wave in zip(
            one.x, one.y, one.weight, one.status, one.value, one.error, one.wavelength, strict=True
        )
    ]  # fmt: skip


def _error(one: xr.Dataset) -> float:
    parts = [float(one[name].values.ravel()[0]) for name in ("var_poisson", "var_read", "var_flat") if name in one]
    return float(np.sqrt(np.nansum(parts)))


def _place(one: xr.Dataset) -> tuple[list[list[str]], list[float] | None]:
    """Return slice, wavelength and place on the sky of a pixel of cal data as texts, and RA and Dec [deg]."""
    if "slice" not in one.variables:
        return [["slice", "not known: the file has no coordinates of its pixels"]], None
    label = int(one["slice"].values.ravel()[0])
    if not label:
        return [["slice", "between the slices"]], None
    sky = with_sky(one)
    ra, dec, wave = (float(sky[name].values.ravel()[0]) for name in ("ra", "dec", "wavelength_barycentric"))
    facts = [["slice", f"{label % 100} of channel {label // 100}"], ["wavelength", f"{wave:.5f} µm"],
             ["RA, Dec", f"{ra:.6f}, {dec:.6f}"]]  # fmt: skip
    return facts, [ra, dec]
