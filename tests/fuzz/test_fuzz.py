# ruff: noqa: E501
"""Hostile and broken inputs: each is refused in one line, or gives what the undamaged file gives, or says what differs.

``python tests/fuzz/test_fuzz.py [PREFIX ...]`` runs all inputs of these names and prints the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import bases
import harness
from cases import all_cases

#: What was found by others, whatever else is in the sample.
NAMED = (
    "jwst_rate: cut in header of DQ", "own_rate: without DQ", "jwst_rate: SCI NAXIS1 = -1", "own_cal: BAND edited",
    "jwst_cal: TGROUP is 1E300", "jwst_uncal: NINTS is 3", "jwst_rate: CHANNEL is '34      '", "jwst_rate: VA_SCALE is 2.0",
    "toml: rate is a number", "asn: expname null", "asn: product name outside", "place: source is a FIFO",
    "place: beside exposures a FIFO", "place: out is a file", "place: a stage of out is a file",
    "own_rate: dither.exposure = \"../../../x\"", "zarr_s3d: a chunk is gone", "nc_rate: product name outside",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bases.make(tmp_path_factory.mktemp("fuzz") / "bases")


def _assert_no_faults(folder, names, capsys):
    verdicts = harness.run(folder, names)
    with capsys.disabled():
        print(f"\nfuzz: {harness.count(verdicts)}")
    assert len(verdicts) == len(names)
    assert not harness.faults(verdicts), "\n".join(harness.faults(verdicts))


def test_a_sample(folder, capsys):
    names = list(all_cases(folder))
    assert set(NAMED) <= set(names), set(NAMED) - set(names)
    _assert_no_faults(folder, [*NAMED, *[name for name in names[::401] if name not in NAMED]], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["jwst_", "own_", "nc_", "zarr_", "ref_", "stpsf_", "toml", "asn", "place"])
def test_many(folder, capsys, group):
    names = [name for name in all_cases(folder) if name.startswith(group)]
    _assert_no_faults(folder, names[:: 1 if len(names) < 300 else 11], capsys)


def test_the_harness_sees_faults(tmp_path):
    """A hang, a crash, an exception and a silent difference are faults; a refusal of several lines as well."""
    import worker
    from mutations import Case

    from mrsxr.errors import MrsxrError

    runner = worker.Runner(tmp_path, tmp_path / "work")

    def work(error):
        def fail(case, place, told):
            raise error

        return fail

    verdicts = []
    for error in (ValueError("x"), MrsxrError("one line"), worker.Silent("differs"), MemoryError()):
        runner._work = work(error)
        verdicts.append(runner.run(Case("x", "fits", "", "free", None))[0])
    assert verdicts == ["fault", "refused", "fault", "fault"]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        made = bases.make(Path(place) / "bases")
        chosen = [n for n in all_cases(made) if not sys.argv[1:] or n.startswith(tuple(sys.argv[1:]))]
        found = harness.run(made, chosen)
        print("\n".join([*harness.faults(found), harness.count(found)]))
