import json
import random
import re
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError, Problem, from_dict, to_dict
from reasoning_distill.expressions import calculate, linked, value_of, written
from reasoning_distill.tasks.corrupt import KINDS, corrupt
from reasoning_distill.tasks.generate import SHARES, generate, split_of
from reasoning_distill.tasks.splits import GENERATORS, TaskConfig, load_task
from reasoning_distill.templates import ANNOTATION, annotated, read_trace, target_for

TASKS = {name: make(0) for name, make in GENERATORS.items()}
names, seeds, splits = st.sampled_from([*TASKS]), st.integers(0, 10**6), st.sampled_from([*SHARES])


def notes(step):
    return [(e.strip(), r.strip()) for e, r in ANNOTATION.findall(step.text)]


def recomputed(expression, facts):
    "An evaluator of its own: two operands, one sign."
    if expression in facts: return facts[expression]
    number = r"\(?(-?\d+(?:/\d+)?)\)?"
    left, sign, right = re.fullmatch(rf"{number}(\+|-|\*|/| mod | above | below ){number}", expression).groups()
    left, right = Fraction(left), Fraction(right)
    if sign in (" above ", " below "): return "yes" if (left > right) == (sign == " above ") and left != right else "no"
    if sign in ("/", " mod "): return str(left/right if sign == "/" else left % right)
    return str({"+": left + right, "-": left - right, "*": left*right}[sign])


@settings(deadline=None, max_examples=40)
@given(names, splits, seeds)
def test_every_gold_trace_leads_to_its_answer(name, split, seed):
    for p in generate(TASKS[name], split, 15, seed):
        assert len(p.gold.steps) == p.steps and p.gold.problem == p.id
        for i, step in enumerate(p.gold.steps):
            assert notes(step) == [(step.expression, step.result)] and annotated(step.expression, step.result) in step.text
            assert recomputed(step.expression, p.facts) == value_of(step.expression, p.facts) == step.result
            assert all(k < i for k in step.uses)
        assert p.gold.steps[-1].result == p.answer == p.gold.answer
        needed = {k for s in p.gold.steps for k in s.uses}
        assert split == "base" or needed == set(range(p.steps - 1)), "a step that nobody needs"  # easy material asks two things at once
        assert from_dict(Problem, json.loads(json.dumps(to_dict(p)))) == p


@settings(deadline=None, max_examples=20)
@given(names, splits, seeds)
def test_a_trace_survives_being_written_and_read(name, split, seed):
    for p in generate(TASKS[name], split, 5, seed):
        for template in ("plain", "boxed"):
            again = read_trace(target_for(p.gold, "reason", template), p.id)
            assert again.answer == p.answer and [(s.expression, s.result) for s in again.steps] == [(s.expression, s.result) for s in p.gold.steps]


@settings(deadline=None, max_examples=15)
@given(names, st.sampled_from([*SHARES]), st.sampled_from([*SHARES]), st.integers(0, 50), st.integers(0, 50))
def test_no_two_splits_share_a_computation_whatever_the_seeds(name, a, b, seed, other):
    first, second = ({p.graph for p in generate(TASKS[name], s, 40, n)} for s, n in ((a, seed), (b, other)))
    assert a == b or not (first & second) - {""}
    assert all(not g or split_of(g) == a for g in first) and ("base" in (a, b) or len(first) == 40)


@pytest.mark.parametrize("name", TASKS)
def test_families_are_where_they_belong(name):
    task = TASKS[name]
    def share(split, **how): return sum(bool(p.family) for p in generate(task, split, 400, 0, **how))/400
    assert 0.15 < share("train") < 0.35 and 0.15 < share("hard") < 0.35 and share("base") == 0
    assert share("teacher", share=0.01) < 0.05 and share("test", share=0) == 0
    assert {p.family for p in generate(task, "shift", 100, 0)} <= {"", *task.unseen}
    assert min(p.steps for p in generate(task, "hard", 60, 0)) > max(task.steps)


@pytest.mark.parametrize("name", TASKS)
def test_problems_are_the_same_in_another_process(name):
    code = ("from reasoning_distill.tasks.splits import GENERATORS; from reasoning_distill.tasks.generate import generate; "
            f"print(generate(GENERATORS['{name}'](7), 'test', 5, 7))")
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert runs == {f"{generate(GENERATORS[name](7), 'test', 5, 7)}\n"}


def test_more_problems_than_there_are_is_an_error():
    with pytest.raises(InputError, match="holds no further problem"): generate(GENERATORS["arithmetic"](0, 20), "test", 10**5, 0, (1,))


@pytest.mark.parametrize("name", TASKS)
def test_the_splits_of_a_task_are_disjoint_and_prefixes_of_larger_ones(name):
    sizes = dict(base=20, teacher=60, train=40, validation=20, test=30, hard=20, shift=20)
    small, large = (load_task(TaskConfig(name, **{k: n*v for k, v in sizes.items()})) for n in (1, 2))
    assert {k: len(v) for k, v in vars(small).items()} == sizes
    assert all(getattr(large, k)[:n] == getattr(small, k) for k, n in sizes.items())
    graphs = [p.graph for k in SHARES if k != "base" for p in getattr(large, k)]
    assert len(set(graphs)) == len(graphs) and not {*graphs} & {p.graph for p in large.base}


