"""Made-up cubes of known kinds of source, with a PSF that is not the one that the code assumes: rings, wide wings."""

from __future__ import annotations

import numpy as np
from scipy.special import j1
from test_extract_1d import make_cube

from mrsxr import mrs

FINE = 5  # points a spaxel along an axis
N = 31
PLANES = 12


def airy(radius):
    """Return the pattern of a telescope with a hole of a fifth, radius in units of wavelength / diameter."""
    v = np.pi * np.maximum(radius, 1e-9)
    hole = 0.2
    return ((2 * j1(v) / v - hole**2 * 2 * j1(hole * v) / (hole * v)) / (1 - hole**2)) ** 2


def image_of(kind, size, place, wavelength, scale, *, seed=0, ellipticity=0.06, wings=0.05):
    """Return the image of a source (y, x), total light 1, in a cube.

    kind : "point", "disc" (uniform), "exponential", "point on disc" (half of the light each), "two" (2 to 1), "empty";
    size : FWHM of discs, distance of the two [FWHM of the PSF]; place : (x, y) [spaxel].
    """
    if kind == "empty":
        return np.zeros((N, N))
    fwhm = mrs.psf_fwhm(wavelength) / scale
    n = N * FINE
    y, x = (np.indices((n, n)) + 0.5) / FINE - 0.5
    dx, dy = x - N // 2, y - N // 2
    angle = np.random.default_rng(seed).uniform(0, np.pi)
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    radius = np.hypot(along / (1 + ellipticity), across / (1 - ellipticity))
    box = 0.75 * 2.355 / np.sqrt(12.0)  # FWHM [spaxel] of the sampling, two boxes about 0.75 wide
    optical = np.sqrt(fwhm**2 - 2 * box**2)
    pattern = (1 - wings) * normed(airy(1.03 * radius / optical)) + wings * normed((1 + (radius / fwhm) ** 2) ** -1.5)
    psf = box_blur(box_blur(pattern, 0.75), 0.75)
    offset = place[0] - N // 2, place[1] - N // 2
    distance = np.hypot(dx - offset[0], dy - offset[1])
    light = np.zeros((n, n))
    if kind in ("point", "point on disc", "two"):
        i, j = (round((p + 0.5) * FINE - 0.5) for p in place)
        light[j, i] = 1.0
    if kind == "disc":
        light = np.clip(0.5 * size * fwhm - distance + 0.5 / FINE, 0, 1.0 / FINE)
    if kind in ("exponential", "point on disc"):
        light = light + normed(np.exp(-distance / (size * fwhm / (2 * np.log(2)))))
    if kind == "two":
        light[j, min(i + round(size * fwhm * FINE), n - 1)] += 0.5
    shifted = np.fft.ifft2(np.fft.fft2(normed(light)) * np.fft.fft2(np.fft.ifftshift(psf))).real
    return shifted.reshape(N, FINE, N, FINE).sum(axis=(1, 3))


def normed(values):
    return values / values.sum()


def box_blur(values, width):
    """Return values averaged over a square [spaxel]."""
    k = np.fft.fftfreq(values.shape[0], 1.0 / FINE)
    line = np.sinc(k * width)
    return np.fft.ifft2(np.fft.fft2(values) * line[:, None] * line[None, :]).real


def cube_of(kind, size, signal, band, seed):
    """Return a cube of a band in which a source has a signal-to-noise ratio in a third of the band."""
    rng = np.random.default_rng(seed)
    scale, step = mrs.SPAXEL_SIZE[int(band[0])], mrs.WAVELENGTH_STEP[int(band[0])]
    wavelength = sum(mrs.WAVELENGTH_LIMITS[band]) / 2
    place = N // 2 + rng.uniform(-0.5, 0.5, 2)
    image = image_of(kind, size, place, wavelength, scale, seed=seed)
    y, x = np.indices(image.shape)
    near = np.hypot(x - place[0], y - place[1]) <= 3 * mrs.psf_fwhm(wavelength) / scale
    power = np.sqrt(np.sum((image[near] - image[near].mean()) ** 2)) if kind != "empty" else 1.0
    sigma = power / signal / np.sqrt(1.57 / (PLANES // 3))
    flux = image + 3.0 * sigma + rng.normal(0, sigma, (PLANES, N, N))
    flux[:, :2] = flux[:, :, -2:] = np.nan
    return make_cube(flux / sigma, np.ones_like(flux), wave0=wavelength, step=step, band=band, scale=scale)


#: Kind, sizes, what it is; "either" where no one answer is right.
SCENES = (
    ("point", (0.0,), "POINT"),
    ("disc", (1.3, 1.6, 2.0, 3.0), "EXTENDED"),
    ("exponential", (1.0, 1.5, 2.0, 3.0), "EXTENDED"),
    ("disc", (0.7, 0.9), "either"),
    ("exponential", (0.5, 0.7), "either"),
    ("disc", (0.3,), "POINT"),
    ("exponential", (0.15,), "POINT"),
    ("point on disc", (1.5, 2.5), "either"),
    ("two", (1.5, 2.5), "either"),
    ("empty", (0.0,), "EXTENDED"),
)
