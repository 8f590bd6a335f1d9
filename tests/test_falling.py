"""Cubes and spectra whose wavelengths fall: every public function gives the numbers that it gives of rising ones."""

from __future__ import annotations

import functools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from test_public import of_data

import mrsxr as mx
from mrsxr import cal, cube, lines, plot, spectrum, tree
from mrsxr.errors import SchemaError
from mrsxr.inputs import falls
from mrsxr.simulate import simulate_cube, simulate_spectrum

LINE = "[Ne II] 12.81"
#: Functions of public rooms that take no cube and no spectrum, or nothing along their wavelengths.
OTHERS = {
    # detector data
    "fit_background_scale", "fit_background_match", "find_bad_pixels", "fit_field_scale", "measure_field_background",
    "latent_state", "is_moving", "target_position", "measure_offsets", "detect_outliers", "learn_psf",
    "fit_trace_model", "detect_sky_outliers", "shower_model", "fit_ramps_and_integrations", "detector_image", "ramps",
    "fit_point_source", "build_exposure_cubes", "build_multiband_cube", "combine_exposures", "make_cal", "make_cubes",
    "make_rate", "make_rate_and_ints", "reduce",
    # maps and lists of lines
    "paint_bins", "h2_excitation", "in_range", "line_ratio", "mask_maps", "line_table", "excitation",
    # headers and names
    "exposures_header", "product_name", "planned", "read_history",
}  # fmt: skip


def backwards(data):
    if isinstance(data, xr.DataTree):
        made = {path: backwards(ds) for path, ds in tree.leaves(data)}
        return tree.build(made, **tree.attrs_of(data))
    return data.isel(wavelength=slice(None, None, -1))


class Made:
    """What the calls need, its data turned by ``turn``."""

    def __init__(self, turn):
        self.disc, self.full, self.blue, self.next, self.leaking = map(turn, _made())
        self.tree = turn(xr.DataTree.from_dict({"/science/3A": _made()[0]}))
        self.centre = tuple(float(self.disc[name].mean()) for name in ("ra", "dec"))
        self.turn = turn


@functools.cache
def _made():
    disc = simulate_cube(band="3A", wavelength=(12.95, 13.45)).compute()
    noise = np.random.default_rng(1).normal(0, 1, disc.flux.shape).astype("f4") * disc["var"] ** 0.5
    disc = disc.assign(flux=(disc.flux + noise).assign_attrs(disc.flux.attrs))
    disc["dq"][20, 3:5, 4] = 1
    disc["flux"][7, :3, :3] = np.nan
    blue = simulate_cube(band="1B", wavelength=(6.1, 6.3)).compute()
    other = simulate_cube(band="3B", wavelength=(13.35, 13.8)).compute()
    return disc, simulate_spectrum(band="3A"), blue, other, simulate_spectrum(band="1B")


def bins_of(made):
    return lines.bin_spaxels(made.disc, line=LINE, snr=30)[0]


def both_bands(made):
    rising = [_made()[1], simulate_spectrum(band="3B")]
    named = [ds.assign_coords(band=("wavelength", [ds.attrs["band"]] * ds.sizes["wavelength"])) for ds in rising]
    return made.turn(xr.concat(named, "wavelength", coords="minimal", compat="override", combine_attrs="override"))


def ptcorr():
    wave = np.arange(11.4, 13.6, 0.01)
    fraction = 0.0275 * np.exp(-(((wave - 12.217) / 0.1) ** 2))
    data = {"frac_leak": ("wavelength", fraction), "err_leak": ("wavelength", 0.03 * fraction)}
    return xr.Dataset(data, {"wavelength": wave}, {"level": "reference", "kind": "mrsptcorr", "ref_id": "ptcorr.fits"})


