import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError
from reasoning_distill.expressions import operand, value_of
from reasoning_distill.tasks import strategy
from reasoning_distill.tasks.generate import SPLITS, generate, split_of
from reasoning_distill.tasks.strategy import PEOPLE, RELATIONS, TOWNS, make_world, strategy_task

ASKED = [s for s in SPLITS if s != "base"]
splits, seeds = st.sampled_from(ASKED), st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=15)
READINGS = {phrase: word for table in strategy.READINGS.values() for phrase, word in table.items()}
NAME = rf"\b(?:{'|'.join([*PEOPLE, *TOWNS])})\b"
BELOW, ABOVE = "before|earlier|poorer|smaller|younger|below|under|behind|no more", "after|later|richer|larger|older|above|over|more"


def read(question, facts):
    "The answer, from the text of the question and the facts of the world."
    word = re.search(rf"\b({BELOW}|{ABOVE})\b", question)
    about = {"birth": "born|birth", "wealth": "wealth|poorer|richer", "size": "size|smaller|larger|populous", "age": r"\bage\b|younger|older|ancient"}
    attribute, = (a for a, words in about.items() if re.search(words, question))
    heads, values = {"founder": "founder", "founded": "founder", "where": "home", "home": "home", "treats": "doctor", "doctor": "doctor"}, []
    for half in (question[:word.start()], question[word.end():]):
        value, = re.findall(rf"\d+|{NAME}", half)
        for head in reversed(re.findall(rf"\b(?:{'|'.join(heads)})\b", half)): value = facts[f"{heads[head]} of {value}"]
        values.append(int(value if value.isdigit() else facts[f"{attribute} of {value}"]))
    assert values[0] != values[1]
    return "yes" if (values[0] < values[1]) == (word[0] in BELOW.split("|")) else "no"


def template(question):
    return re.sub(r"\d+", "#", re.sub(NAME, "@", question))


def names(problem):
    return {*re.findall(NAME, " ".join([problem.question, *(s.text for s in problem.gold.steps), *problem.facts, *problem.facts.values()]))}


@quick
@given(st.sampled_from(SPLITS), seeds, st.sampled_from((0, 1, 2)), st.integers(40, 99))
def test_every_gold_trace_is_true_minimal_and_in_form(split, seed, world, largest):
    for p in generate(strategy_task(world, largest), split, 24, seed):
        steps = p.gold.steps
        assert p.answer == p.gold.answer == steps[-1].result and p.steps == len(steps)
        assert split == "base" or {i for s in steps for i in s.uses} == {*range(len(steps) - 1)}
        for at, s in enumerate(steps):
            (expression, result, again), = re.findall(r"<<([^<>=]+?) ?= ?([^<>=]+)>> ?(\w+)", s.text)
            assert (expression, result) == (s.expression, s.result) and again == result == value_of(expression, p.facts)
            outside = set(re.findall(r"\w+", re.sub(r"<<.*>> ?\w+", "", s.text)))
            assert not outside & {q.result for q in steps}
            assert s.uses == tuple(i for i in range(at) if operand(steps[i].result) in expression.split())
            assert all(int(n) <= largest for n in re.findall(r"\d+", p.question + s.text))


@quick
@given(splits, seeds, st.sampled_from((0, 3)))
def test_a_second_reader_agrees_and_a_misreader_never_does(split, seed, number):
    facts = make_world(number).facts
    for p in generate(strategy_task(number), split, 30, seed, share=0.5):
        assert read(p.question, facts) == p.answer
        phrases = re.findall("no more", p.question)
        assert len(phrases) == (p.family == "no more")
        if phrases: assert read(p.question.replace("no more", "more"), facts) != p.answer


@quick
@given(st.sampled_from(SPLITS), st.sampled_from(SPLITS), seeds, seeds)
def test_no_two_splits_share_a_computation_whatever_the_seeds(a, b, seed, other):
    first, second = ({p.graph for p in generate(strategy_task(0), s, 60, n) if p.graph or s != "base"} for s, n in ((a, seed), (b, other)))
    for split, graphs in ((a, first), (b, second)):
        assert all(split_of(g) == split for g in graphs) and (split == "base" or len(graphs) == 60)  # easy problems may repeat
    assert a == b or not first & second


@quick
@given(st.sampled_from(ASKED), seeds, st.randoms(use_true_random=False))
def test_a_wrong_result_still_leads_to_an_answer(split, seed, rng):
    for p in generate(strategy_task(1), split, 20, seed):
        at = rng.randrange(1, p.steps - 1)
        known = p.gold.steps[at]
        relation = known.expression.split()[0]
        values = []
        for i, s in enumerate(p.gold.steps):
            words = [next((values[j] for j in s.uses if p.gold.steps[j].result == w), w) for w in s.expression.split()]
            others = [r for f, r in p.facts.items() if f.split()[0] == relation and r != known.result]
            values.append(rng.choice(others) if i == at else value_of(" ".join(words), p.facts))
        assert all(values) and values[-1] in ("yes", "no")


