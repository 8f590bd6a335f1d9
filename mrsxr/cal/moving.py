"""Step assign_mtwcs: bring the exposures of a moving target into the frame of the target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.attributes import keyword, of_each
from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import unwrap_ra
from mrsxr.geometry.sky import Pointing, wrap
from mrsxr.limits import Place
from mrsxr.step import step


@reads()
def is_moving(ds: xr.Dataset) -> bool:
    """Return whether the exposures are of a moving target (keyword TARGTYPE of the first).

    Examples
    --------
    >>> mx.cal.is_moving(cal)
    False
    """
    return str(keyword(ds, "TARGTYPE")[0]).upper() == "MOVING"


@reads()
def target_position(datasets: Iterable[xr.Dataset]) -> tuple[float, float]:
    """Return the mean position of a moving target over all exposures of some Datasets.

    Settings that are to share one sky frame need one mean: give them all here, and the result to
    :func:`assign_mtwcs` as ``center``.

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

    Examples
    --------
    >>> import json
    >>> header = {"PRIMARY": {"TARGTYPE": "MOVING"}, "SCI": {"MT_RA": 339.015, "MT_DEC": 33.976}}
    >>> comet = cal.assign_coords(fits_header=("dither", [json.dumps(header)] * cal.sizes["dither"]))
    >>> mx.cal.target_position([comet])
    (339.015, 33.976)
    """
    places = [place for ds in datasets for place in _positions(ds)]
    if not places:
        raise MrsxrError("the mean position of a moving target needs at least one exposure, got none")
    ra, dec = np.array(places).T
    return float(wrap(unwrap_ra(ra).mean())), float(dec.mean())


@step(needs=("rate", "cal"), jwst="assign_mtwcs", keyword="S_MTWCS")
def assign_mtwcs(ds: xr.Dataset, *, center: Place | None = None) -> xr.Dataset:
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
        ``ra_ref``, ``dec_ref``, ``roll_ref`` shifted. ``attrs["mt_avra"]`` and ``["mt_avdec"]`` [deg] tell where the
        target stands since then, so that a second shift moves nothing; files tell it by MT_AVRA and MT_AVDEC, as those
        of ``jwst``, and by MT_RA and MT_DEC where it stood.

    Raises
    ------
    MrsxrError
        Where the target does not move, or the keyword MT_RA, MT_DEC or one of the pointing is missing.

    Notes
    -----
    ``jwst.assign_mtwcs`` adds the differences of right ascension and declination to every pixel, which shears the
    field by their product with tan(dec); here the sky is turned from the target to the centre, north staying north.
    For a shift of 10 arcsec at declination 30 the two differ by 1e-4 arcsec at 3 arcsec from the target.

    Examples
    --------
    >>> import json
    >>> header = {"PRIMARY": {"TARGTYPE": "MOVING"}, "SCI": {"MT_RA": 339.015, "MT_DEC": 33.976}}
    >>> comet = cal.assign_coords(fits_header=("dither", [json.dumps(header)] * cal.sizes["dither"]))
    >>> still = mx.cal.assign_mtwcs(comet, center=(339.015, 33.976))
    >>> still.attrs["mt_avra"]
    339.015
    """
    if not is_moving(ds):
        found = keyword(ds, "TARGTYPE")[0]
        raise MrsxrError(
            f"setting {ds.attrs.get('setting')}: TARGTYPE is {found or 'missing'}, expected MOVING; leave "
            "assign_mtwcs out for targets that stand still"
        )
    places = _positions(ds)
    end = target_position([ds]) if center is None else (float(center[0]), float(center[1]))
    moved = [Pointing.of(ds, k).moved(place, end) for k, place in enumerate(places)]
    coords: dict[str, Any] = {
        name: ("dither", np.array([getattr(pointing, name) for pointing in moved]), ds[name].attrs)
        for name in ("ra_ref", "dec_ref", "roll_ref")
    }
    return ds.assign_coords(coords).assign_attrs(mt_avra=end[0], mt_avdec=end[1])


def _positions(ds: xr.Dataset) -> list[tuple[float, float]]:
    """Return where the target stands in each dither [deg]."""
    out, wanted = [], ("MT_RA", "MT_DEC")
    moved = zip(
        *(of_each(ds, name) for name in ("mt_avra", "mt_avdec")), strict=True
    )  # it stands there since the shift
    told = zip(*(keyword(ds, name) for name in wanted), strict=True)
    for exposure, after, before in zip(ds["exposure"].values, moved, told, strict=True):
        place = before if None in after else after
        if missing := [name for name, value in zip(wanted, place, strict=True) if value is None]:
            raise MrsxrError(
                f"{exposure}: the keyword {' and '.join(missing)} is missing from the header, so that the place of the "
                "moving target is not known; leave assign_mtwcs out or add it"
            )
        out.append((float(place[0]), float(place[1])))
    return out
