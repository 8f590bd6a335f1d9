# ruff: noqa: E501
"""Run inputs one after another and print what came of each; the test reads that and kills what hangs."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import bases
import numpy as np
from mutations import Case

MEMORY = 6 << 30  # address space; what asks for more is a fault
REFUSED, WORKED, FAULT = "refused", "worked", "fault"


class Silent(Exception):
    """A product that differs without a word."""


def read_meta(path: Path) -> Any:
    from astropy.io import fits

    with fits.open(path) as hdus:
        return json.loads(hdus["MRSXR"].data["META"][0])


def with_meta(content: bytes, meta: Any, folder: Path) -> bytes:
    """Return a file of ours with other JSON in META."""
    from astropy.io import fits

    path = folder / "meta.fits"
    path.write_bytes(content)
    text = meta if isinstance(meta, str) else json.dumps(meta)
    with fits.open(path) as hdus:
        table = hdus["MRSXR"]
        columns = [c for c in table.columns if c.name != "META"]
        first = fits.Column(name="META", format=f"{max(len(text), 1)}A", array=np.array([text]))
        place = hdus.index_of("MRSXR")
        hdus[place] = fits.BinTableHDU.from_columns([first, *columns], name="MRSXR")
        hdus.writeto(path, overwrite=True)
    return path.read_bytes()


def read_tree(path: Path) -> dict:
    import asdf

    return dict(asdf.util.load_yaml(path))


def _nc(change):
    def work(path: Path) -> None:
        import netCDF4

        with netCDF4.Dataset(path, "a") as file:
            change(file)

    return work


def _attribute(name: str, value: Any):
    def change(file: Any) -> None:
        if hasattr(file, "setncattr"):
            file.setncattr(name, value)
        else:
            place = file / "zarr.json"
            facts = json.loads(place.read_text())
            place.write_text(json.dumps(facts | {"attributes": facts["attributes"] | {name: value}}))

    return change


def _variable(key: str, value: Any):
    def change(file: Any) -> None:
        name = "flux" if not hasattr(file, "variables") or "flux" in file.variables else next(iter(file.variables))
        if hasattr(file, "variables"):
            file.variables[name].setncattr(key, value)
        elif (file / "flux").exists():
            _attribute(key, value)(file / "flux")

    return change


#: Changes of the attributes of a netCDF file or a zarr store.
WHOLE = {
    "level unknown": ("refused", _attribute("level", "nonsense")), "level a number": ("refused", _attribute("level", 5)),
    "level of others": ("refused", _attribute("level", "ramp")), "broken JSON": ("refused", _attribute("notes", "json:{")),
    "notes a number": ("free", _attribute("notes", 5)), "history no JSON": ("free", _attribute("history_json", "{")),
    "history a number": ("free", _attribute("history_json", 7)), "exposures no JSON": ("free", _attribute("exposures", "[")),
    "product name outside": ("free", _attribute("product_name", "../../../../outside")),
    "target outside": ("free", _attribute("target", "/../../x")), "program outside": ("free", _attribute("program", "../../../x")),
    "setting odd": ("free", _attribute("setting", "99Z")), "setting outside": ("free", _attribute("setting", "../../../x")),
    "bands odd": ("free", _attribute("bands", "json:[5, null]")), "wcs broken": ("free", _attribute("wcs", "CRPIX1 = 'x")),
    "channels outside": ("free", _attribute("channels", "/../../..")), "coordinates odd": ("free", _attribute("coordinates", "nowhere")),
    "units odd": ("free", _variable("units", "furlong")), "units of time": ("free", _variable("units", "days since 2000-01-01")),
    "scale factor": ("free", _variable("scale_factor", "x")), "fill value": ("free", _variable("add_offset", "x")),
}  # fmt: skip


def _in_store(pattern: str, change: Any):
    def work(store: Path) -> None:
        change(next(place for place in sorted(store.glob(pattern)) if place.is_file() or pattern == "dq"))

    return work


#: Damages of the files of a zarr store.
STORE = {
    "a chunk is gone": ("refused", _in_store("[dfr][qla]*/c/**/*", Path.unlink)),
    "a chunk is empty": ("refused", _in_store("[dfr][qla]*/c/**/*", lambda p: p.write_bytes(b""))),
    "a chunk is junk": ("refused", _in_store("[dfr][qla]*/c/**/*", lambda p: p.write_bytes(b"\x5a" * 500))),
    "a chunk is a folder": ("refused", _in_store("[dfr][qla]*/c/**/*", lambda p: (p.unlink(), p.mkdir()))),
    "an array has no facts": ("refused", _in_store("[dfr][qla]*/zarr.json", Path.unlink)),
    "facts of an array are no JSON": ("refused", _in_store("[dfr][qla]*/zarr.json", lambda p: p.write_text("{"))),
    "facts of an array are null": ("refused", _in_store("[dfr][qla]*/zarr.json", lambda p: p.write_text("null"))),
    "an array claims to be huge": ("refused", _in_store("dq/zarr.json", lambda p: p.write_text(_huge(p)))),
    "an array claims to be negative": ("refused", _in_store("dq/zarr.json", lambda p: p.write_text(_huge(p, -5)))),
    "an array is gone": ("refused", _in_store("dq", shutil.rmtree)),
    "the group is gone": ("refused", _in_store("zarr.json", Path.unlink)),
    "the group is no JSON": ("refused", _in_store("zarr.json", lambda p: p.write_text("{"))),
    "the group has no attributes": ("refused", _in_store("zarr.json", lambda p: p.write_text(_bare(p)))),
}  # fmt: skip


def _bare(place: Path) -> str:
    return json.dumps(json.loads(place.read_text()) | {"attributes": {}})


def _huge(place: Path, size: int = 10**12) -> str:
    facts = json.loads(place.read_text())
    return json.dumps(facts | {"shape": [size] * len(facts["shape"])})


def check_use(path: Path, out: Path) -> Any:
    """Do with a file what a user does: list it, open it, compute it, save it and open it again."""
    import mrsxr as mx
    from mrsxr import schema
    from mrsxr.io import find_files, product_name, summarize
    from mrsxr.notes import notes_of
    from mrsxr.references.exposure import Exposure
    from mrsxr.step import read_history

    if path.name.endswith((".fits", ".fits.gz")):
        (info,) = find_files(path)
        if info.product in bases.DETECTOR:
            str(summarize(path))
    data = mx.load(path)
    schema.validate(data)
    done = data.compute()
    _ = (repr(data), product_name(data), read_history(data), notes_of(data), data._repr_html_())
    if "setting" in data.attrs or data.attrs["level"] == "cube":
        Exposure.of(data)
    for saved in mx.save(data, out):
        mx.load(saved).compute()
    return done


def compare(case: Case, done: Any, pristine: Any, told: list[str]) -> None:
    """Raise Silent where the product is another than that of the undamaged file and nothing was told."""
    if case.expect == "refused":
        raise Silent("it was taken")
    if case.expect.startswith("attr "):
        _, key, value = case.expect.split(" ", 2)
        if key in pristine.attrs and done.attrs.get(key) != json.loads(value) and not told:
            raise Silent(f"{key} is {done.attrs.get(key)!r}, edited to {value}")
        return
    if case.expect == "free" or told:
        return
    for name, variable in pristine.variables.items():
        if name not in done.variables:
            raise Silent(f"{name} is lost")
        mine, other = np.asarray(done[name].values), np.asarray(variable.values)
        if name in ("fits_header", "exposure"):
            continue
        if mine.shape != other.shape or not np.array_equal(mine, other, equal_nan=other.dtype.kind == "f"):
            raise Silent(f"{name} differs")


class Runner:
    """Runs inputs; keeps what undamaged files give."""

    def __init__(self, folder: Path, work: Path):
        self.folder, self.work, self.number = folder, work, itertools.count()
        self.pristine: dict[str, Any] = {}

    def of(self, base: str) -> Any:
        if base not in self.pristine:
            import mrsxr as mx
            from mrsxr.references import read_reference

            path = bases.one_file(self.folder / base)
            read = {"ref": read_reference, "stpsf": mx.cal.psf_of_stpsf}.get(base.partition("_")[0], mx.load)
            self.pristine[base] = read(path).compute()
        return self.pristine[base]

    def run(self, case: Case) -> tuple[str, str]:
        """Return the verdict and what was said."""
        from mrsxr.errors import MrsxrError
        from mrsxr.notes import listen

        room = self.work / str(next(self.number))
        place = room / "in" / "deep"
        place.mkdir(parents=True)
        verdict, said = FAULT, ""
        try:
            with warnings.catch_warnings(), listen() as told:
                warnings.simplefilter("ignore")
                self._work(case, place, told)
            verdict, said = WORKED, "; ".join(told)
        except MrsxrError as error:
            text = str(error)
            verdict, said = REFUSED, text
            if "\n" in text or not text:
                verdict, said = FAULT, f"error of several lines: {text!r}"
        except Silent as error:
            said = f"silent: {error}"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "mrsxr/" in f.filename]
            said = f"{type(error).__name__}: {str(error)[:200]} at {' '.join(ours[-3:])}"
        outside = [str(p) for p in room.iterdir() if p.name not in ("in", "out")]
        outside += [str(p) for p in (room / "in").iterdir() if p.name != "deep"]
        if outside:
            verdict, said = FAULT, f"written outside: {outside}"
        shutil.rmtree(room, ignore_errors=True)
        return verdict, said

    def _work(self, case: Case, place: Path, told: list[str]) -> None:
        getattr(self, f"_{case.kind}")(case, place, told)

    def _fits(self, case: Case, place: Path, told: list[str]) -> None:
        base = bases.one_file(self.folder / case.base)
        path = place / base.name
        path.write_bytes(case.change(base.read_bytes()))
        self._load(case, path, told)

    def _load(self, case: Case, path: Path, told: list[str]) -> None:
        out = path.parent / "out" / "a"
        done = check_use(path, out)
        compare(case, done, self.of(case.base), told)

    def _meta(self, case: Case, place: Path, told: list[str]) -> None:
        base = bases.one_file(self.folder / case.base)
        path = place / base.name
        path.write_bytes(with_meta(base.read_bytes(), case.change(read_meta(base)), place))
        (place / "meta.fits").unlink()
        self._load(case, path, told)

    _bytes = _fits

    def _nc(self, case: Case, place: Path, told: list[str]) -> None:
        base = bases.one_file(self.folder / case.base)
        path = place / base.name
        shutil.copy(base, path)
        _nc(case.change)(path)
        self._load(case, path, told)

    def _zarr(self, case: Case, place: Path, told: list[str]) -> None:
        base = bases.one_file(self.folder / case.base)
        path = place / base.name
        shutil.copytree(base, path)
        case.change(path)
        self._load(case, path, told)

    def _reference(self, case: Case, place: Path, told: list[str]) -> None:
        from mrsxr.references import References, read_reference

        base = bases.one_file(self.folder / case.base)
        kind = case.base.partition("_")[2]
        path = place / base.name
        path.write_bytes(case.change(base.read_bytes()))
        _ = (References(place).kinds, References({kind: path}))
        done = read_reference(path, kind).compute()
        compare(case, done, self.of(case.base), told)

    def _stpsf(self, case: Case, place: Path, told: list[str]) -> None:
        from mrsxr.cal import psf_of_stpsf

        base = bases.one_file(self.folder / case.base)
        path = place / base.name
        path.write_bytes(case.change(base.read_bytes()))
        compare(case, psf_of_stpsf(path), self.of(case.base), told)

    def _tree(self, case: Case, place: Path, told: list[str]) -> None:
        import asdf

        from mrsxr.references import read_reference

        base = bases.one_file(self.folder / case.base)
        path = place / base.name
        with asdf.open(base, memmap=False, lazy_load=False) as document:
            tree = case.change(dict(document.tree))
            asdf.AsdfFile(tree).write_to(path)
        done = read_reference(path, case.base.partition("_")[2]).compute()
        compare(case, done, self.of(case.base), told)

    def _toml(self, case: Case, place: Path, told: list[str]) -> None:
        from mrsxr.pipeline import Recipe

        path = place / "c.toml"
        path.write_bytes(case.change)
        Recipe.of(path)

    def _association(self, case: Case, place: Path, told: list[str]) -> None:
        import mrsxr as mx
        from mrsxr import tree
        from mrsxr.io import summarize

        path, content = bases.association(place)
        changed = case.change(content)
        path.write_text(changed if isinstance(changed, str) and len(changed) > 1 else json.dumps(changed))
        summarize(path)
        data = mx.open_observation(path)
        for number, (_, ds) in enumerate(tree.leaves(data)):
            mx.save(ds, place / "out" / "a" / str(number))
        mx.save(data, place / "out" / "a", "netcdf")

    def _place(self, case: Case, place: Path, told: list[str]) -> None:
        """Every way must be refused, where that is expected."""
        from mrsxr.errors import MrsxrError

        last: MrsxrError | None = None
        for number, way in enumerate(case.change(place)):
            try:
                way()
            except MrsxrError as error:
                if "\n" in str(error):
                    raise Silent(f"way {number}: error of several lines: {error}") from error
                last = error
            except Exception as error:
                error.args = (f"way {number}: {error}",)
                raise
            else:
                if case.expect == "refused":
                    raise Silent(f"way {number} was taken")
        if last is not None:
            raise last


def main(folder: str, selection: str) -> None:
    from cases import all_cases

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    cases = all_cases(Path(folder))
    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory() as work:
        runner = Runner(Path(folder), Path(work))
        for name in json.loads(Path(selection).read_text()):
            print(json.dumps(["begin", name]), flush=True)
            verdict, said = runner.run(cases[name])
            print(json.dumps(["end", name, verdict, said]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
