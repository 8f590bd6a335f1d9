"""Whose word counts on the type of a source: the user's, the headers', the images'."""

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "spectrum"))

from scenes import cube_of, image_of
from test_extract_1d import make_cube

from mrsxr.errors import MrsxrError
from mrsxr.pipeline import Recipe, make_spectra
from mrsxr.pipeline.source_types import marked, source_types_of
from mrsxr.tree import build

pytestmark = pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")


def nucleus_in_a_disc(share=0.5, band="1A", seed=3):
    """A cube of a nucleus in its disc, of which images cannot tell what it is."""
    rng = np.random.default_rng(seed)
    image = 1000 * (share * image_of("point", 0, (15.1, 14.8), 5.3, 0.13)
                    + (1 - share) * image_of("exponential", 2.0, (15.1, 14.8), 5.3, 0.13))  # fmt: skip
    sigma = image.max() / 200
    flux = image + 5 + rng.normal(0, sigma, (12, *image.shape))
    return make_cube(flux, np.full(flux.shape, sigma**2), wave0=5.3, step=0.0008, band=band)


def decide(cubes, header, asked="auto", **options):
    """Return the types and what was told of cubes whose headers say ``header`` (one or one for each)."""
    headers = [header] * len(cubes) if isinstance(header, str | None) else header
    named = []
    for cube, kind in zip(cubes, headers, strict=True):
        attrs = {k: v for k, v in cube.attrs.items() if k != "source_type"}
        named.append(cube.drop_attrs(deep=False).assign_attrs(attrs | ({} if kind is None else {"source_type": kind})))
    told = {}
    return source_types_of(named, Recipe.of().set("extract_1d", source_type=asked, **options), told), told


@pytest.mark.parametrize("header", ["POINT", "EXTENDED"])
def test_the_header_counts_where_the_images_are_ambiguous(header):
    kinds, told = decide([nucleus_in_a_disc()], header)
    assert told["ambiguous"]
    assert kinds == (header,)
    assert (told["decided_by"], told["header"]) == ("header", header)
    assert f"ambiguous; the header says {header}, which is taken" in told["notes"][0]
    both, _ = decide([nucleus_in_a_disc()], header, both_branches=True)
    assert both == (header, {"POINT": "EXTENDED", "EXTENDED": "POINT"}[header])


@pytest.mark.parametrize("header", ["UNKNOWN", None, ""])
def test_the_images_count_where_the_headers_say_nothing(header):
    kinds, told = decide([nucleus_in_a_disc()], header)
    assert kinds[0] in ("POINT", "EXTENDED")
    assert told["decided_by"] == "images"
    assert f"the headers say nothing (1A), so that {kinds[0]} is taken" in told["notes"][0]


@pytest.mark.parametrize(("kind", "size", "other"), [("point", 0.0, "EXTENDED"), ("disc", 3.0, "POINT")])
def test_a_clear_score_overrules_the_header_and_says_so(kind, size, other):
    cubes = [cube_of(kind, size, 300, band, 5) for band in ("1A", "1B")]
    kinds, told = decide(cubes, other)
    assert kinds == ({"EXTENDED": "POINT", "POINT": "EXTENDED"}[other],)
    assert not told["ambiguous"]
    assert f"the header {other}: {kinds[0]} is taken" in told["notes"][0]
    agreed, quiet = decide(cubes, kinds[0])
    assert agreed == kinds
    assert not quiet["notes"]


@pytest.mark.parametrize("asked", ["POINT", "EXTENDED"])
@pytest.mark.parametrize("header", ["POINT", "EXTENDED", ["POINT", "EXTENDED"]])
def test_the_user_overrules_both(asked, header):
    cubes = [nucleus_in_a_disc(), nucleus_in_a_disc(band="1B")]
    kinds, told = decide(cubes, header, asked)
    assert kinds == (asked,)
    assert (told["decided_by"], told["notes"]) == ("user", [])
    assert decide(cubes, header, "auto", region='icrs; circle(339.0,33.9,1")')[0] == ("EXTENDED",)


def test_headers_that_contradict_each_other_are_refused():
    cubes = [nucleus_in_a_disc(), nucleus_in_a_disc(band="1B"), nucleus_in_a_disc(band="1C")]
    with pytest.raises(MrsxrError, match=r"say EXTENDED \(1C\) and POINT \(1A, 1B\); give source_type"):
        decide(cubes, ["POINT", "POINT", "EXTENDED"], "header")
    kinds, told = decide(cubes, ["POINT", "POINT", "EXTENDED"])
    assert told["header"] is None
    assert "EXTENDED (1C) and POINT (1A, 1B)" in told["notes"][0]
    assert kinds[0] in ("POINT", "EXTENDED")


def test_headers_without_a_word_are_told():
    cubes = [nucleus_in_a_disc(), nucleus_in_a_disc(band="1B")]
    kinds, told = decide(cubes, None, "header")
    assert (kinds, told["decided_by"]) == (("EXTENDED",), "default")
    assert "the headers say nothing (1A, 1B) of the source type: EXTENDED is taken for all" in told["notes"][0]
    kinds, told = decide(cubes, ["POINT", "UNKNOWN"], "header")
    assert (kinds, told["decided_by"]) == (("POINT",), "header")
    assert "POINT (1A) and nothing (1B)" in told["notes"][0]
    assert decide(cubes, "POINT", "header") == (("POINT",), {"header": "POINT", "decided_by": "header", "notes": []})


def test_spectra_say_how_their_type_was_decided():
    """A tree of cubes in optimal: the nucleus is a point, as the header says."""
    cubes = build({"/science/1A": nucleus_in_a_disc(), "/science/1B": nucleus_in_a_disc(band="1B", seed=4)})
    recipe = Recipe.of("optimal").set("extract_1d", aperture_correction=False)
    out = make_spectra(cubes, None, recipe)
    for path in ("1A", "1B", "stitched"):
        attrs = out[f"science/{path}"].attrs
        assert attrs["source_type"] == "POINT"
        assert (attrs["source_type_decided_by"], attrs["source_type_header"]) == ("header", "POINT")
        assert 0.0 <= attrs["source_type_score"] < 1.0
        assert any("ambiguous; the header says POINT, which is taken" in note for note in attrs["notes"])


@pytest.mark.parametrize("header", ["EXTENDED", None])
def test_images_that_contradict_each_other_do_not_overrule_the_header(header):
    """Two windows of three say POINT, the left-out one does not: the type is that of baseline."""
    point, disc = (cube_of(kind, size, 400, "2A", 6) for kind, size in (("point", 0.0), ("disc", 3.0)))
    n = point.sizes["wavelength"]
    middle = slice(n // 3, 2 * n // 3)
    flux = point.flux.values.copy()
    flux[middle] = disc.flux.values[middle]
    kinds, told = decide([point.assign(flux=point.flux.copy(data=flux))], header)
    assert kinds == ("EXTENDED",)
    assert told["judged"] > 1
    assert told["decided_by"] == ("default" if header is None else "header")
    assert "EXTENDED is taken" in told["notes"][0]
    kinds, told = decide([point], header)
    assert kinds == ("POINT",)
    assert told["judged"] < 0.1
    spectrum = marked(xr.Dataset(attrs={"level": "spectrum"}), told)
    assert float(spectrum.score_source_type) == pytest.approx(told["judged"])
    assert "judged" not in decide([disc], header)[1]
