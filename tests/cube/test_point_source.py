"""Point sources off the middle of a slice: the simulator moves and dims them, the cube brings them back."""

import re
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step
from noise_draws import draws_of
from simulated import cal_of, offset_for

from mrsxr.cube import build_cube, match_psf, sum_variance
from mrsxr.errors import MrsxrError, MrsxrWarning, ReferenceFileError
from mrsxr.notes import notes_of
from mrsxr.simulate import Effects, Line, PointSource, PowerLaw, Scene
from mrsxr.simulate.point_slices import centroid, point_tables, slice_effects
from mrsxr.simulate.scene import PSF_SIGMAS, PSF_WEIGHTS

RA, DEC, C = 339.015, 33.976, 299792.458
WINDOW = {"wavelength_min": 5.25, "wavelength_max": 5.35}
WITHIN = ("1A", 5.24, 5.36)
CENTRE = 5.3


def dark(wavelength):
    return np.zeros(np.shape(wavelength))


def scene_of(line=True):
    lines = (Line("test", CENTRE, 4e-17, 0.0, 0.0),) if line else ()
    return Scene(RA, DEC, points=(PointSource(RA, DEC, PowerLaw(50.0, 0.0), lines),), background=dark)


def mrsptcorr(**without):
    """Return the Dataset as read from a file."""
    keys = {"TRACOR": "channel", "WAVCORR_OPTICAL": "sub_band", "WAVCORR_SHIFT": "beta_off"}
    variables, coords = {}, {}
    for table, columns in point_tables().items():
        dim = keys.get(table, "xslice")
        prefix = "wavcorr_" if table == "WAVCORR_XSLICE" else f"{table.lower()}_"
        for name, values in columns.items():
            values = np.asarray(values)
            values = values.astype("f4") if values.dtype.kind == "f" else values
            if name.lower() == dim:
                coords[dim] = (dim, values)
            else:
                variables[prefix + name.lower()] = (dim, values)
    return xr.Dataset(variables, coords, {"level": "reference", "kind": "mrsptcorr", "ref_id": "mrsptcorr_made.fits"})


def line_of(line, wave):
    """Return velocity and dispersion [km/s] of a line."""
    middle = np.sum(line * wave) / np.sum(line)
    spread = np.sqrt(np.sum(line * (wave - middle) ** 2) / np.sum(line))
    return (middle - CENTRE) / CENTRE * C, spread / CENTRE * C


def measure(lit, plain):
    """Return velocities of the bright spaxels, dispersion in an aperture of 1 arcsec [km/s], and continuum there.

    ``plain`` is the cube without the line: a point source is undersampled, and its continuum ripples along a spaxel.
    """
    wave, radius = lit.wavelength.values, np.hypot(lit.x, lit.y)
    line = (lit.flux - plain.flux).astype("f8").fillna(0.0)
    near = line.stack(spaxel=["y", "x"]).isel(spaxel=np.flatnonzero(radius.values.ravel() < 0.2))
    speeds = [line_of(one.values, wave)[0] for one in near.transpose("spaxel", "wavelength")]
    spread = line_of(line.where(radius < 1.0, 0.0).sum(["y", "x"]).values, wave)[1]
    return np.array(speeds), spread, float(plain.flux.where(radius < 1.0).sum(["y", "x"]).mean())


@pytest.mark.parametrize("place", [0.25, 0.4, 0.5])
def test_shift_and_transmission_are_taken_back(place):
    offset = offset_for(scene_of(), "12A", "1A", place)
    effects = replace(Effects.none(), slice_shift=True)
    ideal, real = (
        [cal_of(scene_of(line), "12A", [offset], e, within=WITHIN) for line in (True, False)] for e in (None, effects)
    )
    options = {"band": "1A", "center": (RA, DEC), **WINDOW}
    mend = {"point_source": (RA, DEC), "mrsptcorr": mrsptcorr()}
    true, untouched = (measure(*(build_cube(ds, **options) for ds in pair)) for pair in (ideal, real))
    mended = measure(*(build_cube(ds, **options, **mend) for ds in real))
    assert np.abs(untouched[0] - true[0]).max() > 6.0
    assert np.abs(mended[0] - true[0]).max() < 3.0
    assert untouched[1] - true[1] > 3 * abs(mended[1] - true[1])
    assert abs(mended[2] / true[2] - 1) < 0.005
    if place != 0.25:  # there the transmission is the mean
        assert abs(untouched[2] / true[2] - 1) > 0.005


