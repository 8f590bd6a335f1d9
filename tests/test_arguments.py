"""What people write for a place, an angle, a wavelength, a band: read right, or refused in one line."""

from __future__ import annotations

import inspect

import astropy.units as u
import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import FK5, Angle, SkyCoord

from mrsxr import arguments
from mrsxr.arguments import reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.rate import subtract_dark
from mrsxr.step import read_history, step

RA, DEC = 187.27791667, 2.05238889  # 12h29m06.7s +02d03m08.6s
PLACES = {
    "pair": (RA, DEC),
    "list": [RA, DEC],
    "array": np.array([RA, DEC]),
    "texts": (str(RA), str(DEC)),
    "negative RA": (RA - 360.0, DEC),
    "SkyCoord": SkyCoord(RA, DEC, unit="deg"),
    "of one": SkyCoord([RA], [DEC], unit="deg"),
    "other frame": SkyCoord(RA, DEC, unit="deg").galactic,
    "frame object": SkyCoord(RA, DEC, unit="deg").transform_to(FK5(equinox="J1975")).frame,
    "Quantities": (RA * u.deg, np.deg2rad(DEC) * u.rad),
    "Quantity": np.deg2rad([RA, DEC]) * u.rad,
    "angles": (Angle("12h29m06.7s"), Angle("2d03m08.6s")),
    "h m s": "12h29m06.7s +02d03m08.6s",
    "no space": "12h29m06.7s+02d03m08.6s",
    "spaces": "12h 29m 06.7s +02d 03m 08.6s",
    "colons": "12:29:06.7 +02:03:08.6",
    "comma": "12:29:06.7, 02:03:08.6",
    "six numbers": "12 29 06.7 02 03 08.6",
    "degrees": f"{RA} {DEC}",
    "brackets": f"({RA}, +{DEC})",
    "mixed": ("12h29m06.7s", DEC),
}


@pytest.mark.parametrize("given", PLACES.values(), ids=PLACES)
def test_a_place_is_read_however_it_is_written(given):
    found = arguments.as_sky(given)
    assert isinstance(found, tuple)
    assert found == pytest.approx((RA, DEC), abs=1e-8)


