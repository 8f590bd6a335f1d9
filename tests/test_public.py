"""What every public function does with data that are none."""

from __future__ import annotations

import inspect

import astropy.units as u
import numpy as np
import pytest
import xarray as xr

import mrsxr
from mrsxr import arguments, limits
from mrsxr.errors import MrsxrError

ROOMS = [mrsxr, *(one for name in mrsxr.__all__ if inspect.ismodule(one := getattr(mrsxr, name)))]
#: Rooms whose functions compute; the others show, write or look at data as they are.
READING = {"mrsxr.cal", "mrsxr.cube", "mrsxr.lines", "mrsxr.rate", "mrsxr.spectrum", "mrsxr.pipeline"}
#: Say of any Dataset what there is to say.
OF_TREES = "xr.Dataset | xr.DataTree"  # their nodes go into functions that read them
OF_ANY = {"read_history", "is_moving", "product_name", "fit_ramps_and_integrations"}
WRONG = {
    "a path": "cal.fits", "nothing": None, "a DataArray": xr.DataArray(np.zeros(3), name="flux"), "a number": 3.5,
    "an array": np.zeros((2, 2)), "an empty tree": xr.DataTree(), "paths": ["cal.fits"], "no data": xr.Dataset(),
}  # fmt: skip


def of_data():
    """Yield the public functions whose first argument is data."""
    found = {}
    for room in ROOMS:
        for name in getattr(room, "__all__", ()):
            function = getattr(room, name)
            parameters = [*inspect.signature(function).parameters.values()] if inspect.isfunction(function) else []
            kind = str(parameters[0].annotation) if parameters else ""
            if kind == "Data" or ("DataArray" not in kind and ("xr.Dataset" in kind or "xr.DataTree" in kind)):
                found[f"{function.__module__}.{name}"] = function
    return found


def test_every_public_function_that_computes_reads_its_data():
    """By ``@step`` or ``@reads``, so that order, kinds of numbers, and lost units are seen to."""
    functions = {k: f for k, f in of_data().items() if ".".join(k.split(".")[:2]) in READING}
    assert len(functions) > 90
    assert [k for k, f in functions.items() if not (hasattr(f, "facts") or hasattr(f, "readers"))] == []


def call(function, data):
    """Call a function with data, and with None for all else that it needs."""
    own = list(inspect.signature(function).parameters.values())[1:]
    return function(data, **{p.name: None for p in own if p.default is p.empty and p.kind is not p.VAR_KEYWORD})


@pytest.mark.parametrize("what", WRONG)
def test_every_public_function_refuses_what_is_no_data_in_one_line(what):
    odd = []
    for name, function in of_data().items():
        if what == "no data" and name.rpartition(".")[2] in OF_ANY:
            continue
        try:
            call(function, WRONG[what])
            odd.append(f"{name} took {what}")
        except MrsxrError as error:
            odd += [f"{name}: {error}"] if "\n" in str(error) else []
        except Exception as error:
            odd.append(f"{name}: {type(error).__name__} {error}")
    assert odd == []


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mrsxr.save(xr.Dataset(attrs={"level": "cal"}), 5), "save needs a path"),
        (lambda: mrsxr.references.read_reference(None), "read_reference needs a path"),
        (lambda: mrsxr.report.write_report(7.5), "write_report needs a path"),
        (lambda: mrsxr.attach_index("s3d.fits"), "attach_index needs a Dataset or DataArray, got a str"),
        (lambda: mrsxr.io.from_specutils([1.0]), "needs a specutils.Spectrum, got a list"),
        (lambda: mrsxr.plot.spectrum(None), "expected Datasets of level spectrum"),
        (lambda: mrsxr.io.find_files(".", background=5), "find_files needs .* for background, got a int"),
        (lambda: mrsxr.open_observation(".", background=[]), "needs .* for background, got an empty list"),
        (lambda: arguments.as_kms_list(400.0, "edges"), "edges is 400.0; expected several numbers of km/s"),
    ],
)
def test_what_is_no_path_and_no_sequence_is_refused_in_one_line(call, text):
    with pytest.raises(MrsxrError, match=text) as error:
        call()
    assert "\n" not in str(error.value)


