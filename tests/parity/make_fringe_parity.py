"""Store what jwst's residual fringe corrections make of a few columns and spectra; runs in an environment with jwst.

python tests/parity/make_fringe_parity.py   ->  tests/parity/data/fringes.npz (jwst 3.0.0)
"""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np

N_COLUMN, N_ROW = 5, 1024


def fringes(k, depth):
    """Return a beat of two detector fringes and, where it is longer than 1/cm, one of the dichroics."""
    wave = depth * np.cos(2 * np.pi * k / 2.9 + 0.3) + 0.4 * depth * np.cos(2 * np.pi * k / 2.75 + 1.0)
    return 1.0 + wave + 0.2 * depth * np.cos(2 * np.pi * k / 1.45)


def columns(rng):
    """Return (wavelength, flux, error) of a frame whose middle columns are a slice of channel 2."""
    wave = np.full((N_ROW, N_COLUMN + 4), np.nan)
    flux, error = np.zeros(wave.shape), np.ones(wave.shape)
    for c in range(N_COLUMN):
        w = np.linspace(7.5, 8.8, N_ROW) + 2e-4 * c
        level = 100.0 * (0.4 + c) * (1 + 0.3 * np.sin(3 * w))
        line = (0.8 if c % 2 else 0.0) * level * np.exp(-0.5 * ((w - 8.025) / 0.003) ** 2)
        sigma = 1.0 + 0.02 * np.sqrt(level)
        wave[:, c + 2] = w
        flux[:, c + 2] = (level + line) * fringes(1e4 / w, 0.03) + sigma * rng.standard_normal(N_ROW)
        error[:, c + 2] = sigma
    return wave, flux, error


def frame_of_jwst(wave, flux, error):
    """Run ResidualFringeCorrection on it, with made-up reference tables."""
    from jwst.residual_fringe import residual_fringe as module
    from stdatamodels.jwst.datamodels import dqflags

    row = [("slice", "f4"), ("ffreq", "f4", 1), ("dffreq", "f4", 1), ("min_nfringes", "f4"), ("max_nfringes", "i4", 1),
           ("min_snr", "f4", 1), ("pgram_res", "f4", 1)]  # fmt: skip
    table = np.zeros(2, dtype=row)
    table["slice"], table[1] = 101.0, (201.0, [2.9], [1.5], 0.0, [10], [10.0], [0.001])
    limits = np.array([(4.0, 0.2), (29.0, 0.2)], dtype=[("Wavelength", "f8"), ("Amplitude", "f8")])
    frequencies = SimpleNamespace(rfc_freq_short_table=table, max_amp_table=limits, close=lambda: None)
    planes = np.zeros((9, *flux.shape), dtype=int)
    planes[:, :, 2:-2], planes[:, :20, 0] = 201, 101  # every channel needs a slice
    module.datamodels = SimpleNamespace(
        dqflags=dqflags, FringeFreqModel=lambda _: frequencies,
        RegionsModel=lambda _: SimpleNamespace(regions=planes, close=lambda: None),
    )  # fmt: skip
    meta = SimpleNamespace(
        cal_step=SimpleNamespace(fringe="COMPLETE"), filename="made.fits", wcs=lambda x, y: (None, None, wave.copy()),
        instrument=SimpleNamespace(band="SHORT", detector="MIRIFUSHORT"),
    )  # fmt: skip
    model = SimpleNamespace(data=flux.astype("f4"), err=error.astype("f4"), dq=np.zeros(flux.shape, "u4"), meta=meta)
    correction = module.ResidualFringeCorrection(
        model, "", "", {"num": 0, "min": [], "max": []}, make_output_path=lambda **_: ""
    )
    return correction.do_correction().data


def main():
    """Write the file."""
    from jwst.residual_fringe.utils import fit_residual_fringes_1d

    warnings.simplefilter("ignore")
    rng = np.random.default_rng(4)
    wave, flux, error = columns(rng)
    stored = {"wave": wave.astype("f8"), "flux": flux.astype("f4"), "error": error.astype("f4"),
              "corrected": frame_of_jwst(wave, flux, error)}  # fmt: skip
    for name, low, high, channel in (("1", 4.9, 5.74, 1), ("3", 11.55, 13.47, 3)):
        w = np.linspace(low, high, 900)
        level = 0.2 * (w / low) ** -1.5 * (1 + 0.3 * np.exp(-0.5 * ((w - w[300]) / (0.001 * low)) ** 2))
        f = level * fringes(1e4 / w, 0.02) * (1 + 0.003 * rng.standard_normal(w.size))
        if channel == 3:
            f *= 1 + 0.006 * np.cos(2 * np.pi * 1e4 / w / 0.41)
        stored |= {f"wave_{name}": w, f"flux_{name}": f, f"level_{name}": level,
                   f"corrected_{name}": fit_residual_fringes_1d(f, w, channel=channel)}  # fmt: skip
    np.savez_compressed(Path(__file__).parent / "data" / "fringes.npz", **stored)


if __name__ == "__main__":
    main()