def test_southern_places_keep_their_sign():
    assert arguments.as_sky("05:34:31.9 -00:30:36") == pytest.approx((83.6329166667, -0.51))
    assert arguments.as_sky("83.6 -0.51") == (83.6, -0.51)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((12.5, 187.3), "declination 187.3 deg; expected -90 to 90; are right ascension and declination swapped"),
        ("12.5 187.3", "swapped"),
        ((200.0, 100.0), r"expected -90 to 90$"),
        ((400.0, 10.0), "right ascension 400"),
        ("12h29m06.7s", "expected right ascension and declination"),
        ("NGC 7469", "'NGC'"),
        ("M 82 X", "expected right ascension and declination"),
        ((1.0, 2.0, 3.0), "expected right ascension and declination"),
        (5.0, "expected right ascension and declination"),
        ((np.nan, 2.0), "right ascension of center is nan"),
        ((True, 2.0), "right ascension of center is True"),
        ((187.0 * u.um, 2.0), "right ascension of center is 187.0 um"),
        ("25:00:00 +02:00:00", "'25:00:00'"),
        ("12h29m06.7s +99d00m00s", "declination 99 deg"),
        (SkyCoord([1, 2], [3, 4], unit="deg"), "holds 2 places"),
    ],
)
def test_what_is_no_place_is_refused_in_one_line(given, message):
    with pytest.raises(MrsxrError, match=message) as error:
        arguments.as_sky(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reader", "given", "expected"),
    [
        (arguments.as_arcsec, 1.25, 1.25),
        (arguments.as_arcsec, np.float32(1.25), 1.25),
        (arguments.as_arcsec, 1250 * u.mas, 1.25),
        (arguments.as_arcsec, "0.05 arcmin", 3.0),
        (arguments.as_arcsec, '1.25"', 1.25),
        (arguments.as_arcsec, "0.5'", 30.0),
        (arguments.as_arcsec2, 0.5 * u.arcmin**2, 1800.0),
        (arguments.as_deg, np.pi * u.rad, 180.0),
        (arguments.as_um, 6.7, 6.7),
        (arguments.as_um, 67000 * u.AA, 6.7),
        (arguments.as_um, "6.7 µm", 6.7),
        (arguments.as_um, 299792.458 / 6.7 * u.GHz, 6.7),
        (arguments.as_um, 1000 / u.cm, 10.0),
        (arguments.as_um_width, 1.3 * u.nm, 0.0013),
        (arguments.as_kms, 450, 450.0),
        (arguments.as_kms, 4.5e5 * u.m / u.s, 450.0),
        (arguments.as_kms, "450 km/s", 450.0),
        (arguments.as_redshift, "0.0163", 0.0163),
        (arguments.as_redshift, -0.001, -0.001),
        (arguments.as_redshift, 1.63 * u.percent, 0.0163),
        (arguments.as_um_range, (9.5, 9.9), (9.5, 9.9)),
        (arguments.as_um_range, (9.9, 9.5), (9.5, 9.9)),
        (arguments.as_um_range, [9900, 9500] * u.nm, (9.5, 9.9)),
        (arguments.as_um_range, slice(9.9, 9.5), (9.5, 9.9)),
        (arguments.as_um_range, slice(None, 9.5), (0.0, 9.5)),
        (arguments.as_um_range, "9.5-9.9", (9.5, 9.9)),
        (arguments.as_um_place, 9.5 * u.um, 9.5),
        (arguments.as_um_place, (9.9, 9.5), (9.5, 9.9)),
        (arguments.as_um_place, slice(None), None),
        (arguments.as_um_ranges, (9.9, 9.5), [(9.5, 9.9)]),
        (arguments.as_um_ranges, [(9.9, 9.5), (5.1, 5.2)], [(9.5, 9.9), (5.1, 5.2)]),
        (arguments.as_um_ranges, (), []),
        (arguments.as_kms_extent, 350, 350.0),
        (arguments.as_kms_extent, (400, -250), (-250.0, 400.0)),
        (arguments.as_kms_extent, [-0.25, 0.4] * u.Mm / u.s, (-250.0, 400.0)),
        (arguments.as_kms_list, [2, 0, -1], [-1.0, 0.0, 2.0]),
        (arguments.as_kms_list, [-1, 0, 2] * u.km / u.s, [-1.0, 0.0, 2.0]),
    ],
)
def test_numbers_with_units(reader, given, expected):
    found = reader(given)
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert reader(None) is None


