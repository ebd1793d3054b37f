"""Limits: the power law, traces in counts, facts and length, and tables that follow from what is kept."""

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

from reasoning_distill import limits
from reasoning_distill.core import InputError, Trace
from reasoning_distill.limits import (
    FactsConfig,
    chain_of,
    facts,
    kept_measurements,
    law_of,
    law_table,
    lengthened,
    measure_facts,
    steps_table,
    students,
    study_limits,
    sums,
)
from reasoning_distill.tasks.arithmetic import arithmetic_task
from reasoning_distill.tasks.generate import generate
from reasoning_distill.templates import target_for


@pytest.fixture(scope="module")
def problem(): return generate(arithmetic_task(0, 50), "test", 3, 0, (3,), 0.0)[2]


@pytest.mark.parametrize("right", [{1: (88, 100), 2: (70, 100), 3: (61, 90)}, {2: (50, 50), 3: (49, 50)}, {4: (3, 200), 12: (0, 150)}])
def test_the_law_is_the_likeliest_and_its_deviance_that_of_scipy(right):
    def log_likelihood(p): return sum(r*k*np.log(p) + (n - r)*np.log1p(-p**k) for k, (r, n) in right.items())
    best = minimize_scalar(lambda p: -log_likelihood(p), bounds=(1e-9, 1 - 1e-9), method="bounded", options={"xatol": 1e-12})
    law = law_of(right)
    free = sum((r*np.log(r/n) if r else 0) + ((n - r)*np.log(1 - r/n) if r < n else 0) for r, n in right.values())
    assert law.step == pytest.approx(best.x, abs=1e-6) and law.deviance == pytest.approx(2*(free + best.fun), abs=1e-6)
    assert law.p == pytest.approx(chi2.sf(law.deviance, len(right) - 1), rel=1e-6)


