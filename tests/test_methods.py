from dataclasses import replace

import pytest
import torch
from conftest import KINDS

from reasoning_distill.core import InputError
from reasoning_distill.evaluate import evaluate, summarise
from reasoning_distill.methods.answer_only import AnswerOnlyConfig, answer_only
from reasoning_distill.methods.cot import CotConfig, cot
from reasoning_distill.models.sampling import Completion
from reasoning_distill.teachers.local import GoldTeacher, LocalTeacher, collect
from reasoning_distill.templates import read_trace, target_for
from reasoning_distill.training import FitConfig, Setup


@pytest.fixture
def setup(make, problems, tmp_path):
    def build(kind="decoder", teacher=None):
        return Setup(make(kind), teacher or GoldTeacher(), problems[:60], problems[60:80], "plain", FitConfig(tokens=9000, evaluations=3), 0,
                     tmp_path/"run", tmp_path/"traces")
    return build


class Scripted:
    "A teacher whose replies are known."
    name, key = "scripted", "scripted"

    def __init__(self, reply): self.reply, self.asked = reply, []

    def traces(self, problems, samples, temperature, max_new_tokens, seed):
        self.asked.append((len(problems), samples, temperature))
        return [read_trace(self.reply(p, j), p.id, source=self.name, sample=j, prompt_tokens=10, tokens=5) for p in problems for j in range(samples)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method, config", [(answer_only, AnswerOnlyConfig()), (cot, CotConfig(samples=2))])
def test_a_method_trains_either_kind_of_student(setup, problems, kind, method, config):
    given = setup(kind)
    before = torch.cat([p.detach().flatten() for p in given.student.model.parameters()])
    outcome = method(given, config)
    assert not torch.equal(before, torch.cat([p.flatten() for p in given.student.model.parameters()]))
    assert outcome.report["examples"] == 60 and outcome.history.curve[-1]["validation"] < outcome.history.curve[0]["validation"]
    result = summarise(evaluate(given.student, problems[80:], "reason", "plain", max_new_tokens=30))
    assert result["strict"]["n"] == 40


def test_answer_only_never_sees_a_step_and_asks_nobody(setup, monkeypatch):
    seen = []
    from reasoning_distill.methods import answer_only as module
    monkeypatch.setattr(module, "fit", lambda student, train, *rest: seen.extend(student.tokenizer.decode([*e.prompt, *e.completion]) for e in train))
    teacher = Scripted(lambda p, j: 1/0)
    answer_only(setup(teacher=teacher), AnswerOnlyConfig())
    assert len(seen) == 60 and not any("<<" in s or "has <" in s for s in seen) and teacher.asked == []


def test_cot_asks_for_samples_and_keeps_the_readable(setup):
    def reply(p, j): return target_for(p.gold, "reason", "plain") if j < 2 else "I do not know."
    teacher = Scripted(reply)
    outcome = cot(setup(teacher=teacher), CotConfig(samples=3, temperature=0.9))
    assert teacher.asked == [(60, 3, 0.9), (20, 1, 0.0)]
    assert outcome.report == {"examples": 120, "traces": 180, "truncated": 0, "no answer": 60, "unknown characters": 0, "wrong answer": 0,
                              "kept": 120}
    assert sum(t.tokens for t in outcome.traces) == 5*200  # the unreadable were paid for, too


def test_cot_can_keep_right_answers_only(setup, problems):
    wrong = {p.id for p in problems[:30]}
    def reply(p, j): return target_for(p.gold, "reason", "plain") if p.id not in wrong else "It is.\n#### 1000"
    outcome = cot(setup(teacher=Scripted(reply)), CotConfig(samples=2, keep="gold"))
    assert outcome.report["wrong answer"] == 60 and outcome.report["kept"] == outcome.report["examples"] == 60
    assert cot(setup(teacher=Scripted(reply)), CotConfig(samples=2)).report["kept"] == 120
    with pytest.raises(InputError, match="rule for keeping traces 'best' is unknown"): CotConfig(keep="best")


def test_cot_with_nothing_to_learn_from_says_so(setup):
    with pytest.raises(InputError, match="0 of 180 training and 0 of 20 validation traces of scripted"):
        cot(setup(teacher=Scripted(lambda p, j: "Hm.")), CotConfig())


def test_gold_is_not_stored_and_so_never_stale(setup, problems):
    given = setup()
    cot(given, CotConfig())
    assert not list(given.store.rglob("*.jsonl"))


def test_what_a_vocabulary_cannot_write_is_left_out_and_counted(setup, monkeypatch):
    given = setup(teacher=Scripted(lambda p, j: f"odd {j}\n#### 1"))
    monkeypatch.setattr(type(given.student), "can_write", lambda self, text: "odd 1" not in text)
    assert cot(given, CotConfig(samples=2)).report["unknown characters"] == 60


def test_a_trace_is_never_bought_twice(problems, tmp_path):
    teacher = Scripted(lambda p, j: "#### 1")
    settings = dict(samples=2, temperature=0.7, max_new_tokens=9, seed=0, store=tmp_path)
    first = collect(teacher, problems, chunk=50, **settings)
    assert [n for n, *_ in teacher.asked] == [50, 50, 20]
    next(iter(sorted(tmp_path.glob("*/00000050.jsonl")))).unlink()
    assert collect(teacher, problems, chunk=50, **settings) == first and len(teacher.asked) == 4
    for other in (dict(seed=1), dict(samples=1), dict(temperature=0.8), dict(max_new_tokens=8)):
        asked = len(teacher.asked)
        collect(teacher, problems, chunk=500, **{**settings, **other})
        assert len(teacher.asked) == asked + 1


def test_a_local_teachers_sample_does_not_depend_on_company(make, problems):
    teacher = LocalTeacher(make(), "plain")
    many = teacher.traces(problems[:6], 3, 1.0, 10, 0)
    few = replace(teacher, batch_size=2).traces(problems[4:6], 3, 1.0, 10, 0)
    assert many[12:] == few and len({t.text for t in many}) > 12
    assert all(t.prompt_tokens > 10 and 1 <= t.tokens <= 10 for t in many)


def test_gold_traces_are_one_a_problem(problems):
    assert GoldTeacher().traces(problems, 3, 0.7, 9, 0) == [p.gold for p in problems]


def test_metrics_count_what_happened(problems):
    from reasoning_distill.evaluate import judge
    replies = [Completion(f"A.\nB.\n#### {p.answer}", [1]*7, False) for p in problems[:3]] + [Completion("A.", [1]*9, True)]
    result = summarise([judge(p, c) for p, c in zip(problems, replies, strict=False)])
    assert result["strict"] | {"low": 0, "high": 0} == {"n": 4, "right": 3, "unverifiable": 1, "accuracy": 0.75, "low": 0, "high": 0}
    assert result["written"] == 7/4 and result["tokens"] == 7.5 and result["truncated"] == 0.25
    assert sum(r["n"] for r in result["by_steps"].values()) == 4 and set(result["by_steps"]) == {"2", "3"}
    with pytest.raises(InputError): summarise([])
