import random
from dataclasses import replace

import pytest
from conftest import Scripted, right, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError, Problem
from reasoning_distill.methods.feedback import (
    FeedbackConfig,
    Resuming,
    at_fault,
    changed_once,
    complaint,
    feedback,
    improve,
    in_question,
    pruned,
    recomputed,
    repaired,
    review,
    verdict_on,
)
from reasoning_distill.tasks.corrupt import KINDS, corrupt
from reasoning_distill.tasks.generate import generate
from reasoning_distill.tasks.splits import GENERATORS
from reasoning_distill.teachers.local import LocalTeacher
from reasoning_distill.templates import parts_of, prompt_for, read_trace
from reasoning_distill.traces import trace_examples
from reasoning_distill.training import FitConfig
from reasoning_distill.verify.verifier import steps_of

OFF = dict(repair=False, asks=0, prune=False, drop=False, rounds=1)
P = Problem("p", "Ann has 12 pens. That is 4 more pens than Ben has. Carla has twice as many pens as Ben. How many pens does Carla have?", "16", 2)
MISREAD = "Ben has <<12+4=16>>16.\nCarla has <<16*2=32>>32.\n#### 32"


@pytest.fixture(scope="module", params=[*GENERATORS])
def drawn(request): return generate(GENERATORS[request.param](0), "train", 150, seed=3)


def calculations(trace): return [(s.expression, s.result) for s in trace.steps]


def test_gold_traces_are_left_as_they_are(drawn):
    found = review([p.gold for p in drawn], {p.id: p for p in drawn}, True)
    assert found.right == [p.gold for p in drawn] and not found.wrong and not found.repairs
    assert all(pruned(p.gold, p) is p.gold for p in drawn)


def test_what_is_repaired_ends_in_the_gold_answer_and_is_not_at_fault(drawn):
    rng, repairs, tried = random.Random(0), 0, 0
    for p in drawn:
        for kind in KINDS:
            wrong = corrupt(p, kind, rng)
            if not wrong or kind == "redundant step": continue
            tried, mended = tried + 1, repaired(replace(wrong.trace, problem=p.id), p)
            if mended is None: continue
            repairs += 1
            assert mended.answer == p.answer and not at_fault(verdict_on(mended, p)) and mended.problem == p.id
    assert repairs > 0.1*tried


def test_a_false_result_is_computed_again_and_so_is_what_follows(drawn):
    rng, n, same = random.Random(0), 0, 0
    for p in drawn:
        wrong = corrupt(p, "arithmetic error", rng)
        if not wrong: continue
        n, mended = n + 1, recomputed(wrong.trace.steps, p.facts)
        same += mended is not None and [s.result for s in mended] == [s.result for s in p.gold.steps]
    assert n > 100 and same > 0.95*n, "but for operands that equal a result by chance, and words longer than any in the trace"


def test_a_misread_phrase_is_repaired_by_the_one_change_that_leads_to_the_answer():
    assert calculations(repaired(read_trace(MISREAD, "p"), P)) == [("12-4", "8"), ("8*2", "16")]


@pytest.mark.parametrize("text", ["Carla has 8.\n#### 8", "Ben has 12+4=16.\n#### 16.5", "#### 3", "", "I do not know.",
                                  "Ben has <<2+3=5>>5.\nCarla has <<5*5=25>>25.\n#### 25"])
def test_nothing_is_made_up_where_no_single_change_leads_there(text):
    assert repaired(read_trace(text, "p"), P) is None


def test_of_two_possible_repairs_none_is_taken():
    p, text = Problem("q", "Ann has 6 pens, Ben 2.", "10", 2), "<<6+2=8>>8\n<<8-2=6>>6\n#### 6"
    assert len(changed_once(steps_of(text), p)) == 2 and repaired(read_trace(text, "q"), p) is None


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300), st.text(max_size=20))
def test_whatever_a_model_writes_is_survived(text, answer):
    trace, p = read_trace(text, "p"), replace(P, answer=answer)
    verdict = verdict_on(trace, p)
    repaired(trace, p)
    pruned(trace, p)
    assert isinstance(complaint(trace, verdict), str)


def test_pruning_takes_what_was_put_in_and_nothing_else(drawn):
    rng, same, n = random.Random(1), 0, 0
    for p in drawn:
        padded = corrupt(p, "redundant step", rng)
        if not padded: continue
        n, short = n + 1, pruned(replace(padded.trace, problem=p.id), p)
        assert short.answer == p.answer and not at_fault(verdict_on(short, p))
        same += calculations(short) == calculations(p.gold)
    assert same > 0.9*n


