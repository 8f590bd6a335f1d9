"""Run jwst's pixel steps of stage 2 on small frames and store what comes out; needs an environment with jwst.

python tests/parity/make_stage2_pixels_parity.py      writes stage2_background.npz, stage2_selfcal.npz,
                                                      stage2_pixel_replace.npz, stage2_srctype.npz in tests/parity/data
"""

import itertools
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OUT = Path(__file__).parent / "data"


def image_model(data, flags):
    from stdatamodels.jwst import datamodels as dm

    model = dm.ImageModel(data=data.copy(), dq=flags.copy(), err=np.full(data.shape, 0.1, "f4"))
    model.meta.instrument.name = "MIRI"
    s = model.meta.subarray
    s.xstart, s.ystart, s.xsize, s.ysize = 1, 1, data.shape[1], data.shape[0]
    return model


def run_background():
    from jwst.background.background_sub import background_sub

    rng = np.random.default_rng(31)
    shape = (8, 600)
    rate = np.round(rng.normal(0.3, 0.2, (10, *shape)), 3).astype("f4")
    rate[rng.random(rate.shape) < 0.02] += 30
    flags = np.zeros(rate.shape, "u4")
    bad = rng.random(rate.shape) < 0.05
    rate[bad], flags[bad] = np.nan, 1
    rate[:, 0, :9], flags[:, 0, :9] = np.nan, 1 | 1024
    science = np.round(rng.normal(5, 1, shape), 3).astype("f4")
    science_flags = (rng.random(shape) < 0.1).astype("u4") * 4
    out = {"background_rate": rate, "background_dq": flags, "science_rate": science, "science_dq": science_flags}
    for n in (2, 10):
        models = [image_model(rate[k], flags[k]) for k in range(n)]
        _, result = background_sub(image_model(science, science_flags), models, 3.0, None)
        out[f"rate_{n}"], out[f"dq_{n}"] = result.data, result.dq
    return out


def run_selfcal():
    from jwst.badpix_selfcal.badpix_selfcal import badpix_selfcal

    rng = np.random.default_rng(32)
    least = np.round(rng.normal(0, 1, (60, 300)) + 3 * np.sin(np.arange(60) / 4)[:, None], 3).astype("f4")
    least[rng.random(least.shape) < 0.03] = np.nan
    least[:, 7], least[20:50, 9] = np.nan, np.nan
    least[rng.random(least.shape) < 0.003] += 40
    out = {"least": least}
    for name, lower, upper, size in (("default", 0.001, 0.001, 15), ("wide", 0.002, 0.005, 9), ("upper", 0.0, 0.01, 3)):
        bad = np.zeros(least.shape, bool)
        bad[badpix_selfcal(least, lower, upper, size, 2)] = True
        out[f"{name}_options"], out[f"{name}_bad"] = np.array([lower, upper, size]), bad
    return out


def cal_frame():
    """A frame of two curved slices with bad pixels of every kind."""
    rng = np.random.default_rng(33)
    ny, nx = 60, 64
    y, x = np.mgrid[:ny, :nx]
    labels = np.zeros((ny, nx), "i2")
    labels[np.abs(x - 16 - y / 20) < 10], labels[np.abs(x - 44 - y / 25) < 11] = 101, 201
    data = 40 * np.exp(-0.5 * ((x - 15 - y / 20) / 2.0) ** 2) + 5 * np.exp(-0.5 * ((x - 46 - y / 25) / 4.0) ** 2)
    data = (data * (1 + y / 60) + rng.normal(0, 0.3, (ny, nx)) + 1).astype("f4")
    data[:20, 34:] = rng.normal(0, 0.3, (20, nx - 34))  # a part without signal
    variances = rng.uniform(0.05, 0.15, (3, ny, nx)).astype("f4")
    flags = np.zeros((ny, nx), "u4")
    flags[rng.random((ny, nx)) < 0.08] = 1
    flags[30, 5:30], flags[40:44, 40:43], flags[10:12, 10:12] = 1, 1, 1
    flags[25:27, 12], flags[rng.random((ny, nx)) < 0.02] = 1 | 512, 4
    flags[50, 20] |= 1 | 2**10
    flags[labels == 0] |= 1
    data[(flags & 1) > 0] = np.nan
    variances[:, (flags & 1) > 0] = np.nan
    data[15, 15], data[16, 20] = np.nan, np.inf
    flags[15, 15] = 0
    return data, variances, flags, labels


def run_replace():
    from jwst.pixel_replace.pixel_replace import PixelReplaceArrays, PixelReplacement

    data, variances, flags, labels = cal_frame()
    out = {"flux": data, "variances": variances, "dq": flags, "slice": labels}

    def arrays():
        error = np.sqrt(variances.sum(axis=0))
        return PixelReplaceArrays(data.copy(), flags.copy(), error, *variances.copy(), None, 2)

    done = PixelReplacement(None, "mingrad").mingrad(arrays())
    out |= {"mingrad_flux": done.data, "mingrad_dq": done.dq}
    out["mingrad_variances"] = np.stack([done.var_poisson, done.var_rnoise, done.var_flat])
    for n in (1, 3):
        out |= profile_of(PixelReplacement(None, "fit_profile", n_adjacent_cols=n), arrays, labels, n)
    return out


def profile_of(replacement, arrays, labels, n):
    """Slice by slice, as PixelReplacement.replace does for an IFU image."""
    now = arrays()
    for label in (101, 201):
        inside = labels == label
        one = arrays()
        one.dq = np.where(inside, one.dq, one.dq | 513)
        one = replacement.fit_profile(one)
        for name in ("data", "dq", "var_poisson", "var_rnoise", "var_flat"):
            setattr(now, name, np.where(inside, getattr(one, name), getattr(now, name)))
    variances = np.stack([now.var_poisson, now.var_rnoise, now.var_flat])
    return {f"profile_{n}_flux": now.data, f"profile_{n}_dq": now.dq, f"profile_{n}_variances": variances}


def run_srctype():
    from jwst.srctype.srctype import set_source_type

    rows = []
    options = (None, "point", "EXTENDED"), (None, False, True), (None, True), (None, 1, 3)
    proposals = (None, "UNKNOWN", "POINT", "EXTENDED"), (None, "POINT"), (None, "POINT-SOURCE", "EXTENDED-SOURCE")
    for user, background, series, n_int, asked, earlier, dither in itertools.product(*options, *proposals):
        meta = SimpleNamespace(
            exposure=SimpleNamespace(type="MIR_MRS", nints=n_int), observation=SimpleNamespace(bkgdtarg=background),
            dither=SimpleNamespace(optimized_for=dither), visit=SimpleNamespace(tsovisit=series),
            target=SimpleNamespace(source_type_apt=asked, source_type=earlier),
        )  # fmt: skip
        model = SimpleNamespace(meta=meta)
        result = set_source_type(model, user).meta.target.source_type
        rows.append([str(v) for v in (user, background, series, n_int, asked, earlier, dither, result)])
    return {"table": np.array(rows)}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    import jwst

    kinds = {"background": run_background, "selfcal": run_selfcal, "pixel_replace": run_replace, "srctype": run_srctype}
    for label, function in kinds.items():
        path = OUT / f"stage2_{label}.npz"
        np.savez_compressed(path, jwst_version=jwst.__version__, **function())
        print(path.name, path.stat().st_size)
