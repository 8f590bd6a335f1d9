"""What every public function does with data that are none."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import xarray as xr

import mrsxr
from mrsxr import arguments
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
        (lambda: arguments.as_kms_list(400.0, "edges"), "edges is 400.0; expected several numbers of km/s"),
    ],
)
def test_what_is_no_path_and_no_sequence_is_refused_in_one_line(call, text):
    with pytest.raises(MrsxrError, match=text) as error:
        call()
    assert "\n" not in str(error.value)
