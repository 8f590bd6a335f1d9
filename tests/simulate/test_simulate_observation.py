from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from astropy.io import fits

from mrsxr import dq, mrs
from mrsxr.errors import MrsxrError
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, v2v3_to_slicer
from mrsxr.references import crds_cache
from mrsxr.references.readers import read_reference
from mrsxr.simulate import (
    Effects,
    PointSource,
    Scene,
    instrument,
    observation,
    references,
    simulate_observation,
    true_spectrum,
)
from mrsxr.simulate.scene import Background, encircled_energy

SMALL = {"bands": ["1A"], "n_groups": 4, "n_integrations": 1, "n_dithers": 1, "n_background": 1}


@pytest.fixture
def _exposures_alone(monkeypatch):
    """Write no reference files."""
    monkeypatch.setattr(observation, "_write_references", lambda *_: None)
    monkeypatch.setattr(crds_cache, "build_crds_cache", lambda *_: {})


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    lines: list[str] = []
    out = simulate_observation(tmp_path_factory.mktemp("made"), progress=lines.append, save_cosmic_rays=True, **SMALL)
    assert len(lines) == 3
    return out


def test_files_are_where_and_what_they_should_be(made):
    assert [path.name for path in made.uncal] == ["jw02732004001_02101_00001_mirifushort_uncal.fits"]
    assert [path.name for path in made.background] == ["jw02732005001_02101_00001_mirifushort_uncal.fits"]
    with fits.open(made.uncal[0]) as file:
        names = [hdu.name for hdu in file]
        assert names == ["PRIMARY", "SCI", "GROUP", "INT_TIMES", "ASDF"]
        assert file["SCI"].data.shape == (1, 4, 1024, 1032)
        assert file["SCI"].data.dtype == np.uint16
        head = file[0].header
        assert (head["DETECTOR"], head["CHANNEL"], head["BAND"]) == ("MIRIFUSHORT", "12", "SHORT")
        assert head["BKGDTARG"] is False
        assert head["EFFEXPTM"] == pytest.approx(4 * 2.77504)
        assert head["EXPMID"] == pytest.approx(0.5 * (head["EXPSTART"] + head["EXPEND"]), abs=1e-9)
        assert len(file["GROUP"].data) == 4
        file.verify("exception")
    with fits.open(made.background[0]) as file:
        assert file[0].header["BKGDTARG"] is True


def test_pointing_keywords_put_the_target_at_the_offset(made):
    with fits.open(made.uncal[0]) as file:
        head, sci = file[0].header, file["SCI"].header
        pointing = Pointing(*(sci[key] for key in ("RA_REF", "DEC_REF", "ROLL_REF", "V2_REF", "V3_REF", "VA_SCALE")))
        v2, v3 = sky_to_v2v3(head["TARG_RA"], head["TARG_DEC"], pointing)
        assert sci["V2_REF"] - v2 == pytest.approx(head["XOFFSET"], abs=1e-6)
        assert v3 - sci["V3_REF"] == pytest.approx(head["YOFFSET"], abs=1e-6)


@pytest.mark.usefixtures("_exposures_alone")
def test_same_seed_same_files(made, tmp_path):
    again = simulate_observation(tmp_path, save_slopes=False, **SMALL)
    for old, new in zip([*made.uncal, *made.background], [*again.uncal, *again.background], strict=True):
        assert hashlib.md5(old.read_bytes()).digest() == hashlib.md5(new.read_bytes()).digest()
    assert not again.slopes


def test_every_reference_is_readable_and_in_the_cache(made):
    kinds = {}
    for path in made.references:
        ds = read_reference(path)
        kinds[ds.attrs["kind"]] = ds
        assert ds.attrs["level"] == "reference"
    expected = {
        "mask", "saturation", "linearity", "dark", "reset", "gain", "readnoise", "rscd", "fringefreq", "flat",
        "fringe", "photom", "distortion", "specwcs", "regions", "wavelengthrange", "cubepar", "extract1d", "apcorr",
        "mrsxartcorr", "mrsptcorr", "emicorr",
    }  # fmt: skip
    assert set(kinds) == expected
    edge = kinds["mask"].dq.values[:, :4]
    assert np.all(edge == dq.REFERENCE_PIXEL)  # usable as reference: not flagged DO_NOT_USE
    cached = list((made.folder / "crds" / "references").rglob("jwst_miri_*"))
    assert len(cached) == len(made.references)


