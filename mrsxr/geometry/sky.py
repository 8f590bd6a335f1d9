"""Slice coordinates to the telescope frame (V2, V3) and to the sky (RA, Dec), and back.

The chain is that of ``jwst``: alpha, beta -> V2, V3 (polynomials of the distortion file) -> scale by
differential velocity aberration about (V2_REF, V3_REF) -> rotations by the pointing keywords -> RA, Dec
(ICRS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.mrs import bands_of_setting

from .detector import band_index, coefficients

_CONVERGED = 1e-6  # arcsec

SPEED_OF_LIGHT = 299792458.0  # m/s
ARCSEC = np.pi / 180.0 / 3600.0
#: The coordinates of the pointing; in capitals they are the FITS keywords.
POINTING = ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref")


@dataclass(frozen=True)
class Pointing:
    """Where the telescope points in one exposure.

    Parameters
    ----------
    ra_ref, dec_ref : float
        Right ascension and declination of the reference point [deg] (RA_REF, DEC_REF).
    roll_ref : float
        Position angle of the V3 axis at the reference point, north to east [deg] (ROLL_REF).
    v2_ref, v3_ref : float
        The reference point in the telescope frame [arcsec] (V2_REF, V3_REF).
    va_scale : float, optional
        Scale of differential velocity aberration (VA_SCALE).
    """

    ra_ref: float
    dec_ref: float
    roll_ref: float
    v2_ref: float
    v3_ref: float
    va_scale: float = 1.0

    @classmethod
    def of(cls, ds: xr.Dataset, dither_index: int = 0) -> Pointing:
        """Return the pointing of one dither of a detector Dataset (position along ``dither``, from 0).

        Raises
        ------
        MrsxrError
            Naming the exposure and the keywords where the pointing is not known.
        """
        missing = [name for name in POINTING if name not in ds.coords]
        if missing:
            raise MrsxrError(f"the Dataset has no coordinate {', '.join(missing)}: no pointing is known")
        values = {name: float(ds[name].values[dither_index]) for name in POINTING}
        missing = [name.upper() for name, value in values.items() if not np.isfinite(value)]
        if missing:
            exposure = ds["exposure"].values[dither_index] if "exposure" in ds.coords else f"dither {dither_index}"
            raise MrsxrError(
                f"{exposure}: {', '.join(missing)} missing from the header, so that its place on the "
                "sky is not known; take a file with a pointing (jwst: set_telescope_pointing)"
            )
        ra, dec, roll, v2, v3 = values.values()
        scale = float(ds["va_scale"].values[dither_index]) if "va_scale" in ds.coords else 1.0
        return cls(ra, dec, roll, v2, v3, scale if np.isfinite(scale) else 1.0)

    @staticmethod
    def known(ds: xr.Dataset, dither_index: int = 0) -> bool:
        """Return whether every keyword of the pointing of a dither is known."""
        return all(name in ds.coords and np.isfinite(ds[name].values[dither_index]) for name in POINTING)

    @cached_property
    def matrix(self) -> np.ndarray:
        """Rotation of unit vectors, telescope -> equatorial: Rz(RA) Ry(-Dec) Rx(-roll) Ry(V3) Rz(-V2)."""
        v2, v3 = self.v2_ref * ARCSEC, self.v3_ref * ARCSEC
        ra, dec, roll = np.radians([self.ra_ref, self.dec_ref, self.roll_ref])
        return _rz(ra) @ _ry(-dec) @ _rx(-roll) @ _ry(v3) @ _rz(-v2)

    def moved(self, start: tuple[float, float], end: tuple[float, float]) -> Pointing:
        """Return the pointing after the sky is turned so that ``start`` falls on ``end``, north staying north.

        Parameters
        ----------
        start, end : (float, float)
            Right ascension and declination [deg].

        Returns
        -------
        Pointing
            What lay x to the west and y to the north of ``start`` lies as far from ``end``.
        """
        turn = tangent_frame(*end).T @ tangent_frame(*start)
        reference = turn @ self.matrix @ _rz(self.v2_ref * ARCSEC) @ _ry(-self.v3_ref * ARCSEC)
        ra = np.degrees(np.arctan2(reference[1, 0], reference[0, 0]))
        dec = np.degrees(np.arctan2(reference[2, 0], np.hypot(reference[0, 0], reference[1, 0])))
        roll = np.degrees(np.arctan2(-reference[2, 1], reference[2, 2]))
        return replace(self, ra_ref=float(wrap(ra)), dec_ref=float(dec), roll_ref=float(wrap(roll)))

    @property
    def reference(self) -> np.ndarray:
        """V2_REF, V3_REF [arcsec] and VA_SCALE as an array, for the compiled functions."""
        return np.array([self.v2_ref, self.v3_ref, self.va_scale])


def slicer_to_v2v3(
    alpha: np.ndarray | float, beta: np.ndarray | float, band: str, model: Mapping[Any, Any],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Take slice coordinates of a band to the telescope frame.

    Parameters
    ----------
    alpha, beta : array_like of float
        [arcsec].
    band : str
        "1A" ... "4C".
    model : Dataset or mapping
        ``v2_coefficients``, ``v3_coefficients``, ``band``.

    Returns
    -------
    v2, v3 : ndarray of float64
        [arcsec].
    """
    from ._sky_kernels import slicer_to_v2v3_many

    alpha, beta = np.broadcast_arrays(np.asarray(alpha, float), np.asarray(beta, float))
    v2, v3 = slicer_to_v2v3_many(alpha.ravel(), beta.ravel(), *v2v3_matrices(band, model))
    return v2.reshape(alpha.shape), v3.reshape(alpha.shape)


