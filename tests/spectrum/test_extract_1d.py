"""Extraction of spectra from small cubes made by hand, and from real ones."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.stats import sigma_clipped_stats
from helpers import assert_step, no_compute
from photutils.aperture import CircularAnnulus, CircularAperture, aperture_photometry

from mrsxr import dq, mrs, schema
from mrsxr.errors import LevelError, MrsxrError, MrsxrWarning
from mrsxr.spectrum import extract_spectrum, stitch_bands
from mrsxr.units import MJYSR_TO_JY_PER_ARCSEC2

SCALE = 0.13
RA, DEC = 339.015, 33.976


def wcs_header(nx, ny, wave0, step, scale=SCALE):
    cards = {
        "WCSAXES": 3, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT1": "deg", "CUNIT2": "deg",
        "CUNIT3": "um", "CRPIX1": nx // 2 + 1.0, "CRPIX2": ny // 2 + 1.0, "CRPIX3": 1.0, "CRVAL1": RA, "CRVAL2": DEC,
        "CRVAL3": wave0, "CDELT1": scale / 3600, "CDELT2": scale / 3600, "CDELT3": step, "PC1_1": -1.0, "PC2_2": 1.0,
        "PC3_3": 1.0, "RADESYS": "ICRS",
    }  # fmt: skip
    return fits.Header(list(cards.items())).tostring(sep="\n")


def make_cube(flux, var=None, weight=None, wave0=5.0, step=0.01, band="1A", scale=SCALE, **attrs):
    nz, ny, nx = flux.shape
    dims = ("wavelength", "y", "x")
    bad = ~np.isfinite(flux)
    var = np.full(flux.shape, 0.04) if var is None else var
    weight = np.where(bad, 0, 9) if weight is None else weight
    variables = {"flux": (flux, "f4", "MJy/sr"), "var": (var, "f4", "MJy2/sr2"), "weight": (weight, "f4", "1")}
    data = {name: (dims, np.asarray(v, dtype), {"units": units}) for name, (v, dtype, units) in variables.items()}
    data["dq"] = (dims, np.where(bad, 513, 0).astype("u4"), dq.PIXEL_DQ_ATTRS)
    coords = {
        "wavelength": ("wavelength", wave0 + step * np.arange(nz), {"units": "um"}),
        "y": ("y", (np.arange(ny) - ny // 2) * scale, {"units": "arcsec"}),
        "x": ("x", (np.arange(nx) - nx // 2) * scale, {"units": "arcsec"}),
    }
    base = {
        "level": "cube", "band": band, "channels": band[0], "wcs": wcs_header(nx, ny, wave0, step, scale),
        "pixel_scale": scale, "wavelength_step": step, "weighting": "drizzle", "target": "TEST", "program": "02732",
        "target_ra": RA, "target_dec": DEC, "source_type": "POINT", "exposures": [], "background": 0,
        "history_json": "[]",
    }  # fmt: skip
    return schema.validate(xr.Dataset(data, coords, {**base, **attrs}))


def point_source(x=20.0, y=21.0, jansky=0.1, sky=7.0, n=43, nz=9):
    """A Gaussian point source of known flux on a constant sky, oversampled inside the spaxels."""
    fine = 7
    j, i = np.indices((n * fine, n * fine)) / fine - 0.5 + 0.5 / fine
    wave = 5.0 + 0.01 * np.arange(nz)
    planes = []
    for w in wave:
        sigma = mrs.psf_fwhm(w) / SCALE / 2.35482
        image = np.exp(-0.5 * ((i - x) ** 2 + (j - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
        planes.append(image.reshape(n, fine, n, fine).mean(axis=(1, 3)))
    total = jansky / (SCALE**2 * MJYSR_TO_JY_PER_ARCSEC2)
    return np.array(planes) * total + sky


@pytest.mark.parametrize(("x", "y"), [(21.0, 21.0), (20.43, 21.28), (19.5, 22.5)])
@pytest.mark.parametrize("like_jwst", [False, True])
def test_point_source_is_recovered_on_a_background(x, y, like_jwst):
    cube = make_cube(point_source(x, y))
    out = extract_spectrum(cube, like_jwst=like_jwst)
    schema.validate(out)
    inside = 1 - 2.0 ** (-(2.0**2) * 4)  # a Gaussian within 2 FWHM
    np.testing.assert_allclose(out.flux, 0.1 * inside, rtol=0.005)
    np.testing.assert_allclose(out.background, 7.0, rtol=1e-3)
    assert np.hypot(out.attrs["aperture_x"] - x, out.attrs["aperture_y"] - y) * SCALE < 0.05
    assert not out.dq.any()
    assert (out.band == "1A").all()


def test_sums_equal_photutils_and_variances_add_up():
    rng = np.random.default_rng(4)
    flux = point_source() + rng.normal(0, 0.1, (9, 43, 43))
    var = rng.uniform(0.5, 1.5, flux.shape)
    cube = make_cube(flux, var)
    out = extract_spectrum(cube, center=(RA, DEC), background=None, covariance_scale=1.5)
    per = SCALE**2 * MJYSR_TO_JY_PER_ARCSEC2
    for k in (0, 8):
        circle = CircularAperture((21, 21), float(out.aperture_radius[k]) / SCALE)
        total = aperture_photometry(cube.flux.values[k].astype(float), circle)["aperture_sum"][0]
        noise = aperture_photometry(cube["var"].values[k].astype(float), circle)["aperture_sum"][0]
        assert float(out.flux[k]) == pytest.approx(total * per, rel=1e-6)
        assert float(out["var"][k]) == pytest.approx(noise * per**2 * 2.25, rel=1e-6)
        assert float(out.n_pixels[k]) == pytest.approx(circle.area, rel=1e-9)
        assert float(out.surface_brightness[k]) == pytest.approx(total / circle.area, rel=1e-6)


def test_annulus_jwst_follows_its_bookkeeping():
    """Clipping on the whole plane; clipped spaxels stay in the area (jwst extract_1d/ifu.py)."""
    flux = point_source(sky=50.0) + np.random.default_rng(8).normal(0, 1, (9, 43, 43))
    flux[:, 21, 32] = 900.0  # a hot spaxel within the annulus
    cube = make_cube(flux)
    out = extract_spectrum(cube, center=(RA, DEC), like_jwst=True)
    plane = cube.flux.values[3].astype(float)
    mean, _, std = sigma_clipped_stats(plane, sigma=3, maxiters=5)
    mask = (plane < mean - 3 * std) | (plane > mean + 3 * std)
    nominal = 2 * mrs.psf_fwhm(5.03)
    share = 0.03 / 23
    ring = CircularAnnulus((21, 21), nominal * (2.5 - 1.48 * share) / SCALE, nominal * (3 - 1.5 * share) / SCALE)
    options = {"method": "subpixel", "subpixels": 10}
    total = aperture_photometry(plane, ring, mask=mask, **options)["aperture_sum"][0]
    area = aperture_photometry(np.ones_like(plane), ring, **options)["aperture_sum"][0]
    assert float(out.background[3]) == pytest.approx(total / area, rel=1e-6)
    clean = extract_spectrum(cube, center=(RA, DEC))
    assert float(clean.background[3]) == pytest.approx(50.0, abs=0.3)
    assert float(out.background[3]) < float(clean.background[3]) - 0.1


def test_uniform_sky_leaves_nothing():
    cube = make_cube(np.full((4, 41, 41), 12.0))
    out = extract_spectrum(cube, center=(RA, DEC))
    np.testing.assert_allclose(out.flux, 0.0, atol=1e-12)
    np.testing.assert_allclose(out.background, 12.0)


def test_lazy_pure_recorded():
    cube = make_cube(point_source())
    out = assert_step(extract_spectrum, cube, center=(RA, DEC))
    assert out.attrs["level"] == "spectrum"
    chunked = cube.chunk(wavelength=2)
    with no_compute():
        lazy = extract_spectrum(chunked, center=(RA, DEC))
    assert lazy.flux.chunks == ((2, 2, 2, 2, 1),)
    xr.testing.assert_identical(lazy.compute().drop_attrs(), out.drop_attrs())


def test_a_lazy_cube_is_searched_for_its_source():
    cube = make_cube(point_source(19.7, 22.2))
    found = extract_spectrum(cube.chunk(wavelength=4))
    xr.testing.assert_identical(found.drop_attrs(), extract_spectrum(cube).drop_attrs())
    assert found.attrs["aperture_x"] == pytest.approx(19.7, abs=0.05)


def test_missing_spaxels_and_planes():
    flux = point_source()
    flux[2] = np.nan
    flux[4, 21, 21] = np.nan
    flux[:, :2] = flux[:, :, :2] = np.nan
    with pytest.warns(MrsxrWarning, match="1 of 9 samples lack up to 18 % of the light"):
        out = extract_spectrum(make_cube(flux), center=(RA, DEC))
    assert np.isnan(out.flux[2])
    assert np.isnan(out["var"][2])
    assert out.dq.values.tolist() == [0, 0, 1, 0, dq.FLAGS["FLUX_ESTIMATED"], 0, 0, 0, 0]
    area = np.pi * (float(out.aperture_radius[4]) / SCALE) ** 2
    assert float(out.n_pixels[4]) == pytest.approx(area - 1, abs=1e-9)
    assert float(out.flux[4]) < float(out.flux[3])


@pytest.mark.parametrize("kind", ["POINT", "EXTENDED"])
def test_empty_cube_is_flagged_not_refused(kind):
    cube = make_cube(np.full((3, 21, 21), np.nan))
    if kind == "POINT":
        with pytest.warns(MrsxrWarning, match="no source found"), pytest.warns(MrsxrWarning, match="all are NaN"):
            out = extract_spectrum(cube, source_type=kind)
    else:
        with pytest.warns(MrsxrWarning, match="all are NaN"):
            out = extract_spectrum(cube, source_type=kind)
    assert np.isnan(out.flux).all()
    assert np.isnan(out.surface_brightness).all()
    assert (out.dq == 1).all()
    assert (out.n_pixels == 0).all()


def test_extended_takes_the_whole_field():
    rng = np.random.default_rng(6)
    flux = rng.normal(30, 1, (5, 21, 23))
    flux[:, 10, 10] = 500.0
    flux[:, 0] = np.nan
    out = extract_spectrum(make_cube(flux, source_type="UNKNOWN"))
    assert out.attrs["source_type"] == "EXTENDED"
    assert out.attrs["aperture"] == "whole field"
    assert (out.n_pixels == 20 * 23).all()
    for k in range(5):
        values = flux[k, 1:].astype("f4").astype(float)
        mean = sigma_clipped_stats(values, sigma=3, maxiters=5)[0]
        std = sigma_clipped_stats(values, sigma=3, maxiters=5)[2]
        kept = values[np.abs(values - mean) <= 3 * std]
        assert float(out.surface_brightness[k]) == pytest.approx(values.mean(), rel=1e-6)
        assert float(out.background[k]) == pytest.approx(kept.mean(), rel=1e-6)
        assert float(out.flux[k]) == pytest.approx(values.sum() * SCALE**2 * MJYSR_TO_JY_PER_ARCSEC2, rel=1e-6)


def test_extended_within_a_circle():
    cube = make_cube(np.full((3, 21, 21), 4.0), source_type="EXTENDED")
    out = extract_spectrum(cube, radius=0.5, center=(RA, DEC))
    np.testing.assert_allclose(out.surface_brightness, 4.0, rtol=1e-6)
    np.testing.assert_allclose(out.n_pixels, np.pi * 0.25 / SCALE**2, rtol=1e-9)
    assert out.attrs["aperture"] == "circle"


def test_aperture_correction_multiplies_point_sources_only():
    table = xr.Dataset(
        {
            "radius": (("aperture", "wavelength"), [[0.2, 0.2], [2.0, 2.0]]),
            "correction": (("aperture", "wavelength"), [[1.25, 1.25], [1.25, 1.25]]),
        },
        {"wavelength": [4.0, 6.0]},
        {"ref_id": "apcorr_made.asdf"},
    )
    cube = make_cube(point_source())
    plain = extract_spectrum(cube, center=(RA, DEC))
    out = extract_spectrum(cube, center=(RA, DEC), apcorr=table)
    np.testing.assert_allclose(out.flux, 1.25 * plain.flux)
    np.testing.assert_allclose(out["var"], 1.25**2 * plain["var"])
    np.testing.assert_allclose(out.surface_brightness, 1.25 * plain.surface_brightness)
    np.testing.assert_allclose(out.background, plain.background)
    for word in ("psf-matched", "scaled binned"):
        blurred = cube.assign_attrs(variant=word)
        with pytest.raises(MrsxrError, match="its PSF is wider than the one that the aperture correction is for"):
            extract_spectrum(blurred, center=(RA, DEC), apcorr=table)
        assert np.isfinite(extract_spectrum(blurred, center=(RA, DEC)).flux).all()
    wide = extract_spectrum(cube, source_type="EXTENDED", apcorr=table)
    np.testing.assert_allclose(wide.aperture_correction, 1.0)


def test_a_cut_cube_keeps_its_sky():
    cube = make_cube(point_source(19.7, 22.2))
    whole, cut = extract_spectrum(cube), extract_spectrum(cube.isel(x=slice(4, None), y=slice(3, 42)))
    assert cut.attrs["aperture_x"] == pytest.approx(whole.attrs["aperture_x"] - 4, abs=1e-3)
    assert cut.attrs["aperture_ra"] == pytest.approx(whole.attrs["aperture_ra"], abs=1e-7)
    given = extract_spectrum(cube.isel(x=slice(4, None)), center=(RA, DEC))
    np.testing.assert_allclose(given.flux, extract_spectrum(cube, center=(RA, DEC)).flux, rtol=1e-6)


def test_target_coordinates():
    cube = make_cube(point_source(20.3, 21.4))
    ra, dec = RA + 0.4 * SCALE / 3600 / np.cos(np.deg2rad(DEC)), DEC + 0.3 * SCALE / 3600
    cube.attrs.update(target_ra=ra, target_dec=dec)
    free = extract_spectrum(cube, autocen=False)
    assert (free.attrs["aperture_x"], free.attrs["aperture_y"]) == pytest.approx((20.6, 21.3), abs=1e-3)
    assert free.attrs["aperture_ra"] == pytest.approx(ra, abs=1e-8)
    cube.attrs.update(target_ra=10.0)
    with pytest.warns(MrsxrWarning, match="outside"):
        middle = extract_spectrum(cube, autocen=False)
    assert middle.attrs["aperture_x"] == 21.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "center"}, "method"), ({"background": "sky"}, "background"), ({"radius": 0.0}, "radius"),
        ({"center": (10.0, 5.0)}, "outside cube 1A"), ({"source_type": "STAR"}, "source_type"),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(options, text):
    with pytest.raises(MrsxrError, match=text):
        extract_spectrum(make_cube(point_source(nz=2)), **options)


def test_other_levels_are_refused():
    with pytest.raises(LevelError, match="level cube"):
        extract_spectrum(make_cube(point_source(nz=2)).assign_attrs(level="cal"))


def read_real_cube(path, band):
    with fits.open(path) as hdus:
        sci = hdus["SCI"]
        flux, err = sci.data.astype("f4"), hdus["ERR"].data.astype("f4")
        weight, header = hdus["WMAP"].data.astype("f4"), sci.header
    keys = ("CTYPE CUNIT CRPIX CRVAL CDELT").split()
    cards = [(f"{k}{i}", header[f"{k}{i}"]) for k in keys for i in (1, 2, 3)]
    cards += [(k, header[k]) for k in header if k.startswith("PC")]
    wcs = fits.Header([("WCSAXES", 3), *cards, ("RADESYS", "ICRS")]).tostring(sep="\n")
    cube = make_cube(flux, err**2, weight, header["CRVAL3"], header["CDELT3"], band)
    scale = header["CDELT1"] * 3600
    places = {d: (np.arange(cube.sizes[d]) + 1 - header[f"CRPIX{k}"]) * scale for k, d in ((1, "x"), (2, "y"))}
    cube = cube.assign_coords({d: (d, v, {"units": "arcsec"}) for d, v in places.items()})
    return cube.assign_attrs(wcs=wcs, pixel_scale=scale, source_type="POINT")


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:spectrum 4C. 4 of 717 samples have no error:mrsxr.errors.MrsxrWarning")
def test_real_cubes_of_ngc_7469(shared_data):
    """Channel 4 of a bright nucleus: found in the middle, positive, continuous from band to band."""
    files = sorted((shared_data / "s3d_ngc7469").glob("*.fits*"))
    bands = {"short": "4A", "medium": "4B", "long": "4C"}
    spectra = []
    for path in files:
        band = next(b for word, b in bands.items() if word in path.name.lower())
        spectra.append(extract_spectrum(read_real_cube(path, band)))
    assert len(spectra) == 3
    places = np.array([(s.attrs["aperture_ra"], s.attrs["aperture_dec"]) for s in spectra])
    np.testing.assert_allclose(places, [[345.8151, 8.87388]] * 3, atol=2e-4)
    spread = (places - places.mean(axis=0)) * 3600
    assert np.abs(spread).max() < 0.15
    joined = stitch_bands(spectra, method="multiplicative", reference_band="4B")
    schema.validate(joined)
    good = joined.where(joined.dq == 0, drop=True)
    assert good.sizes["wavelength"] > 1700
    assert float(good.flux.median()) > 1.0  # Jy, a luminous infrared galaxy
    assert (np.diff(joined.wavelength) > 0).all()
    line = good.flux.sel(wavelength=slice(26.25, 26.36)).max()  # [O IV] 25.89 um at z = 0.0163
    side = good.flux.sel(wavelength=slice(26.10, 26.20)).median()
    assert float(line / side) > 1.1


def with_common_error(cube, share=0.0, level=0.0):
    """Give a cube an error common to all spaxels: a share of the flux and a level [MJy/sr]."""
    sigma = np.abs(share * cube.flux.values) + level
    return cube.assign(var_systematic=(cube.flux.dims, (sigma**2).astype("f4"), {"units": "MJy2/sr2"}))


@pytest.mark.parametrize("chunks", [None, {"wavelength": 4}])
def test_common_errors_add_up_and_stay_apart(chunks):
    cube = make_cube(point_source())
    plain = extract_spectrum(cube, center=(RA, DEC))
    assert "var_systematic" not in plain
    made = with_common_error(cube, share=0.05)
    made = made.chunk(chunks) if chunks else made
    out = extract_spectrum(made, center=(RA, DEC), clip_sigma=1e9).compute()
    np.testing.assert_allclose(np.sqrt(out.var_systematic), 0.05 * out.flux, rtol=1e-4)
    np.testing.assert_allclose(np.sqrt(out.surface_brightness_var_systematic), 0.05 * out.surface_brightness, rtol=1e-4)
    assert out.var_systematic.attrs["units"] == "Jy2"
    same = extract_spectrum(made, center=(RA, DEC)).compute()
    for name in plain.data_vars:
        np.testing.assert_array_equal(same[name], plain[name])


def test_a_common_level_adds_up_over_the_aperture_and_goes_with_the_background():
    cube = make_cube(point_source())
    made = with_common_error(cube, level=2.0)
    alone = extract_spectrum(made, center=(RA, DEC), background=None)
    per = SCALE**2 * MJYSR_TO_JY_PER_ARCSEC2
    np.testing.assert_allclose(np.sqrt(alone.var_systematic), 2.0 * alone.n_pixels * per, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(alone.surface_brightness_var_systematic), 2.0, rtol=1e-6)
    subtracted = extract_spectrum(made, center=(RA, DEC))
    np.testing.assert_allclose(
        np.sqrt(subtracted.var_systematic), 0.0, atol=1e-6 * float(alone.var_systematic.max()) ** 0.5
    )
    field = extract_spectrum(made, source_type="EXTENDED")
    np.testing.assert_allclose(np.sqrt(field.surface_brightness_var_systematic), 2.0, rtol=1e-6)