def test_the_teacher_is_told_of_the_error_and_never_of_the_answer():
    trace = read_trace(MISREAD.replace("16*2=32>>32", "16*2=30>>30").replace("#### 32", "#### 30"), "p")
    told = in_question((P, trace, verdict_on(trace, P)), "plain").question
    assert told.startswith(P.question) and "The answer 30 is wrong." in told and "Step 2 is doubtful: arithmetic error." in told
    assert told.count("16") == MISREAD.count("16"), "16 stands there as a step's result alone"
    assert complaint(replace(trace, answer=""), verdict_on(read_trace("", "p"), P)) == "It comes to no answer."


def test_a_model_that_continues_text_goes_on_from_the_steps_that_stand(make, problems):
    student = make(length=256)
    teacher = Resuming(LocalTeacher(student, "plain", key="t"), {problems[0].id: parts_of(problems[0].gold, "plain")[0], problems[1].id: ""})
    found = teacher.traces(problems[:2], 2, 1.0, 10, 0)
    assert [t.problem for t in found] == [problems[0].id]*2 + [problems[1].id]*2 and all(t.tokens <= 10 for t in found)
    assert all(t.text.startswith(problems[0].gold.steps[0].text) and t.steps[0].text == problems[0].gold.steps[0].text for t in found[:2])
    asked = student.encode_prompts([prompt_for(problems[0], "reason", "plain")])[0]
    assert found[0].prompt_tokens > len(asked)
    assert found[2].prompt_tokens == len(student.encode_prompts([prompt_for(problems[1], "reason", "plain")])[0])
    other = Resuming(teacher.teacher, {**teacher.begun, problems[1].id: "x"})
    assert other.key != teacher.key, "another beginning is another request"


def careless(p, j=0):
    "Wrong about every third problem, right when told so."
    if "An earlier attempt" in p.question or int(p.id.rpartition("/")[2]) % 3: return right(p)
    return "So.\n#### 100000"


def test_only_questions_without_a_right_trace_are_asked_about_again(setup):
    teacher = Scripted(careless)
    given = setup(teacher=teacher)
    bad = [p for p in given.train if "100000" in careless(p)]
    outcome = feedback(given, FeedbackConfig(samples=2, rounds=1))
    assert [n for n, *_ in teacher.asked] == [60, 20, 60, len(bad)] and teacher.asked[-1][1:] == (1, 1.0) and 5 < len(bad) < 40
    report = outcome.report
    assert report["asked again"] == len(bad) and report["at fault"] == 3*len(bad) == report["left wrong"] and not report["repaired"]
    assert report["questions without a right trace"] == 0 and report["examples"] == 3*60 - 2*len(bad)
    assert report["tokens asked again"] == 15*len(bad) and len(outcome.traces) == 3*60 + 20 + len(bad)


def test_a_hopeless_question_is_asked_about_as_often_as_was_said_and_then_dropped(setup):
    def stubborn(p, j): return careless(replace(p, question=""))
    teacher = Scripted(stubborn)
    given = setup(teacher=teacher)
    bad = sum("100000" in stubborn(p, 0) for p in given.train)
    outcome = feedback(given, FeedbackConfig(samples=1, asks=3, rounds=1))
    assert [n for n, *_ in teacher.asked[3:]] == [bad]*3 and outcome.report["questions without a right trace"] == bad
    assert outcome.report["examples"] == 2*(60 - bad) and outcome.report["left wrong"] == 5*bad


def test_with_everything_off_it_is_chain_of_thought_on_the_same_pool(setup, monkeypatch):
    from reasoning_distill.methods import feedback as module
    seen = []
    real = module.fit
    monkeypatch.setattr(module, "fit", lambda student, train, *rest: seen.extend(train) or real(student, train, *rest))
    given = setup(teacher=Scripted(careless))
    feedback(given, FeedbackConfig(samples=2, balance=False, **OFF))
    pool = [read_trace(careless(p), p.id) for p in given.train for _ in range(2)] + [read_trace(careless(p), p.id) for p in given.train]
    expected = trace_examples(given.student, pool, given.train, "plain")
    assert sorted(e.completion for e in seen) == sorted(e.completion for e in expected) and len(seen) == 180


