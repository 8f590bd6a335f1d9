"""Small FITS files in the full JWST layout, made with astropy alone."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

SHAPE = (16, 1032)
DETECTORS = {"12": "MIRIFUSHORT", "34": "MIRIFULONG"}
BANDS = {"A": "SHORT", "B": "MEDIUM", "C": "LONG"}


def primary_keywords(setting="12A", dither=1, n_groups=5, n_ints=2, n_dithers=4, observation="004", **more):
    keywords = {
        "TELESCOP": "JWST", "INSTRUME": "MIRI", "EXP_TYPE": "MIR_MRS", "DETECTOR": DETECTORS[setting[:2]],
        "CHANNEL": setting[:2], "BAND": BANDS[setting[2]], "READPATT": "FASTR1", "SUBARRAY": "FULL",
        "SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 1032, "SUBSIZE2": 1024, "NINTS": n_ints, "NGROUPS": n_groups,
        "NFRAMES": 1, "GROUPGAP": 0, "TFRAME": 2.77504, "TGROUP": 2.77504, "TSAMPLE": 10.0,
        "EFFEXPTM": 2.77504 * n_groups * n_ints, "EXPSTART": 59764.1 + 0.01 * dither,
        "EXPMID": 59764.101 + 0.01 * dither, "EXPEND": 59764.102 + 0.01 * dither, "DATE-OBS": "2022-07-04",
        "TIME-OBS": "04:22:23.836", "PROGRAM": "02732", "OBSERVTN": observation, "VISIT": "001",
        "EXPOSURE": str(dither), "PATT_NUM": dither, "NUMDTHPT": n_dithers, "TARGNAME": "NGC-7319",
        "TARGPROP": "NGC-7319-MRS", "TARG_RA": 339.0149, "TARG_DEC": 33.9758, "BKGDTARG": False,
        "SRCTYAPT": "EXTENDED", "ZEROFRAM": False, "TITLE": "A program with a long title " * 4,
    }  # fmt: skip
    keywords.update(more)
    return {key: value for key, value in keywords.items() if value is not ...}


def sci_keywords(dither=1, **more):
    keywords = {
        "RA_REF": 339.01 + 1e-5 * dither, "DEC_REF": 33.9758, "ROLL_REF": 249.123456789012, "V2_REF": -503.3406,
        "V3_REF": -318.8640, "VPARITY": -1, "V3I_YANG": 8.4, "VA_SCALE": 1.00008846908346, "VELOSYS": -26520.99,
        "DISPAXIS": 2, "SRCTYPE": "EXTENDED",
    }  # fmt: skip
    keywords.update(more)
    return {key: value for key, value in keywords.items() if value is not ...}


def file_name(product, setting="12A", dither=1, observation="004"):
    activity = {"A": "02101", "B": "02103", "C": "02105"}[setting[2]]
    return f"jw02732{observation}001_{activity}_{dither:05d}_{DETECTORS[setting[:2]].lower()}_{product}.fits"


def write(path, product="uncal", setting="12A", dither=1, n_groups=5, n_ints=2, shape=SHAPE, seed=0, sci=None, **more):
    """Write one detector file; keyword arguments that are keywords go to PRIMARY (``...`` leaves one out)."""
    rng = np.random.default_rng(seed + dither)
    primary = fits.PrimaryHDU()
    primary.header.update(primary_keywords(setting, dither, n_groups, n_ints, **more))
    full = {"uncal": (n_ints, n_groups, *shape), "ramp": (n_ints, n_groups, *shape), "rateints": (n_ints, *shape)}
    size = full.get(product, shape)
    hdus = [primary]
    if product == "uncal":
        data = rng.integers(5000, 60000, size).astype("u2")
        hdus.append(fits.ImageHDU(data, name="SCI"))
        hdus.append(fits.ImageHDU(rng.integers(0, 65536, (*size[:-1], shape[1] // 4)).astype("u2"), name="REFOUT"))
    elif product == "ramp":
        hdus.append(fits.ImageHDU(rng.normal(1e4, 10, size).astype("f4"), name="SCI"))
        hdus.append(fits.ImageHDU(rng.integers(0, 2**32, shape).astype("u4"), name="PIXELDQ"))
        hdus.append(fits.ImageHDU(rng.integers(0, 256, size).astype("u1"), name="GROUPDQ"))
    else:
        hdus.append(fits.ImageHDU(rng.normal(10, 1, size).astype("f4"), name="SCI"))
        names = ["VAR_POISSON", "VAR_RNOISE"] + ["VAR_FLAT"] * (product in ("cal", "crf"))
        planes = {name: rng.uniform(0.1, 1, size).astype("f4") for name in names}
        hdus.append(fits.ImageHDU(np.sqrt(sum(planes.values())), name="ERR"))
        hdus.append(fits.ImageHDU(rng.integers(0, 2**32, size).astype("u4"), name="DQ"))
        hdus += [fits.ImageHDU(plane, name=name) for name, plane in planes.items()]
    hdus[1].header.update(sci_keywords(dither, **(sci or {})))
    hdus[1].header["BUNIT"] = {"uncal": "DN", "ramp": "DN", "rate": "DN/s", "rateints": "DN/s"}.get(product, "MJy/sr")
    path = path / file_name(product, setting, dither, more.get("observation", "004")) if path.is_dir() else path
    fits.HDUList(hdus).writeto(path)
    return path


def write_cube(path, tabular=False, angle=30.0, n=(6, 5, 4), **more):
    rng = np.random.default_rng(3)
    primary = fits.PrimaryHDU()
    primary.header.update(primary_keywords(CHANNEL="1", **more))
    primary.header["DATAMODL"] = "IFUCubeModel"
    planes = {name: rng.uniform(1, 2, n).astype("f4") for name in ("SCI", "ERR", "WMAP")}
    hdus = [primary, *(fits.ImageHDU(plane, name=name) for name, plane in planes.items())]
    hdus.append(fits.ImageHDU(rng.choice([0, 1, 513], n).astype("u4"), name="DQ"))
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    header = hdus[1].header
    header.update(sci_keywords(BUNIT="MJy/sr"))
    header.update({
        "WCSAXES": 3, "CRPIX1": 2.5, "CRPIX2": 3.0, "CRPIX3": 1.0, "CRVAL1": 339.0149, "CRVAL2": 33.9758,
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CUNIT3": "um",
        "CDELT1": 0.13 / 3600, "CDELT2": 0.13 / 3600, "PC1_1": -c, "PC1_2": s, "PC2_1": s, "PC2_2": c, "PC3_3": 1,
        "RADESYS": "ICRS",
    })  # fmt: skip
    if tabular:
        wavelength = np.geomspace(5, 6, n[0])
        header.update({"CTYPE3": "WAVE-TAB", "CRVAL3": 1.0, "PS3_0": "WCS-TABLE", "PS3_1": "wavelength"})
        column = fits.Column(name="wavelength", format=f"{n[0]}E", dim=f"(1,{n[0]})",
                             array=wavelength.astype("f4").reshape(1, n[0], 1))  # fmt: skip
        hdus.append(fits.BinTableHDU.from_columns([column], name="WCS-TABLE"))
    else:
        header.update({"CTYPE3": "WAVE", "CRVAL3": 4.9004, "CDELT3": 0.0008})
    fits.HDUList(hdus).writeto(path)
    return path
