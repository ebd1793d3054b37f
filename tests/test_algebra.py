import json
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError
from reasoning_distill.expressions import operand, value_of
from reasoning_distill.tasks.algebra import FAMILIES, FRAMES, KINDS, SHIFTED, algebra_task
from reasoning_distill.tasks.generate import SPLITS, generate, split_of
from reasoning_distill.templates import read_trace, target_for

TASK = algebra_task(0)
QUESTIONS = [s for s in SPLITS if s != "base"]
splits = st.sampled_from(QUESTIONS)
seeds = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def reader():
    "The notebook's reader of questions, which shares no code with the generator: `solve`, `chain` and `careless`."
    cells = json.loads((ROOT/"nbs/tasks/13_algebra.ipynb").read_text())["cells"]
    found = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    names = {}
    exec("import re\nimport sympy", names)
    for source in found:
        if source.startswith("# an independent reader"): exec(source, names)
        for function in ("chain", "careless"):
            if source.startswith(f"def {function}("): exec(source[:re.search(r"\n\n\S", source).start()], names)
    assert not {"KINDS", "value_of", "generate"} & names.keys()
    return names


@pytest.fixture(scope="module")
def sample():
    return {split: generate(TASK, split, 300, seed=7) for split in SPLITS}


def numbers_in(text): return [Fraction(n) for n in re.findall(r"\d+(?:/\d+)?", text)]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(SPLITS), seeds, st.sampled_from([(), (1,), (2,), (3, 4), (5,), (6,)]), st.integers(30, 99))
def test_every_gold_trace_is_true_minimal_and_says_what_it_uses(split, seed, steps, largest):
    for problem in generate(algebra_task(0, largest), split, 12, seed, steps):
        gold = problem.gold.steps
        for i, step in enumerate(gold):
            assert step.text.count("<<") == 1 and step.text.endswith(f" <<{step.expression}={step.result}>>{step.result}.")
            assert not re.search("[<>=]", step.expression) and not re.search(r"\d", step.text.split("<<")[0])
            assert value_of(step.expression, problem.facts) == step.result
            parts = re.findall(r"\(-?\d+(?:/\d+)?\)|\d+", step.expression)
            assert len(parts) == 2 and {j for j in range(i) if operand(gold[j].result) in parts} == set(step.uses)
            assert all(abs(n) <= largest for n in numbers_in(step.expression + " " + step.result))
        assert {u for s in gold for u in s.uses} == set(range(len(gold) - 1))
        assert problem.answer == problem.gold.answer == gold[-1].result and problem.steps == len(gold)
        assert all(abs(n) <= largest for n in numbers_in(re.sub("/", " ", problem.question)))
        assert not steps or split in ("base", "hard") or problem.steps in steps


@settings(deadline=None, max_examples=15)
@given(splits, seeds)
def test_a_wrong_result_leaves_every_later_step_a_value(split, seed):
    for problem in generate(TASK, split, 8, seed):
        for i, step in enumerate(problem.gold.steps[:-1]):
            for later in problem.gold.steps[i + 1:]:
                if i in later.uses:
                    for wrong in ("13", "-4", "2"):
                        assert value_of(re.sub(rf"(?<!\d){re.escape(operand(step.result))}(?!\d)", operand(wrong), later.expression), problem.facts)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(SPLITS), st.sampled_from(SPLITS), st.integers(0, 50), st.integers(0, 50))
def test_no_two_splits_share_a_computation_whatever_the_seeds(a, b, seed, other):
    first, second = ({p.graph for p in generate(TASK, s, 60, n) if p.graph or s != "base"} for s, n in ((a, seed), (b, other)))
    assert a == b or not first & second
    for split, graphs in ((a, first), (b, second)):
        assert all(split_of(g) == split for g in graphs) and (split == "base" or len(graphs) == 60)  # easy problems may repeat


@settings(deadline=None, max_examples=20)
@given(splits, seeds, st.sampled_from(["", *FAMILIES]), st.integers(1, 6))
def test_the_graph_belongs_to_the_computation_and_not_to_the_words(split, seed, family, steps):
    import random
    rng = random.Random(seed)
    plan = next(p for p in (TASK.draw(rng, steps, family, split) for _ in range(1000)) if p)
    texts = [TASK.write(plan, rng, "train") for _ in range(12)]
    assert len({p.graph for p in texts}) == 1 < len({p.question for p in texts})
    assert len({tuple(s.expression for s in p.gold.steps) for p in texts}) == 1


