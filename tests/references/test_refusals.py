"""Absent is not wrong: what optional references may be; instrument, NGROUPS, values, files given in place of others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import reference_set as rs
from astropy.io import fits

from mrsxr.errors import MrsxrWarning, ReferenceFileError, ReferenceMissingError
from mrsxr.io._keywords import reference_keywords
from mrsxr.notes import listen
from mrsxr.pipeline.optional import optional
from mrsxr.rate import subtract_dark
from mrsxr.references import KINDS, References, build_crds_cache, read_facts, read_reference
from mrsxr.references.crds_cache import KEY_OF_FIELD, SELECTED_BY, in_range
from mrsxr.references.exposure import Exposure
from mrsxr.simulate import write_reference
from mrsxr.step import read_history

OPTIONAL = {"reset": "reset.fits", "rscd": "rscd.fits", "cubepar": "cubepar.fits", "apcorr": "apcorr.asdf",
            "extract1d": "x1d.asdf", "mrsptcorr": "pt.fits", "mrsxartcorr": "xart.fits", "emicorr": "emi.asdf",
            "ipc": "ipc.fits"}  # fmt: skip


def truncate(source, target, share=0.6):
    whole = source.read_bytes()
    end = int(len(whole) * share)
    if target.suffix == ".fits" and end % 2880 == 0:  # within an extension, not behind one
        end -= 1000
    target.write_bytes(whole[:end])
    return target


def changed(source, target, **cards):
    """Copy a FITS file with other cards in PRIMARY; None removes one."""
    shutil.copy(source, target)
    with fits.open(target, mode="update") as hdus:
        for key, value in cards.items():
            if value is None:
                hdus[0].header.remove(key, ignore_missing=True)
            else:
                hdus[0].header[key] = value
    return target


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
@pytest.mark.parametrize("kind", OPTIONAL)
def test_absent_is_a_note_and_damaged_an_error(reference_folder, tmp_path, kind):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", {}):
        with listen() as told:
            assert optional(References(source), kind, rs.exposure(), "it stays") is None
        assert len(told) == 1
        assert "it stays" in told[0]
    damaged = truncate(reference_folder / OPTIONAL[kind], tmp_path / f"some_{OPTIONAL[kind]}")
    with pytest.raises(ReferenceFileError, match=damaged.name) as caught:  # the only one
        optional(References(tmp_path), kind, rs.exposure(), "it stays")
    assert not isinstance(caught.value, ReferenceMissingError)
    assert "\n" not in str(caught.value)
    with pytest.raises(ReferenceFileError, match=damaged.name):
        optional(References({kind: damaged}), kind, rs.exposure(), "it stays")
    with pytest.raises(ReferenceFileError, match=damaged.name):
        References(tmp_path / "empty", override={kind: damaged}).get(kind, rs.exposure())


@pytest.mark.parametrize("cards", [{"REFTYPE": None}, {"DETECTOR": "MIRIFULONG"}, {"READPATT": "SLOWR1"}])
def test_a_wrong_optional_reference_is_refused(reference_folder, tmp_path, cards):
    wrong = changed(reference_folder / "reset.fits", tmp_path / "my_reset.fits", **cards)
    for references in (References(tmp_path), References({"reset": wrong})):
        with pytest.raises(ReferenceFileError, match=r"my_reset\.fits") as caught:
            optional(references, "reset", rs.exposure(), "the reset stays")
        assert not isinstance(caught.value, ReferenceMissingError)


def test_a_damaged_file_beside_a_good_one_is_told(reference_folder, tmp_path):
    shutil.copy(reference_folder / "reset.fits", tmp_path / "good.fits")
    truncate(reference_folder / "reset.fits", tmp_path / "later_reset.fits")
    with pytest.warns(UserWarning, match=r"later_reset\.fits.*left out"):
        assert References(tmp_path).get("reset", rs.exposure()).attrs["ref_id"] == "good.fits"
    truncate(reference_folder / "apcorr.asdf", tmp_path / "apcorr.asdf")  # of another kind: nothing to tell
    (tmp_path / "later_reset.fits").unlink()
    assert References(tmp_path).get("reset", rs.exposure()).attrs["ref_id"] == "good.fits"


@pytest.mark.parametrize(
    ("name", "kind", "cards", "words"),
    [
        ("gain.fits", "gain", {"INSTRUME": "NIRSPEC"}, "INSTRUME NIRSPEC"),
        ("gain.fits", "gain", {"TELESCOP": "HST"}, "TELESCOP HST"),
        ("flat.fits", "flat", {"DETECTOR": "MIRIMAGE"}, "DETECTOR MIRIMAGE"),
        ("cubepar.fits", "cubepar", {"EXP_TYPE": "MIR_LRS-FIXEDSLIT", "DETECTOR": "N/A"}, "EXP_TYPE MIR_LRS"),
    ],
)
def test_references_of_other_instruments_are_refused(reference_folder, tmp_path, name, kind, cards, words):
    other = changed(reference_folder / name, tmp_path / name, **cards)
    with pytest.raises(ReferenceFileError, match=words):
        read_reference(other)
    with pytest.raises(ReferenceFileError, match=words):
        References({kind: other}).get(kind, rs.exposure())
    with pytest.raises(ReferenceMissingError):  # in a folder it is another's
        References(tmp_path).get(kind, rs.exposure())


def test_an_asdf_file_of_another_instrument_is_refused(reference_folder, tmp_path):
    text = (reference_folder / "x1d.asdf").read_bytes()
    (tmp_path / "x1d.asdf").write_bytes(text.replace(b"name: MIRI", b"name: NIRSPEC"))
    with pytest.raises(ReferenceFileError, match="INSTRUME NIRSPEC"):
        read_facts(tmp_path / "x1d.asdf")


# --- masks by READPATT and NGROUPS ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "inside", "outside"),
    [
        ("40", (40,), (39, 41)), ("<50", (1, 49), (50, 51)), (">=50", (50, 300), (49,)), ("> 50", (51,), (50,)),
        ("between 10 50", (10, 49), (9, 50)), ("#>=10 AND <50#", (10, 49), (9, 50)), ("#<5 OR >90#", (4, 91), (5, 90)),
        ("N/A?", (), (1, 10)),
    ],
)  # fmt: skip
def test_ranges_of_groups(stated, inside, outside):
    assert all(in_range(stated, str(value)) for value in inside)
    assert not any(in_range(stated, str(value)) for value in outside)


def with_groups(n, readpatt="FASTR1"):
    ds = rs.exposure(readpatt=readpatt)
    text = str(ds.fits_header.values[0]).replace(f'"NGROUPS": {rs.N_GROUPS}', f'"NGROUPS": {n}')
    return ds.assign_coords(fits_header=("dither", [text]))


def test_masks_are_chosen_by_readout_and_groups_in_folder_and_cache(tmp_path, monkeypatch):
    pytest.importorskip("stdatamodels")
    for number, (readpatt, groups) in enumerate([("FASTR1", "<50"), ("FASTR1", ">=50"), ("SLOWR1", None)]):
        header = {**rs.SHORT, "readpatt": readpatt, "n_groups": groups}
        write_reference(tmp_path / "refs" / f"jwst_miri_mask_100{number}.fits", "mask", header, dq=rs.flags())
    for key, value in build_crds_cache(tmp_path / "refs", tmp_path / "crds").items():
        monkeypatch.setenv(key, value)
    folder, crds = References(tmp_path / "refs"), References()
    expected = {(20, "FASTR1"): "1000", (49, "FASTR1"): "1000", (50, "FASTR1"): "1001", (200, "FASTR1"): "1001",
                (20, "SLOWR1"): "1002", (60, "SLOWR1"): "1002"}  # fmt: skip
    for (n, readpatt), number in expected.items():
        ds = with_groups(n, readpatt)
        assert folder.path("mask", ds).name == f"jwst_miri_mask_{number}.fits"
        assert crds.path("mask", ds).name == f"jwst_miri_mask_{number}.fits"


@pytest.mark.shared
def test_the_fields_that_choose_are_those_of_the_template_rules(shared_data):
    """All keys of the rules are used; FILTER is the imager's, and grating keys of 2015 are BAND today."""
    names = {key: field for field, key in KEY_OF_FIELD.items()} | {
        "META.INSTRUMENT.GRATING14": "band", "META.INSTRUMENT.GRATINGA": "band", "META.INSTRUMENT.GRATINGB": "band",
    }  # fmt: skip
    today = {path.stem.split("_")[1]: path for path in (shared_data / "refs_public").glob("miri_*.rmap")}
    imap = (shared_data / "crds_context_0061" / "jwst_miri_0041.imap").read_text()
    old = {kind: shared_data / "crds_context_0061" / line.split("'")[3] for line in imap.splitlines()
           if (kind := line.split("'")[1].lower() if line.count("'") == 4 else "") in KINDS}  # fmt: skip
    assert set(today) == {"mask", "apcorr", "fringefreq", "mrsptcorr", "mrsxartcorr"}
    assert len(old) > 12
    for kind, path in [*old.items(), *today.items()]:
        scope: dict = {}
        exec(path.read_text().split("selector")[0], scope)
        fields = {names[key] for key in scope["header"]["parkey"][0]}
        assert fields <= set(SELECTED_BY[kind]), (kind, path.name)
        if kind in today and path == today[kind]:
            assert set(SELECTED_BY[kind]) - fields <= {"exp_type"}, kind


