"""Real raw ramps of the JPL test rig through jump and slope fits (benchmarks/real_ramps.py shows more of them)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mrsxr import dq, rate, schema
from mrsxr.rate.jump import flag_jumps
from mrsxr.rate.ramp_fit import fit_integrations, fit_ramps

FILE = Path("detector") / "MIRI_5582_89_S_20180308-010230_SCE1.fits.gz"


@pytest.fixture(scope="module")
def real(shared_data):
    path = shared_data / FILE
    if not path.is_file():
        pytest.skip("the ramps of the test rig are not here")
    place = Path(__file__).parents[2] / "benchmarks" / "real_ramps.py"
    spec = importlib.util.spec_from_file_location("real_ramps", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ds, refs = module.read_ramp(path, rows=slice(20, 52), columns=slice(4, 68))
    schema.validate(ds)
    return rate.flag_last_frame(ds), refs


@pytest.mark.shared
def test_real_dark_ramps(real):
    ds, refs = real
    assert 5 < float(refs["readnoise"].read_noise.median()) < 7
    fits = {name: fit_integrations(ds, method=name, firstgroup=5, **refs) for name in ("ols", "likelihood", "gls")}
    later = {name: each.isel(dither=0, integration=slice(1, None)) for name, each in fits.items()}
    for each in later.values():
        assert abs(float(each.rate.median())) < 3
        assert not each.rate.isnull().any()
    error = np.sqrt(later["gls"].var_poisson + later["gls"].var_read)
    difference = (later["gls"].rate - later["likelihood"].rate) / error
    assert abs(float(difference.median())) < 0.05
    # the read noise of the rig is not white: more than a straight ramp and white noise explain
    assert 1.1 < float(later["gls"].chi2.median()) < 1.6


@pytest.mark.shared
def test_the_first_integration_is_told_by_chi2(real):
    ds, refs = real
    whole = fit_integrations(ds, method="gls", find_jumps=False, **refs).chi2[0].median(("y", "x")).values
    late = fit_integrations(ds, method="gls", find_jumps=False, firstgroup=5, **refs).chi2[0].median(("y", "x")).values
    assert whole[0] > 2 * whole[2:].max()  # reset anomaly and settling
    assert (late < whole).all()


@pytest.mark.shared
def test_hits_put_into_real_ramps_are_found(real):
    """The window saw no hit above 7 sigma in its 20 s; hits of 8 to 80 sigma are added to its own noise."""
    ds, refs = real
    ds = ds.isel(integration=slice(1, None), group=slice(5, None)).assign_attrs(n_integrations=4, n_groups=45)
    rng = np.random.default_rng(1)
    noise = refs["readnoise"].read_noise.values
    hit = np.zeros(ds.sci.shape, bool)
    sci = ds.sci.values.copy()
    for y in range(0, 32, 2):
        for x in range(0, 64, 2):
            i, g = rng.integers(4), rng.integers(3, 42)
            sci[0, i, g:, y, x] += 8 * 10 ** rng.random() * noise[y, x]
            hit[0, i, g, y, x] = True
    struck = ds.assign(sci=(ds.sci.dims, sci, ds.sci.attrs))
    two_point = rate.flag_jumps(struck, **refs, flag_4_neighbors=False)
    likelihood = flag_jumps(struck, method="likelihood", **refs, flag_4_neighbors=False)
    shares = []
    for out in (two_point, likelihood):
        found = (out.group_dq.values & dq.JUMP_DET) > 0
        shares.append((found[hit].mean(), (found & ~hit).mean()))
    assert shares[0][0] > 0.99
    assert shares[1][0] > 0.97
    assert max(share[1] for share in shares) < 0.03
    clean, out = fit_ramps(ds, method="gls", **refs), fit_ramps(struck, method="gls", **refs)
    change = (out.rate - clean.rate)[0, ::2, ::2] / np.sqrt(out.var_read + out.var_poisson)[0, ::2, ::2]
    assert abs(float(change.median())) < 0.3
