"""Store what jwst's residual fringe corrections make of a few columns and spectra; runs in an environment with jwst.

python tests/parity/make_fringe_parity.py   ->  tests/parity/data/fringes.npz, fringes_1d.npz (jwst 3.0.0)
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


def spectra(rng):
    """Return name -> (channel, first wavelength, step, flux) of spectra that take every turn of the 1-D correction."""
    cases = {  # channel, start, step, samples, level in the unit of the fit, depth of the fringes, dichroics, lines
        "one": (1, 4.9, 0.0008, 1050, 300.0, 0.01, 0.0, 3),
        "many": (2, 7.51, 0.0013, 970, 40.0, 0.05, 0.0, 0),
        "both": (3, 11.55, 0.0025, 769, 2e3, 0.02, 0.02, 4),
        "long": (4, 24.4, 0.006, 717, 90.0, 0.03, 0.01, 2),  # beyond 27.6 um
        "holes": (1, 5.66, 0.0008, 1212, 0.8, 0.004, 0.0, 5),  # NaN and negative samples
        "faint": (2, 8.67, 0.0013, 1132, 4e-4, 0.02, 0.0, 6),  # below the least flux of knots at lines
        "deep": (1, 4.9, 0.0008, 1050, 5.0, 0.35, 0.0, 0),  # beats beyond the largest amplitude
        "clean": (3, 15.41, 0.0025, 1031, 12.0, 0.0, 0.0, 0),  # no fringes at all
    }  # fmt: skip
    out = {}
    for name, (channel, start, step, n, level, depth, dichroic, n_lines) in cases.items():
        w = start + step * np.arange(n)
        k = 1e4 / w
        phases = rng.uniform(0, 6.28, 12)
        wave = 1 + dichroic * np.cos(2 * np.pi * k / 0.39 + phases[0]) + 0.6 * dichroic * np.cos(2 * np.pi * k / 0.43)
        periods = (2.9, 2.78, 1.6, 3.4, 2.83) if name != "one" else (2.9,)
        for i, period in enumerate(periods):
            wave += depth * 0.7**i * np.cos(2 * np.pi * k / period + phases[i + 1])
        flux = level * (w / start) ** -1.5 * (1 + 0.1 * np.sin(9 * w / start)) * wave
        for i in range(n_lines):
            flux += level * 0.2 * (i + 1) * np.exp(-0.5 * ((w - rng.uniform(w[20], w[-20])) / (2 * step)) ** 2)
        flux *= 1 + 0.002 * rng.standard_normal(n)
        if name == "holes":
            flux[200:215], flux[700], flux[-1] = np.nan, -0.1, 0.0
        out[name] = channel, start, step, flux.astype("f4")
    return out


def spectra_of_jwst(fit_residual_fringes_1d):
    """Return what the file fringes_1d.npz holds."""
    stored = {}
    for name, (channel, start, step, flux) in spectra(np.random.default_rng(11)).items():
        values = flux.astype("f8")
        found = fit_residual_fringes_1d(values, start + step * np.arange(flux.size), channel=channel)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(flux > 0, found / values - 1, 0.0)  # of the correction
        stored |= {f"{name}_axis": np.array([channel, start, step]), f"{name}_flux": flux,
                   f"{name}_ratio": ratio.astype("f4")}  # fmt: skip
    return stored


def main():
    """Write the files."""
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
    np.savez_compressed(Path(__file__).parent / "data" / "fringes_1d.npz", **spectra_of_jwst(fit_residual_fringes_1d))


if __name__ == "__main__":
    main()
