"""The decorator of every step: it checks level and parameters, writes the history, keeps what was told; no more."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from ._version import __version__
from .arguments import READERS, need_data, read_arguments
from .attributes import apart, keyword, require_undone
from .errors import LevelError, MrsxrError, ReferenceFileError
from .inputs import as_given, missing_named, require_units, require_whole, with_axes
from .limits import Reference, bind, check_call, references_of
from .notes import listen, noted, notes_of, tell

#: Entry of a history where data of different histories were joined.
JOINED = "tree.join_dithers"
#: Every function marked ``@step``, by its public name (``rate.flag_jumps``); the tests walk this table.
STEPS: dict[str, Callable[..., xr.Dataset]] = {}


@dataclass(frozen=True)
class Facts:
    """What a step says of itself: levels, names, and the reference files it takes.

    ``jwst`` is its name in ``jwst`` (or ours, where jwst has none) and in recipes, ``keyword`` its status card;
    ``needed`` steps cannot be left out, as the next level rests on them; those done ``once`` would count twice if they
    were done again, which their mark (:data:`mrsxr.attributes.MARKS`) says where later steps must know of them, else
    history and header. It ``precedes`` steps, by their names in jwst, that rest on it: done after them it is told of.
    ``references`` are parameters that take a
    reference file of the kind they are named after; ``without`` says of kinds that may be missing what happens then
    (None: nothing to tell), and ``only`` when a kind is looked for, by the values of the parameters.
    """

    name: str
    needs: tuple[str, ...]
    gives: str | None = None
    jwst: str = ""
    keyword: str | None = None
    needed: bool = False
    once: bool | str = False
    precedes: tuple[str, ...] = ()
    references: Mapping[str, Reference] = field(default_factory=dict)
    without: Mapping[str, str | None] = field(default_factory=dict)
    only: Mapping[str, Callable[[Mapping[str, Any]], bool]] = field(default_factory=dict)

    def kinds(self, parameters: Mapping[str, Any]) -> list[str]:
        """Return the kinds of reference files that a call with these parameters takes."""
        return [kind for kind in self.references if kind not in self.only or self.only[kind](parameters)]


def step(
    *,
    needs: str | tuple[str, ...],
    gives: str | None = None,
    jwst: str = "",
    keyword: str | None = None,
    needed: bool = False,
    once: bool | str = False,
    precedes: tuple[str, ...] = (),
    without: Mapping[str, str | None] | None = None,
    only: Mapping[str, Callable[[Mapping[str, Any]], bool]] | None = None,
) -> Callable[[Callable[..., xr.Dataset]], Callable[..., xr.Dataset]]:
    """Mark a pure function Dataset -> Dataset as a step of the calibration.

    Parameters
    ----------
    needs : str or tuple of str
        Level(s) that the first argument may have.
    gives : str, optional
        Level of the result; by default the level of the input.
    jwst, keyword, needed, once, precedes, without, only
        See :class:`Facts`; a step that gives another level is always needed.

    Returns
    -------
    callable
        The function with its arguments read (:mod:`mrsxr.arguments`), its parameters (by their annotations, see
        :mod:`mrsxr.limits`) and the level checked before it and, after it, the input's attrs restored, one entry
        ``{"step", "version", "params", "refs"}`` appended to ``attrs["history_json"]`` and what the step told
        (:func:`mrsxr.notes.tell`) to ``attrs["notes"]``. Its ``facts`` are what it says of itself.

    Raises
    ------
    LevelError
        By the decorated function, where the input has another level.
    ParameterError
        By the decorated function, where a parameter does not fit its annotation.
    SchemaError
        By the decorated function, where light is in other units than those of the level, or dimensions are missing.
    MrsxrError
        By the decorated function, where what is done once was done already.
    """
    levels = (needs,) if isinstance(needs, str) else tuple(needs)

    def decorate(function: Callable[..., xr.Dataset]) -> Callable[..., xr.Dataset]:
        signature = inspect.signature(function)
        package, _, inner = function.__module__.partition(".")
        place = inner.partition(".")[0] if package == "mrsxr" else function.__module__
        name = f"{place}.{function.__name__}"
        readers = {**READERS, **getattr(function, "readers", {})}
        facts = Facts(
            name, levels, gives, jwst or function.__name__, keyword, needed or gives is not None, once, precedes,
            references_of(function), without or {}, only or {},
        )  # fmt: skip

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> xr.Dataset:
            bound = bind(function, signature, args, kwargs)
            given = next(iter(bound.arguments.values()), None)
            with listen() as heard, missing_named(function.__name__, bound.arguments.values()):
                read_arguments(function.__name__, bound, readers)
                bound.apply_defaults()
                ds = next(iter(bound.arguments.values()))
                found = ds.attrs.get("level")
                if found not in levels:
                    raise LevelError(
                        f"{function.__name__} needs data of level {' or '.join(levels)}, got "
                        f"{found or 'a Dataset without level'} ({ds.attrs.get('setting', 'unknown setting')})"
                    )
                check_call(function, bound.arguments)
                require_units(ds, function.__name__)
                if gives == "lines":  # of one spaxel too, where what looks at its neighbours needs them
                    ds = bound.arguments[next(iter(bound.arguments))] = with_axes(ds)
                require_whole(ds, function.__name__)
                _check_shapes(facts, ds, bound.arguments)
                if isinstance(once, str):
                    require_undone(ds, once)
                elif once:
                    _require_first(facts, ds)
                _tell_of_order(facts, ds)
                out = function(*bound.args, **bound.kwargs)
            if not isinstance(out, xr.Dataset):
                raise MrsxrError(f"{name} returned a {type(out).__name__}; expected a Dataset of a step")
            if isinstance(once, str) and out is not ds:
                out = out.assign_attrs({once: 1})
            differ = apart(out)
            attrs = {k: v for k, v in ds.attrs.items() if k not in differ} | out.attrs
            skipped = {"skipped": True} if out is ds else {}
            out = out.drop_vars([name for name in differ if name in out.attrs])  # what it says of all
            attrs["level"] = gives or found
            attrs["mrsxr_version"] = __version__
            entry = _entry(facts, bound.arguments) | skipped
            out = as_given(_appended(ds, out.assign_attrs(attrs), entry), given)
            return noted(out, [*notes_of(ds), *heard])

        wrapped.facts = facts  # type: ignore[attr-defined]
        STEPS[name] = wrapped
        return wrapped

    return decorate


def _done(ds: xr.Dataset) -> set[str]:
    """Return the names of the steps that any of the exposures had, by their history."""
    entries = [entry for row in branches(read_history(ds)) for entry in row]
    return {str(entry.get("step")) for entry in entries if not entry.get("skipped")}


def _tell_of_order(facts: Facts, ds: xr.Dataset) -> None:
    """Tell of a step that comes after one which rests on it."""
    done = _done(ds) if facts.precedes else set()
    late = sorted(name for name in done if name in STEPS and STEPS[name].facts.jwst in facts.precedes)  # type: ignore[attr-defined]
    if late:
        tell(f"{facts.name} came after {' and '.join(late)}, which rest on it; do it before", stacklevel=3)


def _require_first(facts: Facts, ds: xr.Dataset) -> None:
    """Refuse data that had a step already, by their history or the header that they came with, unless that is lazy."""
    later = "fits_header" in ds.coords and ds.variables["fits_header"].chunks
    if facts.name in _done(ds) or (facts.keyword and not later and "COMPLETE" in keyword(ds, facts.keyword)):
        raise MrsxrError(
            f"setting {ds.attrs.get('setting', 'unknown')}: {facts.name} was done already ({facts.keyword}), again it "
            "would count twice; start from the data before it"
        )


def _check_shapes(facts: Facts, ds: xr.Dataset, arguments: Mapping[str, Any]) -> None:
    """Refuse reference images of other rows and columns than those of the data, as of a cut or a subarray.

    Of the slices (kind "regions") those of the data are looked up by their coordinates.
    """
    for kind in facts.references:
        one = arguments.get(kind)
        if kind == "regions" or not isinstance(one, xr.Dataset) or not {"y", "x"} <= set(one.dims) & set(ds.dims):
            continue
        found, wanted = ((d.sizes["y"], d.sizes["x"]) for d in (one, ds))
        if found != wanted:
            raise ReferenceFileError(
                f"{facts.name.partition('.')[2]}: {kind} reference {one.attrs.get('ref_id', 'by hand')} has {found[0]} "
                f"rows and {found[1]} columns, the data {wanted[0]} and {wanted[1]}; cut both alike, isel(y=..., x=...)"
            )


def recorded(before: xr.Dataset, out: xr.Dataset, name: str, **params: Any) -> xr.Dataset:
    """Return what a function that is no step made of a Dataset, with one more entry in its history.

    Parameters
    ----------
    before, out : Dataset
    name : str
        ``lines.mask_maps``.
    **params
        As they were given.
    """
    entry = {"step": name, "version": __version__, "params": plain_parameters(params), "refs": {}}
    return _appended(before, out, entry)


def _appended(before: xr.Dataset, out: xr.Dataset, entry: dict[str, Any]) -> xr.Dataset:
    """Return a Dataset with the history of another one and an entry; the key of a file is not that of what follows."""
    out = out.assign_attrs(history_json=json.dumps([*read_history(before), entry]))
    out.attrs.pop("key", None)
    return out


def read_history(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Return the history of a Dataset: a list of entries, the oldest first.

    Examples
    --------
    >>> [entry["step"] for entry in mx.read_history(cal)][-2:]
    ['cal.divide_fringe_flat', 'cal.calibrate_flux']
    """
    need_data("read_history", ds)
    return json.loads(ds.attrs.get("history_json", "[]"))


