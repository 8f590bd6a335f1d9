from __future__ import annotations

import numpy as np
import pytest

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.lines import in_range, line_list
from mrsxr.lines.linelist import KINDS, matches


def test_table_is_sorted_complete_and_has_units():
    lines = line_list()
    wave = lines["wavelength"].values
    assert np.all(np.diff(wave) >= 0)
    assert len(set(lines["line"].values)) == lines.sizes["line"]
    assert set(lines["kind"].values) == set(KINDS)
    assert lines["wavelength"].attrs["units"] == "um"
    assert lines["ionisation_potential"].attrs["units"] == "eV"
    assert set(np.unique(lines["rank"].values)) == {1, 2, 3}


def test_every_line_lies_in_the_range_of_the_instrument():
    low, high = mrs.WAVELENGTH_LIMITS["1A"][0], mrs.WAVELENGTH_LIMITS["4C"][1]
    assert in_range(line_list(), low, high).sizes["line"] == line_list().sizes["line"]


def test_potentials_and_widths_stand_where_they_mean_something():
    lines = line_list()
    kind, energy, width = (lines[n].values for n in ("kind", "ionisation_potential", "fwhm"))
    neutral = np.isin(lines["name"].values, ["[S I]", "[Fe I]"])
    assert np.array_equal(np.isfinite(energy), np.isin(kind, ["fine-structure", "hydrogen"]) & ~neutral)
    assert np.array_equal(np.isfinite(width), kind == "PAH")
    assert np.all(energy[kind == "hydrogen"] == 13.60)


def test_hydrogen_follows_the_rydberg_law():
    lines = line_list()
    found = 0
    for name, wave in zip(lines["name"].values, lines["wavelength"].values, strict=True):
        if name.startswith("H I "):
            upper, lower = (int(n) for n in name[4:].split("-"))
            expected = 1e6 / (1.09677576e7 * (1 / lower**2 - 1 / upper**2))
            assert wave == pytest.approx(expected, abs=5e-5)
            found += 1
    assert found == 6


def test_molecular_hydrogen_agrees_with_its_rotational_constants():
    lines = line_list()
    wave = dict(zip(lines["name"].values, lines["wavelength"].values, strict=True))

    def term(j: int) -> float:  # cm^-1, ground vibrational state: B0, D0, H0 of H2 (Jennings et al. 1984)
        x = j * (j + 1)
        return 59.33451 * x - 0.0456562 * x**2 + 4.9204e-5 * x**3 - 5.7e-8 * x**4

    for j in range(4):
        assert wave[f"H2 S({j})"] == pytest.approx(1e4 / (term(j + 2) - term(j)), rel=3e-4)


def test_in_range_moves_lines_with_redshift():
    lines = line_list()
    rest = in_range(lines, 12.0, 13.0)
    assert "[Ne II] 12.81" in rest["line"].values
    moved = in_range(lines, 12.0, 13.0, redshift=0.02)
    assert "[Ne II] 12.81" not in moved["line"].values
    there = in_range(lines, 13.0, 13.1, redshift=0.02).sel(line="[Ne II] 12.81")
    assert float(there["observed_wavelength"]) == pytest.approx(12.81355 * 1.02)
    assert float(there["wavelength"]) == 12.81355


def test_empty_range_gives_no_lines():
    assert in_range(line_list(), 1.0, 2.0).sizes["line"] == 0


@pytest.mark.parametrize("args", [(5.0, 6.0, -1.0), (5.0, 6.0, np.nan), (6.0, 5.0, 0.0), (np.nan, 6.0, 0.0)])
def test_impossible_ranges_are_refused(args):
    with pytest.raises(MrsxrError, match="expected"):
        in_range(line_list(), *args)


def test_default_range_is_that_of_the_instrument():
    far = in_range(line_list(), redshift=0.05)
    observed = far["observed_wavelength"].values
    assert observed.min() >= 4.9
    assert observed.max() <= 28.7
    assert "H2 S(0) 28.22" not in far["line"].values
    assert far.sizes["line"] == line_list().sizes["line"] - 1


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("[ArII]", "[Ar II] 6.99"), ("Ar II 6.99", "[Ar II] 6.99"), ("ariii", "[Ar III] 8.99"),
        ("ARIII", "[Ar III] 8.99"),
        ("[Ne V] 14.3", "[Ne V] 14.32"), ("[NeV]24", "[Ne V] 24.32"), ("[Ne V] 24.318 um", "[Ne V] 24.32"),
        ("[Fe II] 25.9", "[Fe II] 25.99"), ("FeII 26", "[Fe II] 25.99"), ("[SIV]", "[S IV] 10.51"),
        ("S IV λ10.51 µm", "[S IV] 10.51"), ("H2 0-0 S(3)", "H2 S(3) 9.66"), ("H2S3", "H2 S(3) 9.66"),
        ("S(5)", "H2 S(5) 6.91"), ("HI 6-5", "H I 6-5 7.46"), ("Pf α", "H I 6-5 7.46"), ("Hu beta", "H I 8-6 7.50"),
        ("H 9-7", "H I 9-7 11.31"), ("PAH6.2", "PAH 6.2"), ("pah 11.2", "PAH 11.3"),
    ],
)  # fmt: skip
def test_lines_are_found_however_they_are_spelt(text, label):
    labels = [str(value) for value in line_list().line.values]
    assert [labels[i] for i in matches(text, labels)] == [label]


@pytest.mark.parametrize(
    ("text", "count"),
    [("[SiV]", 0), ("[S III] 33.48", 0), ("[Ne V] 20", 0), ("N II", 0), ("", 0), ("12.81", 0), ("H2 S(9)", 0),
     ("[Ne V]", 2), ("FeII", 5), ("PAH", 9)],
)  # fmt: skip
def test_other_ions_and_wavelengths_are_no_match(text, count):
    assert len(matches(text, [str(value) for value in line_list().line.values])) == count


def test_every_label_is_itself():
    labels = [str(value) for value in line_list().line.values]
    assert [matches(label, labels) for label in labels] == [[i] for i in range(len(labels))]
