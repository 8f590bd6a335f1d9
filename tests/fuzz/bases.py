"""The undamaged files that the fuzz test starts from: every level in FITS, netCDF and zarr, every kind of reference."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in (TESTS, TESTS / "io", TESTS / "references", TESTS / "cal"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

DETECTOR = ("uncal", "ramp", "rate", "rateints", "cal")
GEOMETRY = ("distortion", "specwcs", "regions", "wavelengthrange")
SHAPE = (4, 300)


def make(folder: Path) -> Path:
    """Write all base files; ``jwst_*`` as other programs write them, ``own_*`` as this package does."""
    folder.mkdir(parents=True, exist_ok=True)
    _exposures(folder)
    _products(folder)
    _references(folder)
    _stpsf(folder)
    return folder


def _exposures(folder: Path) -> None:
    import io_files
    import test_io_products as made

    from mrsxr.io import load, save

    for product in (*DETECTOR, "crf"):
        away = folder / "away"
        away.mkdir()
        written = io_files.write(away, product, shape=SHAPE)
        place = folder / f"jwst_{product}"
        place.mkdir()
        path = written.rename(place / written.name)
        if product != "crf":
            ds = load(path)
            ds = made.with_slices(ds) if product == "cal" else ds
            (saved,) = save(ds.assign_attrs(history_json=made.HISTORY), folder / f"own_{product}")
            if product in ("rate", "cal"):
                save(load(saved), folder / f"nc_{product}", "netcdf")
                save(load(saved), folder / f"zarr_{product}", "zarr")
        shutil.rmtree(away)


def _products(folder: Path) -> None:
    import io_files
    import test_io_products as made
    from astropy.io import fits

    import mrsxr as mx
    from mrsxr.io import save
    from mrsxr.simulate import simulate_spectrum

    (folder / "jwst_s3d").mkdir()
    (folder / "jwst_tab").mkdir()
    io_files.write_cube(folder / "jwst_s3d" / "jw02732-o004_t001_miri_ch1-short_s3d.fits")
    io_files.write_cube(folder / "jwst_tab" / "jw02732-o004_t001_miri_ch1-short_s3d.fits", tabular=True)
    cube, spectrum = made.make_cube(), made.make_spectrum(("1A", "2A"))
    lines = mx.lines.fit_lines(simulate_spectrum(band="3A"), ["[Ne II] 12.81", "H2 S(2) 12.28"])
    for name, ds in {"s3d": cube, "x1d": spectrum, "lines": lines}.items():
        save(ds, folder / f"own_{name}")
        save(ds, folder / f"nc_{name}", "netcdf")
    save(cube, folder / "zarr_s3d", "zarr")
    (own,) = (folder / "own_x1d").iterdir()
    (folder / "jwst_x1d").mkdir()
    with fits.open(own) as hdus:
        fits.HDUList([hdu for hdu in hdus if hdu.name != "MRSXR"]).writeto(folder / "jwst_x1d" / own.name)


def _references(folder: Path) -> None:
    import reference_set
    import test_distortion

    from mrsxr.references import read_reference
    from mrsxr.simulate import write_geometry

    place = folder / "references"
    place.mkdir()
    reference_set.write_set(place)
    for kind in GEOMETRY:
        write_geometry(place / f"{kind}.asdf", test_distortion.made(kind))
    for path in sorted(place.iterdir()):
        kind = read_reference(path).attrs["kind"]
        (folder / f"ref_{kind}").mkdir()
        path.rename(folder / f"ref_{kind}" / path.name)
    place.rmdir()


def _stpsf(folder: Path) -> None:
    import test_psf_of_stpsf

    (folder / "stpsf_psf").mkdir()
    test_psf_of_stpsf.written(folder / "stpsf_psf" / "stpsf_1A.fits", side=20, BAND="1A")


def association(folder: Path) -> tuple[Path, dict]:
    """Make a folder with two exposures and return the path of an association of them and its content."""
    import io_files

    members = [io_files.write(folder, "rate", dither=n, shape=SHAPE).name for n in (1, 2)]
    content = {
        "asn_type": "spec3", "asn_rule": "candidate_Asn_Lv3MIRMRS", "program": "02732", "asn_pool": "none",
        "products": [{
            "name": "jw02732-o004_t001_miri",
            "members": [{"expname": name, "exptype": "science", "exposerr": "null"} for name in members],
        }],
    }  # fmt: skip
    path = folder / "jw02732-o004_spec3_00001_asn.json"
    path.write_text(json.dumps(content))
    return path, content


def one_file(folder: Path) -> Path:
    """Return the one file (or zarr store) of a base."""
    (path,) = folder.iterdir()
    return path