def v2v3_to_slicer(
    v2: np.ndarray | float, v3: np.ndarray | float, band: str, model: xr.Dataset, *, stored: bool = False,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Take positions in the telescope frame to slice coordinates of a band.

    Parameters
    ----------
    v2, v3 : array_like of float
        [arcsec].
    band : str
        "1A" ... "4C".
    model : Dataset or mapping
        ``v2_coefficients``, ``v3_coefficients``, ``band``; for ``stored`` also ``alpha_from_v2v3``,
        ``beta_from_v2v3``.
    stored : bool, optional
        Use the inverse polynomials of the distortion file, as ``jwst`` does. They are a fit of their own,
        good to about 2 mas; by default the forward polynomials are inverted to 1e-11 arcsec (Newton steps).

    Returns
    -------
    alpha, beta : ndarray of float64
        [arcsec].
    """
    v2, v3 = np.broadcast_arrays(np.asarray(v2, float), np.asarray(v3, float))
    if stored:
        k = band_index(band, model)
        back = [coefficients(model, name)[k] for name in ("alpha_from_v2v3", "beta_from_v2v3")]
        alpha, beta = (np.polynomial.polynomial.polyval2d(v2, v3, matrix) for matrix in back)
        return alpha, beta
    return _invert(v2, v3, *v2v3_matrices(band, model))


def v2v3_to_sky(v2: np.ndarray | float, v3: np.ndarray | float, pointing: Pointing) -> tuple[np.ndarray, np.ndarray]:
    """Take positions in the telescope frame to the sky.

    Parameters
    ----------
    v2, v3 : array_like of float
        [arcsec].
    pointing : Pointing

    Returns
    -------
    ra, dec : ndarray of float64
        ICRS [deg], 0 <= ra < 360.

    Notes
    -----
    As ``jwst.assign_wcs.pointing``: (V2, V3) scaled by VA_SCALE about (V2_REF, V3_REF), then
    ``w = Rz(RA_REF) Ry(-DEC_REF) Rx(-ROLL_REF) Ry(V3_REF) Rz(-V2_REF) u``.
    """
    v2, v3 = np.broadcast_arrays(np.asarray(v2, float), np.asarray(v3, float))
    a = (pointing.v2_ref + pointing.va_scale * (v2 - pointing.v2_ref)) * ARCSEC
    d = (pointing.v3_ref + pointing.va_scale * (v3 - pointing.v3_ref)) * ARCSEC
    return _direction(np.tensordot(pointing.matrix, unit_vector(a, d), axes=1))


def sky_to_v2v3(ra: np.ndarray | float, dec: np.ndarray | float, pointing: Pointing) -> tuple[Any, Any]:
    """Take positions on the sky to the telescope frame; the inverse of :func:`v2v3_to_sky`.

    Parameters
    ----------
    ra, dec : array_like of float
        ICRS [deg].
    pointing : Pointing

    Returns
    -------
    v2, v3 : ndarray of float64
        [arcsec].
    """
    ra, dec = np.broadcast_arrays(np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float)))
    u = np.tensordot(pointing.matrix.T, unit_vector(ra, dec), axes=1)
    a = np.arctan2(u[1], u[0]) / ARCSEC
    d = np.arctan2(u[2], np.hypot(u[0], u[1])) / ARCSEC
    return (
        pointing.v2_ref + (a - pointing.v2_ref) / pointing.va_scale,
        pointing.v3_ref + (d - pointing.v3_ref) / pointing.va_scale,
    )


def slicer_to_sky(
    alpha: Any, beta: Any, band: str, model: xr.Dataset, pointing: Pointing,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Take slice coordinates of a band to the sky in one compiled pass.

    Parameters
    ----------
    alpha, beta : array_like of float
        [arcsec]; NaN stays NaN.
    band : str
        "1A" ... "4C".
    model : Dataset or mapping
        ``v2_coefficients``, ``v3_coefficients``, ``band``.
    pointing : Pointing

    Returns
    -------
    ra, dec : ndarray of float64
        ICRS [deg].
    """
    from ._sky_kernels import slicer_to_sky_many

    alpha, beta = np.broadcast_arrays(np.asarray(alpha, float), np.asarray(beta, float))
    matrices = v2v3_matrices(band, model)
    ra, dec = slicer_to_sky_many(alpha.ravel(), beta.ravel(), *matrices, pointing.reference, pointing.matrix)
    return ra.reshape(alpha.shape), dec.reshape(alpha.shape)


def barycentric(wavelength: Any, velosys: Any) -> Any:
    """Take observed wavelengths to the barycentre of the solar system.

    Parameters
    ----------
    wavelength : array_like of float or DataArray
        Observed wavelength [um].
    velosys : float or array_like
        Velocity of the observer away from the target [m/s] (keyword VELOSYS); None or NaN: no correction.

    Returns
    -------
    same type as ``wavelength``
        ``wavelength / (1 + velosys / c)`` [um].
    """
    if velosys is None:
        return wavelength
    factor = 1.0 + xr.where(np.isfinite(velosys), velosys, 0.0) / SPEED_OF_LIGHT
    return wavelength / (factor if isinstance(factor, xr.DataArray) else np.asarray(factor)[()])


def with_sky(ds: xr.Dataset) -> xr.Dataset:
    """Attach the sky position and the barycentric wavelength of every detector pixel.

    Cal data carry slice coordinates only, as the rest follows from them; this makes them explicit, for plots
    and checks (16 bytes for each pixel of each dither and 8 for the wavelength).

    Parameters
    ----------
    ds : Dataset, level "cal"
        With ``slice``, ``alpha``, ``beta``, ``wavelength``, the V2, V3 coefficients and the pointing of each
        dither.

    Returns
    -------
    Dataset
        With coordinates ``ra``, ``dec`` [deg] and ``wavelength_barycentric`` [um] on (dither, y, x), in
        memory; NaN between slices.
    """
    for name in ("slice", "alpha", "beta", "wavelength", "v2_coefficients", "v3_coefficients"):
        if name not in ds.variables:
            raise MrsxrError(f"with_sky: the Dataset has no '{name}'; assign the coordinates first")
    labels, alpha, beta = (np.asarray(ds[name].values) for name in ("slice", "alpha", "beta"))
    ra = np.full((ds.sizes["dither"], *labels.shape), np.nan)
    dec = ra.copy()
    for channel_band in bands_of_setting(ds.attrs["setting"]):
        lit = labels // 100 == int(channel_band[0])
        for k in range(ds.sizes["dither"]):
            ra[k, lit], dec[k, lit] = slicer_to_sky(alpha[lit], beta[lit], channel_band, ds, Pointing.of(ds, k))
    wavelength = np.asarray(ds["wavelength"].values)[np.newaxis]
    if "velosys" in ds.coords:
        wavelength = barycentric(wavelength, ds["velosys"].values[:, np.newaxis, np.newaxis])
    dims = ("dither", "y", "x")
    return ds.assign_coords(
        ra=(dims, ra, {"units": "deg", "long_name": "right ascension (ICRS)"}),
        dec=(dims, dec, {"units": "deg", "long_name": "declination (ICRS)"}),
        wavelength_barycentric=(dims, np.broadcast_to(wavelength, ra.shape).copy(), {"units": "um"}),
    )


def tangent_frame(ra: float, dec: float, position_angle: float = 0.0) -> np.ndarray:
    """Return the axes of a tangent plane as rows: towards the centre, along x and along y of the plane.

    Parameters
    ----------
    ra, dec : float
        Tangent point [deg].
    position_angle : float, optional
        Rotation r of the plane [deg]: x' = xi cos r + eta sin r, y' = -xi sin r + eta cos r with xi to the
        west and eta to the north.

    Returns
    -------
    ndarray (3, 3)
        For an equatorial unit vector w, ``h, x, y = frame @ w`` and the offsets are ``x / h``, ``y / h``
        [rad].
    """
    a, d, r = np.radians([ra, dec, position_angle])
    west = np.array([np.sin(a), -np.cos(a), 0.0])
    north = np.array([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
    return np.stack([unit_vector(a, d), west * np.cos(r) + north * np.sin(r), -west * np.sin(r) + north * np.cos(r)])


def tangent_offsets(
    ra: np.ndarray | float, dec: np.ndarray | float, frame: np.ndarray,
) -> tuple[Any, Any]:  # fmt: skip
    """Take sky positions [deg] to offsets (x, y) [arcsec] in a tangent plane; NaN where behind the plane.

    ``frame`` is of :func:`tangent_frame`. With position angle 0, x grows to the west and y to the north.
    """
    ra, dec = np.broadcast_arrays(np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float)))
    h, x, y = np.tensordot(frame, unit_vector(ra, dec), axes=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        h = np.where(h > 0, h, np.nan)
        return x / h / ARCSEC, y / h / ARCSEC


def tangent_to_sky(x: np.ndarray | float, y: np.ndarray | float, frame: np.ndarray) -> tuple[Any, Any]:
    """Take offsets [arcsec] along the axes of :func:`tangent_frame` to right ascension and declination [deg]."""
    x, y = np.broadcast_arrays(np.asarray(x, float) * ARCSEC, np.asarray(y, float) * ARCSEC)
    return _direction(np.tensordot(frame.T, np.stack([np.ones(x.shape), x, y]), axes=1))


def unit_vector(longitude: np.ndarray | float, latitude: np.ndarray | float) -> np.ndarray:
    """Return unit vectors (3, ...) of angles [rad]."""
    flat = np.cos(latitude)
    return np.stack([np.cos(longitude) * flat, np.sin(longitude) * flat, np.sin(latitude)])


def _direction(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return wrap(np.degrees(np.arctan2(w[1], w[0]))), np.degrees(np.arctan2(w[2], np.hypot(w[0], w[1])))


def wrap(ra: np.ndarray | float) -> Any:
    """Return right ascensions [deg] in 0 <= ra < 360."""
    ra = np.mod(ra, 360.0)
    return np.where(ra >= 360.0, 0.0, ra)[()]


def v2v3_matrices(band: str, model: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficient matrices of V2 and V3 [arcsec] of a band, for the compiled functions."""
    k = band_index(band, model)
    return coefficients(model, "v2_coefficients")[k], coefficients(model, "v3_coefficients")[k]


def _rx(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _ry(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _rz(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _invert(
    v2: np.ndarray, v3: np.ndarray, v2_matrix: np.ndarray, v3_matrix: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Invert the forward polynomials by Newton steps from the linear solution; NaN where they do not converge."""
    polynomial = np.polynomial.polynomial
    slopes = [[polynomial.polyder(m, axis=axis) for axis in (0, 1)] for m in (v2_matrix, v3_matrix)]
    alpha, beta = np.zeros(v2.shape), np.zeros(v2.shape)
    for _ in range(6):
        d2 = v2 - polynomial.polyval2d(alpha, beta, v2_matrix)
        d3 = v3 - polynomial.polyval2d(alpha, beta, v3_matrix)
        (a2, b2), (a3, b3) = ([polynomial.polyval2d(alpha, beta, m) for m in pair] for pair in slopes)
        determinant = a2 * b3 - b2 * a3
        alpha = alpha + (b3 * d2 - b2 * d3) / determinant
        beta = beta + (a2 * d3 - a3 * d2) / determinant
    converged = np.hypot(d2, d3) < _CONVERGED  # before the last step, which squares it
    return np.where(converged, alpha, np.nan), np.where(converged, beta, np.nan)
