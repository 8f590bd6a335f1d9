"""The spectrum of one place in all bands."""

from __future__ import annotations

from typing import Any, Literal

import xarray as xr

from mrsxr import tree
from mrsxr.arguments import as_sky, reads
from mrsxr.blocks import computed
from mrsxr.errors import MrsxrError
from mrsxr.geometry.place import Place
from mrsxr.limits import checked
from mrsxr.mrs import BANDS
from mrsxr.notes import tell

from .extract_1d import extract_spectrum
from .region import region_text, region_weights
from .stitch import stitch_bands


@reads()
@checked
def extract_at(
    data: xr.Dataset | xr.DataTree, where: Any, radius: Any = None, *,
    method: Literal["none", "multiplicative", "additive"] = "none",
) -> Any:  # fmt: skip
    """Sum the light in a circle or region of the sky: of a cube, or of the cubes of all bands.

    Parameters
    ----------
    data : Dataset of level "cube", or DataTree of cubes
    where : SkyCoord, (ra, dec), text, or region
        The centre of a circle (:func:`mrsxr.arguments.as_sky`), or a region, DS9 text or file
        (:func:`mrsxr.spectrum.region.read_region`) where no radius is given.
    radius : float, optional
        Of the circle, the same in every band [arcsec, or a Quantity].
    method : {"none", "multiplicative", "additive"}
        How neighbouring bands are matched, see :func:`mrsxr.spectrum.stitch_bands`.

    Returns
    -------
    Dataset or DataTree
        Of a cube its spectrum, as :func:`extract_spectrum` gives it for extended light: no background is subtracted and
        no aperture correction applied. Of a tree the spectra, computed, in the place of the cubes, and ``stitched``
        beside them; bands whose field does not hold the place are left out, and this is told.

    Raises
    ------
    MrsxrError
        Where a place comes without a radius, a region with one, or the place lies outside of all cubes.

    Examples
    --------
    >>> place = SkyCoord(cube.ra.mean(), cube.dec.mean(), unit="deg")
    >>> mx.spectrum.extract_at(cube, place, 0.5 * u.arcsec).flux.attrs["units"]
    'Jy'
    """
    given = _circle_or_region(where, radius)
    if isinstance(data, xr.Dataset):
        return extract_spectrum(data, source_type="EXTENDED", **given)
    cubes = {
        path: ds for path, ds in tree.leaves(data)
        if ds.attrs.get("level") == "cube" and ds.attrs.get("band") in BANDS and "background" not in path.split("/")
    }  # fmt: skip
    inside = {path: ds for path, ds in cubes.items() if _holds(ds, given)}
    if not inside:
        raise MrsxrError(f"none of the {len(cubes)} cubes of the tree holds the place; expected one in their fields")
    if lost := [str(ds.attrs["band"]) for path, ds in cubes.items() if path not in inside]:
        tell(f"the place lies outside of the cubes of {', '.join(lost)}; they are left out of the spectrum")
    spectra = computed([extract_spectrum(ds, source_type="EXTENDED", **given) for ds in inside.values()])
    found = dict(zip(inside, spectra, strict=True))
    if len(found) > 1:
        root = next(iter(found)).rpartition("/")[0]
        found[f"{root}/stitched"] = stitch_bands(list(found.values()), method=method)
    return tree.build(found, **tree.attrs_of(data))


def _circle_or_region(where: Any, radius: Any) -> dict[str, Any]:
    if radius is not None:
        return {"center": as_sky(where, "place"), "radius": radius}
    try:
        as_sky(where, "place")
    except MrsxrError:
        return {"region": region_text(where)}
    raise MrsxrError("a place needs a radius [arcsec]; give it, or a region")


def _holds(cube: xr.Dataset, given: dict[str, Any]) -> bool:
    """Return whether the centre of a circle, or any of a region, lies in the field of a cube."""
    if "center" in given:
        x, y = Place.of(cube).to_pixels(*given["center"])
        return bool(-0.5 <= x < cube.sizes["x"] - 0.5 and -0.5 <= y < cube.sizes["y"] - 0.5)
    try:
        region_weights(cube, given["region"])
    except MrsxrError:
        return False
    return True