#: Functions that take nothing but data, paths or what they hand on to others that check it.
NOTHING_TO_CHECK = {
    "line_list", "read_history", "is_moving", "target_position", "exposures_header", "products_header", "write_fits",
    "from_specutils", "key_of", "product_name", "extraction_weights", "say_what_is_lost", "fit_ramps_and_integrations",
    "build_crds_cache", "read_facts", "open_product", "write_reference", "write_geometry", "fit_background_scale",
    "line_model", "latent_state", "encircled_energy",
}  # fmt: skip


def public_functions():
    """Return the public functions of all rooms by name."""
    found = (getattr(room, name) for room in ROOMS for name in getattr(room, "__all__", ()))
    return {f"{one.__module__}.{one.__name__}": one for one in found if inspect.isfunction(one)}


def test_every_public_function_checks_what_it_is_given():
    functions = public_functions()
    unchecked = {name for name, one in functions.items() if not (hasattr(one, "facts") or hasattr(one, "checks"))}
    assert {name.rpartition(".")[2] for name in unchecked} == NOTHING_TO_CHECK
    assert len(functions) > 150


def wrong_for(hint):
    """Return what an annotation must refuse."""
    texts = limits.allowed(hint)
    yield object()
    if "true or false" in texts:
        yield from (1, "yes", np.nan)
    if "number" in texts and not any(word in texts for word in ("several", "text", "place", "rows")):
        yield from (np.float32("nan"), float("inf"), "many", [], 10**400, np.full(3, 2.0))
    if "above 0" in texts and "several" not in texts:
        yield from (0, np.int64(-3))


def test_every_checked_parameter_is_refused_by_name_in_one_line():
    """Of functions that are no steps (``tests/test_limits.py`` has the steps)."""
    n = 0
    for name, function in public_functions().items():
        hints = limits.hints_of(function)
        for key in getattr(function, "checks", ()):
            if limits.expected(object(), hints[key]) is None:
                continue  # any object, as one of the several forms that the function tells apart
            for wrong in wrong_for(hints[key]):
                with pytest.raises(MrsxrError) as error:
                    limits.check_call(function, {key: wrong})
                assert f": {key} is " in str(error.value), (name, key, wrong)
                assert "\n" not in str(error.value)
                n += 1
    assert n > 400


def test_defaults_of_every_checked_function_are_allowed():
    for name, function in public_functions().items():
        for key in getattr(function, "checks", ()):
            default = inspect.signature(function).parameters[key].default
            if default is not inspect.Parameter.empty:
                assert limits.expected(default, limits.hints_of(function)[key]) is None, (name, key)


energy = mrsxr.simulate.encircled_energy
ONE = np.exp(-(np.arange(-10.0, 11) ** 2 + np.arange(-10.0, 11)[:, None] ** 2) / 30)[None]


def psf(images, wavelength):
    return mrsxr.cal.psf_of_images(images, wavelength, step=0.03, band="1A")


