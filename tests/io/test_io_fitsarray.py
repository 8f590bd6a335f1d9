"""Every way to index a FITS image equals numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from xarray.core import indexing

from mrsxr.errors import InputFileError
from mrsxr.io.fitsarray import FitsArray

KEYS = [
    (slice(None),) * 4,
    (slice(0, 1), slice(1, 3), slice(2, 5), slice(None)),
    (slice(None), slice(None), slice(1, 6, 2), slice(None)),
    (slice(None), slice(None), slice(None), slice(None, None, -1)),
    (slice(None), slice(None), slice(5, 1, -1), slice(3, 5)),
    (1, slice(None), slice(2, 3), slice(-3, None)),
    (0, 2, slice(None), slice(None)),
    (1, 0, 3, slice(None)),
    (1, 0, 3, 4),
    (slice(None), slice(None), slice(None), np.array([0, 1, 7, 8])),
    (0, slice(None), slice(1, 4), np.array([8, 0, 0])),
    (slice(None), 1, np.array([6, 2]), slice(None)),
    (slice(0, 0), slice(None), slice(None), slice(None)),
    (slice(None), slice(None), slice(3, 3), slice(None)),
]


@pytest.fixture
def stored(tmp_path):
    values = np.random.default_rng(1).integers(0, 60000, (2, 3, 7, 9)).astype("u2")
    path = tmp_path / "image.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(values, name="SCI")]).writeto(path)
    with fits.open(path) as hdus:
        offset = hdus["SCI"].fileinfo()["datLoc"]
    return values, FitsArray(path, offset, values.shape, 16, 1, 32768)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_keys(stored, key):
    values, array = stored
    vectors = [n for n, k in enumerate(key) if isinstance(k, np.ndarray)]
    expected = values[tuple(slice(None) if n in vectors else k for n, k in enumerate(key))]
    for n in vectors:
        expected = np.take(expected, key[n], axis=n - sum(np.isscalar(k) for k in key[:n]))
    found = array[indexing.OuterIndexer(key) if vectors else indexing.BasicIndexer(key)]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, expected)


def test_file_that_ends_early(stored):
    values, array = stored
    short = FitsArray(array.path, array.offset + 2880, values.shape, 16, 1, 32768)
    with pytest.raises(InputFileError, match="truncated"):
        short[indexing.BasicIndexer((slice(None),) * 4)]