@pytest.mark.parametrize("switch, changed", [({"repair": False}, "repaired"), ({"asks": 0}, "asked again"), ({"prune": False}, "pruned")])
def test_each_action_can_be_switched_off(problems, tmp_path, switch, changed):
    rng = random.Random(0)
    made = [corrupt(p, kind, rng) for p in problems for kind in ("wrong operation", "missing step", "redundant step")]
    traces = [replace(c.trace, problem=p.id) for c, p in zip(made, [p for p in problems for _ in range(3)], strict=True) if c]
    teacher = Scripted(lambda p, j: "I do not know.")
    on, off = (improve(teacher, traces, problems, FeedbackConfig(**s), 0, tmp_path/str(len(s))).account for s in ({}, switch))
    if changed == "asked again": traces = [t for t in traces if t.steps]
    assert off[changed] == 0 and (on[changed] > 0 or changed == "asked again")


def test_what_stays_wrong_is_kept_if_that_is_wanted(setup):
    kept = {drop: feedback(replace(setup(teacher=Scripted(careless)), folder=setup().folder/str(drop)),
                           FeedbackConfig(samples=1, asks=0, rounds=1, drop=drop)).report["examples"] for drop in (True, False)}
    assert kept[False] == 120 > kept[True]


def test_the_students_failures_draw_traces_for_the_next_round(setup, monkeypatch):
    from reasoning_distill.methods import feedback as module
    sizes = []
    real = module.fit
    monkeypatch.setattr(module, "fit", lambda student, train, *rest: sizes.append(len(train)) or real(student, train, *rest))
    teacher = Scripted(careless)
    given = setup(teacher=teacher)
    before = weights(given.student)
    outcome = feedback(given, FeedbackConfig(samples=1, rounds=3, questions=10, max_new_tokens=12))
    rounds = outcome.report["rounds"]
    assert [r["failed"] for r in rounds] == [10, 10] and all(r["targeted"] == 10 for r in rounds), "an untrained student fails, its teacher does not"
    assert sizes == [sizes[0], sizes[0] + 10, sizes[0] + 20] and not (before == weights(given.student)).all()
    assert outcome.sampling > 0 and outcome.sampling_tokens > 0 and abs(outcome.history.tokens - given.fit.tokens) < 3000


def test_killed_in_the_middle_of_the_second_round_it_ends_the_same(setup, monkeypatch, tmp_path):
    from reasoning_distill.methods import feedback as module
    deadly, real, calls = [False], module.fit, []
    def mortal(*about):
        calls.append(1)
        def stop(step):
            if deadly[0] and len(calls) == 2 and step == 12: raise KeyboardInterrupt
        return real(*about, stop=stop)
    monkeypatch.setattr(module, "fit", mortal)
    def run(name):
        calls.clear()
        given = replace(setup(teacher=Scripted(careless)), folder=tmp_path/name, fit=FitConfig(tokens=30_000, evaluations=6))
        return given.student, feedback(given, FeedbackConfig(samples=1, questions=10, max_new_tokens=12))
    whole, expected = run("whole")
    deadly[0] = True
    with pytest.raises(KeyboardInterrupt): run("killed")
    deadly[0] = False
    again, found = run("killed")
    def timeless(report): return [{k: v for k, v in r.items() if k != "seconds checking"} for r in (report, *report["rounds"])]
    assert (weights(whole) == weights(again)).all() and len(found.history.starts) == len(expected.history.starts) + 2
    assert [p["validation"] for p in found.history.curve] == [p["validation"] for p in expected.history.curve]
    assert timeless({**found.report, "rounds": []}) == timeless({**expected.report, "rounds": []})
    assert timeless(found.report)[1:] == timeless(expected.report)[1:]


def test_a_teacher_without_a_right_trace_is_one_clear_line(setup):
    with pytest.raises(InputError, match="0 of 180 training and 0 of 20 validation traces of scripted can be learnt from"):
        feedback(setup(teacher=Scripted(lambda p, j: "#### 100000")), FeedbackConfig(samples=1, asks=1))


def test_a_trace_of_several_samples_is_looked_at_once(problems, monkeypatch):
    from reasoning_distill.methods import feedback as module
    count = []
    real = module.verdict_on
    monkeypatch.setattr(module, "verdict_on", lambda *about: count.append(1) or real(*about))
    traces = [replace(problems[0].gold, sample=i) for i in range(5)]
    found = review(traces, {problems[0].id: problems[0]}, True)
    assert len(count) == 1 and [t.sample for t in found.right] == [0, 1, 2, 3, 4]


def test_an_answer_that_cannot_be_compared_is_no_fault():
    p = Problem("w", "Which set?", r"\{1, 2\}", 1)
    verdict = verdict_on(read_trace(r"#### f(x) \in S", "w"), p)
    assert verdict.correct == "unverifiable" and not at_fault(verdict)
