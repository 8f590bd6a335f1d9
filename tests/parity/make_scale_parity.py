"""Run flat_field, fringe and photom of jwst on a few rows and store every 16th column; needs an environment with jwst.

python tests/parity/make_scale_parity.py        writes tests/parity/data/scale_<detector>.npz
"""

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OUT = Path(__file__).parent / "data"
NY, NX, EVERY = 12, 1032, 16
MID_TIME, VELOSYS = 60100.25, 21000.0
DETECTORS = {"MIRIFUSHORT": {0: (4.9, 5.7), 1: (7.5, 8.8)}, "MIRIFULONG": {0: (17.7, 21.0), 1: (11.5, 13.5)}}
TABLES = {"MIRIFUSHORT": (1, 2), "MIRIFULONG": (4, 3)}  # channel left and right


def inputs(detector):
    """Return planes of a rate image and of the reference files, with NaN, zeros and flags, and a time law."""
    rng = np.random.default_rng(len(detector))
    shape = (NY, NX)
    planes = {
        "rate": rng.normal(20, 10, shape), "var_poisson": rng.uniform(0.1, 1, shape),
        "var_read": rng.uniform(0.01, 0.1, shape), "flat": rng.normal(1, 0.05, shape),
        "flat_err": rng.uniform(0.001, 0.02, shape), "fringe": rng.normal(1, 0.1, shape),
        "conversion": rng.uniform(2, 3, shape),
    }  # fmt: skip
    planes = {k: v.astype("f4") for k, v in planes.items()}
    columns = np.arange(0, NX, EVERY)
    spots = {"rate": (np.nan,), "flat": (np.nan, 0.0), "flat_err": (np.nan,), "fringe": (np.nan,),
             "conversion": (np.nan,), "var_read": (np.nan,)}  # fmt: skip
    for name, values in spots.items():
        for value in values:
            planes[name][rng.integers(0, NY, 25), rng.choice(columns, 25)] = value
    for name, bits in (("dq", (1, 4, 512)), ("flat_dq", (1, 1 << 18, 1 << 25)), ("conversion_dq", (1, 512))):
        planes[name] = np.zeros(shape, "u4")
        for bit in bits:
            planes[name][rng.integers(0, NY, 25), rng.choice(columns, 25)] |= np.uint32(bit)
    wavelength = np.full(shape, np.nan)
    for side, (first, last) in enumerate(((8, 500), (520, 1020))):
        low, high = DETECTORS[detector][side]
        wavelength[:, first:last] = np.linspace(low, high, NY)[:, None] + 1e-5 * np.arange(last - first)
    planes["wavelength"] = wavelength
    return planes


def time_law(detector):
    """Return {channel: columns of the table}: some bins above one, the data partly beyond the bins."""
    law = {}
    for side, channel in enumerate(TABLES[detector]):
        low, high = DETECTORS[detector][side]
        wave = np.linspace(low + 0.2, high - 0.2, 5)
        law[channel] = {"binwave": wave, "alpha": -0.02 * wave, "year1value": np.array([1.1, 0.9, 0.85, 0.9, 0.8]),
                        "tsoft": 20.0 + wave, "t0": 59600.0 + 10 * np.arange(5)}  # fmt: skip
    return law


class FakeWcs:
    """What the time law asks of a gWCS."""

    bounding_box = ((-0.5, NX - 0.5), (-0.5, NY - 0.5))

    def __init__(self, wavelength):
        self.wavelength = wavelength

    def __call__(self, x, y):
        return x, y, self.wavelength.copy()


def models(detector, planes):
    from stdatamodels.jwst import datamodels as dm

    err = np.sqrt(planes["var_poisson"] + planes["var_read"])
    model = dm.IFUImageModel(data=planes["rate"].copy(), err=err, dq=planes["dq"].copy())
    model.var_poisson, model.var_rnoise = planes["var_poisson"].copy(), planes["var_read"].copy()
    flat = dm.FlatModel(data=planes["flat"].copy(), err=planes["flat_err"].copy(), dq=planes["flat_dq"].copy())
    fringe = dm.FringeModel(data=planes["fringe"].copy())
    photom = dm.MirMrsPhotomModel(data=planes["conversion"].copy(), dq=planes["conversion_dq"].copy())
    photom.meta.photometry.conversion_megajanskys = 2.5
    law = time_law(detector)
    neutral = {"binwave": [4.0, 30.0], "alpha": [0, 0], "year1value": [1, 1], "tsoft": [1, 1], "t0": [59700, 59700]}
    for channel in (1, 2, 3, 4):
        columns = law.get(channel, neutral)
        dtype = [(name, "f4") for name in columns]
        table = np.array(list(zip(*columns.values(), strict=True)), dtype=dtype)
        setattr(photom, f"timecoeff_powerlaw_ch{channel}", table)
    for one in (model, flat):
        s = one.meta.subarray
        s.xstart, s.ystart, s.xsize, s.ysize, s.name = 1, 1, NX, NY, "FULL"
        s.fastaxis, s.slowaxis = 1, 2
        one.meta.instrument.name, one.meta.instrument.detector = "MIRI", detector
    model.meta.exposure.type, model.meta.exposure.mid_time = "MIR_MRS", MID_TIME
    return model, flat, fringe, photom


def run(detector):
    from jwst.flatfield.flat_field import do_correction
    from jwst.fringe.fringe import apply_fringe
    from jwst.photom import photom as photom_module
    from jwst.photom import time_dependence

    planes = inputs(detector)
    model, flat, fringe, photom = models(detector, planes)
    doppler = 1 + VELOSYS / 299792458.0
    out = {}

    def keep(step):
        found = {"sci": model.data, "err": model.err, "dq": model.dq, "var_poisson": model.var_poisson,
                 "var_read": model.var_rnoise, "var_flat": model.var_flat}  # fmt: skip
        out.update({f"{step}_{k}": np.array(v)[:, ::EVERY] for k, v in found.items()})

    do_correction(model, flat=flat)
    keep("flat")
    apply_fringe(model, fringe)
    keep("fringe")
    data = photom_module.DataSet(model, False, None, True)
    data.input = model
    with_wcs = SimpleNamespace(data=model.data, meta=SimpleNamespace(wcs=FakeWcs(planes["wavelength"] / doppler)))
    original = time_dependence.miri_mrs_time_correction

    def corrected(_model, *rest):
        return original(with_wcs, *rest)

    time_dependence.miri_mrs_time_correction = corrected
    data.calc_miri(photom)
    time_dependence.miri_mrs_time_correction = original
    keep("photom")
    return out | {f"in_{k}": v[:, ::EVERY] for k, v in planes.items()}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    import jwst

    for name in DETECTORS:
        path = OUT / f"scale_{name.lower()}.npz"
        np.savez_compressed(path, jwst_version=jwst.__version__, **run(name))
        print(path.name, path.stat().st_size)