def judged(made):
    """A spectrum of a dither position of which all four are there, and the vectors of the place."""
    header = '{"PRIMARY": {"PATTTYPE": "4-POINT", "DITHDIRC": "NEGATIVE", "DITHOPFR": "POINT-SOURCE", "PATT_NUM": 1}}'
    ds = made.full.assign_attrs(fits_header=header, source_type="POINT")
    rng = np.random.default_rng(3)
    wave = _made()[1].wavelength.values
    pattern = 1 + np.repeat(rng.normal(0, 0.02, (1, wave.size // 5 + 1)), 5, axis=1)[:, : wave.size]
    places = {"position": [1], "wavelength": wave}
    names = {"dither_type": "4-POINT", "dither_direction": "NEGATIVE", "dither_optimized_for": "POINT-SOURCE"}
    pfpc = xr.Dataset({"pattern": (("position", "wavelength"), pattern)}, places, {"kind": "pfpc", **names})
    one = ds.assign(flux=(ds.flux * made.turn(pfpc.pattern.isel(position=0)).values).assign_attrs(ds.flux.attrs))
    return spectrum.correct_fixed_pattern(one, pfpc=pfpc)


def specutils_arrays(ds):
    pytest.importorskip("specutils")
    made = mx.io.to_specutils(ds)
    return [np.asarray(made.flux.value), np.asarray(made.spectral_axis.value)]


def images(hdus):
    return [np.asarray(hdu.data, float)[::-1] if falls_in(hdus) else np.asarray(hdu.data, float) for hdu in hdus[1:4]]


def falls_in(hdus):
    return hdus["SCI"].header["CDELT3"] < 0


def files(ds, folder):
    out = []
    for form, end in (("fits", "fits"), ("netcdf", "nc"), ("zarr", "zarr")):
        (path,) = mx.save(ds, folder / f"one.{end}", form)
        out.append(mx.load(path).compute())
    return out


def page(made, folder):
    path = folder / "look.html"
    mx.explore(made.disc, made.full, html=path)
    return path.read_bytes()


def weights_of(made):
    return spectrum.extraction_weights(made.disc, spectrum.extract_spectrum(made.disc))


#: By the name of the function: what is called, of data in the one or the other order.
CALLS = {
    "convert_units": lambda m: [mx.convert_units(m.disc, "mJy/arcsec2"),
                                mx.convert_units(m.full, "W m-2", per_sample=True)],
    "variance_of_sum": lambda m: [mx.variance_of_sum(m.disc), mx.variance_of_sum(m.disc, m.disc.flux),
                                  mx.variance_of_sum(m.full, m.turn(ramp_of(m)))],
    "fit_line": lambda m: [lines.fit_line(m.disc, LINE, monte_carlo=4),
                           lines.fit_line(m.disc.chunk(wavelength=30), LINE, components="auto"),
                           lines.fit_line(m.full, LINE, exclude=[(12.9, 12.95)])],
    "fit_lines": lambda m: [lines.fit_lines(m.full), lines.fit_lines(both_bands(m))],
    "line_model": lambda m: [lines.line_model(m.disc, lines.fit_line(m.disc, LINE)),
                             lines.line_model(m.full, lines.fit_line(m.full, LINE))],
    "moments": lambda m: [lines.moments(m.disc, LINE), lines.moments(m.disc.chunk(wavelength=30), LINE)],
    "channel_maps": lambda m: [lines.channel_maps(m.disc, LINE)],
    "subtract_continuum": lambda m: [lines.subtract_continuum(m.disc, LINE)],
    "position_velocity": lambda m: [lines.position_velocity(m.disc, LINE, center=m.centre, continuum=c)
                                    for c in (True, False)],
    "bin_spaxels": lambda m: [lines.bin_spaxels(m.disc, line=LINE, snr=30),
                              lines.bin_spaxels(m.disc, wavelength=(13.0, 13.1), snr=100)],
    "bin_cube": lambda m: [lines.bin_cube(m.disc, bins_of(m))],
    "bin_spectra": lambda m: [lines.bin_spectra(m.disc, bins_of(m))],
    "with_velocity": lambda m: [lines.with_velocity(ds, LINE) for ds in (m.disc, m.full)],
    "band_of_line": lambda m: [lines.band_of_line(m.tree, LINE)],
    "match_bands": lambda m: [cube.match_bands([m.disc, m.next])],
    "match_psf": lambda m: [cube.match_psf(m.disc, fwhm=0.9), cube.match_psf(m.blue, others=[m.disc])],
    "regrid": lambda m: [cube.regrid(m.blue, like=m.disc)],
    "correct_residual_fringe_cube": lambda m: [cube.correct_residual_fringe_cube(m.disc)],
    "correct_spectral_leak_cube": lambda m: [
        cube.correct_spectral_leak_cube(m.turn(in_leak()), leaking=m.blue, mrsptcorr=ptcorr())],
    "correct_spectral_leak": lambda m: [
        spectrum.correct_spectral_leak(m.full, leaking=m.leaking, mrsptcorr=ptcorr())],
    "correct_residual_fringe_1d": lambda m: [spectrum.correct_residual_fringe_1d(m.full)],
    "correct_fixed_pattern": lambda m: [judged(m)],
    "extract_spectrum": lambda m: [spectrum.extract_spectrum(m.disc),
                                   spectrum.extract_spectrum(m.disc, center=m.centre, radius=0.5)],
    "extract_at": lambda m: [spectrum.extract_at(one, m.centre, 0.5) for one in (m.disc, m.tree)],
    "extraction_weights": lambda m: [weights_of(m)],
    "set_exact_errors": lambda m: [spectrum.set_exact_errors(
        spectrum.extract_spectrum(m.disc), variance=spectrum.extract_spectrum(m.disc)[["var"]] * 4)],
    "say_what_is_lost": lambda m: [spectrum.say_what_is_lost(spectrum.extract_spectrum(m.disc))],
    "decide_source_type": lambda m: [spectrum.decide_source_type(m.disc), spectrum.decide_source_type([m.disc])],
    "correct_wavelengths": lambda m: [spectrum.correct_wavelengths(m.full, velocity=10.0)],
    "measure_velocity": lambda m: [spectrum.measure_velocity(m.full, reference=m.full)],
    "combine_backgrounds": lambda m: [cal.combine_backgrounds([m.full, m.full])],
    "stitch_bands": lambda m: [spectrum.stitch_bands([m.full, m.turn(simulate_spectrum(band="3B"))])],
    "to_hdulist": lambda m: [images(mx.io.to_hdulist(m.disc))],
    "to_specutils": lambda m: [specutils_arrays(m.full)],
    "spectrum": lambda m: [drawn(plot.spectrum, ds, zoom=zoom) for ds in (m.full, both_bands(m))
                           for zoom in (None, "[Ne II]")],
    "cube_image": lambda m: [drawn(plot.cube_image, m.disc, w) for w in (None, 13.0, (13.0, 13.1))],
    "dq_image": lambda m: [drawn(plot.dq_image, m.disc), drawn(plot.dq_image, m.disc, wavelength=13.0)],
    "line_fit": lambda m: [drawn(plot.line_fit, m.disc, lines.fit_line(m.disc, LINE), y=5, x=5)],
    "compare": lambda m: [drawn(plot.compare, ds, ds.assign(flux=(1.1 * ds.flux).assign_attrs(ds.flux.attrs)))
                          for ds in (m.full, m.disc)],
    "plot.position_velocity": lambda m: [
        drawn(plot.position_velocity, lines.position_velocity(m.disc, LINE, center=m.centre))],
    "summary": lambda m: [drawn(plot.summary, None, [m.disc], m.full)],
    "draw_file": lambda m: [drawn(mx.report.draw_file, ds) for ds in (m.disc, m.full)],
    "line_map": lambda m: [drawn(plot.line_map, lines.moments(m.disc, LINE), "moment0")],
    "line_maps": lambda m: [drawn(plot.line_maps, lines.fit_line(m.disc, LINE))],
    "plot.channel_maps": lambda m: [drawn(plot.channel_maps, lines.channel_maps(m.disc, LINE))],
    "accessor": lambda m: [
        m.disc.mrs.line(LINE), m.tree.mrs.moments(LINE), m.tree.mrs.velocity(LINE),
        m.disc.mrs.position_velocity(LINE, center=m.centre), m.tree.mrs.spectrum(m.centre, 0.5),
        m.disc.mrs.at(m.centre), m.tree.mrs.to("mJy/arcsec2"), drawn(lambda: m.full.mrs.plot())],
}  # fmt: skip
#: What is made of several and documented to rise.
RISING = ("stitch_bands", "combine_backgrounds")
#: Functions of files and of exposures, see the tests of their own.
ELSEWHERE = {"save", "make_spectra", "sum_variance", "subtract_master_background", "background_on_detector"}


def ramp_of(made):
    return xr.DataArray(np.linspace(0.0, 1.0, made.full.sizes["wavelength"]), dims="wavelength")


def in_leak():
    return simulate_cube(band="3A", wavelength=(12.15, 12.45)).compute()


def drawn(function, *args, **options):
    """Return the picture that a function draws, pixel by pixel."""
    plt.close("all")
    function(*args, **options)
    figure = plt.figure(plt.get_fignums()[-1])
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba()).astype(float)
    plt.close("all")
    return image


def same(one, other):
    """Assert that results are the same, those along wavelengths in the order of the data."""
    assert type(one) is type(other)
    if isinstance(one, xr.DataTree):
        assert one.groups == other.groups
        for path in one.groups:
            same(one[path].to_dataset(), other[path].to_dataset())
    elif isinstance(one, xr.Dataset | xr.DataArray):
        one, other = one.compute(), other.compute()
        if "wavelength" in one.dims:
            assert not falls(one)
            assert falls(other) or "wavelength" not in other.coords
            other = backwards(other)
        drop = ("history_json",)
        xr.testing.assert_allclose(one.drop_attrs(), other.drop_attrs(), rtol=1e-6, atol=1e-30)
        attrs = [{k: str(v) for k, v in ds.attrs.items() if k not in drop} for ds in (one, other)]
        assert attrs[0] == attrs[1]
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            same(*pair)
    elif isinstance(one, np.ndarray):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=2.0 if one.ndim == 3 and one.shape[-1] == 4 else 1e-12)
    else:
        assert one == other


@pytest.mark.parametrize("name", [name for name in CALLS if name not in RISING])
def test_falling_wavelengths_give_the_same_numbers(name):
    same(*(CALLS[name](Made(turn)) for turn in (lambda data: data, backwards)))


def test_every_public_function_of_cubes_and_spectra_is_walked():
    taken = set()
    for path, function in of_data().items():
        name = path.rpartition(".")[2]
        levels = function.facts.needs if hasattr(function, "facts") else ("cube", "spectrum")
        if {"cube", "spectrum"} & {*levels}:
            taken.add(name)
    assert taken - {name.rpartition(".")[2] for name in CALLS} - OTHERS - ELSEWHERE == set()


@pytest.mark.parametrize("name", RISING)
def test_what_is_documented_as_rising_rises(name):
    one, other = (CALLS[name](Made(turn))[0] for turn in (lambda data: data, backwards))
    xr.testing.assert_allclose(one, other)
    assert not falls(other)


def test_files_keep_the_order(tmp_path):
    for ds in (_made()[0], _made()[1]):
        for one, other in zip(files(ds, tmp_path), files(backwards(ds), tmp_path), strict=True):
            same(one.drop_attrs(), other.drop_attrs())


def test_a_page_shows_the_same(tmp_path):
    assert page(Made(lambda data: data), tmp_path) == page(Made(backwards), tmp_path)


def test_exposures_meet_spectra_and_cubes(simulated, reduced):
    source = [path for path in reduced.files["cal"] if "background" not in path.parts]
    ds = mx.open_exposures(source).compute()
    made = mx.load(reduced.files["cube"][0]).compute()
    light = mx.load(next(p for p in reduced.files["spectrum"] if "background" not in p.parts)).compute()
    refs = mx.References(simulated.reference_folder)
    ds.attrs.pop("master_background", None)
    found = []
    for turn in (lambda data: data, backwards):
        cube_, spectrum_ = turn(made), turn(light)
        part = turn(made.isel(wavelength=slice(100, 112)))
        weights = spectrum.extraction_weights(part, turn(light.isel(wavelength=slice(100, 112))))
        found.append([
            cal.background_on_detector(ds, spectrum_, bands=["1A"]),
            cal.subtract_master_background(ds, background=spectrum_, bands=["1A"]),
            mx.make_spectra(xr.DataTree.from_dict({"/science/1A": cube_}), refs),
        ])  # fmt: skip
        variance = cube.sum_variance(ds, cube=part, weights=weights, cubepar=refs.get("cubepar", ds))
        found[-1].append(variance["var"].sortby("wavelength").values.sum())
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        xr.testing.assert_allclose(one.drop_attrs(), other.drop_attrs())
    same(*(found[k][2]["science/1A"].to_dataset() for k in (0, 1)))
    xr.testing.assert_allclose(*(found[k][2]["science/stitched"].to_dataset().drop_attrs() for k in (0, 1)))
    assert found[0][3] == pytest.approx(found[1][3], rel=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_wavelengths_in_other_units_are_refused_by_name(name):
    """They were taken for um by some, and the answer of others was that the line lies outside the data."""

    def in_nm(data):
        if isinstance(data, xr.DataTree):
            return tree.build({path: in_nm(ds) for path, ds in tree.leaves(data)}, **tree.attrs_of(data))
        if isinstance(data, xr.DataArray):
            return data
        return data.assign_coords(wavelength=("wavelength", data.wavelength.values * 1e3, {"units": "nm"}))

    with pytest.raises(SchemaError, match="needs wavelength in um, got nm; bring it to um"):
        CALLS[name](Made(in_nm))


def test_bands_that_follow_each_other_are_turned_as_a_whole():
    joined = both_bands(Made(lambda data: data))
    assert not falls(joined)
    assert falls(backwards(joined))
    by_band = xr.concat([backwards(one) for _, one in joined.groupby("band")], "wavelength")
    assert falls(by_band)
    fits = [lines.fit_lines(ds) for ds in (joined, by_band)]
    xr.testing.assert_allclose(*(fit.drop_vars("blend").drop_attrs() for fit in fits))
    assert not falls(joined.isel(wavelength=[0]))
    assert not falls(joined.drop_vars("wavelength"))
