"""Run combine_1d and the expansion of master_background of jwst on made-up spectra; needs jwst, not the tests.

python tests/parity/make_background_parity.py        writes tests/parity/data/background.npz
"""

import logging
import warnings
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "data"
#: Exposure time, first wavelength, step and number of samples of each spectrum: two bands that overlap, two exposures
#: of one grid, one of a grid of its own, and one that falls in wavelength.
SPECTRA = [(50.0, 5.0, 0.002, 120), (80.0, 5.0, 0.002, 120), (30.0, 5.0007, 0.002, 119), (50.0, 5.21, 0.0031, 90),
           (80.0, 5.21, 0.0031, 90), (20.0, 5.48, -0.0031, 88), (40.0, 5.1, 0.002, 10)]  # fmt: skip


def make_columns():
    """Return wavelength, flux, background, error and dq of every spectrum."""
    rng = np.random.default_rng(5)
    found = []
    for number, (_, first, step, n) in enumerate(SPECTRA):
        wavelength = first + step * np.arange(n)
        background = 10 * wavelength + rng.normal(0, 1, n)
        flux = background * 1e-4
        flux[rng.integers(0, n, 3)] = np.nan
        background[rng.integers(0, n)] = np.nan
        dq = np.zeros(n, "u4")
        dq[rng.integers(0, n, 3)], dq[rng.integers(0, n, 3)] = 1, 4
        if number == 6:
            flux[:] = np.nan
        found.append((wavelength, flux, background, rng.uniform(0.5, 1.5, n), dq))
    return found


def model_of(columns, exposure_time):
    from stdatamodels.jwst import datamodels as dm

    wavelength, flux, background, error, dq = columns
    spec = dm.MRSSpecModel()
    table = np.zeros(wavelength.size, dtype=spec.get_dtype("spec_table"))
    table["WAVELENGTH"], table["FLUX"], table["BACKGROUND"], table["BKGD_ERROR"] = wavelength, flux, background, error
    table["DQ"] = dq
    spec.spec_table = table
    spec.spectral_order = 1
    model = dm.MRSMultiSpecModel()
    model.spec.append(spec)
    model.meta.exposure.exposure_time = exposure_time
    model.meta.target.ra, model.meta.target.dec = 10.0, 20.0
    return model


def main():
    import jwst
    from jwst.combine_1d.combine1d import combine_1d_spectra
    from jwst.datamodels import ModelContainer
    from jwst.master_background.master_background_step import copy_background_to_surf_bright
    from scipy.signal import medfilt

    columns = make_columns()
    models = ModelContainer([model_of(c, s[0]) for c, s in zip(columns, SPECTRA, strict=True)])
    for model in models:
        copy_background_to_surf_bright(model)
    table = combine_1d_spectra(models, exptime_key="exposure_time").spec[0].spec_table
    names = {"wavelength": "WAVELENGTH", "background": "SURF_BRIGHT", "error": "SB_ERROR", "flux": "FLUX", "dq": "DQ",
             "count": "N_INPUT"}  # fmt: skip
    out = {ours: np.squeeze(np.array(table[theirs])) for ours, theirs in names.items()}
    out["smoothed"] = medfilt(out["background"], 5)
    place = np.linspace(4.9, 5.6, 300)
    out["place"], out["expanded"] = place, np.interp(place, out["wavelength"], out["background"], left=0.0, right=0.0)
    for number, parts in enumerate(columns):
        names = ("wavelength", "flux", "background", "error", "dq")
        out |= {f"in{number}_{name}": values for name, values in zip(names, parts, strict=True)}
    path = OUT / "background.npz"
    np.savez_compressed(path, jwst_version=jwst.__version__, times=np.array([s[0] for s in SPECTRA]), **out)
    print(path.name, path.stat().st_size)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    main()