def test_centroid_of_the_light_in_a_slice():
    x = np.linspace(-0.5, 0.5, 20001)
    for b in (0.0, 0.2, 0.9):
        sigma = PSF_SIGMAS * 1.4
        light = (PSF_WEIGHTS / sigma * np.exp(-0.5 * ((x[:, None] - b) / sigma) ** 2)).sum(axis=1)
        assert centroid(b, 1.4) == pytest.approx((light * x).sum() / light.sum(), abs=1e-4)
    assert centroid(50.0, 1.4) == 0.5


def test_effects_at_centre_and_edge():
    shift, share = slice_effects(np.array([0.0, 0.5, -0.5]), 4.9, "1A")
    assert shift[0] == 0
    assert shift[1] == -shift[2] > 0
    assert share[0] > 1 > share[1] == share[2]
    assert share[0] + share[1] == pytest.approx(2.0)


def small(**options):
    offset = offset_for(scene_of(), "12A", "1A", 0.3)
    ds = cal_of(scene_of(False), "12A", [offset], within=WITHIN)
    return ds, {"band": "1A", **WINDOW, "center": (RA, DEC), **options}


def test_tables_may_be_missing_but_not_both():
    ds, options = small(point_source=(RA, DEC))
    table = mrsptcorr()
    plain = build_cube(ds, **{k: v for k, v in options.items() if k != "point_source"})
    without_one = [n for n in table if n != "wavcorr_shift_ds_min"]
    with pytest.warns(MrsxrWarning, match="no whole set of WAVCORR tables for band 1A"):
        only_t = build_cube(ds, **options, mrsptcorr=table[without_one])
    with pytest.warns(MrsxrWarning, match="no whole set of TRACOR tables for band 1A"):
        only_w = build_cube(ds, **options, mrsptcorr=table[[n for n in table if "wavcorr" in n]])
    good = np.isfinite(plain.flux.values)
    assert 1.001 < np.nanmedian(np.abs(only_t.flux.values / plain.flux.values)[good]) < 1.03
    np.testing.assert_array_equal(only_t.weight, plain.weight)
    assert (only_w.weight.values != plain.weight.values).any()
    with pytest.raises(ReferenceFileError, match="neither TRACOR nor WAVCORR"):
        build_cube(ds, **options, mrsptcorr=table[[]])
    with pytest.raises(MrsxrError, match="needs the reference file mrsptcorr"):
        build_cube(ds, **options)
    with pytest.raises(MrsxrError, match="outside the slices"):
        build_cube(ds, **(options | {"point_source": (RA, DEC + 0.01)}), mrsptcorr=table)


def test_the_step_is_lazy_and_recorded():
    ds, options = small(point_source=(RA, DEC), mrsptcorr=mrsptcorr(), exposure_weights="ivar")
    out = assert_step(build_cube, ds, **options)
    assert '"point_source": [339.015, 33.976]' in out.attrs["history_json"]
    assert '"mrsptcorr": "mrsptcorr_made.fits"' in out.attrs["history_json"]
    assert (out.attrs["point_source"], out.attrs["exposure_weights"]) == ([339.015, 33.976], "ivar")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.isel(beta_off=t.beta_off.values >= 0), "lists offsets of 0 to 3 slices; expected both halves"),
        (lambda t: t.isel(beta_off=t.beta_off.values <= 0.2), "lists offsets of -3 to 0.2 slices"),
        (lambda t: t.assign(wavcorr_xslice_min=t.wavcorr_xslice_min * 6), "expected at most half a resolution element"),
        (lambda t: t.assign(wavcorr_shift_ds_max=t.wavcorr_shift_ds_max * np.nan), "no finite numbers"),
        (lambda t: t.assign(wavcorr_optical_srp_max=t.wavcorr_optical_srp_max * 100), "half a resolution element"),
        (lambda t: t.assign(tracor_t_wmin_edge=t.tracor_t_wmin_edge * 0.5), "differ by less than 30 %"),
        (lambda t: t.assign(tracor_t_wmax_centre=-t.tracor_t_wmax_centre), "expected positive numbers"),
        (lambda t: t.assign(tracor_wave_max=t.tracor_wave_max * np.nan), "TRACOR of channel 1 holds"),
    ],
)
def test_tables_not_to_be_believed_are_refused(change, text):
    ds, options = small(point_source=(RA, DEC))
    with pytest.raises(ReferenceFileError, match=text):
        build_cube(ds, **options, mrsptcorr=change(mrsptcorr()))


