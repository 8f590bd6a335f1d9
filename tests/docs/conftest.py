from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord


@pytest.fixture(scope="session")
def given(simulated, reduced):
    """What stands ready in every example: reference files and the levels of a small observation of setting 12A."""
    import mrsxr as mx

    out = reduced.out
    stage3 = [next(out.glob(f"stage3/*{name}.fits")) for name in ("ch1-short_s3d", "ch1-short_x1d", "ch2-short_x1d")]
    cube_file, *spectra = stage3
    spectrum, other_spectrum = (mx.load(path).compute() for path in spectra)
    return {
        "mx": mx, "np": np, "xr": xr, "u": u, "SkyCoord": SkyCoord, "plt": plt, "Path": Path,
        "refs": mx.References(simulated.reference_folder),
        "ramp": mx.open_exposures(min(simulated.uncal_folder.glob("*mirifushort_uncal.fits"))),
        "rate": mx.open_exposures(sorted(out.glob("stage1/*mirifushort_rate.fits"))),
        "background": mx.open_exposures(sorted(out.glob("background/stage1/*mirifushort_rate.fits"))),
        "cal": mx.open_exposures(sorted(out.glob("stage2/*mirifushort_cal.fits"))),
        "cube": mx.load(cube_file).compute(), "spectrum": spectrum, "other_spectrum": other_spectrum,
        "uncal_folder": simulated.uncal_folder, "refs_folder": simulated.reference_folder, "cube_file": cube_file,
        "dark_file": next(simulated.reference_folder.glob("*dark*")), "out": out,
    }  # fmt: skip
