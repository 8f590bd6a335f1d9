"""The name of a product says what it is: no two products of a reduction share one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import xarray as xr
from helpers import make_ramp
from test_io_products import EXPOSURES, make_cube, make_spectrum

from mrsxr import tree
from mrsxr.errors import MrsxrError
from mrsxr.io import load, planned, product_name, save
from mrsxr.io.files import classify

sys.path.insert(0, str(Path(__file__).parent))
import io_files

ROOT = "jw02732-o004_ngc-7319_miri"


CUBES = {
    f"{ROOT}_ch1-short": {},
    f"{EXPOSURES[0]}_ch1-short": {"exposures": EXPOSURES[:1]},
    f"{EXPOSURES[1]}_ch1-short": {"exposures": EXPOSURES[1:]},
    f"{ROOT}_ch1-short_channel": {"cube_type": "channel"},
    f"{ROOT}_ch1-short_multi": {"cube_type": "multi"},
    f"{ROOT}_ch1-shortmediumlong": {"band": "1A 1B 1C", "cube_type": "channel"},
    f"{ROOT}_ch1-shortmediumlong_multi": {"band": "1A 1B 1C", "cube_type": "multi"},
    f"{ROOT}_ch1-2-short": {"band": "1A 2A", "channels": "12", "cube_type": "multi"},
    f"{ROOT}_ch1a-1b-2a": {"band": "1A 1B 2A", "channels": "12", "cube_type": "multi"},
    f"{ROOT}_ch1-short_background": {"background": 1},
    f"{ROOT}_ch1-short_psf-matched": {"variant": "psf-matched"},
    f"{ROOT}_ch1-short_psf-matched_regridded": {"variant": "psf-matched regridded"},
    "jw02732-o004-o006_ngc-7319_miri_ch1-short": {
        "exposures": [EXPOSURES[0], EXPOSURES[1].replace("02732004", "02732006")]
    },
    "jw01111-o002-jw02732-o004_ngc-7319_miri_ch1-short": {
        "exposures": [EXPOSURES[0], EXPOSURES[1].replace("02732004", "01111002")]
    },
    "asn-name_ch1-short": {"product_name": "asn-name"},
}  # fmt: skip
SPECTRA = {
    f"{ROOT}_ch1-short": {"source_type_header": "POINT"},
    f"{ROOT}_ch1-short_extended": {"source_type_header": "POINT", "source_type": "EXTENDED"},
    f"{ROOT}_ch1-short_point": {"source_type_header": "UNKNOWN"},
    f"{ROOT}_ch1-short_channel": {"cube_type": "channel"},
    f"{ROOT}_ch1-short_background": {"background": 1, "source_type_header": "POINT", "source_type": "EXTENDED"},
    f"{ROOT}_ch1-short_stitched": {"stitch_method": "none"},
}  # fmt: skip


@pytest.mark.parametrize("name", CUBES)
def test_cubes(name):
    assert product_name(make_cube().assign_attrs(CUBES[name])) == name


@pytest.mark.parametrize("name", SPECTRA)
def test_spectra(name):
    assert product_name(make_spectrum(**SPECTRA[name])) == name


@pytest.mark.parametrize("format", ["fits", "netcdf"])
def test_all_of_them_fit_into_one_folder(tmp_path, format):
    made = [make_cube().assign_attrs(attrs) for attrs in CUBES.values()] + [
        make_spectrum(**attrs) for attrs in SPECTRA.values()
    ]
    made += [make_spectrum(("1A", "2A")), make_spectrum(("1A", "2A"), stitch_method="none")]
    paths = [path for ds in made for path in save(ds, tmp_path, format)]
    assert len(set(paths)) == len(made)
    for ds, path in zip(made, paths, strict=True):
        assert product_name(load(path)) == product_name(ds)


def test_single_exposures_stay_apart(tmp_path):
    """Four cubes of single exposures, saved one by one, are four files; so are their spectra and netCDF ramps."""
    cubes = [make_cube(exposures=[f"jw02732004001_02101_{i:05d}_mirifushort"]) for i in range(1, 5)]
    spectra = [make_spectrum(exposures=ds.attrs["exposures"], source_type="EXTENDED") for ds in cubes]
    ramp = make_ramp(xr.DataArray(0.0).expand_dims(a=4, b=1, c=3, d=2, e=4).values.astype("f4"))
    ramps = [ramp.isel(dither=[i]) for i in range(4)]
    assert len({path for ds in cubes + spectra for path in save(ds, tmp_path)}) == 8
    assert len({path for ds in [*ramps, ramp] for path in save(ds, tmp_path, "netcdf")}) == 5
    assert len({path for ds in [*ramps, ramp] for path in save(ds, tmp_path)}) == 4


def test_names_of_single_exposures_that_jwst_wrote(tmp_path):
    for number in (1, 2):
        path = io_files.write_cube(tmp_path / f"jw02732004001_02101_{number:05d}_mirifushort_s3d.fits")
        assert product_name(load(path)) == f"jw02732004001_02101_{number:05d}_mirifushort_ch1-short"


def test_lines(tmp_path):
    def fits_of(*labels, maps=False, **attrs):
        size = {"line": len(labels)} | ({"y": 2, "x": 2} if maps else {})
        zeros = xr.zeros_like(xr.DataArray(0.0).expand_dims(size))
        attrs = {"level": "lines", "exposures": EXPOSURES, "target": "NGC 7319", "band": "3A"} | attrs
        return xr.Dataset({"flux": zeros}, {"line": list(labels)}, attrs)

    one, two = "[Ne II] 12.81", "H2 S(2) 12.28"
    assert product_name(fits_of(one)) == f"{ROOT}_ch3-short_ne-ii-12-81"
    assert product_name(fits_of(one, maps=True)) == f"{ROOT}_ch3-short_ne-ii-12-81_maps"
    assert product_name(fits_of(one, two)) == f"{ROOT}_ch3-short_ne-ii-12-81-h2-s-2-12-28"
    many = product_name(fits_of(one, two, "a", "b", "c"))
    assert many == f"{ROOT}_ch3-short_5-lines-ne-ii-12-81-to-c"
    ratio = fits_of(one, maps=True, level="line_ratio", numerator=one, denominator=two)
    assert product_name(ratio) == f"{ROOT}_ch3-short_ne-ii-12-81-to-h2-s-2-12-28"


def test_a_tree_never_writes_one_name_twice(tmp_path):
    nodes = {"/science/1A": make_cube(), "/science/1A_2": make_cube()}
    with pytest.raises(MrsxrError, match=r"_ch1-short_s3d\.fits: /science/1A and /science/1A_2"):
        save(tree.build(nodes), tmp_path)
    assert not list(tmp_path.iterdir())
    nodes["/science/1A_2"].attrs["cube_type"] = "channel"
    nodes["/background/1A"] = make_cube(background=1)
    wanted = planned(tree.build(nodes), tmp_path)
    assert len(set(wanted)) == 3
    assert not list(tmp_path.iterdir())
    assert save(tree.build(nodes), tmp_path) == wanted


def test_cubes_of_channels_are_not_taken_for_band_cubes(tmp_path):
    for kind, node in (("band", "1A"), ("channel", ""), ("multi", "")):
        path = save(make_cube(cube_type=kind), tmp_path)[0]
        assert classify(path).node == node
    assert classify(save(make_spectrum(stitch_method="none"), tmp_path)[0]).node == ""


def test_converted_cubes_and_spectra_say_their_units():
    cube, spectrum = make_cube(), make_spectrum()
    cube["flux"].attrs["units"] = "Jy/arcsec2"
    spectrum["flux"].attrs["units"] = "mJy"
    assert product_name(cube) == f"{ROOT}_ch1-short_in-jy-arcsec2"
    assert product_name(spectrum) == f"{ROOT}_ch1-short_in-mjy"