# --- values --------------------------------------------------------------------------------------------------


def with_image(path, values):
    """Put another image into SCI of a file."""
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].data[:] = values
    return path


WRONG = {
    "gain": [np.inf, np.nan, -5.5, 0.0, 1e9],
    "read_noise": [np.inf, np.nan, -1e9, -1.0, 1e9],
    "saturation": [np.inf, np.nan, -100.0, 0.0],
    "flat": [np.inf, np.nan, 0.0, -1.0],
    "fringe": [np.inf, np.nan, 0.0],
    "photom": [np.inf, np.nan, -1.0, 0.0],
}
WRITE = {
    "gain": ("gain", lambda p, v: write_reference(p, "gain", rs.SHORT, gain=v)),
    "read_noise": ("readnoise", lambda p, v: write_reference(p, "readnoise", rs.READ, read_noise=v)),
    "saturation": ("saturation", lambda p, v: write_reference(p, "saturation", rs.SHORT, threshold=v)),
    "flat": ("flat", lambda p, v: write_reference(p, "flat", rs.SETTING, flat=v)),
    "fringe": ("fringe", lambda p, v: write_reference(p, "fringe", rs.SETTING, fringe=v)),
    "photom": (
        "photom",
        lambda p, v: with_image(write_reference(p, "photom", rs.SETTING, conversion=rs.image(), pixel_area=0.03), v),
    ),
}


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_planes_of_impossible_values_are_refused(tmp_path, name, value):
    kind, write = WRITE[name]
    path = write(tmp_path / f"my_{kind}.fits", np.full(rs.SHAPE, value, np.float32))
    with pytest.raises(ReferenceFileError, match=rf"my_{kind}\.fits.* usable values") as caught:
        References(tmp_path).get(kind, rs.exposure())
    assert "\n" not in str(caught.value)
    with pytest.raises(ReferenceFileError, match="usable values"):
        References({kind: path}).get(kind, rs.exposure())


