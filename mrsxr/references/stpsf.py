"""Images of a point source as STPSF (WebbPSF) writes them: files of calc_psf, calc_datacube, calc_datacube_fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsxr.errors import InputFileError
from mrsxr.io.headers import read_layout
from mrsxr.mrs import BANDS

#: Extensions with images finer than a pixel, the better one first: with the distortion and the detector's blur, or not.
_FINE = ("OVERDIST", "OVERSAMP")


def read_stpsf(path: str | Path) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Read the oversampled images of a file of STPSF.

    Parameters
    ----------
    path : path

    Returns
    -------
    images : float64 (wavelength, alpha, beta)
        Turned from x, y of STPSF: these run against V2 and along V3 (VIdlParity -1 of the SIAF), turned so that x lies
        along the slices; alpha runs along V2 and beta against V3 (distortion of flight).
    wavelength : float64 (wavelength) [um]
    step : float [arcsec]
    band : str
        Keyword BAND, empty where the file has none.

    Raises
    ------
    InputFileError
        Where the file holds no oversampled images, or does not tell their wavelengths and pixels.
    """
    file = read_layout(path)
    name = next((one for one in _FINE if one in file), None)
    if name is None:
        found = ", ".join(hdu.name for hdu in file.hdus)
        raise InputFileError(f"{path}: expected an extension {' or '.join(_FINE)} as STPSF writes it, found {found}")
    cards = {**file.hdus[0].header, **file.get(name).header}
    image: Any = file.image(name)
    image = np.asarray(image[...] if isinstance(image, np.ndarray) else image.get_duck_array(), float)
    image = image[None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[1] != image.shape[2] or not np.isfinite(image).all():
        raise InputFileError(f"{path}: {name} has the shape {image.shape}; expected finite, square images")
    step, wavelength = cards.get("PIXELSCL"), [_wavelength(cards, k, len(image)) for k in range(len(image))]
    if not isinstance(step, float) or not 0 < step < 1:
        raise InputFileError(f"{path}: PIXELSCL of {name} is {step}; expected arcsec a pixel, below 1")
    if not all(isinstance(one, float) and 1e-6 < one < 1e-4 for one in wavelength):
        raise InputFileError(
            f"{path}: the wavelengths of {name} are {wavelength[:3]} ...; expected metres in WAVELN00 ..."
        )
    band = str(cards.get("BAND") or "")
    images = np.ascontiguousarray(image[:, ::-1, ::-1].transpose(0, 2, 1))
    return images, 1e6 * np.array(wavelength, float), float(step), band if band in BANDS else ""


def _wavelength(cards: dict[str, Any], plane: int, n: int) -> Any:
    """Return the wavelength [m] of a plane: WAVELN00 of up to 100 planes, WVLN0000 of more, WAVE0 of one image."""
    names = [f"WAVELN{plane:02d}", f"WVLN{plane:04d}", *(("WAVE0", "WAVELEN") if n == 1 else ())]
    return next((cards[name] for name in names if name in cards), None)
