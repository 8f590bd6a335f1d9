"""Step match_psf: every plane of a cube smoothed to one width of the PSF, so that ratios over bands are honest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.arguments import as_um, reads
from mrsxr.attributes import varied
from mrsxr.errors import MrsxrError
from mrsxr.limits import Arcsec, Wavelength
from mrsxr.spaxels import spaxel_size
from mrsxr.step import step

Edges = Literal["normalise", "zero"]
_TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
_SLACK = 1e-3  # a target this much sharper than a plane is taken for equal
_SAMPLED = 1.0  # spaxels of sigma from which a Gaussian is sampled well enough
_REACH = 5.0
_FLOOR = 1e-3  # weight of the frequencies that the PSF does not hold


@step(needs="cube")
@reads(wavelength=as_um)
def match_psf(
    cube: xr.Dataset,
    *,
    fwhm: Arcsec | None = None,
    wavelength: Wavelength | None = None,
    others: Sequence[xr.Dataset] = (),
    psf: float | Callable[..., Any] | None = None,
    edges: Edges = "normalise",
) -> xr.Dataset:
    """Smooth every plane by a round Gaussian so that a point source has one FWHM in all planes.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Of one band or of several.
    fwhm : float, optional
        FWHM to reach [arcsec]; by default the widest of this cube and of ``others``.
    wavelength : float, optional
        Instead of ``fwhm``: reach the FWHM at this wavelength [um].
    others : sequence of Dataset
        Further cubes whose widest PSF counts, so that all of them can be brought to one.
    psf : float or callable, optional
        FWHM of a point source in the cubes [arcsec], a number or a function of the wavelength [um]; by default
        :func:`mrsxr.mrs.psf_fwhm`, of cubes that were matched before what they were matched to. Measure it where it
        matters: it depends on the dithers and on the way the cube was built.
    edges : {"normalise", "zero"}
        What is taken to lie beyond the field and in holes. "normalise": the weighted mean of what there is, which
        keeps a surface brightness at the edge but spreads no flux over it. "zero": nothing, which conserves the sum of
        all spaxels but for what leaves the field.

    Returns
    -------
    Dataset, level "cube"
        ``flux`` smoothed, ``var`` of independent voxels smoothed with the square of the kernel, ``var_systematic``, an
        error common to all voxels, as its root. Voxels that were NaN or DO_NOT_USE are NaN. attrs ``psf_fwhm``
        [arcsec]. Lazy where the cube is, in its blocks of planes.

    Raises
    ------
    MrsxrError
        Where the target is sharper than a plane of the cube, or an option is impossible.

    Notes
    -----
    Width of the kernel: sqrt(target^2 - FWHM(wavelength)^2). A Gaussian narrower than a spaxel is not well sampled by
    spaxels: see :func:`gaussian_kernel`. Variances are those of single voxels: neighbours are correlated
    afterwards, and an error of a sum of voxels from them is too small. Gaussians match the cores of two PSFs, not
    their wings.

    Examples
    --------
    >>> mx.cube.match_psf(cube, fwhm=0.6).attrs["psf_fwhm"]
    0.6
    """
    width = _widths(cube, psf)
    target = _target(width, fwhm, wavelength, others, psf)
    sharper = width > target * (1.0 + _SLACK)
    if sharper.any():
        k = int(np.argmax(width))
        raise MrsxrError(
            f"the target of {target:.3f} arcsec is sharper than the cube, {width[k]:.3f} arcsec at "
            f"{float(cube['wavelength'].values[k]):.3f} um; expected that or more"
        )
    per_spaxel = _TO_SIGMA / spaxel_size(cube)
    sigma = np.stack([np.sqrt(np.maximum(target**2 - width**2, 0.0)), width], axis=1) * per_spaxel
    names = [name for name in ("flux", "var", "var_systematic") if name in cube]
    found = _smooth_lazily([cube[n].variable.data for n in (*names, "dq")], sigma, edges)
    dims = ("wavelength", "y", "x")
    out = {name: (dims, found[k], cube[name].attrs) for k, name in enumerate(names)}
    blind = np.isnan(found[0]).astype(np.uint32) * np.uint32(flags.DO_NOT_USE)
    out["dq"] = (dims, cube["dq"].variable.data | blind, cube["dq"].attrs)
    return varied(cube.assign(out).assign_attrs(psf_fwhm=target), "psf-matched")


def smooth_planes(*arrays: np.ndarray, edges: str) -> np.ndarray:
    """Return flux and variances (variable, plane, y, x) float32, smoothed.

    Parameters
    ----------
    *arrays
        flux, var, perhaps var_systematic, dq (plane, y, x), and sigma of kernel and PSF [spaxel] (plane, 2, 1).
    edges : str
        See :func:`match_psf`.
    """
    *data, dq, sigma = arrays
    flux = np.asarray(data[0], float)
    good = flags.good(flux, np.asarray(dq))
    out = np.full((len(data), *flux.shape), np.nan, np.float32)
    for k in range(flux.shape[0]):
        seen = good[k]
        if not seen.any():
            continue
        kernel = gaussian_kernel(*map(float, sigma[k, :, 0]))
        share = _convolve(seen.astype(float), kernel) if edges == "normalise" else np.ones(seen.shape)
        share = np.where(seen, share, 1.0)
        for i, values in enumerate(data):
            plane = np.where(seen, np.asarray(values[k], float), 0.0)
            if i == 0:
                smooth = _convolve(plane, kernel) / share
            elif i == 1:
                smooth = _convolve(plane, kernel**2) / share**2
            else:  # one error for all: it is smoothed as the flux is
                smooth = (_convolve(np.sqrt(plane), kernel) / share) ** 2
            out[i, k] = np.where(seen, smooth, np.nan)
    return out


def gaussian_kernel(sigma: float, psf: float) -> np.ndarray:
    """Return the weights along an axis that widen a PSF by a Gaussian.

    Parameters
    ----------
    sigma : float
        Of the Gaussian [spaxel].
    psf : float
        Sigma of the PSF [spaxel].

    Returns
    -------
    float64 array (2 n + 1), sum 1

    Notes
    -----
    A Gaussian of a spaxel or more is sampled. The samples of a narrower one have another width; its weights are those
    whose transfer function is next to exp(-(sigma theta)^2 / 2), by least squares over the frequencies theta up to half
    a cycle a spaxel with the power spectrum of the PSF as weight. Some of them may be slightly negative.
    """
    if not sigma > 0:
        return np.ones(1)
    reach = max(3, int(np.ceil(_REACH * sigma)))
    place = np.arange(reach + 1)
    if sigma >= _SAMPLED:
        half = np.exp(-0.5 * (place / sigma) ** 2)
    else:
        theta = np.linspace(0.0, np.pi, 129)
        root = np.sqrt(np.exp(-((psf * theta) ** 2)) + _FLOOR)
        root[0] = 1e3  # the sum
        basis = np.cos(theta[:, None] * place) * np.where(place > 0, 2.0, 1.0)
        half = np.linalg.lstsq(basis * root[:, None], np.exp(-0.5 * (sigma * theta) ** 2) * root, rcond=None)[0]
    weights = np.concatenate([half[:0:-1], half])
    return weights / weights.sum()


# --- helpers ---------------------------------------------------------------------------------------------------------


def _convolve(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    from scipy.ndimage import convolve1d

    rows = convolve1d(plane, kernel, axis=0, mode="constant")
    return convolve1d(rows, kernel, axis=1, mode="constant")


def _smooth_lazily(arrays: list[Any], sigma: np.ndarray, edges: str) -> np.ndarray:
    """Return (variable, plane, y, x), lazy where one of the arrays is."""
    spread = sigma[:, :, None]
    if not any(isinstance(a, da.Array) for a in arrays):
        return smooth_planes(*arrays, spread, edges=edges)
    first = next(a for a in arrays if isinstance(a, da.Array))
    chunks = (first.chunks[0], -1, -1)
    arrays = [a.rechunk(chunks) if isinstance(a, da.Array) else da.from_array(a, chunks=chunks) for a in arrays]
    n = len(arrays) - 1
    return da.map_blocks(
        smooth_planes, *arrays, da.from_array(spread, chunks=(first.chunks[0], 2, 1)), edges=edges, dtype=np.float32,
        new_axis=0, chunks=((n,), *arrays[0].chunks), meta=np.empty((0, 0, 0, 0), np.float32),
    )  # fmt: skip


def _widths(cube: xr.Dataset, psf: float | Callable[..., Any] | None) -> np.ndarray:
    """Return the FWHM of every plane [arcsec]."""
    return _law(np.asarray(cube["wavelength"].values, float), cube.attrs.get("psf_fwhm") if psf is None else psf)


def _law(wave: np.ndarray, psf: float | Callable[..., Any] | None) -> np.ndarray:
    law = mrs.psf_fwhm if psf is None else psf
    width = np.broadcast_to(np.asarray(law(wave) if callable(law) else law, float), wave.shape)
    if not (np.isfinite(width).all() and (width > 0).all()):
        raise MrsxrError("the FWHM of the PSF is not above 0 everywhere in the cube; expected arcsec")
    return width


def _target(width: np.ndarray, fwhm: Any, wavelength: Any, others: Sequence[xr.Dataset], psf: Any) -> float:
    if fwhm is not None and wavelength is not None:
        raise MrsxrError("fwhm and wavelength are both given; expected one of them")
    if fwhm is not None:
        if not fwhm > 0:
            raise MrsxrError(f"the FWHM to reach is {fwhm}; expected arcsec above 0")
        return float(fwhm)
    if wavelength is not None:
        return float(_law(np.array([float(wavelength)]), psf)[0])
    return float(max([width.max(), *(_widths(other, psf).max() for other in others)]))
