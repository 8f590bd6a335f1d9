"""The explorer served from here: the page asks, cubes are read by blocks, and the package sums and fits."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import lines, spectrum
from mrsxr.errors import MrsxrError
from mrsxr.limits import Count, Redshift, checked
from mrsxr.notes import listen
from mrsxr.pipeline.memory import give_back

from .cubes import Found, arrays_of, facts_of_maps, find_cubes
from .detector import Exposures
from .page import as_spectra, make_page

_KEPT = 250e6  # bytes of cubes that stay in memory
_LARGE = ("/map", "/frame", "/pixel", "/behind")  # answers that read exposures, or fit many spectra
_HERE = ("127.0.0.1", "localhost")
_LONGEST = 1_000_000  # of a question [byte]


class Desk:
    """Answers what the page asks, one question after the other.

    Parameters
    ----------
    found : Found
        The cubes, lazy; those that were asked for last stay in memory as long as they take less than 250 MB together,
        half of what their files have: values and variances, NaN where a voxel is not good.
    exposures : Exposures
    """

    def __init__(self, found: Found, exposures: Exposures) -> None:
        self.found, self.exposures, self._lock = found, exposures, threading.Lock()
        self._kept: OrderedDict[str, xr.Dataset] = OrderedDict()
        self.answers: dict[str, Callable[..., Any]] = {
            "/image": self.image, "/spectrum": self.spectrum, "/fit": self.fit, "/map": self.map,
            "/frame": exposures.frame, "/pixel": exposures.pixel, "/behind": self.behind,
        }  # fmt: skip

    def answer(self, what: str, question: dict[str, Any]) -> Any:
        """Return what is asked for; raise MrsxrError where it cannot be given."""
        with self._lock, listen(pass_on=True):
            try:
                return self.answers[what](**question)
            finally:
                if what in _LARGE:
                    give_back()

    def cube(self, name: str) -> xr.Dataset:
        """Return a cube in memory."""
        if name not in self.found.cubes:
            raise MrsxrError(f"there is no cube '{name}'; expected one of {', '.join(self.found.cubes)}")
        if name not in self._kept:
            cube = self.found.cubes[name]
            flux, var, good = arrays_of(cube)
            dims = ("wavelength", "y", "x")
            one, none = np.float32(1), np.uint32(0)  # the same for all voxels
            data = {"flux": np.where(good, flux, np.float32(np.nan)), "var": var}
            data |= {"weight": np.broadcast_to(one, flux.shape), "dq": np.broadcast_to(none, flux.shape)}
            arrays = {key: (dims, value, cube[key].attrs if key in cube else {}) for key, value in data.items()}
            self._kept[name] = cube.drop_vars(list(cube.data_vars)).assign(arrays)
        self._kept.move_to_end(name)
        while len(self._kept) > 1 and sum(8.0 * ds["flux"].size for ds in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[name]

    def image(self, cube: str, planes: list[int], sides: list[list[int]]) -> dict[str, Any]:
        """Return the mean over planes, less a straight line between side windows [MJy/sr]."""
        ds = self.cube(cube)
        flux, wave = ds["flux"].values, ds["wavelength"].values

        def mean(first: int, last: int) -> np.ndarray:
            part = flux[first:last]
            seen = np.isfinite(part).sum(axis=0)
            return np.where(2 * seen >= max(last - first, 1), np.nansum(part, axis=0) / np.maximum(seen, 1), np.nan)

        out = mean(*planes)
        use = [(a, b) for a, b in sides if b > a]
        levels, middles = [mean(*side) for side in use], [0.5 * (wave[a] + wave[b - 1]) for a, b in (*use, planes)]
        if len(use) == 1:
            out = out - levels[0]
        elif use:
            out = out - levels[0] - (levels[1] - levels[0]) * (middles[2] - middles[0]) / (middles[1] - middles[0])
        return {"values": _plain(out.ravel())}

    def spectrum(self, cube: str, region: str) -> dict[str, Any] | None:
        """Return the spectrum of a region, None where it lies outside the cube."""
        try:
            found = spectrum.extract_spectrum(self.cube(cube), region=region)
        except MrsxrError as error:
            if "lies outside" in str(error):
                return None
            raise
        values = {"flux": found["flux"], "error": found["var"] ** 0.5, "mean": found["surface_brightness"],
                  "seen": found["n_pixels"]}  # fmt: skip
        return {name: _plain(array.values) for name, array in values.items()}

    def fit(
        self, cube: str, region: str, ring: str | None, line: str | float, redshift: float, components: int
    ) -> dict[str, Any]:
        """Return the fit of a line of the spectrum of a region, less that of another."""
        ds = self.cube(cube)
        found = spectrum.extract_spectrum(ds, region=region)
        if ring:
            level = spectrum.extract_spectrum(ds, region=ring)
            area = found["n_pixels"] * 1e6 * found.attrs["pixel_area_sr"]
            found["flux"] = found["flux"] - level["surface_brightness"] * area
            found["var"] = found["var"] + level["surface_brightness_var"] * area**2
        fit = lines.fit_line(found, line, redshift=redshift, components=components)  # type: ignore[arg-type]
        one, model = fit.isel(line=0), lines.line_model(found, fit)["model"].values
        near, names = np.isfinite(model), ("flux", "velocity", "width", "dispersion")
        parts = [
            {f"{name}{err}": float(one[f"component_{name}{err}"].values[k]) for name in names for err in ("", "_err")}
            for k in range(one.sizes["component"])
        ]
        return {
            "flux": float(one["flux"]), "flux_err": float(one["flux_err"]), "parts": [_finite(part) for part in parts],
            "chi2": float(one["chi2"].values[-1]), "dof": int(one["dof"]),
            "wave": found["wavelength"].values[near].tolist(), "model": model[near].tolist(),
        }  # fmt: skip

    def map(self, cube: str, line: str | float, redshift: float, components: int) -> list[dict[str, Any]]:
        """Return the maps of a line, fitted in every spaxel."""
        maps = lines.fit_line(self.cube(cube), line, redshift=redshift, components=components)  # type: ignore[arg-type]
        return facts_of_maps(maps)

    def behind(self, cube: str, x: int, y: int, plane: int) -> dict[str, Any]:
        """Return the pixels of the exposures that made a voxel."""
        return self.exposures.behind(self.cube(cube), x, y, plane)


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.9g}") if np.isfinite(v) else None for v in values]


def _finite(part: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in part.items()}


def _handler(page: bytes, desk: Desk) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """The page, and JSON for JSON; for this machine alone."""

        def _reply(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the page was left meanwhile
                self.wfile.write(body)

        def _is_ours(self) -> bool:
            """Whether it was asked under the name of this machine, so that no other site speaks through a browser."""
            if str(self.headers.get("Host", "")).rpartition(":")[0] in _HERE:
                return True
            self._reply(403, "text/plain", b"this page is served to this machine alone")
            return False

        def do_GET(self) -> None:
            if self._is_ours():
                self._reply(200, "text/html; charset=utf-8", page)

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if not self._is_ours():
                return
            if self.path not in desk.answers or self.headers.get_content_type() != "application/json":
                return self._reply(404, "text/plain", b"there is no such answer")
            if size > _LONGEST:
                return self._reply(413, "text/plain", b"the question is too long")
            try:
                answer = desk.answer(self.path, json.loads(self.rfile.read(size)))
            except (MrsxrError, TypeError, ValueError, LookupError, OSError) as error:
                return self._reply(400, "text/plain; charset=utf-8", str(error).encode())
            self._reply(200, "application/json", json.dumps(answer, allow_nan=False).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of each question."""

    return Handler