def test_different_numbers_are_a_different_graph(sample):
    for problems in sample.values():
        by_graph = {}
        for p in problems: assert by_graph.setdefault(p.graph, tuple(s.expression for s in p.gold.steps)) == tuple(s.expression for s in p.gold.steps)
    asked, graphs = Counter(p.question for split in QUESTIONS for p in sample[split]), {p.graph for split in QUESTIONS for p in sample[split]}
    assert len(graphs) == 300*len(QUESTIONS) and max(asked.values()) == 1
    assert not graphs & {p.graph for p in sample["base"]} and not asked.keys() & {p.question for p in sample["base"]}


def test_the_text_alone_determines_the_answer(reader, sample):
    assert all(reader["chain"](p.question) == p.answer for p in sample["base"])
    for split in QUESTIONS:
        for p in sample[split][:120]: assert reader["solve"](p.question) == p.answer, p.question


def test_a_family_read_without_its_phrase_has_another_answer(reader):
    "The careless reading crosses out 'than', or the bracket behind a minus sign; what is left must be ordinary wording."
    shapes = {re.sub(r"\{[T]\}", "x", s) for k in KINDS.values() for s in k.says}
    for kind in KINDS.values():
        for family, (_, phrases) in kind.families.items():
            assert {reader["careless"](phrase, family) for phrase in phrases} <= shapes
    rare = [p for p in generate(TASK, "train", 120, seed=3, share=1)]
    assert {p.family for p in rare} == set(FAMILIES)
    for p in rare:
        assert len(re.findall(" less than ", p.question)) == (p.family == "less") and len(re.findall(r"- ?\(", p.question)) == (p.family == "bracket")
        assert reader["solve"](reader["careless"](p.question, p.family)) != p.answer == reader["solve"](p.question)


def test_ordinary_problems_hold_no_rare_phrase(sample):
    ordinary = [p for split in SPLITS for p in sample[split] if not p.family]
    assert not [p.question for p in ordinary if " less than " in p.question or re.search(r"- ?\(", p.question)]
    assert not any(p.family for p in sample["shift"])


def test_shift_shares_no_template_with_the_other_splits(sample):
    assert all(len(set(k.says)) >= 3 and len(set(k.shifted)) >= 3 for k in KINDS.values())
    assert not {f for fs in FRAMES.values() for f in fs} & {f for fs in SHIFTED.values() for f in fs}
    assert not {s for k in KINDS.values() for s in k.says} & {s for k in KINDS.values() for s in k.shifted}
    shape = {split: {re.sub(r"\d+", "1", re.sub(r"\b\d*[a-z]\b", "x", p.question)) for p in sample[split]} for split in SPLITS}
    assert all(not shape["shift"] & found for split, found in shape.items() if split != "shift")


def test_every_number_of_steps_has_several_topics_and_both_families():
    for steps in range(1, 7):
        problems = generate(TASK, "teacher", 60, seed=0, steps=(steps,), share=0.3)
        assert {p.steps for p in problems} == {steps} and len({p.graph.split(":")[0] for p in problems}) >= 6
        assert {p.family for p in problems} == {"", *FAMILIES}


def test_problems_are_the_same_in_another_process():
    code = ("from reasoning_distill.tasks.algebra import algebra_task; from reasoning_distill.tasks.generate import generate, SPLITS; "
            "print([generate(algebra_task(0), s, 6, 7) for s in SPLITS])")
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout for _ in range(2)}
    assert runs == {f"{[generate(TASK, s, 6, 7) for s in SPLITS]}\n"}


def test_a_target_can_be_read_back(sample):
    for split in SPLITS:
        for p in sample[split][:40]:
            again = read_trace(target_for(p.gold, "reason", "plain"), p.id)
            found, gold = ([(s.text, s.expression, s.result) for s in steps] for steps in (again.steps, p.gold.steps))
            assert again.answer == p.answer and found == gold


def test_no_answer_is_frequent_and_words_are_few():
    problems = generate(TASK, "train", 3000, seed=0)
    assert Counter(p.answer for p in problems).most_common(1)[0][1] < 0.05*3000
    assert len({w for p in problems for w in re.findall("[A-Za-z]+", p.question + " ".join(s.text for s in p.gold.steps))}) < 120


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="at least 30"): algebra_task(0, largest=20)
    with pytest.raises(InputError, match="9 steps"): generate(TASK, "test", 5, 0, steps=(9,))
