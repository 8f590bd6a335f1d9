"""Run jwst's outlier_detection on small IFU images and store the flags; needs an environment with jwst, not the tests.

python tests/parity/make_outlier_parity.py        writes tests/parity/data/outliers.npz
"""

import logging
import warnings
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "data"
NY, NX, N = 70, 64, 3
CASES = {"default": ("7 7", 99.8, False), "notebook": ("11 1", 99.5, False), "second": ("7 7", 99.0, True),
         "even": ("4 6", 98.0, False)}  # fmt: skip


def images(seed=1):
    """Return flux and flags of exposures with slices, a moving source, hot pixels and pixels without value."""
    rng = np.random.default_rng(seed)
    x = np.mgrid[:NY, :NX][1]
    flux = np.empty((N, NY, NX), dtype=np.float32)
    flags = np.zeros((N, NY, NX), dtype=np.uint32)
    for i in range(N):
        source = 800 * np.exp(-0.5 * ((x - 20 - 9 * i) / 1.2) ** 2)
        flux[i] = np.rint(100 + source + rng.normal(0, 5, (NY, NX)))
    hot = rng.integers(0, [[NY], [NX]], (2, 30))
    flux[:, hot[0], hot[1]] += rng.uniform(50, 5000, 30).astype("f4")
    gap = (x % 16 >= 13) & (x < 48)
    flux[:, gap], flags[:, gap] = np.nan, 513
    dead = rng.integers(0, [[NY], [NX]], (2, 60))
    flags[rng.integers(0, N, 60), dead[0], dead[1]] |= 1
    flux[0, 5, 5:9], flux[:, 30, 60:63] = np.nan, np.nan
    return flux, flags


def run(flux, flags, kernel_size, percent, second):
    from jwst.datamodels import ModelContainer
    from jwst.outlier_detection.ifu import detect_outliers
    from stdatamodels.jwst import datamodels as dm

    models = []
    for i in range(N):
        model = dm.IFUImageModel(data=flux[i].copy(), dq=flags[i].copy(), err=np.ones((NY, NX), "f4"))
        model.meta.instrument.name, model.meta.instrument.detector = "MIRI", "MIRIFUSHORT"
        model.meta.exposure.type = "MIR_MRS"
        models.append(model)
    out = detect_outliers(ModelContainer(models), False, kernel_size, second, percent, None)
    return np.stack([m.dq for m in out]), np.stack([np.isnan(m.data) for m in out])


def main():
    import jwst

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    flux, flags = images()
    out = {"flux": flux, "dq": flags, "jwst": np.array(jwst.__version__)}
    for name, (kernel_size, percent, second) in CASES.items():
        out[f"{name}_dq"], out[f"{name}_nan"] = run(flux, flags, kernel_size, percent, second)
        out[f"{name}_case"] = np.array([kernel_size, str(percent), str(int(second))])
    np.savez_compressed(OUT / "outliers.npz", **out)


if __name__ == "__main__":
    main()
