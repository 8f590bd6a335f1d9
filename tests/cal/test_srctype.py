"""srctype: the decision table of jwst, the user's word, many exposures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import assert_step, detector_attrs, dither_coords, of_jwst

from mrsxr import dq
from mrsxr.cal.srctype import set_source_type, source_type_of
from mrsxr.errors import MrsxrError
from mrsxr.io import save

KEYWORDS = ("BKGDTARG", "TSOVISIT", "NINTS", "SRCTYAPT", "SRCTYPE", "DITHOPFR")
VALUES = {"None": None, "True": True, "False": False, "1": 1, "3": 3}


def make_rate(*headers):
    shape = (len(headers), 4, 6)
    planes = {"rate": "DN/s", "var_poisson": "DN2/s2", "var_read": "DN2/s2"}
    ds = xr.Dataset(
        {k: (("dither", "y", "x"), np.ones(shape, "f4"), {"units": u}) for k, u in planes.items()},
        coords={"y": np.arange(4), "x": np.arange(6), **dither_coords(len(headers))},
        attrs=detector_attrs("rate", "12A", 10, 2),
    )
    ds["dq"] = (("dither", "y", "x"), np.zeros(shape, "u4"), dq.PIXEL_DQ_ATTRS)
    return ds.assign_coords(fits_header=("dither", np.array([json.dumps(h) for h in headers])))


def header(primary=None, sci=None):
    return {"PRIMARY": primary or {}, "SCI": sci or {}}


def test_decisions_equal_jwst():
    table = of_jwst("stage2_srctype")["table"]
    assert len(table) == 3 * 3 * 2 * 3 * 4 * 2 * 3
    for user, *facts, expected in table:
        if user != "None":
            continue
        keywords = {k: VALUES.get(v, v) for k, v in zip(KEYWORDS, facts, strict=True)}
        sci = {"SRCTYPE": keywords.pop("SRCTYPE")}
        assert source_type_of(keywords, sci) == expected, (keywords, sci)
    for row in table[:: len(table) // 60]:
        user, *facts, expected = row
        keywords = {k: VALUES.get(v, v) for k, v in zip(KEYWORDS, facts, strict=True)}
        ds = make_rate(header({k: v for k, v in keywords.items() if k != "SRCTYPE"}, {"SRCTYPE": keywords["SRCTYPE"]}))
        found = set_source_type(ds, source_type=None if user == "None" else user)
        assert found.attrs["source_type"] == expected


def test_result_is_where_files_and_cubes_look(tmp_path):
    ds = make_rate(header({"SRCTYAPT": "POINT"}), header({"SRCTYAPT": "POINT"}, {"SRCTYPE": "EXTENDED", "RA_REF": 1.5}))
    out = assert_step(set_source_type, ds)
    assert out.attrs["source_type"] == "POINT"
    xr.testing.assert_identical(out.fits_header, ds.fits_header)
    assert [fits.getheader(path, "SCI")["SRCTYPE"] for path in save(out, tmp_path)] == ["POINT", "POINT"]
    user = assert_step(set_source_type, ds, source_type="extended")
    assert user.attrs["source_type"] == "EXTENDED"


def test_exposures_that_differ_are_known_each(tmp_path):
    out = set_source_type(make_rate(header({"SRCTYAPT": "POINT"}), header({"SRCTYAPT": "EXTENDED"})))
    assert out.source_type.values.tolist() == ["POINT", "EXTENDED"]
    assert "source_type" not in out.attrs
    once = set_source_type(out, source_type="POINT")
    assert (once.attrs["source_type"], "source_type" in once.coords) == ("POINT", False)
    headers = [fits.getheader(path, "SCI")["SRCTYPE"] for path in save(set_source_type(once), tmp_path)]
    assert headers == ["POINT", "EXTENDED"]


def test_what_serves_as_background_is_extended():
    ds = make_rate(header({"SRCTYAPT": "POINT"})).assign_attrs(background=1)
    assert set_source_type(ds).attrs["source_type"] == "EXTENDED"


def test_headers_without_any_keyword():
    bare = make_rate(header()).assign_coords(fits_header=("dither", [""]))
    assert set_source_type(bare).attrs["source_type"] == "EXTENDED"
    with pytest.raises(MrsxrError, match="expected 'POINT' or 'EXTENDED'"):
        set_source_type(bare, source_type="UNKNOWN")
