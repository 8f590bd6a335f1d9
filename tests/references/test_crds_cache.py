"""The offline CRDS cache: layout, checksums, rules, and, where crds can serve JWST here, the look-up itself."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import subprocess
import sys

import pytest
import reference_set as rs

from mrsxr.errors import ReferenceFileError
from mrsxr.references import build_crds_cache
from mrsxr.references.crds_cache import SELECTED_BY
from mrsxr.references.headers import CRDS_KINDS
from mrsxr.simulate import write_reference


@pytest.fixture
def cache(reference_folder, tmp_path):
    return build_crds_cache(reference_folder, tmp_path / "crds"), tmp_path / "crds"


def read_mapping(path):
    text = path.read_text()
    tree = ast.parse(text)
    header = ast.literal_eval(tree.body[0].value)
    body = "".join(line for line in text.splitlines(True) if "sha1sum" not in line)
    assert header["sha1sum"] == hashlib.sha1(body.encode()).hexdigest()
    assert header["name"] == path.name
    return header, tree.body[1].value


def test_the_variables_point_to_the_cache_and_to_no_server(cache):
    variables, folder = cache
    assert variables == {
        "CRDS_PATH": str(folder), "CRDS_SERVER_URL": "https://jwst-serverless.stsci.edu",
        "CRDS_CONTEXT": "jwst_0001.pmap", "CRDS_OBSERVATORY": "jwst",
    }  # fmt: skip


def test_mappings_are_signed_and_name_every_type(cache):
    _, folder = cache
    mappings = folder / "mappings" / "jwst"
    header, selector = read_mapping(mappings / "jwst_0001.pmap")
    assert header["mapping"] == "PIPELINE"
    assert ast.literal_eval(selector) == {"MIRI": "jwst_miri_0001.imap"}
    header, selector = read_mapping(mappings / "jwst_miri_0001.imap")
    types = ast.literal_eval(selector)
    assert header["parkey"] == ("REFTYPE",)
    assert set(CRDS_KINDS) <= set(types)
    for kind in ("pars-jumpstep", "pars-spec2pipeline", "area", "chromcorr", "distortion"):
        assert types[kind] == "N/A"
    for kind, name in types.items():
        if name != "N/A":
            header, _ = read_mapping(mappings / name)
            assert header["filekind"] == kind.upper()
            assert len(header["parkey"][0]) == len(SELECTED_BY[kind])


def test_files_are_linked_under_crds_names(cache, reference_folder):
    _, folder = cache
    store = folder / "references" / "jwst" / "miri"
    assert len(list(store.iterdir())) == len(list(reference_folder.iterdir())) - 3  # not of CRDS
    assert os.path.samefile(store / "jwst_miri_mask_0007.fits", reference_folder / "jwst_miri_mask_0007.fits")
    assert os.path.samefile(store / "jwst_miri_dark_0001.fits", reference_folder / "dark.fits")
    assert os.path.samefile(store / "jwst_miri_apcorr_0001.asdf", reference_folder / "apcorr.asdf")


def test_rules_hold_the_fields_and_dates_of_the_files(tmp_path):
    for number, (detector, useafter) in enumerate(
        [("MIRIFUSHORT", "2022-01-01T00:00:00"), ("MIRIFUSHORT", "2024-06-01T12:30:00"), ("MIRIFULONG", "2022-01-01")]
    ):
        header = {"detector": detector, "useafter": useafter, "subarray": "GENERIC"}
        write_reference(tmp_path / "refs" / f"g{number}.fits", "gain", header, gain=rs.image())
    build_crds_cache(tmp_path / "refs", tmp_path / "crds")
    text = (tmp_path / "crds" / "mappings" / "jwst" / "jwst_miri_gain_0001.rmap").read_text()
    assert "('MIRIFUSHORT', 'N/A', 'N/A', 'N/A') : UseAfter" in text
    assert "'2024-06-01 12:30:00' : 'jwst_miri_gain_0002.fits'" in text
    assert "'2022-01-01 00:00:00' : 'jwst_miri_gain_0003.fits'" in text


def test_building_again_drops_old_rules(reference_folder, tmp_path):
    build_crds_cache(reference_folder, tmp_path / "crds")
    write_reference(tmp_path / "only" / "gain.fits", "gain", rs.SHORT, gain=rs.image())
    build_crds_cache(tmp_path / "only", tmp_path / "crds")
    rules = sorted(path.name for path in (tmp_path / "crds" / "mappings" / "jwst").glob("*.rmap"))
    assert rules == ["jwst_miri_gain_0001.rmap"]


def test_linking_falls_back_to_a_copy(reference_folder, tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    build_crds_cache(reference_folder, tmp_path / "crds")
    copied = tmp_path / "crds" / "references" / "jwst" / "miri" / "jwst_miri_gain_0001.fits"
    assert copied.read_bytes() == (reference_folder / "gain.fits").read_bytes()
    assert not os.path.samefile(copied, reference_folder / "gain.fits")


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(ReferenceFileError, match="no MIRI MRS reference file"):
        build_crds_cache(tmp_path, tmp_path / "crds")
    with pytest.raises(ReferenceFileError, match="no such folder"):
        build_crds_cache(tmp_path / "nowhere", tmp_path / "crds")


LOOK_UP = """
import sys
sys.path.insert(0, sys.argv[2])
import reference_set as rs
from mrsxr.references import References
references, ds = References(), rs.exposure()
dark = references.get("dark", ds)
print(dark.attrs["ref_id"], dark.attrs["crds_context"], len(references.available(ds)))
try:
    references.get("dark", rs.exposure(readpatt="SLOWR1"))
except Exception as error:
    print(type(error).__name__, error)
try:
    references.get("regions", ds)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("stdatamodels") is None or importlib.util.find_spec("crds") is None,
    reason="crds needs the package stdatamodels to apply the rules of JWST; it is not installed",
)
def test_crds_serves_the_cache_without_a_network(cache):
    variables, _ = cache
    env = {**os.environ, **variables}
    run = subprocess.run(
        [sys.executable, "-c", LOOK_UP, "look-up", os.path.dirname(rs.__file__)],
        capture_output=True, text=True, env=env, timeout=120, check=True,
    )  # fmt: skip
    lines = [line for line in run.stdout.splitlines() if not line.startswith("CRDS")]
    assert lines[0] == f"jwst_miri_dark_0001.fits jwst_0001.pmap {len(CRDS_KINDS) - 4}"
    assert lines[1].startswith("ReferenceFileError no dark reference for 12A")
    assert "SLOWR1" in lines[1]
    assert "not applicable" in lines[2]
