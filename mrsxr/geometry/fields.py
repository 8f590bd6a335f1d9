"""Fields of the sky: which pointings overlap or abut, and which lie apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Largest distance [arcsec] between neighbours of a field: tiles of a mosaic abut at 4 to 8, their diagonals at 11.
REACH = 15.0


def separation(
    ra: np.ndarray | float, dec: np.ndarray | float, ra_of: np.ndarray | float, dec_of: np.ndarray | float
) -> np.ndarray:
    """Return the distance [arcsec] between places on the sky [deg]."""
    one, other = _vectors(ra, dec), _vectors(ra_of, dec_of)
    return np.degrees(2 * np.arcsin(np.clip(0.5 * np.linalg.norm(one - other, axis=-1), 0, 1))) * 3600


def fields(ra: Sequence[float] | np.ndarray, dec: Sequence[float] | np.ndarray, reach: float = REACH) -> np.ndarray:
    """Number the fields that pointings belong to, from 0 in the order given.

    Parameters
    ----------
    ra, dec : sequence of float
        Pointings [deg]; those that are not finite belong to the first field.
    reach : float
        Two pointings nearer than this [arcsec] lie in one field, and so do their neighbours.

    Returns
    -------
    int array

    Examples
    --------
    >>> fields([10.0, 10.0, 10.0], [5.0, 5.1, 5.001]).tolist()
    [0, 1, 0]
    """
    ra, dec = np.asarray(ra, float).ravel(), np.asarray(dec, float).ravel()
    known = np.isfinite(ra) & np.isfinite(dec)
    if not known.any():
        return np.zeros(ra.size, dtype=int)
    ra, dec = (np.where(known, v, v[np.argmax(known)]) for v in (ra, dec))
    together = separation(ra[:, None], dec[:, None], ra, dec) <= reach
    if together.all():
        return np.zeros(ra.size, dtype=int)
    from scipy.sparse.csgraph import connected_components  # 0.1 s

    return connected_components(together, directed=False)[1].astype(int)


def _vectors(ra: np.ndarray | float, dec: np.ndarray | float) -> np.ndarray:
    a, d = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(a) * np.cos(d), np.sin(a) * np.cos(d), np.sin(d)], axis=-1)
