"""Lines put into a real cube stay when its residual fringes go; more of it in benchmarks/other_truths.py."""

import numpy as np
import pytest

from mrsxr import load
from mrsxr.cube.residual_fringe import correct_residual_fringe_cube


@pytest.mark.shared
def test_lines_in_a_real_cube_are_kept(shared_data):
    """NGC 7469, 4C, where the fringes of the dichroics and noise meet."""
    cube = load(shared_data / "s3d_ngc7469" / "NGC7469_ch4-long_s3d.fits.gz").isel(y=slice(12, 17)).compute()
    wave = cube.wavelength.values[:, None, None]
    level = cube.flux.rolling(wavelength=41, center=True, min_periods=1).median()
    shape = sum(np.exp(-0.5 * ((wave / at - 1) * 299792.458 / 120.0) ** 2) for at in (25.2, 26.9))
    line = (0.08 * level * shape).astype("f4")
    without = correct_residual_fringe_cube(cube, method="slices")
    found = correct_residual_fringe_cube(cube.assign(flux=cube.flux + line), method="slices").flux - without.flux
    wanted = line * without.flux / cube.flux
    for at in (25.2, 26.9):
        near = {"wavelength": np.abs(cube.wavelength.values / at - 1) < 350 / 299792.458}
        kept = float(found[near].sum() / wanted[near].sum())
        assert 0.97 < kept < 1.03, (at, kept)
    assert float((without.flux != cube.flux).any("wavelength").mean()) > 0.1