def test_several_numbers_have_units():
    assert energy(0.3 / 60 * u.arcmin, [4.9e3, 10e3] * u.nm) == pytest.approx(energy(0.3, [4.9, 10.0]))
    xr.testing.assert_equal(psf(ONE, 4900 * u.nm), psf(ONE, [4.9]))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mrsxr.simulate.Scene("10h", 2.0), "Scene: ra is '10h'; expected a finite number"),
        (lambda: mrsxr.simulate.Line("[Ne II]", np.nan, 1.0), "Line: wavelength is nan; expected a finite number"),
        (lambda: mrsxr.simulate.Effects(showers=2.5), "Effects: showers is 2.5; expected a whole number"),
        (lambda: mrsxr.References({}, override=["dark.fits"]), "References: override is .*; expected a mapping"),
        (lambda: mrsxr.save(xr.Dataset(attrs={"level": "cube"}), []), "save needs a path"),
        (lambda: mrsxr.plot.summary(spectrum="x1d.fits"), "spectrum is a str; expected a Dataset"),
        (lambda: mrsxr.references.readers.Window(0, 0.5, 3, 3), "Window: x is 0.5; expected a whole number"),
        (
            lambda: mrsxr.references.readers.Window(0, 0, 3, 0),
            "Window: n_x is 0; expected a whole number of at least 1",
        ),
        (lambda: energy("wide", 10.0), "radius is 'wide'; expected numbers of at least 0 \\[arcsec\\]"),
        (lambda: energy([[1.0], [1.0, 2.0]], 10.0), "radius is .*; expected numbers of at least 0"),
        (lambda: energy(0.3, None), "wavelength is None; expected numbers"),
        (lambda: energy(0.3 * u.um, 10.0), "radius is 0.3 um; expected numbers .*, or a Quantity"),
        (lambda: energy(0.3, [5.0, -6.0]), "wavelength is .*; expected numbers of at least 0"),
        (lambda: energy(0.3, 10.0, blur=-0.1), "blur is -0.1; expected numbers of at least 0"),
        (lambda: energy([1, 2], [5.0, 6.0, 7.0]), "radius, wavelength and blur of shapes .* do not go together"),
        (lambda: psf(ONE, None), "wavelength is None; expected numbers"),
        (lambda: psf(ONE, [4.9, 5.8]), r"images of shape \(1, 21, 21\) and wavelength of shape \(2,\)"),
        (lambda: psf(ONE[0], 4.9), r"images of shape \(21, 21\)"),
        (lambda: psf(None, [4.9]), "images is None; expected numbers, or a Quantity"),
        (lambda: psf(ONE, [np.nan]), "wavelength is nan"),
        (lambda: psf(0 * ONE, [4.9]), "one holds no light"),
        (lambda: psf(ONE, [4.9e-6]), "wavelength is 4.9e-06 .*; expected um, 4.68 to 28.75 of the MRS"),
        (lambda: arguments.as_kms_extent({"low": 1}), "extent is .*; expected a half width, or two velocities"),
        (lambda: arguments.as_kms_extent({-300: 1, 300: 2}), "extent is .*; expected a half width, or two velocities"),
        (lambda: arguments.as_redshift([300, 400] * u.km / u.s), "redshift is .*; expected a number above -1"),
        (lambda: arguments.as_um_ranges({12.7: 1, 12.9: 2}), "expected two wavelengths in um"),
        (lambda: mrsxr.io.atomic.write_text("", "page"), "'.' is a folder, no file that can be written"),
        (lambda: mrsxr.io.atomic.write_text("..", "page"), "is a folder, no file that can be written"),
        (lambda: arguments.as_bands(-1), "'-1' is no band or channel"),
        (lambda: arguments.as_bands(np.int64(-3)), "'-3' is no band or channel"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_in_one_line(call, text):
    with pytest.raises(MrsxrError, match=text) as error:
        call()
    assert "\n" not in str(error.value)


def test_bands_are_chosen_of_what_has_them():
    """Of cubes that are there already, as of those that are made; up to cal there is nothing to choose."""
    cubes = {
        f"/science/{band}": xr.Dataset({"flux": 1.0}, attrs={"level": "cube", "band": band})
        for band in ("1A", "1B", "2A")
    }
    tree = xr.DataTree.from_dict(cubes)
    kept = mrsxr.pipeline.chains._of_bands(tree, "1")
    assert [node.path for node in kept.leaves] == ["/science/1A", "/science/1B"]
    with pytest.raises(MrsxrError, match="no cubes of band or channel 4C; there are those of 1A, 1B, 2A"):
        mrsxr.reduce(tree, to="spectrum", bands="4C")
    with pytest.raises(MrsxrError, match="bands are chosen of cubes and spectra"):
        mrsxr.reduce(xr.Dataset(attrs={"level": "ramp", "setting": "12A"}), to="cal", bands="1A")