@pytest.mark.parametrize(
    ("reader", "given", "message"),
    [
        (arguments.as_arcsec, 2 * u.um, "angle is 2.0 um; expected a number of arcsec"),
        (arguments.as_arcsec, "wide", "'wide'"),
        (arguments.as_arcsec, True, "True"),
        (arguments.as_arcsec, np.inf, "inf"),
        (arguments.as_arcsec, [1.0, 2.0], "expected a number"),
        (arguments.as_um, 30 * u.km / u.s, "expected a number of um"),
        (arguments.as_um_width, 3 * u.THz, "expected a number of um"),
        (arguments.as_kms, 3 * u.um, "expected a number of km / s"),
        (arguments.as_redshift, 4900, r"4900 km/s is z = 0\.016"),
        (arguments.as_redshift, 4900 * u.km / u.s, r"a velocity; expected a number, .* is z = 0\.016"),
        (arguments.as_redshift, np.nan, "expected a number above -1"),
        (arguments.as_redshift, -3, "above -1"),
        (arguments.as_redshift, -0.5, r"between -0\.1 and 30"),
        (arguments.as_um_range, 9.5, "two wavelengths"),
        (arguments.as_um_range, (9.5, 9.5), "of some width"),
        (arguments.as_um_range, slice(9.5, "x"), "'x'"),
        (arguments.as_kms_extent, (1, 2, 3), "two velocities"),
    ],
)
def test_numbers_of_another_kind_are_refused(reader, given, message):
    with pytest.raises(MrsxrError, match=message) as error:
        reader(given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2B", "2B"), ("2b", "2B"), ("ch2-medium", "2B"), ("CH2_MEDIUM", "2B"), ("2 medium", "2B"), (["2b"], "2B"),
        ("1A,2A", "1A 2A"), ("2a 1a", "1A 2A"), ("1A; 2A", "1A 2A"), (["2A", "1a"], "1A 2A"), ({"3C"}, "3C"),
        ("ch4", "4A 4B 4C"), (4, "4A 4B 4C"), ("4", "4A 4B 4C"), ("channel 4", "4A 4B 4C"), (np.int64(4), "4A 4B 4C"),
        ("long", "1C 2C 3C 4C"), ("C", "1C 2C 3C 4C"), ("34C", "3C 4C"), ([1, "2A"], "1A 1B 1C 2A"),
        ("ch 1 short, ch 2 medium", "1A 2B"), ("1A,1a", "1A"),
    ],
)  # fmt: skip
def test_bands_are_read_as_astronomers_write_them(given, expected):
    assert arguments.as_bands(given) == tuple(expected.split())
    if len(expected.split()) == 1:
        assert arguments.as_band(given) == expected


@pytest.mark.parametrize("given", ["5A", "1D", "", [], "1A,xx", 7, True, 1.5, ["1A", None], "ch", "short-long"])
def test_what_is_no_band_is_refused(given):
    with pytest.raises(MrsxrError, match="expected bands") as error:
        arguments.as_bands(given)
    assert "\n" not in str(error.value)
    with pytest.raises(MrsxrError, match="is no MRS band"):
        arguments.as_band(given)


def test_one_band_is_one():
    with pytest.raises(MrsxrError, match="which are 3A, 3B, 3C; expected one"):
        arguments.as_band(3)


def test_a_choice_of_bands_that_are_not_there_is_refused():
    held = ("1A", "2A", "1B")
    assert arguments.bands_held("ch1", held, "exposures") == ("1A", "1B")
    assert arguments.bands_held(iter(["2A", "1"]), held, "exposures") == ("1A", "1B", "2A")
    with pytest.raises(MrsxrError, match="no exposures of band or channel 2C; there are those of 1A, 1B, 2A"):
        arguments.bands_held("1A,2C", held, "exposures")


@pytest.mark.parametrize("given", ["point", "POINT", "Point", " point "])
def test_source_types_in_any_case(given):
    assert arguments.as_source_type(given) == "POINT"
    with pytest.raises(MrsxrError, match="expected 'POINT' or 'EXTENDED'"):
        arguments.as_source_type(given + "y")


def test_a_step_works_with_what_was_read_and_its_history_says_it():
    seen = {}

    @step(needs="spectrum")
    @reads(window=arguments.as_kms)
    def look(ds: xr.Dataset, *, center=None, radius: float | None = None, window: float = 1.0) -> xr.Dataset:
        seen.update(center=center, radius=radius, window=window)
        return ds

    try:
        out = look(xr.Dataset(attrs={"level": "spectrum"}), center="12:29:06.7 +02:03:08.6", radius=2 * u.arcmin,
                   window=2e6 * u.m / u.s)  # fmt: skip
    finally:
        from mrsxr.step import STEPS

        STEPS.pop(next(name for name in STEPS if name.endswith(".look")))
    assert seen == {"center": pytest.approx((RA, DEC), abs=1e-8), "radius": 120.0, "window": 2000.0}
    assert read_history(out)[-1]["params"] == {**seen, "center": list(seen["center"])}