def join_histories(histories: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one history of data that are joined: that of all where they are equal.

    Else what they have in common at the beginning, and then an entry :data:`JOINED` whose ``inputs`` hold the rest of
    each by its name. Entries that differ by these names alone, as each was corrected by what it held itself, are one.

    Examples
    --------
    >>> dark, flat = {"step": "rate.subtract_dark"}, {"step": "cal.divide_flat"}
    >>> joined = join_histories({"a": [dark, flat], "b": [dark]})
    >>> [entry["step"] for entry in joined], joined[1]["inputs"] == {"a": [flat], "b": []}
    (['rate.subtract_dark', 'tree.join_dithers'], True)
    """
    common: list[dict[str, Any]] = []
    for entries in zip(*histories.values(), strict=False):
        entry = _one_entry(list(histories), entries)
        if entry is None:
            break
        common.append(entry)
    rest = {name: history[len(common) :] for name, history in histories.items()}
    if not any(rest.values()):
        return common
    return [*common, {"step": JOINED, "version": __version__, "params": {}, "refs": {}, "inputs": rest}]


def _one_entry(names: list[str], entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return what entries of all inputs say alike, None where they differ by more than the names of the inputs."""
    if all(entry == entries[0] for entry in entries):
        return entries[0]
    texts = {
        json.dumps(entry).replace(json.dumps(name)[1:-1], "\0") for name, entry in zip(names, entries, strict=True)
    }
    if len(texts) > 1:
        return None
    return json.loads(texts.pop().replace("\0", json.dumps(", ".join(names))[1:-1]))


def branches(history: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the steps of every input of joined data in a row, one list where the histories are one."""
    out: list[list[dict[str, Any]]] = [[]]
    for entry in history:
        if entry.get("step") == JOINED:
            ends = [end for inner in entry["inputs"].values() for end in branches(inner)]
            out = [[*start, *end] for start in out for end in ends]
        else:
            out = [[*start, entry] for start in out]
    return out


def history_of(history: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the history of one of the inputs of joined data, the whole where it is not told apart."""
    out: list[dict[str, Any]] = []
    for entry in history:
        inputs = entry["inputs"] if entry.get("step") == JOINED else {}
        own = next((inner for key, inner in inputs.items() if name in key.split(", ")), None)
        out += [entry] if own is None else history_of(own, name)
    return out


def _entry(facts: Facts, arguments: dict[str, Any]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    refs: dict[str, str] = {}
    for key, argument in list(arguments.items())[1:]:
        if isinstance(argument, xr.Dataset):
            refs |= {key: _named(argument), **json.loads(argument.attrs.get("refs_json", "{}"))}
        else:
            params[key] = plain_parameters(argument)
    card = {"keyword": facts.keyword} if facts.keyword else {}
    return {"step": facts.name, **card, "version": __version__, "params": params, "refs": refs}


def made_with(**references: xr.Dataset | Sequence[xr.Dataset] | None) -> dict[str, str]:
    """Return the attribute by which steps that take what was found in data name the reference files behind it.

    Examples
    --------
    >>> made_with(psf=xr.Dataset(attrs={"ref_id": "psf_12A.fits"}), pfpc=None)
    {'refs_json': '{"psf": "psf_12A.fits"}'}
    """
    given = {kind: [one] if isinstance(one, xr.Dataset) else one or () for kind, one in references.items()}
    names = {kind: ", ".join(dict.fromkeys(map(_named, those))) for kind, those in given.items() if those}
    return {"refs_json": json.dumps(names)} if names else {}


def _named(ds: xr.Dataset) -> str:
    """Return what a Dataset is called: its reference file, or its exposures."""
    if "ref_id" in ds.attrs:
        return str(ds.attrs["ref_id"])
    return (
        ", ".join(str(name) for name in np.atleast_1d(ds["exposure"].values)) if "exposure" in ds.coords else "by hand"
    )


def plain_parameters(value: Any) -> Any:
    """Return parameters as JSON can write them: numbers of numpy as those of Python, Datasets by their names."""
    if isinstance(value, xr.Dataset):
        return _named(value)
    if isinstance(value, np.generic) or (type(value) is np.ndarray and value.ndim == 0):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(k): plain_parameters(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_parameters(v) for v in value]
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    return " ".join(str(value).split())