def test_ramps_give_the_true_slopes_back(made):
    refs = {ds.attrs["kind"]: ds for ds in map(read_reference, made.references)}
    with fits.open(made.uncal[0]) as file:
        raw = file["SCI"].data[0].astype(float)
    raw -= refs["reset"].reset.values[0, :4]
    coefficients = refs["linearity"].coefficients.values
    linear = sum(coefficients[k] * raw**k for k in range(4)) - refs["dark"].dark.values[0]
    slope = (linear[2] - linear[1]) / 2.77504  # without the first group and the last
    for amplifier in range(4):  # reference pixels follow the drift
        for parity in range(2):
            part = slope[parity::2, amplifier::4]
            part -= np.mean(part[:, [0, -1]])
    truth = made.slope(made.uncal[0].name.removesuffix("_uncal.fits")).slope.values
    mask = refs["mask"].dq.values
    good = (mask == 0) & (raw.max(axis=0) < refs["saturation"].threshold.values)
    noise = np.sqrt(truth / 2.77504 / 4 + 2 * 36.0 / 2.77504**2)
    pull = ((slope - truth) / noise)[good]
    middle = np.median(pull)
    assert abs(middle) < 0.05
    assert 1.4826 * np.median(np.abs(pull - middle)) == pytest.approx(1.05, abs=0.1)
    bright = good & (truth > 3)
    assert np.median(slope[bright] / truth[bright]) == pytest.approx(1.0, abs=0.03)


def test_slope_follows_from_the_surface_brightness(made):
    refs = {ds.attrs["kind"]: ds for ds in map(read_reference, made.references)}
    truth = made.slope(made.uncal[0].name.removesuffix("_uncal.fits"))
    alive = (refs["mask"].dq.values & dq.FLAGS["DEAD"]) == 0
    expected = truth.surface_brightness / refs["photom"].conversion.values
    expected = expected * refs["flat"].flat.values * refs["fringe"].fringe.values
    good = np.isfinite(expected.values) & alive
    np.testing.assert_allclose(truth.slope.values[good], expected.values[good], rtol=1e-4)
    assert np.all(truth.slope.values[np.isnan(expected.values)] == 0)


def test_aperture_correction_restores_the_total(made):
    refs = {ds.attrs["kind"]: ds for ds in map(read_reference, made.references)}
    apcorr = refs["apcorr"]
    wave = apcorr.wavelength.values
    radius, inner, outer = references.apertures(wave)
    np.testing.assert_allclose(apcorr.radius.values[1], radius, rtol=1e-5)
    blur = references.sampling_blur(wave)
    ring = encircled_energy(outer, wave, blur=blur) - encircled_energy(inner, wave, blur=blur)
    inside = encircled_energy(radius, wave, blur=blur) - ring * radius**2 / (outer**2 - inner**2)
    np.testing.assert_allclose(inside * apcorr.correction.values[1], 1.0, rtol=1e-5)
    assert np.all((apcorr.correction.values[1] > 1.0) & (apcorr.correction.values[1] < 1.35))


