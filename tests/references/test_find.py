"""Choosing reference files: folder, mapping and CRDS behind one look-up; refusals; fitting to the exposure."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import reference_set as rs
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import ReferenceFileError, ReferenceMissingError
from mrsxr.references import KINDS, References, find, read_reference
from mrsxr.simulate import write_reference

WRITTEN = tuple(kind for kind in KINDS if kind not in ("distortion", "specwcs", "regions", "wavelengthrange"))


def test_folder_tells_what_it_has(reference_folder):
    references = References(reference_folder)
    assert references.kinds == WRITTEN
    assert references.available(rs.exposure()) == WRITTEN
    assert "dark" in repr(references)
    assert str(reference_folder) in repr(references)
    assert "dark" not in references.available(rs.exposure(readpatt="SLOWR1"))
    assert "cubepar" in references.available(rs.exposure(detector="MIRIFULONG"))
    assert "gain" not in references.available(rs.exposure(detector="MIRIFULONG"))


def test_get_reads_lazily_in_the_row_chunks_of_the_exposure(reference_folder):
    references = References(reference_folder)
    dark = references.get("dark", rs.exposure(rows=5))
    assert dark.attrs["ref_id"] == "dark.fits"
    assert dark.dark.chunksizes["y"] == dark.dq.chunksizes["y"] == (5, 5, 5, 1)
    assert references.path("dark", rs.exposure()) == reference_folder / "dark.fits"
    assert references.get("gain", rs.exposure()).gain.shape == rs.SHAPE
    eager = references.get("gain", rs.exposure(rows=None))
    np.testing.assert_array_equal(eager.gain, rs.image(4))


def write_gains(folder, *headers):
    for number, header in enumerate(headers):
        write_reference(folder / f"gain{number}.fits", "gain", {**rs.SHORT, **header}, gain=np.full(rs.SHAPE, number))
    return References(folder)


@pytest.mark.parametrize(
    ("date", "expected"),
    [("2021-12-31", None), ("2022-01-01", 0), ("2023-06-01", 0), ("2024-01-01", 1), ("2030-01-01", 2), (None, 2)],
)
def test_latest_useafter_before_the_exposure(tmp_path, date, expected):
    dates = ("2022-01-01T00:00:00", "2023-12-31T10:00:00", "2025-01-01")
    references = write_gains(tmp_path, *({"useafter": useafter} for useafter in dates))
    if expected is None:
        with pytest.raises(ReferenceFileError, match=r"gain0\.fits, is valid from 2022-01-01"):
            references.path("gain", rs.exposure(date=date))
    else:
        assert references.path("gain", rs.exposure(date=date)).name == f"gain{expected}.fits"


def test_useafter_is_compared_to_the_second(tmp_path):
    references = write_gains(tmp_path, {"useafter": "2022-01-01"}, {"useafter": "2023-01-01T10:00:01"})
    assert references.path("gain", rs.exposure(date="2023-01-01")).name == "gain0.fits"  # starts at 10:00:00


def test_start_time_serves_where_the_header_has_no_date(tmp_path):
    references = write_gains(tmp_path, {"useafter": "2022-01-01"}, {"useafter": "2023-01-01"})
    ds = rs.exposure(date=None).assign_coords(start_time=("dither", [59760.0]))  # 2022-06-30
    assert references.path("gain", ds).name == "gain0.fits"


def test_the_closest_description_wins_over_a_later_wildcard(tmp_path):
    references = write_gains(
        tmp_path,
        {"useafter": "2022-01-01", "subarray": "FULL"},
        {"useafter": "2022-06-01", "subarray": "GENERIC"},
        {"useafter": "2022-06-01", "detector": "N/A", "subarray": "GENERIC"},
    )
    assert references.path("gain", rs.exposure()).name == "gain0.fits"
    assert references.path("gain", rs.exposure(detector="MIRIFULONG")).name == "gain2.fits"


def test_equal_files_the_last_name_wins(tmp_path):
    assert write_gains(tmp_path, {}, {}).path("gain", rs.exposure()).name == "gain1.fits"


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("dark", {"readpatt": "SLOWR1"}, "readpatt FASTR1"),
        ("reset", {"readpatt": "SLOWR1"}, "readpatt FASTR1"),
        ("readnoise", {"readpatt": "SLOWR1"}, "readpatt FASTR1"),
        ("dark", {"detector": "MIRIFULONG"}, "detector MIRIFUSHORT"),
        ("fringe", {"band": "LONG"}, "band SHORT"),
        ("photom", {"band": "MEDIUM"}, "band SHORT"),
        ("flat", {"band": "MEDIUM"}, "band SHORT"),
        ("dark", {"subarray": "SUB64"}, "subarray FULL"),
    ],
)
def test_references_of_another_setting_are_refused_by_name(reference_folder, kind, change, words):
    ds = rs.exposure(**change)
    with pytest.raises(ReferenceFileError, match=f"no {kind} reference for {ds.attrs['setting']}.*{words}"):
        References(reference_folder).get(kind, ds)
    file = References(reference_folder).path(kind, rs.exposure())
    with pytest.raises(ReferenceFileError, match=rf"{file.name}: {kind} reference for {words}") as caught:
        References({kind: file}).get(kind, ds)
    assert "\n" not in str(caught.value)
    given = References({kind: read_reference(file)})
    with pytest.raises(ReferenceFileError, match=rf"{file.name}: {kind} reference for {words}"):
        given.get(kind, ds)


def test_flat_for_every_readout_serves_both(tmp_path):
    write_reference(tmp_path / "flat.fits", "flat", {**rs.SETTING, "readpatt": "ANY"}, flat=rs.image())
    references = References(tmp_path)
    assert references.get("flat", rs.exposure(readpatt="SLOWR1")).attrs["readpatt"] == ""


def test_missing_kind_names_type_detector_and_source(reference_folder, tmp_path):
    with pytest.raises(ReferenceFileError) as caught:
        References(reference_folder).get("regions", rs.exposure())
    text = str(caught.value)
    for word in ("regions", "12A", "MIRIFUSHORT", "SHORT", str(reference_folder), "found no file of this type"):
        assert word in text
    with pytest.raises(ReferenceFileError, match="'darks' is no reference kind"):
        References(reference_folder).get("darks", rs.exposure())
    with pytest.raises(ReferenceFileError, match="no such folder"):
        References(tmp_path / "nowhere")


def test_a_damaged_file_is_named_where_none_is_found(reference_folder, tmp_path):
    whole = (reference_folder / "dark.fits").read_bytes()
    (tmp_path / "dark.fits").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReferenceFileError, match=r"no dark reference .*dark\.fits: .*truncated.*mend it") as caught:
        References(tmp_path).get("dark", rs.exposure())
    assert not isinstance(caught.value, ReferenceMissingError)


def test_subarray_is_cut_from_the_full_frame(reference_folder):
    references = References(reference_folder)
    ds = rs.exposure((5, 7), subarray="SUB64", start=(4, 2), rows=3)
    gain = references.get("gain", ds)
    np.testing.assert_array_equal(gain.gain, rs.image(4)[4:9, 2:9])
    assert gain.gain.chunksizes["y"] == (3, 2)
    np.testing.assert_array_equal(references.get("mask", ds).dq, rs.flags()[4:9, 2:9])
    xart = references.get("mrsxartcorr", ds)
    np.testing.assert_array_equal(xart.yrow.sel(band="1A"), np.arange(4, 9))
    assert references.get("ipc", ds).sizes == {"kernel_y": 3, "kernel_x": 3}
    with pytest.raises(ReferenceFileError, match="the exposure needs rows 14-18"):
        references.get("gain", rs.exposure((5, 7), subarray="SUB64", start=(14, 2)))


def test_a_file_of_the_subarray_is_used_whole_and_preferred(tmp_path):
    header = {**rs.SHORT, "x_start": 3, "y_start": 5, "subarray": "SUB64"}
    write_reference(tmp_path / "a_sub.fits", "gain", header, gain=np.full((5, 7), 2.0))
    write_reference(tmp_path / "b_full.fits", "gain", rs.SHORT, gain=rs.image())
    ds = rs.exposure((5, 7), subarray="SUB64", start=(4, 2))
    gain = References(tmp_path).get("gain", ds)
    assert gain.attrs["ref_id"] == "a_sub.fits"
    np.testing.assert_array_equal(gain.gain, np.full((5, 7), 2.0))


def test_another_size_is_refused(reference_folder):
    with pytest.raises(ReferenceFileError, match=r"gain\.fits: gain has 16 rows and 24 columns.*has 8 and 24"):
        References(reference_folder).get("gain", rs.exposure((8, 24)))


def test_mapping_of_paths_and_datasets(reference_folder):
    gain = read_reference(reference_folder / "gain.fits")
    own = xr.Dataset({"read_noise": (("y", "x"), rs.image())})
    references = References({"dark": reference_folder / "dark.fits", "gain": gain, "readnoise": own})
    assert references.kinds == ("dark", "gain", "readnoise")
    assert repr(references).startswith("<References: mapping of 3 references")
    assert references.get("dark", rs.exposure()).attrs["ref_id"] == "dark.fits"
    fitted = references.get("gain", rs.exposure(rows=4))
    assert fitted.gain.chunksizes["y"] == (4, 4, 4, 4)
    noise = references.get("readnoise", rs.exposure())
    assert (noise.attrs["kind"], noise.attrs["ref_id"], own.attrs) == ("readnoise", "by hand", {})
    with pytest.raises(ReferenceFileError, match="found dark, gain, readnoise; add 'flat'"):
        references.get("flat", rs.exposure())
    with pytest.raises(ReferenceFileError, match="has no file"):
        references.path("gain", rs.exposure())
    with pytest.raises(ReferenceFileError, match="of kind gain, expected flat"):
        References({"flat": gain}).get("flat", rs.exposure())
    with pytest.raises(ReferenceFileError, match="of kind dark, expected flat"):
        References({"flat": reference_folder / "dark.fits"}).get("flat", rs.exposure())
    with pytest.raises(ReferenceFileError, match="'foo' is no reference kind"):
        References({"foo": gain})


def test_full_frame_dataset_in_memory_is_cut_for_a_subarray():
    full = xr.Dataset({"gain": (("y", "x"), 1 + np.arange(1024 * 1032, dtype=np.float32).reshape(1024, 1032) % 97)})
    ds = rs.exposure((5, 7), subarray="SUB64", start=(4, 2))
    np.testing.assert_array_equal(References({"gain": full}).get("gain", ds).gain, full.gain[4:9, 2:9])


def test_cubes_and_spectra_find_theirs(reference_folder):
    references = References(reference_folder)
    cube = xr.Dataset({"flux": (("wavelength", "y", "x"), np.zeros((2, 3, 3)))}, attrs={"level": "cube", "band": "3A"})
    assert references.get("extract1d", cube).attrs["kind"] == "extract1d"
    assert find.Exposure.of(cube).fields["detector"] == "MIRIFULONG"
    assert references.get("mrsptcorr", cube).frac_leak.size == 2


# --- CRDS, with a stand-in for the package (the real one: test_crds_cache) ---------------------------------


@pytest.fixture
def crds(monkeypatch, reference_folder):
    """A crds package that answers from the test folder and keeps the calls."""
    calls = []

    def getreferences(parameters, reftypes, context, observatory):
        calls.append((parameters, tuple(reftypes), context, observatory))
        kind = reftypes[0]
        if kind == "ipc":
            return {kind: "NOT FOUND n/a"}
        if kind == "regions":
            raise RuntimeError("no match\nin the rules")
        return {kind: str(References(reference_folder).path(kind, rs.exposure()))}

    fake = types.ModuleType("crds")
    fake.getreferences, fake.get_context_name = getreferences, lambda observatory, context: context or "jwst_9.pmap"
    monkeypatch.setitem(sys.modules, "crds", fake)
    monkeypatch.setitem(sys.modules, "crds.jwst", types.ModuleType("crds.jwst"))
    monkeypatch.setitem(sys.modules, "crds.jwst.locate", types.ModuleType("crds.jwst.locate"))
    monkeypatch.setenv("CRDS_PATH", "somewhere")
    monkeypatch.delenv("CRDS_CONTEXT", raising=False)
    return calls


def test_crds_is_asked_with_the_parameters_of_the_data_models(crds):
    dark = References(context="jwst_1322.pmap").get("dark", rs.exposure())
    assert dark.attrs["crds_context"] == "jwst_1322.pmap"
    parameters, reftypes, context, observatory = crds[0]
    assert (reftypes, context, observatory) == (("dark",), "jwst_1322.pmap", "jwst")
    assert parameters == {
        "meta.instrument.name": "MIRI", "meta.telescope": "JWST", "meta.instrument.detector": "MIRIFUSHORT",
        "meta.instrument.channel": "12", "meta.instrument.band": "SHORT", "meta.exposure.type": "MIR_MRS",
        "meta.exposure.readpatt": "FASTR1", "meta.subarray.name": "FULL", "meta.exposure.ngroups": rs.N_GROUPS,
        "meta.observation.date": "2023-01-01", "meta.observation.time": "10:00:00",
    }  # fmt: skip


def test_crds_is_asked_once_per_kind_and_setting(crds):
    references = References()
    assert references.get("gain", rs.exposure()).attrs["crds_context"] == "jwst_9.pmap"
    references.get("gain", rs.exposure())
    assert len(crds) == 1
    assert "CRDS (latest context" in repr(references)


def test_crds_answers_become_clear_errors(crds):
    with pytest.raises(ReferenceFileError, match=r"no ipc reference for 12A.*not applicable"):
        References().get("ipc", rs.exposure())
    with pytest.raises(ReferenceFileError, match=r"no regions reference for 12A.*CRDS says: no match in the rules"):
        References().get("regions", rs.exposure())
    with pytest.raises(ReferenceFileError, match="readpatt FASTR1, the exposure has readpatt SLOWR1"):
        References().get("dark", rs.exposure(readpatt="SLOWR1"))
    with pytest.raises(ReferenceFileError, match="DATE-OBS is missing"):
        References().get("dark", rs.exposure(date=None))
    assert "ipc" not in References().available(rs.exposure())


def test_crds_that_is_not_set_up_is_explained(monkeypatch):
    monkeypatch.delenv("CRDS_PATH", raising=False)
    for look_up in (lambda: References().get("dark", rs.exposure()), lambda: References().available(rs.exposure())):
        with pytest.raises(ReferenceFileError, match=r"set CRDS_PATH.*CRDS_SERVER_URL"):
            look_up()
    with pytest.raises(ReferenceFileError, match="give one of them"):
        References({}, context="jwst_1.pmap")


def test_a_missing_crds_package_is_named(monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "somewhere")
    monkeypatch.setitem(sys.modules, "crds", None)
    with pytest.raises(ReferenceFileError, match="CRDS cannot be used"):
        References().get("dark", rs.exposure())


def test_some_columns_of_an_exposure(simulated):
    import mrsxr as mx

    refs = mx.References(simulated.reference_folder)
    ramp = mx.open_exposures(simulated.uncal[0])
    columns = [*range(3), *range(-2, 0)]
    part = ramp.isel(x=columns)
    for kind, name in (("dark", "dark"), ("mask", "dq"), ("gain", "gain"), ("linearity", "coefficients")):
        expected = refs.get(kind, ramp)[name].isel(x=columns)
        np.testing.assert_array_equal(refs.get(kind, part)[name], expected)
        by_hand = mx.References({kind: refs.get(kind, ramp)})
        np.testing.assert_array_equal(by_hand.get(kind, part)[name], expected)
    narrow = ramp.isel(x=slice(100, 108))
    np.testing.assert_array_equal(refs.get("gain", narrow).gain, refs.get("gain", ramp).gain.isel(x=slice(100, 108)))


def psf_planes(*bands, value=1.0, side=5):
    """Return a PSF of bands, its peak in the middle."""
    image = np.zeros((len(bands), side, side), "f4")
    image[:, side // 2, side // 2] = value
    wave = [np.mean(mrs.WAVELENGTH_LIMITS[band]) for band in bands]
    variables = {"psf": (("plane", "psf_alpha", "psf_beta"), image), "psf_wavelength": ("plane", wave),
                 "psf_step": ("plane", [0.03] * len(bands))}  # fmt: skip
    keys = mrs.setting_keywords(mrs.setting_of_band(bands[0]))
    attrs = {"detector": keys["DETECTOR"], "band": keys["BAND"], "channels": "".join(b[0] for b in bands)}
    return xr.Dataset(variables, {"psf_band": ("plane", list(bands))}, {"kind": "psf", **attrs})


def test_a_psf_is_looked_for_by_band(tmp_path):
    """Of a file of one band or of both; what a band lacks it lacks, and what fits no band is missing."""
    for name, bands, value in (("both", ("3B", "4B"), 1.0), ("of_4B", ("4B",), 2.0), ("other", ("1A",), 3.0)):
        write_reference(tmp_path / f"{name}.fits", "psf", psf=psf_planes(*bands, value=value, side=5 + 2 * int(value)))
    refs = References(tmp_path)
    ours = rs.exposure(detector="MIRIFULONG", band="MEDIUM")
    assert [path.name for path in refs.paths("psf", ours)] == ["both.fits", "of_4B.fits"]
    found = refs.get("psf", ours)
    assert found.psf_band.values.tolist() == ["3B", "4B"]
    assert found.psf.max(("psf_alpha", "psf_beta")).values.tolist() == [1.0, 2.0]
    assert found.psf.shape == (2, 9, 9)
    assert found.psf.values[0, 4, 4] == 1.0
    assert (found.attrs["ref_id"], found.attrs["channels"]) == ("both.fits, of_4B.fits", "34")
    assert refs.get("psf", ours.assign_attrs(channels="3")).attrs["ref_id"] == "both.fits"
    assert refs.get("psf", ours.assign_attrs(channels="4")).attrs["ref_id"] == "of_4B.fits"
    assert refs.get("psf", rs.exposure(detector="MIRIFUSHORT", band="SHORT")).psf_band.values.tolist() == ["1A"]
    (tmp_path / "both.fits").unlink()
    (tmp_path / "unknown.fits").write_bytes(b"SIMPLE  = what is this")  # no word says that it is one
    refs = References(tmp_path)
    assert refs.get("psf", ours).psf_band.values.tolist() == ["4B"]
    for other in (ours.assign_attrs(channels="3"), rs.exposure(detector="MIRIFULONG", band="LONG")):
        for source in (refs, References(tmp_path, override={"psf": tmp_path / "of_4B.fits"})):
            with pytest.raises(ReferenceMissingError, match=r"(other|of_4B)\.fits"):
                source.get("psf", other)
    twice = References({"psf": [psf_planes("3B"), psf_planes("4B", value=2.0)]}).get("psf", ours)
    assert twice.psf_band.values.tolist() == ["3B", "4B"]
    with pytest.raises(ReferenceFileError, match="in memory"):
        References({"psf": psf_planes("3B")}).path("psf", ours)
    write_reference(tmp_path / "late.fits", "psf", {"useafter": "2030-01-01"}, psf=psf_planes("3C"))
    with pytest.raises(ReferenceFileError, match=r"late\.fits, is valid from") as caught:
        References(tmp_path).get("psf", rs.exposure(detector="MIRIFULONG", band="LONG"))
    assert not isinstance(caught.value, ReferenceMissingError)
