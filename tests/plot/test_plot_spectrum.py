from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from plot_makers import assert_tidy, drawn, labels, make_exposure, make_spectrum

from mrsxr import mrs, plot, tree
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.plot._labels import Mark, find_marks, line_strength, spread, thin_out
from mrsxr.plot._spectrum import _quiet
from mrsxr.plot._style import BAND_COLOURS


def test_spectrum_axes_colours_and_lines():
    ax = drawn(plot.spectrum(make_spectrum(("3A",), redshift=0.01, level=2.0, peak=1.0), redshift=0.01, title="here"))
    assert ax.get_xlabel().startswith("Observed wavelength [µm]")
    assert "z = 0.01" in ax.get_xlabel()
    assert ax.get_ylabel() == "Flux density [Jy]"
    assert ax.get_title(loc="left") == "here"
    assert [t.get_text() for t in labels(ax, "line label")] == ["H₂ S(2)", "H I 7-6", "[Ne II]"]
    assert [t.get_text() for t in labels(ax, "band name")] == ["3A"]
    curve = next(line for line in ax.lines if line.get_label() == "3A")
    assert curve.get_color() == BAND_COLOURS["3A"]
    assert len(ax.collections) == 1  # the error band
    assert not plot.spectrum(make_spectrum(("3A",)), errors=False, lines=False).collections


def test_units_follow_the_brightness():
    for level, unit in ((3.0, "Jy"), (0.02, "mJy"), (2e-5, "µJy")):
        ax = plot.spectrum(make_spectrum(level=level, peak=0.0))
        assert ax.get_ylabel() == f"Flux density [{unit}]"
        low, high = ax.get_ylim()
        scale = {"Jy": 1, "mJy": 1e3, "µJy": 1e6}[unit]
        assert low < level * scale < high


def test_twelve_bands_labels_do_not_overlap():
    ax = drawn(plot.spectrum(make_spectrum(mrs.BANDS, level=1.0, peak=3.0)))
    texts = labels(ax, "line label")
    assert len(texts) >= 20
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    names = labels(ax, "band name")
    assert [t.get_text() for t in names] == list(mrs.BANDS)
    assert not any(a.overlaps(b) for a, b in itertools.combinations([t.get_window_extent() for t in names], 2))
    assert ax.get_xscale() == "log"


def test_gaps_between_bands_are_drawn_together_and_not_joined():
    ds = make_spectrum(("1A", "2A", "3A", "4A"))
    ax = drawn(plot.spectrum(ds, lines=False))
    assert ax.get_xscale() == "function"
    curves = {line.get_label(): line for line in ax.lines if line.get_label() in BAND_COLOURS}
    assert set(curves) == {"1A", "2A", "3A", "4A"}
    places = [ax.transAxes.inverted().transform(ax.transData.transform((w, 0.3)))[0] for w in (5.74, 7.51, 4.90, 20.95)]
    assert 0 < places[1] - places[0] < 0.04  # the gap
    assert places[2] < 0.02
    assert places[3] > 0.98


def test_a_hole_inside_a_band_breaks_the_line():
    ds = make_spectrum(("1A",))
    ds = ds.isel(wavelength=np.r_[0:150, 250:400])
    ax = plot.spectrum(ds, lines=False)
    assert len([line for line in ax.lines if line.get_label() == "1A"]) == 2


def test_flagged_samples_and_edge_spikes_do_not_set_the_limits():
    ds = make_spectrum(level=1.0, peak=0.0)
    ds["flux"].values[[0, 1, -1]] = [90.0, -80.0, 70.0]
    ds["flux"].values[200:210] = 50.0
    ds["dq"].values[200:210] = 1
    ds["flux"].values[300] = 40.0
    low, high = plot.spectrum(ds).get_ylim()
    assert 0.9 < low < 1.0 < high < 1.1


def test_logarithmic_axis_where_the_range_asks_for_it():
    steep = make_spectrum(mrs.BANDS, slope=2.5, peak=0.0)
    assert plot.spectrum(steep).get_yscale() == "log"
    assert plot.spectrum(steep, log=False).get_yscale() == "linear"
    assert plot.spectrum(make_spectrum(mrs.BANDS, peak=0.0)).get_yscale() == "linear"
    below = make_spectrum(level=-0.3, peak=0.0)
    assert drawn(plot.spectrum(below, log=True)).get_yscale() == "log"


def test_surface_brightness_stands_in_for_missing_flux():
    ds = make_spectrum()
    ds["surface_brightness"] = ("wavelength", ds["flux"].values * 100, {"units": "MJy/sr"})
    assert plot.spectrum(ds).get_ylabel() == "Flux density [mJy]"
    ds["flux"].values[:] = np.nan
    assert plot.spectrum(ds).get_ylabel() == "Surface brightness [MJy sr⁻¹]"
    with pytest.raises(LevelError, match="have no flux"):
        plot.spectrum(make_exposure())


def test_redshift_comes_from_the_attributes_or_is_said_to_be_unknown():
    ds = make_spectrum(("3A",), redshift=0.02)
    assert "no redshift given" in plot.spectrum(ds).get_xlabel()
    ds.attrs["redshift"] = 0.02
    assert plot.spectrum(ds).get_xlabel().endswith("z = 0.02")


