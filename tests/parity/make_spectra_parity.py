"""Make spectra_1a.npz: what jwst 3.0.0 extracts from some planes of a cube of its own. Runs where jwst is installed.

python tests/parity/make_spectra_parity.py S3D EXTRACT1D APCORR tests/parity/data/spectra_1a.npz
"""

import sys

import asdf
import numpy as np
from astropy.io import fits
from jwst.extract_1d import Extract1dStep
from stdatamodels.jwst import datamodels as dm

N_PLANES = 4
CASES = {
    "target": {"ifu_set_srctype": "POINT", "ifu_autocen": False},
    "autocen": {"ifu_set_srctype": "POINT", "ifu_autocen": True, "ifu_rscale": 1.3},
    "wide": {"ifu_set_srctype": "POINT", "ifu_autocen": True, "ifu_rscale": 3.0},
    "extended": {"ifu_set_srctype": "EXTENDED"},
}
COLUMNS = (
    "FLUX", "FLUX_ERROR", "SURF_BRIGHT", "SB_ERROR", "BACKGROUND", "BKGD_ERROR", "NPIXELS", "DQ", "WAVELENGTH",
)  # fmt: skip


def main(s3d, extract1d, apcorr, out):
    saved = {"header": fits.getheader(s3d, "SCI").tostring(sep="\n")}
    saved["target"] = np.array([fits.getval(s3d, k) for k in ("TARG_RA", "TARG_DEC")])
    for name, options in CASES.items():
        with dm.open(s3d) as model:
            for array in ("data", "err", "dq", "weightmap"):
                setattr(model, array, getattr(model, array)[:N_PLANES])
            saved |= {"flux": model.data.copy(), "err": model.err.copy(), "weight": model.weightmap.astype("u1")}
            given = {"override_extract1d": extract1d, "override_apcorr": apcorr}
            table = Extract1dStep.call(model, **given, **options).spec[0].spec_table
            for column in COLUMNS:
                saved[f"{name}_{column}"] = np.array(table[column])
    with asdf.open(extract1d) as file:
        data = file["data"]
        keep = np.ravel(data["wavelength"]) < 5.2
        for key in ("wavelength", "radius", "inner_bkg", "outer_bkg"):
            saved[f"extract1d_{key}"] = np.ravel(data[key])[keep]
    with asdf.open(apcorr) as file:
        table = file["apcorr_table"]
        keep = np.ravel(table["wavelength"]) < 5.2
        saved["apcorr_wavelength"] = np.ravel(table["wavelength"])[keep]
        for key in ("radius", "apcorr"):
            saved[f"apcorr_{key}"] = np.asarray(table[key])[:, keep]
    np.savez_compressed(out, **saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
