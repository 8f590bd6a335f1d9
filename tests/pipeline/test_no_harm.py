"""Do no harm: every parameter in which optimal differs from baseline judges itself, or has no fit that could harm.

A new difference of the modes stands in one of both tables of no_harm_cases.py, or fails. What judges itself is run on
data where it gains, and says so by its score, and on data where it cannot, and is the baseline, bit for bit.
"""

from __future__ import annotations

import pytest
from no_harm_cases import EXEMPT, JUDGED

from mrsxr.pipeline import Recipe
from mrsxr.scores import decisions


def differences() -> dict[str, Recipe]:
    """Return by what differs, a step or a parameter of it, the baseline with that of optimal."""
    baseline, optimal = Recipe.of("baseline"), Recipe.of("optimal")
    out = {}
    for mine in baseline.entries:
        name = f"{mine.level}.{mine.name}"
        theirs = optimal.entry(name)
        if mine.skip and theirs.skip:
            continue
        if mine.skip != theirs.skip or mine.part.function is not theirs.part.function:
            given = {"step": theirs.path} if theirs.path else {}
            out[name] = baseline.set(name, skip=theirs.skip, **given, **theirs.given)
            continue
        before, after = mine.values(), theirs.values()
        out |= {f"{name}.{key}": baseline.set(name, **{key: after[key]}) for key in after if after[key] != before[key]}
    return out


def test_every_difference_of_the_recipes_judges_itself_or_is_exempt():
    assert {one.name for one in Recipe.of("baseline").entries} == {one.name for one in Recipe.of("optimal").entries}
    found, known = set(differences()), [set(JUDGED), set(EXEMPT)]
    assert found == set().union(*known), "judge the step on data that it did not fit, see CONTRIBUTING"
    assert sum(map(len, known)) == len(found), "a parameter stands in one table"


@pytest.mark.parametrize("parameter", sorted(JUDGED))
@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_optimal_gains_or_is_the_baseline(parameter):
    score, run, left_out = JUDGED[parameter]
    before, after = Recipe.of("baseline"), differences()[parameter]
    before = before.skipping(parameter.rpartition(".")[0]) if left_out else before
    for gains in (True, False):
        baseline, optimal = run(before, gains), run(after, gains)
        told = {one.step: one for one in decisions(optimal)}
        assert score in told, f"no score_{score} in the product"
        assert (told[score].n_taken > 0) is gains, told[score].text
        names = [name for name in baseline.data_vars if not str(name).startswith("score_")]
        same = [baseline[name].equals(optimal[name]) for name in names]
        assert all(same) is not gains, dict(zip(names, same, strict=True))
