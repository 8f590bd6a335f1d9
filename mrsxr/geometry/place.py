"""Where the spaxels of a cube or of maps lie on the sky, whatever was cut, strided, flipped or coarsened since.

The one answer for FITS headers, selection by position, extraction, pictures and regridding: the plane of
``attrs["wcs"]`` and the offsets ``y``, ``x`` [arcsec] of what is left (:mod:`mrsxr.spaxels`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mrsxr.errors import MrsxrError
from mrsxr.spaxels import Plane, Row, Sky, plane_of, rows_of

from .sky import tangent_frame, tangent_offsets, tangent_to_sky, wrap

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS


@dataclass(frozen=True)
class Place:
    """The spaxels that are left on the plane of ``attrs["wcs"]``; x before y.

    Parameters
    ----------
    plane : Plane
    x, y : Row
    """

    plane: Plane
    x: Row
    y: Row

    @classmethod
    def of(cls, ds: Sky) -> Place:
        """Return the place of a cube or of maps.

        Parameters
        ----------
        ds : Dataset or DataArray
            With ``attrs["wcs"]``, ``y`` and ``x`` [arcsec], or with the index of ``ra`` and ``dec``.

        Raises
        ------
        MrsxrError
            Where it is not known, or no FITS header can say it.
        """
        if "wcs" in ds.attrs:
            plane = plane_of(str(ds.attrs["wcs"]))
            return cls(plane, *rows_of(ds, plane))
        wcs = getattr(ds.xindexes.get("ra"), "wcs", None)
        if wcs is None:
            raise MrsxrError("the Dataset has no attribute 'wcs' and no index of ra and dec: no sky grid is known")
        plane = plane_of(wcs.to_header().tostring(sep="\n"))
        return cls(plane, Row(0.0, 1.0, ds.sizes["x"]), Row(0.0, 1.0, ds.sizes["y"]))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.y.size, self.x.size

    @property
    def step(self) -> tuple[float, float]:
        """Signed steps along x and y [arcsec]."""
        return self.x.stride * self.plane.scale[0], self.y.stride * self.plane.scale[1]

    @property
    def start(self) -> tuple[float, float]:
        """Offsets of the first spaxel along x and y from the tangent point [arcsec]."""
        first = zip((self.x.first, self.y.first), self.plane.crpix, self.plane.scale, strict=True)
        x, y = ((number + 1.0 - crpix) * scale for number, crpix, scale in first)
        return x, y

    @property
    def crpix(self) -> tuple[float, float]:
        """Place of the tangent point in the spaxels that are left, counted from 1."""
        rows = zip(self.plane.crpix, (self.x, self.y), strict=True)
        x, y = (crpix if _untouched(row) else (crpix - 1.0 - row.first) / row.stride + 1.0 for crpix, row in rows)
        return x, y

    @cached_property
    def cards(self) -> dict[str, Any]:
        """The keywords of a FITS header, without those of a third axis.

        A flipped axis has a negative CDELT.
        """
        cdelt = [value * row.stride for value, row in zip(self.plane.cdelt, (self.x, self.y), strict=True)]
        (pc1_1, pc1_2), (pc2_1, pc2_2) = self.plane.turn
        pc1_2, pc2_1 = pc1_2 * (cdelt[1] / cdelt[0]), pc2_1 * (cdelt[0] / cdelt[1])  # CDELT multiplies rows of PC
        return {
            "CRPIX1": self.crpix[0], "CRPIX2": self.crpix[1],
            "CRVAL1": self.plane.crval[0], "CRVAL2": self.plane.crval[1],
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
            "CDELT1": cdelt[0], "CDELT2": cdelt[1],
            "PC1_1": pc1_1, "PC1_2": pc1_2, "PC2_1": pc2_1, "PC2_2": pc2_2,
            "RADESYS": self.plane.radesys or "ICRS",
        }  # fmt: skip

    @property
    def wcs(self) -> WCS:
        """The celestial WCS of the spaxels that are left."""
        from astropy.wcs import WCS

        out = WCS(naxis=2)
        out.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        out.wcs.cunit = ["deg", "deg"]
        out.wcs.crval = list(self.plane.crval)
        out.wcs.crpix = list(self.crpix)
        out.wcs.cdelt = [1.0, 1.0]
        out.wcs.pc = np.array(self.plane.turn) * np.array(self.step) / 3600.0
        out.wcs.radesys = self.plane.radesys or "ICRS"
        out.wcs.set()
        return out

    def to_pixels(self, ra: np.ndarray | float, dec: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Take sky positions [deg] to (x, y) in spaxels that are left, counted from 0; NaN behind the plane."""
        west, north = tangent_offsets(ra, dec, tangent_frame(*self.plane.crval))
        turn = np.linalg.inv(np.array(self.plane.turn))
        x, y = (row[0] * -west + row[1] * north for row in turn)
        return (x - self.start[0]) / self.step[0], (y - self.start[1]) / self.step[1]

    def to_sky(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Take (x, y) in spaxels that are left, counted from 0, to right ascension and declination [deg]."""
        across = self.start[0] + np.asarray(x, float) * self.step[0]
        up = self.start[1] + np.asarray(y, float) * self.step[1]
        east, north = (row[0] * across + row[1] * up for row in np.array(self.plane.turn))
        return tangent_to_sky(-east, north, tangent_frame(*self.plane.crval))

    @property
    def footprint(self) -> SkyCoord:
        """The four corners of the field, at the outer edges of its spaxels."""
        ny, nx = self.shape
        return self._on_sky(np.array([0, nx, nx, 0]) - 0.5, np.array([0, 0, ny, ny]) - 0.5)

    @property
    def centre(self) -> SkyCoord:
        """The middle of the field."""
        ny, nx = self.shape
        return self._on_sky((nx - 1) / 2, (ny - 1) / 2)

    def _on_sky(self, x: np.ndarray | float, y: np.ndarray | float) -> SkyCoord:
        from astropy.coordinates import SkyCoord

        return SkyCoord(*self.to_sky(x, y), unit="deg", frame=(self.plane.radesys or "ICRS").lower())

    @property
    def s_region(self) -> str:
        """The box around the centres of the corner spaxels, as jwst writes it to S_REGION of a cube."""
        ny, nx = self.shape
        ra, dec = self.to_sky([0, nx - 1, nx - 1, 0], [0, 0, ny - 1, ny - 1])
        ra = ra[0] + (ra - ra[0] + 180.0) % 360.0 - 180.0
        box = [(ra.min(), dec.min()), (ra.min(), dec.max()), (ra.max(), dec.max()), (ra.max(), dec.min())]
        return "POLYGON ICRS  " + " ".join(f"{wrap(east):.9f} {north:.9f}" for east, north in box)


def sky_of(ds: Sky) -> WCS:
    """Return the celestial WCS of the present spaxels of a cube or of maps, see :class:`Place`."""
    return Place.of(ds).wcs


def has_place(ds: Sky) -> bool:
    """Return whether it is known where the spaxels lie and a FITS header can say it."""
    try:
        Place.of(ds)
    except MrsxrError:
        return False
    return True


def _untouched(row: Row) -> bool:
    return row.first == 0.0 and row.stride == 1.0
