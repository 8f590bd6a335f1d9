"""Step residual_fringe on cubes: the 1-D correction of every spaxel, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.attributes import varied
from mrsxr.errors import MrsxrError
from mrsxr.fringes import Method, correct_where_gained, corrected_before, without_dichroics
from mrsxr.limits import Interval, NotNegative, Positive
from mrsxr.notes import tell
from mrsxr.scores import score
from mrsxr.step import step

ROWS_PER_BLOCK = 4


@step(needs="cube", jwst="residual_fringe", keyword="S_RESFRI", once="residual_fringe_cube")
def correct_residual_fringe_cube(
    cube: xr.Dataset,
    *,
    method: Method = "columns",
    max_amplitude: Positive = 0.4,
    dichroic_only: bool = False,
    ignore_regions: Sequence[Interval] = (),
    min_signal: NotNegative = 3.0,
) -> xr.Dataset:
    """Divide the spectrum of every spaxel by its residual fringes.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Of one band.
    method : {"columns", "slices"}
        Each spaxel by itself with the fit of jwst, or the spaxels of a row together, cross-validated; see
        :func:`mrsxr.fringes.correct_spectra`.
    max_amplitude, dichroic_only, ignore_regions
        As of :func:`mrsxr.spectrum.fringe_1d.correct_residual_fringe_1d`.
    min_signal : float
        Spaxels whose median ratio of flux and error is lower are left as they are.

    Returns
    -------
    Dataset, level "cube"
        ``flux`` divided by the fringes; ``var`` divided by their square, and what the correction adds where the method
        tells it. Lazy where ``cube`` is, in blocks of rows over all planes. With "slices" ``score_residual_fringe``
        (y, x), the misfit with over that without the fringes where they are predicted from elsewhere; a row of
        spaxels where it is not below 1 stays as it is.

    Raises
    ------
    MrsxrError
        Where the cube is of several bands, the method is unknown, or the fringes are off this cube already.

    Examples
    --------
    >>> part = cube.isel(y=slice(10, 14), x=slice(10, 14))
    >>> out = mx.cube.correct_residual_fringe_cube(part.chunk(), method="slices")
    """
    band = str(cube.attrs.get("band"))
    if band not in mrs.BANDS:
        raise MrsxrError(f"the cube is of band {band}; fringes are corrected band by band")
    if without_dichroics(band, dichroic_only):
        return cube
    if before := corrected_before(cube):
        tell(
            f"residual fringes found {before} were corrected before; the cubes lose what that left of them", aloud=False
        )
    options: dict[str, Any] = {
        "wavelength": np.asarray(cube["wavelength"].values, dtype=float), "channel": int(band[0]), "method": method,
        "dichroic_only": bool(dichroic_only), "max_amplitude": float(max_amplitude),
        "ignore": tuple(map(tuple, ignore_regions)), "min_signal": float(min_signal),
    }  # fmt: skip
    arrays = [cube[name].variable.data for name in ("flux", "var", "dq")]
    lazy = any(isinstance(a, da.Array) for a in arrays)
    if not lazy:
        found: Any = correct_rows(*arrays, **options)
    else:
        whole = (cube.sizes["wavelength"], ROWS_PER_BLOCK, cube.sizes["x"])
        arrays = [a.rechunk(whole) if isinstance(a, da.Array) else da.from_array(a, chunks=whole) for a in arrays]
        both = da.map_blocks(
            correct_rows, *arrays, dtype=np.float32, new_axis=0, chunks=((3,), *arrays[0].chunks),
            meta=np.empty((0, 0, 0, 0), np.float32), **options,
        )  # fmt: skip
        planes = next(
            a.chunks[0] for a in (cube[n].variable.data for n in ("flux", "var", "dq")) if hasattr(a, "chunks")
        )
        found = [both[i].rechunk((planes, -1, -1)) for i in range(2)] + [both[2]]
    dims = ("wavelength", "y", "x")
    changed: dict[str, object] = {name: (dims, found[i], cube[name].attrs) for i, name in enumerate(("flux", "var"))}
    if method == "slices":
        judged = found[2][0] if not lazy else found[2][0].rechunk(-1)
        changed |= score(
            "residual_fringe", judged, ("y", "x"), method=method, instead="none", held_out="places left out"
        )
    return varied(cube.assign(changed), "defringed")


def correct_rows(
    flux: np.ndarray, var: np.ndarray, dq: np.ndarray, *, wavelength: np.ndarray, channel: int, method: str,
    dichroic_only: bool, max_amplitude: float, ignore: Any, min_signal: float,
) -> np.ndarray:  # fmt: skip
    """Return flux, variance and score (3, wavelength, y, x) of some rows of spaxels without their fringes."""
    out = np.stack([flux, var, np.full(flux.shape, np.nan)]).astype(np.float32)
    bad = ~flags.good(flux, dq)
    for j in range(flux.shape[1]):
        values = np.where(bad[:, j], np.nan, flux[:, j]).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.sqrt(np.where(bad[:, j], np.nan, var[:, j]).astype(float))
            ratio = np.where(error > 0, values / error, np.nan)
        known = np.isfinite(ratio)
        columns = np.nonzero(known.any(axis=0))[0]
        columns = columns[[float(np.median(ratio[known[:, i], i])) >= min_signal for i in columns]]
        if columns.size == 0:
            continue
        clean, added, out[2, :, j, columns] = correct_where_gained(
            wavelength, values[:, columns].T, error[:, columns].T, channel=channel, method=method,
            dichroic_only=dichroic_only, max_amplitude=max_amplitude, ignore=ignore,
        )  # fmt: skip
        here = values[:, columns]
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = np.where(np.isfinite(here) & (here != 0), clean.T / here, 1.0)
        changed = np.isfinite(clean.T) & (factor != 1.0)
        square = var[:, j, columns] * factor**2 + added.T
        out[0, :, j, columns] = np.where(changed, clean.T, flux[:, j, columns]).T
        out[1, :, j, columns] = np.where(changed, square, var[:, j, columns]).T
    return out
