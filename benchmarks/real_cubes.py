"""Spectra of real cubes by both packages: extract_1d with residual fringes in 1-D, NGC 7469 and 16 Cyg B.

python benchmarks/real_cubes.py --shared FOLDER --refs FOLDER --jwst ENV/bin/python --out docs/_data/real_cubes.csv

``--refs`` is a folder of reference files of which apcorr and extract1d are taken (``mrsxr simulate OUT --bands 1A``
writes one): both packages take the same, whatever their values. The cubes were written by jwst 1.11 and 1.13; jwst 3
and this package read the same files. Differences are relative to the median of jwst's values.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CUBES = {
    "16 Cyg B, 4A": "s3d_example/16CygB_ch4-short_s3d_cutout.fits.gz",
    "NGC 7469, 4A": "s3d_ngc7469/NGC7469_ch4-short_s3d.fits.gz",
    "NGC 7469, 4B": "s3d_ngc7469/NGC7469_ch4-medium_s3d.fits.gz",
    "NGC 7469, 4C": "s3d_ngc7469/NGC7469_ch4-long_s3d.fits.gz",
}
COLUMNS = {"flux": "FLUX", "surface_brightness": "SURF_BRIGHT", "background": "BACKGROUND", "rf_flux": "RF_FLUX"}
HEAD = (
    "cube",
    "type",
    "samples",
    *(f"{column}: largest difference" for column in COLUMNS.values()),
    "CPU mrsxr",
    "CPU jwst",
)


def theirs(path, out, source_type):
    """Extract by jwst; runs in its environment."""
    from jwst.extract_1d import Extract1dStep

    options = {"ifu_set_srctype": source_type, "ifu_autocen": source_type == "POINT", "ifu_rfcorr": True}
    start = time.process_time()
    model = Extract1dStep.call(path, **options)
    seconds = time.process_time() - start
    table = model.spec[0].spec_table
    if table.ndim == 2 or table.shape == (1,):  # of jwst 3: one row of arrays a spectrum
        table = table[0]
    found = {name: np.asarray(table[column]).squeeze() for name, column in COLUMNS.items()}
    np.savez(out, seconds=seconds, **found)


def ours(path, source_type, refs):
    """Extract by this package as baseline does; return the columns and the time."""
    import mrsxr as mx

    cube = mx.load(path).compute()
    files = {kind: refs.get(kind, cube) for kind in ("extract1d", "apcorr")}
    start = time.process_time()
    found = mx.spectrum.extract_spectrum(cube, source_type=source_type, centering="daofind", like_jwst=True, **files)
    found = mx.spectrum.correct_residual_fringe_1d(found, method="columns").compute()
    return {name: found[name].values for name in COLUMNS}, time.process_time() - start


def compare(shared, refs, python):
    """Yield the rows of the table."""
    import mrsxr as mx

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        crds = mx.references.build_crds_cache(refs, work / "crds")
        for name, where in CUBES.items():
            path = _plain(shared / "data" / where, work)
            for source_type in ("POINT", "EXTENDED"):
                mine, seconds = ours(path, source_type, mx.References(refs))
                out = work / "theirs.npz"
                side = [python, __file__, "--side", json.dumps([str(path), str(out), source_type])]
                subprocess.run(
                    side, check=True, env={**os.environ, **crds, "PYTHONPATH": ""}, stdout=subprocess.DEVNULL
                )
                other = np.load(out)
                both = [np.isfinite(mine[column]) & np.isfinite(other[column]) for column in COLUMNS]
                off = [_largest(mine[c], other[c], one) for c, one in zip(COLUMNS, both, strict=True)]
                lone = int(np.sum(np.isfinite(mine["flux"]) != np.isfinite(other["flux"])))
                samples = f"{both[0].sum()}" + (f", {lone} in one alone" if lone else "")
                yield name, source_type, samples, *off, f"{seconds:.2f} s", f"{float(other['seconds']):.1f} s"


def _plain(path, work):
    """Return an unpacked copy; one without the ASDF extension that jwst asks for (a cut-out) is written anew."""
    from astropy.io import fits

    import mrsxr as mx

    out = work / path.stem
    with gzip.open(path) as packed, out.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    with fits.open(out) as hdus:
        if "ASDF" in hdus:
            return out
    return mx.save(mx.load(out).compute(), work / "anew")[0]


def _largest(mine, other, both):
    """Return the largest difference, relative to the median of the other's values."""
    return f"{np.max(np.abs(mine - other)[both]) / np.median(np.abs(other[both])):.1e}"


def main():
    """Run both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("MRSXR_SHARED"))
    parser.add_argument("--refs", type=Path)
    parser.add_argument("--jwst", help="Python of an environment with jwst.")
    parser.add_argument("--out", type=Path, default=Path("real_cubes.csv"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        return theirs(*json.loads(options.side))
    with options.out.open("w", newline="") as file:
        command = "benchmarks/real_cubes.py --shared FOLDER --refs FOLDER --jwst ENV/bin/python"
        file.write(f"# python {command} --out docs/_data/real_cubes.csv\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEAD)
        for row in compare(Path(options.shared), options.refs, options.jwst):
            writer.writerow(row)
            print(*row, sep="  ")
    return None


if __name__ == "__main__":
    sys.exit(main())