def test_the_law_is_rejected_as_often_as_it_should_be_and_always_when_it_is_not_one():
    rng = np.random.default_rng(0)
    ps = [law_of({k: (int(rng.binomial(300, 0.93**k)), 300) for k in range(1, 7)}).p for _ in range(400)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.09
    assert law_of({2: (180, 200), 3: (170, 200), 4: (5, 200)}).p < 1e-9
    assert law_of({1: (0, 10), 2: (0, 10)}).step < 1e-9 and law_of({1: (10, 10), 2: (10, 10)}).step > 1 - 1e-9


def test_a_chain_is_counted_to_its_first_departure(problem):
    gold = problem.gold.steps
    for i in range(3):
        steps = [*gold]
        steps[i] = replace(steps[i], text=steps[i].text.replace(steps[i].result, "987"), result="987")
        chain = chain_of(problem, target_for(Trace("", tuple(steps), "987"), "reason", "plain"))
        assert (chain.good, chain.planned, chain.true, chain.equations, chain.right) == (i, True, 2, 3, False)
        assert chain.concluded == (i == 2)
    other = replace(gold[1], text="Ann has <<900+1=901>>901.", expression="900+1", result="901")
    swapped = chain_of(problem, target_for(Trace("", (gold[0], other, gold[2]), problem.answer), "reason", "plain"))
    assert swapped.true == 3 and swapped.good == 1 and swapped.right
    nothing = chain_of(problem, f"#### {problem.answer}")
    assert nothing.right and not (nothing.written or nothing.planned or nothing.concluded or nothing.equations)


def test_what_an_equation_says_is_never_run(problem):
    chain = chain_of(problem, "Ann has <<__import__('os')=1>>1.\n#### 1")
    assert chain.true == 0


def test_facts_follow_from_nothing_and_sums_are_apart():
    one, other = facts(2000, 0), facts(2000, 1)
    assert [p.answer for p in one] != [p.answer for p in other] and len({p.question for p in one}) == 2000
    known = {p.question: p.answer for p in one}
    assert np.mean([known.get(p.question) == p.answer for p in other]) < 0.01
    trained, held = sums(1500, 500, 0)
    assert not {p.question for p in trained} & {p.question for p in held} and len(trained) == 1500 and len(held) == 500
    assert all(sum(map(int, p.question.rstrip("?").split(" + "))) == int(p.answer) for p in held)


def test_a_student_large_enough_knows_its_facts_and_their_bits():
    small = FactsConfig(facts=12, sums=10, held_out=10, tokens=250_000)
    found = measure_facts(32, 0, small)
    assert found.counts["recalled"] == 12 and found.counts["bits"] == pytest.approx(12*np.log2(900), rel=0.02)
    assert measure_facts(32, 0, small).counts == found.counts, "same seed, same counts"
    untrained = measure_facts(8, 0, replace(small, tokens=600))
    assert untrained.counts["recalled"] <= 1 and untrained.counts["bits"] < 0


def test_a_longer_question_has_the_same_answer_and_its_people_are_strangers(problem):
    longer = lengthened(problem, 5, random.Random(0))
    assert (longer.answer, longer.gold) == (problem.answer, problem.gold) and longer.question.count(".") == problem.question.count(".") + 5
    added = longer.question[len(problem.question.rsplit(". ", 1)[0]) + 2:].rsplit(". ", 1)[0]
    assert not any(name in problem.question for name in limits.NAMES if f"{name} has" in added)


def test_the_committed_tables_follow_from_the_kept_measurements(root, tmp_path):
    rows = kept_measurements(root/"paper"/"results"/"limits.jsonl")
    found = limits.write_limits(rows, str(tmp_path), str(tmp_path))
    for name in found.tables:
        for suffix in (".csv", ".md", ".tex"):
            assert (tmp_path/f"{name}{suffix}").read_bytes() == (root/"paper"/"tables"/f"{name}{suffix}").read_bytes(), name
    assert (tmp_path/"limits.svg").read_bytes() == (root/"figures"/"limits.svg").read_bytes()


def test_what_is_kept_has_every_cell(root):
    rows = kept_measurements(root/"paper"/"results"/"limits.jsonl")
    table = steps_table(rows)
    assert {*table["steps"]} == {*range(1, 13)} and {*table[table["row"] == "cot"]["seeds"]} == {3}
    assert {(trained, name) for trained, names in limits.ASKED.items() for name in names} == {*zip(table["trained"], table["row"], strict=True)}
    assert {m.setting["width"] for m in rows if m.what == "facts"} == {8, 16, 32, 64}
    for m in rows:
        if m.what == "steps": assert m.counts["good"] == sorted(m.counts["good"], reverse=True) and len(m.counts["good"]) == m.setting["steps"]
    assert {*law_table(rows)["row"]} == {"teacher", "answer_only", "cot", "cot_verified", "feedback", "on_policy"}


def test_the_whole_study_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ASKED", {"2 to 3": ("teacher", "answer_only", "cot"), "4 to 6": ("teacher",)})
    tiny = ("{task.base: 200, task.teacher: 300, task.train: 60, task.validation: 20, task.test: 40, task.hard: 10, task.shift: 10, "
            "base.fit.tokens: 10000, teacher.fit.tokens: 20000, teacher.model.width: 32, teacher.model.layers: 1, student.width: 32, "
            "student.layers: 1, fit.tokens: 10000, max_new_tokens: 20}")
    places = {"records_dir": str(tmp_path), "tables_dir": str(tmp_path/"tables"), "figures_dir": str(tmp_path/"figures")}
    found = study_limits("smoke", "0", "8", 3, 10, 5000, tiny, str(tmp_path/"runs"), 1, **places)
    assert len(found.rows) == 1 + 12*(3 + 1) + 2*6*4 and (tmp_path/"limits.jsonl").is_file() and (tmp_path/"figures"/"limits.pdf").is_file()
    assert kept_measurements(tmp_path/"limits.jsonl") == found.rows


@pytest.mark.parametrize("call, part", [
    (lambda: law_of({}), "counts {} cannot be fitted"), (lambda: law_of({2: (3, 2)}), "cannot be fitted"),
    (lambda: facts(10**6, 0), "1000000 facts are not to be had"), (lambda: sums(0, 5, 0), "0 and 5 sums"),
    (lambda: students("smoke", [0], "runs", {"fit.ler": 1}), "setting 'ler' is unknown"),
    (lambda: limits.limits_of([]), "run nbs/experiments/limits.ipynb")])
def test_wrong_input_is_refused_in_one_line(call, part):
    with pytest.raises(InputError) as e: call()
    assert part in str(e.value) and "\n" not in str(e.value)
