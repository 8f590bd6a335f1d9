"""Point spread functions as images, of another form than the simulator's Gaussians: a test must not know the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.special import j1

from mrsxr.errors import MrsxrError
from mrsxr.io.netcdf import read_netcdf


@dataclass(frozen=True, eq=False)
class Psf:
    """Images of a point source: ``images`` [wavelength, alpha, beta], each of sum 1, pixels of ``step`` [arcsec].

    The source lies in the middle of an image; between the ``wavelengths`` [um] images are interpolated, beyond them
    the nearest is taken. The axes are those of the slicer.

    Examples
    --------
    >>> scene = mx.simulate.Scene(339.015, 33.976, psf=mx.simulate.Psf.spiked(4.9, 5.8))
    """

    wavelengths: np.ndarray
    step: float
    images: np.ndarray

    @classmethod
    def read(cls, path: str | Path) -> Psf:
        """Read a netCDF file: ``psf`` (wavelength, alpha, beta) with coordinates [um, arcsec, arcsec]."""
        file = read_netcdf(path)
        if "psf" not in file or file["psf"].dims != ("wavelength", "alpha", "beta"):
            raise MrsxrError(f"{path}: expected a variable psf (wavelength, alpha, beta)")
        images = file["psf"].values.astype(float)
        step = float(np.mean(np.diff(file["alpha"].values)))
        return cls(file["wavelength"].values.astype(float), step, images / images.sum(axis=(1, 2), keepdims=True))

    @classmethod
    def spiked(cls, low: float, high: float, *, asymmetry: float = 0.12, step: float = 0.03, reach: float = 4.0) -> Psf:
        """Return PSFs like those in flight from one wavelength [um] to another.

        Parameters
        ----------
        low, high : float [um]
        asymmetry : float
            Light moved to one side of the core, relative.
        step, reach : float [arcsec]
            Pixels and half side of the images.

        Returns
        -------
        Psf
            Airy rings, six spikes and the cross artifact along the slices; the area above half of the peak is that of
            a circle of 0.033 wavelength + 0.106 arcsec (Law et al. 2023).
        """
        wavelengths = np.linspace(low, high, 5)
        axis = step * np.arange(-round(reach / step), round(reach / step) + 1)
        fwhm = 0.033 * wavelengths + 0.106
        unit = np.linspace(-1.5, 1.5, 301)
        shape = _spiked(unit[:, None], unit[None, :], asymmetry)
        width = 2.0 * np.sqrt(np.count_nonzero(shape > 0.5 * shape.max()) / np.pi) * (unit[1] - unit[0])
        images = np.stack([_spiked(axis[:, None] * width / f, axis[None, :] * width / f, asymmetry) for f in fwhm])
        return cls(wavelengths, step, images / images.sum(axis=(1, 2), keepdims=True))

    @cached_property
    def _sums(self) -> np.ndarray:
        """Light below each corner of the pixels."""
        return np.pad(self.images, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)

    def mean(
        self, alpha: tuple[np.ndarray, np.ndarray], beta: tuple[np.ndarray, np.ndarray], wavelength: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Return the mean PSF [1/arcsec2] over rectangles of sides (low, high) [arcsec], from the source."""
        total = 0.0
        plane = np.interp(wavelength, self.wavelengths, np.arange(self.wavelengths.size))
        for i, sign in ((0, -1), (1, 1)):
            for k, other in ((0, -1), (1, 1)):
                place = [
                    axis / self.step + 0.5 * n
                    for axis, n in zip((alpha[i], beta[k]), self.images.shape[1:], strict=True)
                ]
                total = total + sign * other * map_coordinates(
                    self._sums, [plane, *place], order=1, mode="nearest", prefilter=False
                )
        return total / ((alpha[1] - alpha[0]) * (beta[1] - beta[0]))

    def transfer(self, shape: tuple[int, int], step: float, wavelength: float) -> np.ndarray:
        """Return the Fourier transform (rfft2) of the PSF at a wavelength on a grid of a step [arcsec]."""
        alpha, beta = (np.fft.fftfreq(n, 1.0 / (n * step)) for n in shape)
        a, b = (v.ravel() for v in np.meshgrid(alpha, beta, indexing="ij"))
        half = 0.5 * step
        light = self.mean((a - half, a + half), (b - half, b + half), np.full(a.size, wavelength)) * step**2
        return np.fft.rfft2(light.reshape(shape))


def _spiked(a: np.ndarray, b: np.ndarray, asymmetry: float) -> np.ndarray:
    """Return the brightness at places in units of about the FWHM."""
    r = np.hypot(a, b) + 1e-9
    v = 3.2327 * r
    airy = (2.0 * j1(v) / v) ** 2
    out = 0.8 * airy + 0.2 / (1.0 + (1.3 * r) ** 2) ** 2
    for angle in np.radians([12.0, 72.0, 132.0]):
        across, along = b * np.cos(angle) - a * np.sin(angle), a * np.cos(angle) + b * np.sin(angle)
        out = out + 0.03 * np.exp(-0.5 * (across / 0.25) ** 2) / (1.0 + along**2)
    out = out + 0.006 * np.exp(-0.5 * (b / 0.4) ** 2) / (1.0 + (a / 4.0) ** 2)
    return out * (1.0 + asymmetry * np.tanh(2.0 * a + b) * np.exp(-0.5 * r**2))