@pytest.mark.parametrize(("kind", "values"), [("dark", np.nan), ("dark", np.inf), ("reset", np.nan), ("reset", 1e30)])
def test_ramps_of_impossible_values_are_refused(tmp_path, kind, values):
    ramp = rs.image(3, (2, rs.N_GROUPS, *rs.SHAPE))
    ramp[1, -1] = values
    write_reference(tmp_path / "r.fits", kind, rs.READ, **{kind: ramp})
    with pytest.raises(ReferenceFileError, match=r"r\.fits: .*integration 2, group 5"):
        References(tmp_path).get(kind, rs.exposure())


def test_linear_terms_and_masks_of_nothing_are_refused(tmp_path):
    coefficients = np.stack([np.zeros(rs.SHAPE), np.zeros(rs.SHAPE), np.full(rs.SHAPE, 1e-6)])
    write_reference(tmp_path / "lin.fits", "linearity", rs.SHORT, coefficients=coefficients)
    write_reference(tmp_path / "mask.fits", "mask", rs.SHORT, dq=np.ones(rs.SHAPE, np.uint32))
    references = References(tmp_path)
    with pytest.raises(ReferenceFileError, match=r"lin\.fits.*order 1"):
        references.get("linearity", rs.exposure())
    with pytest.raises(ReferenceFileError, match=r"mask\.fits: the mask flags 100%"):
        references.get("mask", rs.exposure())


