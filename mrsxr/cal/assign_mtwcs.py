"""Step assign_mtwcs: bring the exposures of a moving target into the frame of the target."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.arguments import need_data
from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import unwrap_ra
from mrsxr.geometry.sky import Pointing, wrap
from mrsxr.limits import Place
from mrsxr.step import step

_KEYWORDS = ("MT_RA", "MT_DEC")


def is_moving(ds: xr.Dataset) -> bool:
    """Return whether the exposures are of a moving target (keyword TARGTYPE of the first)."""
    return str(_keywords(ds, 0).get("TARGTYPE", "")).upper() == "MOVING"


def target_position(datasets: Iterable[xr.Dataset]) -> tuple[float, float]:
    """Return the mean position of a moving target over all exposures of some Datasets.

    Settings that are to share one sky frame need one mean: give them all here, and the result to
    :func:`follow_target` as ``center``.

    Parameters
    ----------
    datasets : iterable of Dataset, levels "rate" or "cal"

    Returns
    -------
    ra, dec : float
        [deg]; the means of MT_RA (on one side of the 0 / 360 border) and of MT_DEC, as ``jwst`` takes them.

    Raises
    ------
    MrsxrError
        Naming the exposure where the keyword MT_RA or MT_DEC is missing, or where there is no exposure.
    """
    datasets = list(datasets)
    for ds in datasets:
        need_data("target_position", ds)
    places = [place for ds in datasets for place in _positions(ds)]
    if not places:
        raise MrsxrError("the mean position of a moving target needs at least one exposure, got none")
    ra, dec = np.array(places).T
    return float(wrap(unwrap_ra(ra).mean())), float(dec.mean())


@step(needs=("rate", "cal"), jwst="assign_mtwcs", keyword="S_MTWCS")
def follow_target(ds: xr.Dataset, *, center: Place | None = None) -> xr.Dataset:
    """Shift the pointing of each exposure so that a moving target stands still.

    Parameters
    ----------
    ds : Dataset, level "rate" or "cal"
        With the pointing of each dither, and TARGTYPE, MT_RA and MT_DEC [deg] in ``fits_header``.
    center : (float, float), optional
        Right ascension and declination [deg] where the target is to stand, such as :func:`target_position` of all
        settings; by default the mean of these exposures.

    Returns
    -------
    Dataset of the same level
        ``ra_ref``, ``dec_ref``, ``roll_ref`` shifted. In the headers MT_AVRA and MT_AVDEC hold the centre as ``jwst``
        writes it, and so do MT_RA and MT_DEC, so that a second shift moves nothing; ``attrs["moving_target_json"]``
        keeps where the target stood in each exposure.

    Raises
    ------
    MrsxrError
        Where the target does not move, or the keyword MT_RA, MT_DEC or one of the pointing is missing.

    Notes
    -----
    ``jwst.assign_mtwcs`` adds the differences of right ascension and declination to every pixel, which shears the
    field by their product with tan(dec); here the sky is turned from the target to the centre, north staying north.
    For a shift of 10 arcsec at declination 30 the two differ by 1e-4 arcsec at 3 arcsec from the target.
    """
    if not is_moving(ds):
        found = _keywords(ds, 0).get("TARGTYPE")
        raise MrsxrError(
            f"setting {ds.attrs.get('setting')}: TARGTYPE is {found or 'missing'}, expected MOVING; leave "
            "follow_target out for targets that stand still"
        )
    places = _positions(ds)
    end = target_position([ds]) if center is None else (float(center[0]), float(center[1]))
    moved = [Pointing.of(ds, k).moved(place, end) for k, place in enumerate(places)]
    coords: dict[str, Any] = {
        name: ("dither", np.array([getattr(pointing, name) for pointing in moved]), ds[name].attrs)
        for name in ("ra_ref", "dec_ref", "roll_ref")
    }
    coords["fits_header"] = ("dither", np.array([_header(ds, k, end) for k in range(len(places))]))
    return ds.assign_coords(coords).assign_attrs(moving_target_json=json.dumps([list(place) for place in places]))


def _positions(ds: xr.Dataset) -> list[tuple[float, float]]:
    """Return where the target stands in each dither [deg]."""
    out = []
    for k, exposure in enumerate(ds["exposure"].values):
        keywords = _keywords(ds, k)
        missing = [name for name in _KEYWORDS if keywords.get(name) is None]
        if missing:
            raise MrsxrError(
                f"{exposure}: the keyword {' and '.join(missing)} is missing from the header, so that the place of the "
                "moving target is not known; leave follow_target out or add it"
            )
        out.append((float(keywords["MT_RA"]), float(keywords["MT_DEC"])))
    return out


def _keywords(ds: xr.Dataset, index: int) -> dict[str, Any]:
    header = json.loads(str(ds["fits_header"].values[index]) or "{}")
    return {**header.get("PRIMARY", {}), **header.get("SCI", {})}


def _header(ds: xr.Dataset, index: int, center: tuple[float, float]) -> str:
    header = json.loads(str(ds["fits_header"].values[index]) or "{}")
    for name, value in zip((*_KEYWORDS, "MT_AVRA", "MT_AVDEC"), (*center, *center), strict=True):
        place = "PRIMARY" if name in header.get("PRIMARY", {}) else "SCI"
        header.setdefault(place, {})[name] = value
    return json.dumps(header)