def test_the_same_comparison_in_other_words_is_the_same_graph():
    graphs = {}
    for p in generate(strategy_task(0), "train", 600, 0):
        reading, *lookups, last = p.gold.steps
        left, word, right = last.expression.split()
        assert reading.result == word
        key = frozenset(s.expression for s in lookups), *((left, right) if word == "below" else (right, left))
        assert graphs.setdefault(key, p.graph) == p.graph
    assert len(graphs) == 600 == len(set(graphs.values()))


def test_shift_has_wording_of_its_own_made_of_known_words():
    task = strategy_task(0)
    usual = [p for s in ASKED if s != "shift" for p in generate(task, s, 500, 1)]
    shift = generate(task, "shift", 400, 1)
    new, old = ([p for p in shift if p.family == f] for f in ("", "held out"))
    assert not {template(p.question) for p in new} & {template(p.question) for p in usual + old}
    starts = {template(p.question) for p in usual if p.steps == 4}
    assert {template(p.question) for p in old if p.steps == 4} & starts
    assert not any("no more" in p.question for p in shift)
    words = {w.lower() for p in usual for t in (p.question, *(s.text for s in p.gold.steps)) for w in re.findall(r"[A-Za-z]+", t)}
    assert {w.lower() for p in new for w in re.findall(r"[A-Za-z]+", p.question)} <= words and len(words) < 250


def test_students_never_read_of_those_who_are_held_out():
    task, world = strategy_task(0), make_world(0)
    held = {n for part in world.held.values() for n in part}
    assert len(held) == 8
    for split in ("base", "train", "validation", "test", "hard"):
        assert not any(names(p) & held for p in generate(task, split, 300, 2))
    asked = [p for p in generate(task, "shift", 300, 2) if p.family]
    assert len(asked) > 100 and all({*re.findall(NAME, p.question)} & held for p in asked)
    assert sum(bool(names(p) & held) for p in generate(task, "teacher", 600, 2)) > 200


def test_answers_are_balanced_where_a_question_is_about_the_same_names():
    problems = generate(strategy_task(0), "teacher", 6000, 0)
    assert abs(sum(p.answer == "yes" for p in problems)/6000 - 0.5) < 0.03
    for name in (*PEOPLE, *TOWNS):
        found = [p.answer == "yes" for p in problems if name in p.question]
        assert len(found) > 50 and abs(sum(found)/len(found) - 0.5) < 2.5/len(found)**0.5


def test_easy_material_asks_no_question():
    forms = rf"((\w+ of )+\w+|\d\d (below|above) \d\d|{NAME} [a-z ]+ {NAME}( in \w+)?)\?"
    for p in generate(strategy_task(0), "base", 3000, 0): assert re.fullmatch(forms, p.question) and "no more" not in p.question


def test_easy_material_recalls_every_open_fact():
    task, world = strategy_task(0), make_world(0)
    easy = generate(task, "base", 3000, 0)
    known = {n for part in world.known.values() for n in part}
    assert {f for f in world.facts if f.split()[-1] in known} == {s.expression for p in easy for s in p.gold.steps if " of " in s.expression}
    assert {s.expression for p in easy for s in p.gold.steps} >= {r for r in READINGS if "no more" not in r}


@quick
@given(seeds, st.integers(40, 200))
def test_a_world_has_no_ties(seed, largest):
    world = make_world(seed, largest)
    for relation, (_, end) in RELATIONS.items():
        results = [r for f, r in world.facts.items() if f.startswith(relation)]
        assert len({*results}) == len(results) == 20
        if end == "number": assert all(10 < int(r) < min(largest, 99) for r in results)
    assert all(world.facts[f"doctor of {p}"] != p for p in PEOPLE)


def test_problems_are_the_same_in_another_process():
    code = ("from reasoning_distill.tasks.generate import generate; from reasoning_distill.tasks.strategy import strategy_task; "
            "print([generate(strategy_task(5), s, 4, 7) for s in ('base', 'train', 'shift')])")
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert runs == {f"{[generate(strategy_task(5), s, 4, 7) for s in ('base', 'train', 'shift')]}\n"}


def test_what_cannot_be_had_is_said():
    with pytest.raises(InputError, match="no further problem of 6 steps"): generate(strategy_task(0), "validation", 1500, 0, steps=(6,))
    with pytest.raises(InputError, match="no further problem of 1 steps"): generate(strategy_task(0), "test", 1, 0, steps=(1,))
    with pytest.raises(InputError, match="at least 40"): strategy_task(0, 39)