@checked
def make_server(
    cubes: Any, spectra: Any = None, maps: xr.Dataset | None = None, *, redshift: Redshift | None = None,
    port: Count | None = None,
) -> ThreadingHTTPServer:  # fmt: skip
    """Return a server of the explorer for this machine; ``serve_forever()`` starts it.

    Parameters
    ----------
    cubes, spectra, maps, redshift
        As of :func:`mrsxr.explore`; lazy cubes are read when they are looked at.
    port : int, optional
        By default a free one, ``server_port`` of what is returned.

    Returns
    -------
    http.server.ThreadingHTTPServer

    Examples
    --------
    >>> with mx.explorer.make_server(cube) as server:
    ...     address = f"http://127.0.0.1:{server.server_port}/"
    """
    found = find_cubes(cubes)
    is_folder = isinstance(cubes, str | os.PathLike) and os.path.isdir(cubes)
    exposures = Exposures(Path(cubes) if is_folder else None, found.beside)
    page = make_page(found, as_spectra(spectra), maps, redshift, exposures.names())
    try:
        return ThreadingHTTPServer((_HERE[0], port or 0), _handler(page.encode("utf-8"), Desk(found, exposures)))
    except OSError as error:
        raise MrsxrError(f"port {port} cannot be had ({error.strerror}); choose another one") from error