def test_a_step_says_what_it_was_given_in_place_of_a_dataset():
    ramp = xr.Dataset({"sci": ("x", [1.0])}, attrs={"level": "ramp"})
    dark = xr.Dataset(attrs={"level": "reference", "kind": "dark", "ref_id": "d.fits"})
    for data, message in (
        (xr.DataTree.from_dict({"/science/12A": ramp}), r"a DataTree \(/science/12A\); take one node"),
        (ramp["sci"], "the DataArray sci; give the whole Dataset"),
        ("jw_uncal.fits", r"the path jw_uncal.fits; open it by mrsxr.load"),
        ([ramp], "a list of 1; call it for each"),
        (None, "None"),
        (np.zeros(3), "a ndarray"),
    ):
        with pytest.raises(LevelError, match=f"^subtract_dark needs a Dataset, got {message}") as error:
            subtract_dark(data, dark=dark)
        assert "\n" not in str(error.value)


def test_a_reference_of_another_kind_is_refused():
    ramp = xr.Dataset({"sci": ("x", [1.0])}, attrs={"level": "ramp"})
    flat = xr.Dataset(attrs={"level": "reference", "kind": "flat", "ref_id": "f.fits"})
    with pytest.raises(MrsxrError, match=r"expected a reference of kind dark, got one of kind flat \(f.fits\)"):
        subtract_dark(ramp, dark=flat)
    with pytest.raises(MrsxrError, match="expected a reference of kind dark, got data of level ramp"):
        subtract_dark(ramp, dark=ramp)
    with pytest.raises(MrsxrError, match=r"as dark, got the path d.fits; open it by .*read_reference"):
        subtract_dark(ramp, dark="d.fits")
    with pytest.raises(MrsxrError, match="the dark reference is missing; References"):
        subtract_dark(ramp, dark=None)


def test_functions_and_dataclasses_read_alike():
    @reads(window=arguments.as_kms)
    def look(ds: xr.Dataset, center=None, *, band="1A", window: float = 1.0, other: int = 3):
        """Look."""
        return center, band, window, other

    assert look(xr.Dataset(), SkyCoord(RA, DEC, unit="deg"), band="ch3-long") == (
        pytest.approx((RA, DEC), abs=1e-8), "3C", 1.0, 3,
    )  # fmt: skip
    assert look(ds=xr.Dataset(), window="2 km/s") == (None, "1A", 2.0, 3)
    assert list(inspect.signature(look).parameters) == ["ds", "center", "band", "window", "other"]


def test_several_places_are_a_list_of_places():
    from astropy.coordinates import SkyCoord

    assert arguments.as_places(["12h29m06.7s 02d03m08.6s", (12.5, -3.0)]) == [pytest.approx((RA, DEC)), (12.5, -3.0)]
    assert arguments.as_places(SkyCoord([12.5, 13.0], [-3.0, 4.0], unit="deg")) == [
        pytest.approx((12.5, -3.0)), pytest.approx((13.0, 4.0)),
    ]  # fmt: skip
    assert arguments.as_places(SkyCoord(12.5, -3.0, unit="deg")) == [pytest.approx((12.5, -3.0))]
    with pytest.raises(MrsxrError, match="expected a list of places"):
        arguments.as_places("12.5 -3.0", "others")


@pytest.mark.parametrize("text", ["4796.7 km/s", "cz = 4796.7km/s", "v=4796.7 km s-1", "4796700 m/s"])
def test_a_velocity_in_words_is_refused_with_its_redshift(text):
    with pytest.raises(MrsxrError, match=r"a velocity; expected a number, cz = .* is z = 0.0160001"):
        arguments.as_redshift(text)
    assert arguments.as_redshift("z = 0.016") == arguments.as_redshift("z=1.6e-2") == 0.016
    with pytest.raises(MrsxrError, match=r"redshift is '0\.1 pc'; expected a number above -1"):
        arguments.as_redshift("0.1 pc")