def test_single_pixels_without_value_stay_and_impossible_ones_are_nan(tmp_path):
    shape = (64, 80)
    gain, noise = np.full(shape, 5.5, np.float32), np.full(shape, 6.0, np.float32)
    gain[0, :3] = [np.nan, 0.0, -1.0]
    gain[5, 5], noise[7, 7], noise[8, 8] = np.inf, -3.0, np.nan
    write_reference(tmp_path / "g.fits", "gain", rs.SHORT, gain=gain)
    write_reference(tmp_path / "n.fits", "readnoise", rs.READ, read_noise=noise)
    references = References(tmp_path)
    with pytest.warns(UserWarning, match="1 values of gain cannot be"):
        found = references.get("gain", rs.exposure(shape)).gain.compute()
    np.testing.assert_array_equal(found[0, :4], [np.nan, 0.0, -1.0, 5.5])
    assert np.isnan(found[5, 5])
    assert found.dtype == np.float32
    with pytest.warns(UserWarning, match="1 values of read_noise cannot be"):
        noise = references.get("readnoise", rs.exposure(shape)).read_noise.compute()
    assert np.isnan(noise[7, 7])
    assert int(np.isfinite(noise).sum()) == noise.size - 2


@pytest.mark.parametrize(
    ("kind", "variable", "value"),
    [("apcorr", "correction", np.nan), ("apcorr", "correction", -1.0), ("extract1d", "radius", 0.0),
     ("cubepar", "spaxel_size", 0.0), ("cubepar", "wavelength_step", np.inf), ("rscd", "group_skip", -7),
     ("ipc", "kernel", np.nan), ("emicorr", "frequency", 0.0), ("gain", "gain", np.inf)],
)  # fmt: skip
def test_given_datasets_are_looked_at_too(reference_folder, kind, variable, value):
    ds = References(reference_folder).get(kind, rs.exposure()).compute()
    spoilt = ds.assign({variable: ds[variable] * 0 + value})
    with pytest.raises(ReferenceFileError, match=variable):
        References({kind: spoilt}).get(kind, rs.exposure())
    assert References({kind: ds}).get(kind, rs.exposure())[variable].equals(ds[variable])


def test_images_of_unequal_size_are_refused(reference_folder, tmp_path):
    with fits.open(reference_folder / "flat.fits") as hdus:
        hdus["ERR"].data = hdus["ERR"].data[:8]
        hdus.writeto(tmp_path / "flat.fits")
    with pytest.raises(ReferenceFileError, match=r"flat\.fits: images of unequal size"):
        References(tmp_path).get("flat", rs.exposure())


# --- files given in place of others --------------------------------------------------------------------------


def test_an_override_stands_above_every_source(reference_folder, tmp_path):
    other = write_reference(tmp_path / "my_gain.fits", "gain", rs.SHORT, gain=np.full(rs.SHAPE, 3.25))
    for source in (reference_folder, {}, {"gain": reference_folder / "gain.fits"}):
        references = References(source, override={"gain": other})
        assert "gain" in references.kinds
        assert "my_gain.fits" in references.source
        np.testing.assert_array_equal(references.get("gain", rs.exposure()).gain, 3.25)
    dataset = read_reference(other)
    found = References(reference_folder, override={"gain": dataset}).get("gain", rs.exposure())
    assert found.attrs["ref_id"] == "my_gain.fits"
    assert References(reference_folder, override={"gain": other}).path("dark", rs.exposure()).name == "dark.fits"


