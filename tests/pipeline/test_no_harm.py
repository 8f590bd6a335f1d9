"""Do no harm: every parameter in which optimal differs from baseline judges itself, or has no fit that could harm.

A new difference of the modes stands in one of both tables of no_harm_cases.py, or fails. What judges itself is run on
data where it gains, and says so by its score, and on data where it cannot, and is the baseline, bit for bit.
"""

from __future__ import annotations

import dataclasses

import pytest
from no_harm_cases import EXEMPT, JUDGED

from mrsxr.pipeline import Config
from mrsxr.scores import decisions


def differences() -> dict[str, tuple[object, object]]:
    """Return the values of baseline and optimal of every parameter in which they differ."""
    modes = Config.of_mode("baseline"), Config.of_mode("optimal")
    out = {}
    for section in dataclasses.fields(Config):
        parts = [getattr(mode, section.name) for mode in modes]
        for one in dataclasses.fields(parts[0]):
            values = tuple(getattr(part, one.name) for part in parts)
            if values[0] != values[1]:
                out[f"{section.name}.{one.name}"] = values
    return out


def test_every_difference_of_the_modes_judges_itself_or_is_exempt():
    found, known = set(differences()), [set(JUDGED), set(EXEMPT)]
    assert found == set().union(*known), "judge the step on data that it did not fit, see CONTRIBUTING"
    assert sum(map(len, known)) == len(found), "a parameter stands in one table"


@pytest.mark.parametrize("parameter", sorted(JUDGED))
@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_optimal_gains_or_is_the_baseline(parameter):
    score, run, instead = JUDGED[parameter]
    before, after = differences()[parameter]
    before = before if instead is None else instead
    for gains in (True, False):
        baseline, optimal = run(before, gains), run(after, gains)
        told = {one.step: one for one in decisions(optimal)}
        assert score in told, f"no score_{score} in the product"
        assert (told[score].n_taken > 0) is gains, told[score].text
        names = [name for name in baseline.data_vars if not str(name).startswith("score_")]
        same = [baseline[name].equals(optimal[name]) for name in names]
        assert all(same) is not gains, dict(zip(names, same, strict=True))