def test_line_strength_sees_lines_and_not_noise_or_neighbours():
    rng = np.random.default_rng(2)
    wave = np.arange(12.0, 13.4, 0.0025)
    flux = 1 + 0.1 * wave + rng.normal(0, 0.01, wave.size)
    assert line_strength(wave, flux, 12.7) < 5
    flux += 0.2 * np.exp(-0.5 * ((wave - 12.7) / 0.003) ** 2)
    clean = line_strength(wave, flux, 12.7)
    assert clean > 10
    flux += 5.0 * np.exp(-0.5 * ((wave - 12.76) / 0.003) ** 2)
    assert line_strength(wave, flux, 12.7) == pytest.approx(clean, rel=0.4)
    assert np.isnan(line_strength(wave, flux, 20.0))
    assert find_marks(wave, np.full(wave.size, np.nan), 0.0) == []


def test_spread_keeps_order_distance_and_moves_least():
    places = np.array([0.1, 0.5, 0.505, 0.51, 0.9])
    out = spread(places, 0.02)
    assert np.all(np.diff(out) >= 0.02 - 1e-12)
    np.testing.assert_allclose(out, [0.1, 0.485, 0.505, 0.525, 0.9])
    edge = spread(np.array([0.0, 0.0, 0.99, 1.0]), 0.05)
    assert edge.min() >= 0
    assert edge.max() <= 1
    assert np.all(np.diff(edge) >= 0.05 - 1e-12)


def test_thin_out_keeps_the_important_lines_when_crowded():
    marks = [Mark(f"line {i}", 10 + 1e-4 * i, 1 + i % 3, 10.0 * i, True) for i in range(30)]
    kept, places, where = thin_out(marks, np.linspace(0.5, 0.51, 30), 0.01)
    assert 3 <= len(kept) < 10
    assert all(mark.rank == 1 for mark in kept)
    assert np.all(np.abs(where - places) <= 0.022)
    assert np.all(np.diff(where) >= 0.01 - 1e-12)


def test_quiet_drops_lone_spikes_and_keeps_lines():
    values = np.ones(200)
    values[100], values[50:53] = 99.0, 7.0
    assert _quiet(values).max() == 7.0


def test_zoom_shows_its_wavelengths_sample_by_sample_with_all_of_the_line():
    ds = make_spectrum(("3A",), level=0.1, peak=0.0)
    place = 12.81355
    ds["flux"].values[np.argmin(np.abs(ds["wavelength"].values - place))] += 1.0  # one sample: not cut as a spike
    ax = drawn(plot.spectrum(ds, zoom=(13.0, 12.6)))
    low, high = ax.get_xlim()
    assert 12.59 < low < 12.6 + 0.01
    assert 12.99 < high < 13.01
    curve = next(line for line in ax.lines if line.get_label() == "3A")
    assert curve.get_drawstyle() == "steps-mid"
    assert len(curve.get_xdata()) == int(((ds.wavelength >= 12.6) & (ds.wavelength <= 13.0)).sum())
    assert ax.get_ylim()[1] > 1100
    assert [t.get_text() for t in labels(ax, "line label")] == ["[Ne II]"]
    with pytest.raises(MrsxrError, match=r"0 samples between 20 and 21 um; it reaches from 11.550 to 13.470 um"):
        plot.spectrum(ds, zoom=(20, 21))


def test_several_spectra_and_trees_are_drawn_together():
    bands = ("1A", "1B", "1C")
    parts = [make_spectrum((band,)) for band in bands]
    by_band = dict(zip(bands, parts, strict=True))
    for given in (parts, by_band, tree.build({f"/science/{band}": part for band, part in by_band.items()})):
        ax = plot.spectrum(given)
        assert [t.get_text() for t in labels(ax, "band name")] == list(bands)
    stitched = tree.build({"/science/1A": parts[0], "/science/stitched": make_spectrum(("4A",))})
    assert [t.get_text() for t in labels(plot.spectrum(stitched), "band name")] == ["4A"]
    with pytest.raises(MrsxrError, match="a list without spectra"):
        plot.spectrum([])


def test_spectrum_keeps_inside_its_figure():
    assert_tidy(plot.spectrum(make_spectrum(mrs.BANDS, level=1.0, peak=3.0), redshift=0.0, title="twelve bands"))


def test_an_empty_spectrum_says_so():
    ds = make_spectrum()
    ds["flux"].values[:] = np.nan
    assert "no valid data" in [t.get_text() for t in drawn(plot.spectrum(ds)).texts]
    with pytest.raises(MrsxrError, match="no samples"):
        plot.spectrum(ds.isel(wavelength=slice(0, 0)))


@pytest.mark.shared
def test_real_spectrum_of_twelve_bands(shared_data):
    from astropy.io import fits

    parts = []
    for band in mrs.BANDS:
        name = f"VV114_MIRI_ch{band[0]}_{mrs.GRATINGS[band[1]]}_s1d.fits"
        table = fits.getdata(shared_data / "vv114" / name, 1)
        wave, flux, error = (np.asarray(table.field(i), dtype=float) for i in range(3))
        parts.append(xr.Dataset(
            {"flux": ("wavelength", flux * 1e6, {"units": "Jy"}), "var": ("wavelength", (error * 1e6) ** 2)},
            {"wavelength": wave, "band": ("wavelength", np.full(wave.size, band))}, {"level": "spectrum"},
        ))  # fmt: skip
    ax = drawn(plot.spectrum(parts, redshift=0.020))
    texts = labels(ax, "line label")
    assert {"[Ne II]", "[Ar II]", "[Ne III]", "[S III]", "H₂ S(3)"} <= {t.get_text() for t in texts}
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert "PAH 6.2" in {t.get_text() for t in labels(ax, "band label")}
    assert ax.get_yscale() == "log"