def test_an_override_is_checked_when_it_is_given_and_when_it_is_used(reference_folder, tmp_path):
    dark = reference_folder / "dark.fits"
    with pytest.raises(ReferenceFileError, match="'darks' is no reference kind"):
        References(reference_folder, override={"darks": dark})
    with pytest.raises(ReferenceFileError, match=r"dark\.fits: is a reference of kind dark, expected gain"):
        References(reference_folder, override={"gain": dark})
    with pytest.raises(ReferenceFileError, match=r"nowhere\.fits: "):
        References(reference_folder, override={"gain": tmp_path / "nowhere.fits"})
    with pytest.raises(ReferenceFileError, match="expected a path or a Dataset"):
        References(reference_folder, override={"gain": 5})
    fringe = References(reference_folder, override={"fringe": reference_folder / "fringe.fits"})
    with pytest.raises(ReferenceFileError, match=r"fringe reference for .*band SHORT, the exposure has band LONG"):
        fringe.get("fringe", rs.exposure(band="LONG"))


def test_an_override_may_hold_one_file_for_each_detector(tmp_path, reference_folder):
    files = [
        write_reference(tmp_path / f"{n}.fits", "gain", {"detector": detector}, gain=np.full(rs.SHAPE, n + 2.0))
        for n, detector in enumerate(("MIRIFUSHORT", "MIRIFULONG"))
    ]
    references = References(reference_folder, override={"gain": files})
    for n, detector in enumerate(("MIRIFUSHORT", "MIRIFULONG")):
        np.testing.assert_array_equal(references.get("gain", rs.exposure(detector=detector)).gain, n + 2.0)


def test_of_several_that_fit_the_one_that_says_more_is_taken_and_told(tmp_path, reference_folder):
    """As from a folder; what says the same of itself is taken in the order given."""
    files = [
        write_reference(tmp_path / f"{name}.fits", "gain", keys, gain=np.full(rs.SHAPE, n + 2.0))
        for n, (name, keys) in enumerate(
            {
                "any": {"detector": "N/A"},
                "ours": {"detector": "MIRIFUSHORT"},
                "late": {"detector": "MIRIFUSHORT"},
            }.items()
        )
    ]
    for source in (References(reference_folder, override={"gain": files}), References({"gain": files})):
        with pytest.warns(MrsxrWarning, match=r"ours\.fits is taken, not .*any\.fits, .*late\.fits"):
            found = source.get("gain", rs.exposure(detector="MIRIFUSHORT"))
        np.testing.assert_array_equal(found.gain, 3.0)


def test_history_and_keywords_name_the_override(simulated, tmp_path):
    import mrsxr as mx

    ramp = mx.open_exposures(simulated.uncal[0])
    own = tmp_path / "my_dark.fits"
    shutil.copy(next(p for p in simulated.references if "dark" in p.name), own)
    references = mx.References(simulated.reference_folder, override={"dark": own})
    history = read_history(subtract_dark(ramp, dark=references.get("dark", ramp)))
    assert history[-1]["refs"]["dark"] == "my_dark.fits"
    assert reference_keywords(history)["R_DARK"] == "my_dark.fits"


def test_facts_of_cubes_and_of_several_bands():
    import json

    import xarray as xr

    header = json.dumps({"PRIMARY": {"DATE-OBS": "2024-02-03", "TIME-OBS": "04:05:06.7", "READPATT": "SLOWR1"}})
    one = Exposure.of(xr.Dataset(attrs={"level": "cube", "band": "3B", "fits_header": header}))
    assert one.date == "2024-02-03T04:05:06"
    assert (one.fields["detector"], one.fields["channel"], one.fields["band"]) == ("MIRIFULONG", "34", "MEDIUM")
    assert one.wanted("apcorr")["channel"] == "3"
    both = Exposure.of(xr.Dataset(attrs={"level": "cube", "band": "1A 2A", "fits_header": header}))
    assert (both.fields["detector"], both.fields["band"]) == ("MIRIFUSHORT", "SHORT")
    many = {"level": "spectrum", "band": "MULTIPLE", "bands": ["1A", "3C"], "fits_header": header}
    wide = Exposure.of(xr.Dataset(attrs=many))
    assert (wide.fields["detector"], wide.fields["band"], wide.cube_channel) == ("", "", "13")