def test_truth_tells_lines_sources_and_spectra(made):
    assert set(made.spectra) == {"1A", "2A"}
    assert {"[Ne II]", "H2 S(5)"} <= set(made.lines.name.values.tolist())
    assert made.lines.wavelength.values == pytest.approx(made.lines.wavelength_rest.values * 1.0225, rel=2e-3)
    assert made.sources.ra.values[0] == Scene.default().ra
    spectrum = true_spectrum(Scene.default(), "2A")
    low, high = mrs.WAVELENGTH_LIMITS["2A"]
    assert spectrum.wavelength.values[0] == pytest.approx(low + 0.00065)
    assert spectrum.wavelength.values[-1] < high + 0.0013
    assert np.all(spectrum.flux >= spectrum.continuum)
    assert len(list(made.truth_folder.glob("*_cosmic_rays.nc"))) == 2


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(MrsxrError, match="5Z"):
        simulate_observation(tmp_path, bands=["5Z"])
    with pytest.raises(MrsxrError, match="bands is empty"):
        simulate_observation(tmp_path, bands=[])
    with pytest.raises(MrsxrError, match="FASTGRP"):
        simulate_observation(tmp_path, readpatt="FASTGRP")
    for option, value, expected in (("pattern", "SPIRAL", "POINT, EXTENDED"), ("n_dithers", 5, "from 1 to 4")):
        with pytest.raises(MrsxrError, match=f"{option} is .*{value}.*; expected .*{expected}"):
            simulate_observation(tmp_path, **SMALL | {option: value})


def test_effects_off_are_off_in_the_references_too(tmp_path):
    quiet = simulate_observation(tmp_path, effects=Effects.none(), **{**SMALL, "n_groups": 3, "n_background": 0})
    refs = {ds.attrs["kind"]: ds for ds in map(read_reference, quiet.references)}
    assert np.all(refs["flat"].flat.values == 1)
    assert not refs["dark"].dark.values.any()
    assert not refs["linearity"].coefficients.values[2:].any()
    with fits.open(quiet.uncal[0]) as file:
        raw = file["SCI"].data[0].astype(float)
    slope = np.diff(raw, axis=0)[1] / 2.77504
    truth = quiet.slope(quiet.uncal[0].name.removesuffix("_uncal.fits")).slope.values
    assert np.abs(slope - truth).max() < 1.01 / 2.77504


@pytest.mark.usefixtures("_exposures_alone")
def test_light_lies_where_the_jitter_puts_it_and_the_header_does_not_know(tmp_path):
    star = Scene(150.0, 20.0, points=(PointSource(150.0, 20.0),), background=Background(scale=0.0))
    some = {**SMALL, "scene": star, "n_dithers": 2, "n_background": 0, "n_groups": 2}
    jitter = dataclasses.replace(Effects.none(), centroid_jitter=0.08)
    moved = simulate_observation(tmp_path / "moved", effects=jitter, **some)
    still = simulate_observation(tmp_path / "still", effects=Effects.none(), **some | {"n_dithers": 1})
    keys = ("RA_REF", "DEC_REF", "ROLL_REF", "V2_REF", "V3_REF", "VA_SCALE")
    with fits.open(moved.uncal[0]) as one, fits.open(still.uncal[0]) as other:
        assert all(one["SCI"].header[key] == other["SCI"].header[key] for key in keys)
    geometry = instrument.make_geometry("12A")
    draws = []
    pixels_of = instrument.footprints(geometry)
    for path in moved.uncal:
        with fits.open(path) as one:
            v2, v3 = sky_to_v2v3(150.0, 20.0, Pointing(*(one["SCI"].header[key] for key in keys)))
        truth = moved.slope(path.name.removesuffix("_uncal.fits"))
        for band, pixels in pixels_of.items():
            more = truth.moved.sel(band=band).values
            a, b = v2v3_to_slicer(v2 + more[0], v3 + more[1], band, geometry.distortion)
            near = np.hypot(pixels.alpha - a, pixels.beta - b) < 0.7
            light = truth.surface_brightness.values[pixels.y, pixels.x] * near
            draws += list(more)
            for place, where in ((a, pixels.alpha), (b, pixels.beta)):
                assert np.sum(light * where) / light.sum() == pytest.approx(place, abs=0.012), band
    assert np.unique(draws).size == 8
    assert 0.04 < np.std(draws) < 0.16
    assert "moved" not in still.slope(still.uncal[0].name.removesuffix("_uncal.fits"))