def test_it_is_said_what_becomes_of_extended_light():
    ds, options = small(point_source=(RA, DEC), mrsptcorr=mrsptcorr())
    out = build_cube(ds, **options)
    assert len(notes_of(out)) == 1
    assert "extended light there is off by up to" in notes_of(out)[0]
    share, speed = (float(word) for word in re.findall(r"([0-9.]+) (?:%|km/s)", notes_of(out)[0]))
    assert 0.5 < share < 6.0
    assert 5 < speed < 60


def test_errors_of_sums_know_the_terms():
    """Scatter of draws of noise over the error of a sum over spaxels, plane by plane, with the terms in both."""
    offset = offset_for(scene_of(), "12A", "1A", -0.3)
    ds = cal_of(scene_of(False), "12A", [offset], within=WITHIN)
    options = {"point_source": (RA, DEC), "mrsptcorr": mrsptcorr()}
    cube = build_cube(ds, band="1A", center=(RA, DEC), wavelength_min=5.25, wavelength_max=5.28, **options)
    near = np.hypot(cube.x - 0.2, cube.y + 0.1) < 0.22
    weights = xr.ones_like(cube.flux, dtype=float).where(near, 0.0).transpose("wavelength", "y", "x")
    sums = np.nansum(draws_of(ds, cube, 300, **options) * weights.values, axis=(2, 3))

    def wanders(told):
        variance = sum_variance(ds, cube=told, weights=weights, mrsptcorr=options["mrsptcorr"])["var"].values
        return np.std(np.sqrt(np.mean(sums**2, axis=0) / variance))

    assert wanders(cube) < 0.055  # of 300 draws 0.041
    assert wanders(cube.assign_attrs(point_source=None)) > 0.075
    with pytest.raises(MrsxrError, match="needs the reference file mrsptcorr"):
        sum_variance(ds, cube=cube, weights=weights)


def test_errors_of_sums_are_those_of_the_cube_at_hand():
    ds, options = small()
    cube = build_cube(ds, **options)
    weights = xr.ones_like(cube.flux, dtype=float)
    known = sum_variance(ds, cube=cube, weights=weights)["var"].values
    turned = sum_variance(ds, cube=cube, weights=weights.transpose("x", "wavelength", "y"))["var"].values
    np.testing.assert_array_equal(turned, known)
    scaled = sum_variance(ds, cube=cube.assign_attrs(scale_factor=1.3), weights=weights)["var"].values
    np.testing.assert_allclose(scaled, 1.69 * known)
    part = cube.isel(wavelength=slice(1, 3))
    names = [f"other_{name}" for name in ds.exposure.values]
    for call, text in (
        (lambda: sum_variance(ds, cube=part, weights=weights[:2]), "for other wavelengths"),
        (lambda: sum_variance(ds, cube=match_psf(part, fwhm=0.7), weights=weights[1:3]), "the cube is psf-matched"),
        (lambda: sum_variance(ds.assign_coords(exposure=("dither", names)), cube=part, weights=weights[1:3]),
         "the cube was built from"),
    ):  # fmt: skip
        with pytest.raises(MrsxrError, match=text):
            call()
