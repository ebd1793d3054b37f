from dataclasses import replace

import pytest

from reasoning_distill.claims import (
    CLAIMS,
    Claim,
    evidence,
    ledger,
    marks_in,
    missing,
    ordering,
    places,
    price,
    share_of_teacher,
    verdict_of,
    written,
)
from reasoning_distill.core import InputError


@pytest.fixture(scope="module")
def found():
    return evidence()


def said(claim, found): return ledger(found, [Claim("", "", "", claim)]).iloc[0]


def test_the_committed_ledger_follows_from_the_kept_records(root, found):
    assert ledger(found).to_markdown(index=False, disable_numparse=True) in (root/"paper"/"tables"/"claims.md").read_text()


def test_every_claim_has_a_source_a_test_and_a_verdict(found):
    table = ledger(found)
    assert len(table) == len(CLAIMS) == len({*table.claim}) and (table.source != "").all() and (table.test != "").all()
    measured = table[table.found != ""]
    assert (measured["where"] != "").all() and len(measured) >= 10
    assert table[table.found == ""].verdict.str.startswith("not testable here: ").all()


@pytest.mark.parametrize("low, high, verdict", [(0.1, 2, "reproduced"), (-2, -0.1, "refuted"), (-0.1, 2, "not reproduced"),
                                                (0.0, 1, "not reproduced")])
def test_a_verdict_follows_from_the_interval(low, high, verdict): assert verdict_of(low, high) == verdict


def test_an_ordering_turned_round_turns_its_verdict(found):
    up, down = said(ordering("cot", "answer_only"), found), said(ordering("answer_only", "cot"), found)
    assert (up.verdict, down.verdict) == ("reproduced", "refuted") and up.found.startswith("+") and down.found.startswith("-")
    assert said(ordering("cot", "cot"), found).verdict == "not reproduced"


def test_rows_are_compared_within_a_place_only(found):
    cot = next(row for (block, task, name), row in found.items() if (block, task, name) == ("benchmark", "arithmetic", "cot"))
    some = {("benchmark", "strategy", "cot"): cot, ("gpu", "strategy", "on_policy"): cot, ("gpu", "science", "on_policy"): cot}
    assert said(ordering("on_policy", "cot"), some).verdict == "not testable here: not run yet"
    both = {**some, ("gpu", "strategy", "cot"): cot}
    assert [*places(both, "on_policy", "cot")] == [("gpu", "strategy")] and said(ordering("on_policy", "cot"), both)["where"] == "strategy (gpu) +0.0"
    twice = {**both, ("benchmark", "strategy", "on_policy"): cot}
    assert [*places(twice, "on_policy", "cot")] == [("benchmark", "strategy")], "one block speaks for a task"
    apart = {("a", "t", "x"): {0: cot[0]}, ("a", "t", "y"): {1: cot[0]}}
    assert said(ordering("x", "y"), apart).verdict == "not testable here: no seed in common"


def test_another_way_of_asking_stands_behind_a_dot(found):
    label, rationale = (found["benchmark", "arithmetic", name] for name in ("step_by_step", "step_by_step · rationale"))
    assert {*label} == {*rationale} and sum(marks_in(rationale[0])) == rationale[0].metrics["strict"]["right"] != label[0].metrics["strict"]["right"]


def test_fewer_steps_are_shorter_chains_and_more_tokens_cost_more(found):
    r = found["benchmark", "arithmetic", "cot"][0]
    short = replace(r, metrics={**r.metrics, "written": r.metrics["written"] - 1}, tokens={**r.tokens, "teacher": 2*r.tokens["teacher"]})
    some = {("b", "t", "cot"): {0: r}, ("b", "t", "feedback"): {0: short}}
    assert said(ordering("feedback", "cot", written, "steps", 1.0), some).found == "+1.000 steps [+1.000, +1.000]"
    assert said(ordering("feedback", "cot", price, "million", 1.0), some).verdict == "reproduced: on one seed"


def test_an_average_does_not_hide_that_its_tasks_disagree(found):
    r = found["benchmark", "arithmetic", "cot"][0]
    def all_marked(mark): return {0: replace(r, metrics={**r.metrics, "marks": mark*50})}
    some = {("b", "one", "x"): all_marked("1"), ("b", "one", "y"): all_marked("0"),
            ("b", "two", "x"): all_marked("0"), ("b", "two", "y"): all_marked("1")}
    line = said(ordering("x", "y"), some)
    assert line.verdict == "mixed: on one seed" and line["where"] == "one (b) +100.0, two (b) -100.0"


def test_a_share_of_the_teacher_is_told_with_its_cost(found):
    for row, low, high, cost, verdict in (("cot", 50, 100, 100, "reproduced"), ("cot", 10, 20, 100, "refuted"),
                                          ("cot", 50, 100, 5, "not testable here: teacher and student are too near in size")):
        line = said(share_of_teacher(row, low, high, cost), found)
        assert line.verdict == verdict and "% of the FLOPs an answer" in line.found


def test_a_verdict_of_another_name_is_refused():
    assert ledger({}, [Claim("", "", "", missing("no weights"))]).verdict[0] == "not testable here: no weights"
    with pytest.raises(InputError, match="verdict 'plausible' is unknown"):
        ledger({}, [Claim("", "", "", lambda found: replace(missing("")(found), verdict="plausible"))])
