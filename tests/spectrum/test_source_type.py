"""Point or extended, decided from images of many kinds (scenes.py)."""

import numpy as np
import pytest
import xarray as xr
from scenes import SCENES, cube_of

from mrsxr import mrs
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.spectrum import decide_source_type


def test_clear_scenes_are_decided_and_mixed_ones_marked():
    right = total = marked = mixed = seed = 0
    for kind, sizes, truth in SCENES:
        for size in sizes:
            for signal, band in ((30, "1A"), (100, "3A"), (1000, "4C"), (1000, "1B")):
                seed += 1
                found = decide_source_type(cube_of(kind, size, signal, band, seed)).attrs
                if truth != "either":
                    total += 1
                    right += found["source_type"] == truth and not found["ambiguous"]
                elif kind in ("two", "point on disc") and signal >= 100:
                    mixed += 1
                    marked += found["ambiguous"]
    assert total >= 40
    assert right > 0.95 * total
    assert marked >= 0.8 * mixed


@pytest.mark.parametrize("signal", [8, 14])
def test_faint_sources_are_extended_and_ambiguous(signal):
    found = decide_source_type(cube_of("point", 0.0, signal, "2A", 3)).attrs
    assert (found["source_type"], found["ambiguous"]) == ("EXTENDED", 1)


def test_several_bands_vote():
    cubes = [cube_of("point", 0.0, 100, band, k) for k, band in enumerate(("1A", "2A", "3A"))]
    out = decide_source_type(cubes)
    assert (out.attrs["source_type"], out.attrs["score"], out.attrs["decided_by"]) == ("POINT", 1.0, "image")
    assert out.sizes["window"] == 9
    assert out.band.values.tolist() == ["1A"] * 3 + ["2A"] * 3 + ["3A"] * 3
    assert (out.verdict == "POINT").all()
    cubes[2] = cube_of("exponential", 2.0, 300, "3A", 7)
    assert decide_source_type(cubes).attrs["score"] == pytest.approx(2 / 3)
    xr.testing.assert_identical(decide_source_type([c.chunk(wavelength=4) for c in cubes]), decide_source_type(cubes))


def test_the_user_wins_and_scores_stay():
    out = decide_source_type(cube_of("point", 0.0, 100, "1A", 1), source_type="EXTENDED")
    assert (out.attrs["source_type"], out.attrs["decided_by"], out.attrs["score"]) == ("EXTENDED", "user", 1.0)


def test_another_psf_can_be_given():
    cube = cube_of("disc", 1.6, 300, "2A", 2)
    assert decide_source_type(cube).attrs["source_type"] == "EXTENDED"
    out = decide_source_type(cube, psf=lambda w: 1.55 * mrs.psf_fwhm(w))
    assert out.attrs["source_type"] == "POINT"
    np.testing.assert_allclose(out.width_ratio, 0.96, atol=0.05)


def test_a_place_can_be_given():
    cube = cube_of("two", 4.0, 300, "1A", 4)
    ra, dec = cube.attrs["target_ra"], cube.attrs["target_dec"]
    out = decide_source_type(cube, center=(ra, dec))
    assert (out.signal_to_noise > 100).all()


def test_bad_planes_and_empty_cubes():
    cube = cube_of("point", 0.0, 100, "1A", 5)
    cube["flux"][:3] = np.nan
    cube["dq"][:3] = 513
    assert decide_source_type(cube).attrs["source_type"] == "POINT"
    out = decide_source_type(cube.assign(flux=cube.flux * np.nan))
    assert (out.attrs["source_type"], out.attrs["score"], out.attrs["ambiguous"]) == ("EXTENDED", 0.0, 0)


def test_wrong_input_is_named():
    cube = cube_of("empty", 0.0, 10, "1A", 1)
    with pytest.raises(MrsxrError, match="expected 'POINT' or 'EXTENDED'"):
        decide_source_type(cube, source_type="MIXED")
    with pytest.raises(MrsxrError, match="no cubes"):
        decide_source_type([])
    with pytest.raises(LevelError, match="level cube, got cal"):
        decide_source_type(cube.assign_attrs(level="cal"))