def depends(steps, place):
    found = {place}
    for i, s in enumerate(steps): found |= {i} if found & {*s.uses} else set()
    return found


@settings(deadline=None, max_examples=60)
@given(names, st.sampled_from([s for s in SHARES if s != "base"]), st.sampled_from([*KINDS]), seeds)
def test_a_corrupted_trace_differs_exactly_where_it_says(name, split, kind, seed):
    for p in generate(TASKS[name], split, 4, seed):
        found = corrupt(p, kind, random.Random(seed))
        if found is None: continue
        gold, bad, at = p.gold.steps, found.trace.steps, found.place
        assert found.kind == kind and found.trace.problem == p.id and gold[:at] == bad[:at]
        assert (found.trace.answer == p.answer) == (kind == "redundant step")
        assert all(notes(s) == [(s.expression, s.result)] for s in bad)
        true = [value_of(s.expression, p.facts) == s.result for s in bad]
        assert all(t == (kind != "arithmetic error" or j != at) for j, t in enumerate(true))
        assert kind != "arithmetic error" or gold[at].expression == bad[at].expression
        touched = depends(gold, at)
        if kind == "missing step":
            assert len(bad) == len(gold) - 1
            assert all(bad[j - (j > at)].text == gold[j].text for j in range(len(gold)) if j not in touched)
        elif kind == "redundant step":
            assert len(bad) == len(gold) + 1 and [s.text for j, s in enumerate(bad) if j != at] == [s.text for s in gold]
            assert not any(at in s.uses for s in bad) and bad[at].expression not in {s.expression for s in gold}
        else:
            assert len(bad) == len(gold) and bad[at].text != gold[at].text
            assert all(bad[j] == gold[j] for j in range(len(gold)) if j not in touched)
        assert all(k < i for i, s in enumerate(bad) for k in s.uses)
        for s in bad:
            assert all(re.search(rf"(?<![\w.]){re.escape(bad[k].result)}(?![\w.])", s.expression) for k in s.uses)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_most_traces_can_be_corrupted_in_every_way(name, kind):
    problems = generate(TASKS[name], "train", 100, 3)
    assert sum(corrupt(p, kind, random.Random(i)) is not None for i, p in enumerate(problems)) >= 80


def test_corruption_is_the_same_for_the_same_seed():
    p = generate(TASKS["arithmetic"], "train", 1, 0)[0]
    assert len({str(corrupt(p, kind, random.Random(5))) for kind in KINDS for _ in range(3)}) == len(KINDS)


def test_real_solutions_can_be_corrupted(real_data):
    from reasoning_distill.tasks.benchmarks import read_gsm8k
    problems, done = read_gsm8k("test", real_data)[:300], 0
    for p in problems:
        for kind in KINDS:
            found = corrupt(p, kind, random.Random(0))
            if found is None: continue
            done += 1
            assert (calculate(found.trace.answer.replace(",", "")) == calculate(p.answer.replace(",", ""))) == (kind == "redundant step")
    assert done > 700


def test_dependencies_are_read_off_operands():
    steps = read_trace("a <<2+3=5>>5\nb <<5*4=20>>20\nc <<20-5=15>>15\n#### 15", "p").steps
    assert [s.uses for s in linked(steps)] == [(), (0,), (1, 0)]


numbers = st.fractions(min_value=-50, max_value=50, max_denominator=9)


@given(numbers, st.sampled_from(["+", "-", "*", "/", " mod ", " above ", " below "]), numbers)
def test_the_evaluator_agrees_with_fractions(left, sign, right):
    expression = f"({left}){sign}({right})"
    if sign in ("/", " mod ") and right == 0: assert calculate(expression) is None
    else: assert value_of(expression) == recomputed(expression, {})


@given(st.text(max_size=60))
def test_no_text_breaks_the_evaluator(text):
    value = calculate(text)
    assert value is None or written(value)


@pytest.mark.parametrize("name, share", [("arithmetic", 1), ("algebra", 10), ("science", 10)])
def test_no_problem_comes_twice_among_many(name, share):
    "A hundred thousand problems of arithmetic over all splits, and a tenth of that of two other tasks."
    counts = {"teacher": 50_000, "train": 25_000, "validation": 8000, "test": 8000, "hard": 5000, "shift": 4000}
    problems = [p for split, count in counts.items() for p in generate(GENERATORS[name](0), split, count//share, 0)]
    assert len({p.graph for p in problems}) == len({p.question for p in problems}) == len(problems) == 100_000//share


@pytest.mark.parametrize("steps, harder", [((), {4, 5}), ((2, 3), {4, 5}), ((4, 5, 6), {7, 8}), (tuple(range(2, 9)), {9, 10})])
def test_hard_problems_are_longer_than_those_trained_on(steps, harder):
    assert {p.steps for p in generate(GENERATORS["arithmetic"](0, 50), "hard", 6, 0, steps)} == harder
