import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from conftest import KINDS, Scripted, right, weights

from reasoning_distill import traces as traces_module
from reasoning_distill.config import METHODS, VARIANTS, resolve
from reasoning_distill.core import InputError, Trace, from_dict
from reasoning_distill.evaluate import Decoding, evaluate, in_steps, summarise, voted
from reasoning_distill.methods import star as star_module
from reasoning_distill.methods.answer_only import AnswerOnlyConfig, answer_only
from reasoning_distill.methods.classic_kd import ClassicKdConfig, Matched, answer_pairs, classic_kd, kd_loss, scores_of, trace_pairs
from reasoning_distill.methods.contrastive import (
    ContrastiveConfig,
    Pair,
    contrastive,
    contrastive_loss,
    likelihoods,
    negatives,
    paired,
    ranking,
    trials,
)
from reasoning_distill.methods.cot import CotConfig, cot
from reasoning_distill.methods.feedback import FeedbackConfig, feedback
from reasoning_distill.methods.orca import OrcaConfig, assigned, orca, stages_of
from reasoning_distill.methods.star import StarConfig, hinted, star
from reasoning_distill.methods.step_by_step import StepByStepConfig, mean_lengths, pairs, step_by_step, step_examples, two_task_loss
from reasoning_distill.models.losses import forward_kl, jsd, reverse_kl, score
from reasoning_distill.models.sampling import Completion
from reasoning_distill.models.students import Encoded
from reasoning_distill.teachers.local import GoldTeacher, LocalTeacher, collect
from reasoning_distill.templates import STYLES, read_trace, target_for
from reasoning_distill.traces import FILTERS, Asking, keep, lessons, trace_examples
from reasoning_distill.training import FitConfig, chained, fit, optimiser_step, plan_steps, set_weights, weights_of

# Every method, every kind of student

RUNS = {**{name: (name, {}) for name in METHODS}, **{name: v for name, v in VARIANTS.items() if not name.startswith("t5")}}
SMALL = {"feedback": {"options.questions": 20, "options.max_new_tokens": 20}, "on_policy": {"options.longest": 12},
         "star": {"options.warm_traces": 30, "options.iterations": 2, "options.questions": 20, "options.max_new_tokens": 20}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RUNS)
def test_a_method_trains_either_kind_of_student(setup, oracle, problems, kind, name):
    method, changes = RUNS[name]
    config = from_dict(METHODS[method].config, resolve(method, overrides={**changes, **SMALL.get(method, {})}).options)
    given = replace(setup(kind, oracle()), assistant=oracle())
    if name == "contrastive_sampled": given = replace(given,
                                                                            teacher=Scripted(lambda p, j: "So.\n#### 1000" if j == 1 else right(p)))
    before = weights(given.student)
    outcome = METHODS[method].run(given, config)
    assert not torch.equal(before, weights(given.student)) and all(math.isfinite(p["validation"]) for p in outcome.history.curve)
    if method == "star": assert outcome.report["rounds"][0]["solved"] == 0 and outcome.history.tokens > 2000, "it solves nothing, and stops"
    else: assert outcome.report["examples"] > 0 and outcome.history.tokens > 8000
    if "unanchored" not in name: assert outcome.history.curve[-1]["validation"] < outcome.history.curve[0]["validation"]
    for how in config.decodings.values():
        result = summarise(evaluate(given.student, problems[80:90], template="plain", max_new_tokens=12, **vars(how)))
        assert result["strict"]["n"] == 10 and len(result["marks"]) == 10 and result["read"] > result["tokens"]/how.samples


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
    of_steps = outcome.report.pop("by_steps")
    assert outcome.report == {"examples": 120, "traces": 180, "truncated": 0, "no answer": 60, "unknown characters": 0, "kept": 120, "dropped": 0,
                              "undecided": 0}
    assert [sum(r[name] for r in of_steps.values()) for name in ("traces", "traces kept", "questions")] == [180, 120, 60]
    assert sum(t.tokens for t in outcome.traces) == 5*200  # the unreadable were paid for, too


def test_cot_can_keep_right_answers_only(setup, problems):
    wrong = {p.id for p in problems[:30]}
    def reply(p, j): return target_for(p.gold, "reason", "plain") if p.id not in wrong else "It is.\n#### 1000"
    outcome = cot(setup(teacher=Scripted(reply)), CotConfig(samples=2, filter="gold"))
    assert outcome.report["dropped"] == 60 and outcome.report["kept"] == outcome.report["examples"] == 60
    assert cot(setup(teacher=Scripted(reply)), CotConfig(samples=2)).report["kept"] == 120
    with pytest.raises(InputError, match="filter 'best' is unknown"): CotConfig(filter="best")


@pytest.mark.parametrize("name", ["cot", "orca", "feedback", "on_policy"])
def test_many_examples_on_disk_teach_what_they_teach_in_memory(setup, oracle, monkeypatch, tmp_path, name):
    config, found = from_dict(METHODS[name].config, resolve(name, overrides=SMALL.get(name, {})).options), []
    for many in (10**9, 10):
        monkeypatch.setattr(traces_module, "MANY", many)
        given = replace(setup("decoder", oracle()), folder=tmp_path/str(many))
        METHODS[name].run(given, config)
        found.append((weights(given.student), [*given.folder.rglob("examples-*")]))
    (held, nowhere), (read, places) = found
    assert torch.equal(held, read) and not nowhere and places
    monkeypatch.setattr(traces_module, "mapped", lambda *_: pytest.fail("tokenised again"))
    if name == "cot": METHODS[name].run(replace(given, student=setup("decoder").student), config)


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
    again = collect(teacher, problems, chunk=50, **settings)
    assert [replace(t, seconds=0) for t in again] == [replace(t, seconds=0) for t in first] and len(teacher.asked) == 4
    for other in (dict(seed=1), dict(samples=1), dict(temperature=0.8), dict(max_new_tokens=8), dict(style="domain expert")):
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
    assert result["marks"] == "1110"
    with pytest.raises(InputError): summarise([])


# Filters and accounts

def said(*answers): return [Trace("p", (), a, sample=i) for i, a in enumerate(answers)]


@pytest.mark.parametrize("answers, kept", [(["7", "7.0", "8"], [0, 1]), (["7", "8", "9"], []), (["7", "7", "8", "8"], []), (["7"], []), ([], [])])
def test_self_consistency_wants_a_majority(problems, answers, kept):
    assert [t.sample for t in FILTERS["self_consistency"](said(*answers), problems[0])] == kept


def test_ties_are_dropped_and_counted(problems):
    traces = [replace(t, problem=p.id) for p, answers in zip(problems, (["1", "1", "2"], ["1", "2", "3"], ["1", "1", "2", "2"]), strict=False)
              for t in said(*answers)]
    kept, account = keep(traces, problems, "self_consistency")
    assert len(kept) == 2 and account["dropped"] == 8 and account["undecided"] == 2
    assert sum(r["questions kept"] for r in account["by_steps"].values()) == 1


def test_verified_asks_for_something_to_verify_and_for_an_answer(problems):
    p = problems[0]
    assert not FILTERS["verified"]([replace(p.gold, steps=(), text=""), replace(p.gold, answer="", text="")], p)
    assert not FILTERS["verified"]([read_trace(f"Because I say so.\n#### {p.answer}", p.id)], p)


def test_an_account_is_held_against_all_that_was_bought(setup, problems):
    hard = {p.id for p in problems[:60] if p.steps == 3}
    teacher = Scripted(lambda p, j: right(p) if p.id not in hard else "I do not know.")
    of_steps = lessons(setup(teacher=teacher), CotConfig()).account["by_steps"]
    assert of_steps["3"]["questions"] == len(hard) and of_steps["3"]["questions kept"] == of_steps["3"]["traces kept"] == 0


def test_verified_asks_for_true_steps_too(problems):
    p = problems[0]
    first = p.gold.steps[0]
    false = replace(p.gold, steps=(replace(first, text=first.text.replace(f"={first.result}>>", "=999>>"), result="999"), *p.gold.steps[1:]))
    assert FILTERS["verified"]([p.gold], p) and not FILTERS["verified"]([false], p) and FILTERS["gold"]([false], p)


def test_a_question_counts_the_same_however_many_of_its_traces_are_left(setup, problems, monkeypatch):
    from reasoning_distill.methods import cot as module
    seen = []
    monkeypatch.setattr(module, "fit", lambda student, train, *rest: seen.append(train))
    hard = problems[0].id
    teacher = Scripted(lambda p, j: right(p) if p.id != hard or j == 0 else "No.\n#### 1000")
    for balance in (True, False): cot(setup(teacher=teacher), CotConfig(filter="gold", balance=balance))
    assert sorted(e.weight for e in seen[0]) == [1.0]*177 + [3.0] and {e.weight for e in seen[1]} == {1.0}


# Losses

def gradient_of(student, examples, loss, micro_batch):
    optimizer = torch.optim.SGD(student.model.parameters(), lr=1.0)
    before = weights(student)
    value, _ = optimiser_step(student, examples, optimizer, Accelerator(), FitConfig(micro_batch=micro_batch, clip=1e9), loss)
    return value, weights(student) - before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["kd", "two tasks", "contrastive"])
def test_micro_batches_give_the_gradient_of_the_whole_batch_for_every_loss(setup, oracle, problems, kind, name):
    def parts():
        given = setup(kind, oracle())
        golds, weight = [p.gold for p in problems[:12]], [1.0 + i % 3 for i in range(12)]
        if name == "kd": return given.student, trace_pairs(given, golds, weight), kd_loss(given.teacher.model)
        if name == "two tasks":
            made = pairs(given.student, golds, problems, "plain", weights=weight)
            return given.student, made, two_task_loss(mean_lengths(made), (1.0, 0.7))
        others = negatives(golds, problems, ContrastiveConfig(), 0)
        return given.student, paired(given.student, golds, [None, *others[1:]], problems, "plain", weight), contrastive_loss(0.5, 3.0)
    (whole, expected), (cut, found) = (gradient_of(*parts(), micro_batch) for micro_batch in (12, 5))
    assert math.isclose(whole, cut, rel_tol=1e-5) and torch.allclose(expected, found, atol=3e-6) and expected.norm() > 0.01


LOGITS = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))


def test_the_divergences_are_those_of_pytorch_and_trl():
    import os
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl.experimental.gkd import GKDTrainer
    p, q = LOGITS
    theirs = torch.nn.functional.kl_div((q/2).log_softmax(-1), (p/2).log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(forward_kl(p, q, 2.0), theirs, atol=1e-6)
    for beta, ours in ((0, forward_kl), (1, reverse_kl)):
        trl = GKDTrainer.generalized_jsd_loss(q[:, None], p[:, None], beta=beta, temperature=1.5, reduction="sum")
        assert torch.allclose(ours(p, q, 1.5).sum(), trl, rtol=1e-5) and torch.allclose(jsd(p, q, beta, 1.5).sum(), trl, rtol=1e-5)
    for beta in (0.1, 0.5, 0.9):
        trl = GKDTrainer.generalized_jsd_loss(q[:, None], p[:, None], beta=beta, temperature=1.5, reduction="sum")
        assert torch.allclose(jsd(p, q, beta, 1.5).sum(), trl, rtol=1e-5)


class Fixed:
    "A model with known scores for each completion token."
    seq2seq, device, padding = False, "cpu", 0
    def __init__(self, scores): self.scores = scores
    def batch(self, examples):
        from reasoning_distill.models.students import Student
        return Student.batch(self, examples)
    def logits(self, batch, at): return self.scores[:int(at.sum())]


def classic(p, q, tokens, alpha, tau, squared=True, log=lambda z: z.log_softmax(-1)):
    "The objective written out, with two bugs that can be switched on."
    soft = (log(p/tau).exp()*(log(p/tau) - log(q/tau))).sum(-1).sum()
    return alpha*(tau**2 if squared else 1)*soft + (1 - alpha)*torch.nn.functional.cross_entropy(q, tokens, reduction="sum")


@pytest.mark.parametrize("alpha, tau", [(0.5, 2.0), (1.0, 1.0), (0.0, 3.0), (0.9, 4.0)])
def test_classic_kd_is_its_equation_and_not_its_frequent_bugs(alpha, tau):
    p, q = LOGITS
    tokens = [3, 1, 4, 1, 5, 8]
    ours = kd_loss(Fixed(p), alpha, tau)(Fixed(q), [Matched([0], tokens, teacher_prompt=[0, 0])])
    assert torch.allclose(ours, classic(p, q, torch.tensor(tokens), alpha, tau), rtol=1e-5)
    without = classic(p, q, torch.tensor(tokens), alpha, tau, squared=False)
    assert torch.allclose(ours, without, rtol=1e-3) == (tau == 1 or alpha == 0), "a forgotten tau^2 shows wherever it matters"
    far = kd_loss(Fixed(100*p), 1.0, 1.0)(Fixed(100*q), [Matched([0], tokens, teacher_prompt=[0])])
    assert torch.isfinite(far) and not torch.isfinite(classic(100*p, 100*q, torch.tensor(tokens), 1.0, 1.0, log=lambda z: z.softmax(-1).log()))


def test_no_gradient_reaches_the_teacher_and_padded_vocabularies_are_cut(setup, oracle, problems):
    given = setup(teacher=oracle())
    examples = trace_pairs(given, [p.gold for p in problems[:4]])
    kd_loss(given.teacher.model)(given.student, examples).backward()
    assert all(p.grad is None for p in given.teacher.model.model.parameters())
    p, q = LOGITS
    padded = torch.cat([p, torch.full((6, 7), 50.0)], -1)
    def value(teacher): return kd_loss(Fixed(teacher))(Fixed(q), [Matched([0], [3, 1, 4, 1, 5, 8], teacher_prompt=[0])])
    assert torch.allclose(value(p), value(padded))


@pytest.mark.parametrize("student, teacher", [("decoder", "encoder-decoder"), ("encoder-decoder", "decoder")])
def test_a_teacher_of_the_other_kind_scores_the_same_tokens(setup, oracle, problems, student, teacher):
    given = setup(student, oracle(teacher))
    examples = trace_pairs(given, [p.gold for p in problems[:5]])
    alone = sum(kd_loss(given.teacher.model, 1.0)(given.student, [e]) for e in examples)
    assert torch.allclose(kd_loss(given.teacher.model, 1.0)(given.student, examples), alone, rtol=1e-4)


def test_a_teacher_with_the_students_weights_has_nothing_to_add(setup, problems):
    given = setup()
    given = replace(given, teacher=LocalTeacher(given.student, "plain"))
    assert abs(kd_loss(given.student, 1.0)(given.student, trace_pairs(given, [p.gold for p in problems[:5]])).item()) < 1e-3


def test_for_answers_the_teacher_sees_its_reasoning_and_the_student_does_not(setup, oracle, problems):
    given = setup(teacher=oracle())
    wrong = replace(problems[0].gold, answer="1000")
    example = answer_pairs(given, [wrong, replace(wrong, truncated=True), replace(wrong, answer="")])
    decode = given.student.tokenizer.decode
    assert len(example) == 1 and decode(example[0].completion) == f"#### {problems[0].answer}</s>", "the gold answer is the target"
    assert "<<" in decode(example[0].thoughts) and "<<" not in decode(example[0].prompt) and "1000" not in decode(example[0].thoughts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teachers_thoughts_stand_where_it_would_write_them(setup, oracle, problems, kind):
    "Behind a decoder's prompt, at the beginning of what an encoder-decoder writes: either way what it would say next is the same as in one text."
    given = setup(teacher=oracle(kind))
    golds, model = [p.gold for p in problems[:3]], given.teacher.model
    found = scores_of(model, answer_pairs(given, golds)).log_softmax(-1)
    whole = [e.completion for e in trace_pairs(given, golds)]
    prompts = [e.teacher_prompt for e in trace_pairs(given, golds)]
    batch = model.batch([Encoded(p, c) for p, c in zip(prompts, whole, strict=True)])
    ends = [e.completion for e in answer_pairs(given, golds)]
    everything = model.logits(batch).log_softmax(-1)
    rows = [everything[i][batch.weights[i] > 0][-len(end):] for i, end in enumerate(ends)]
    assert torch.allclose(found, torch.cat(rows), atol=1e-4)


def test_classic_kd_refuses_a_teacher_without_scores_or_with_other_tokens(setup, oracle):
    for teacher, part in ((GoldTeacher(), "gold gives text alone"), (Scripted(right), "scripted gives text alone"),
                          (oracle(vocabulary=300), "300 and 400")):
        with pytest.raises(InputError, match=part): classic_kd(setup(teacher=teacher), ClassicKdConfig())


@pytest.mark.parametrize("kind", KINDS)
def test_score_gives_each_token_its_log_probability(make, kind):
    student = make(kind)
    prompts, texts = ["Ann has 3 eggs.\n", "Ben\n", "A"], ["#### 3", "He has 12.\n#### 12", "7"]
    many, single = score(student, prompts, texts), [score(student, [p], [t])[0] for p, t in zip(prompts, texts, strict=True)]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(many, single, strict=True))
    assert [len(row) for row in many] == [len(student.tokenizer(t).input_ids) + 1 for t in texts]


# Step by step

def test_two_tasks_differ_by_their_prefix_alone_and_ask_for_different_things(make, problems):
    student = make()
    both = pairs(student, [replace(problems[0].gold, answer="1000")], problems, "plain")[0]
    label, rationale = (student.tokenizer.decode([*e.prompt, *e.completion]) for e in (both, both.rationale))
    assert label.startswith("[label] ") and rationale.startswith("[rationale] ") and label.endswith(f"#### {problems[0].answer}</s>")
    assert "<<" in rationale and rationale.endswith("#### 1000</s>") and "<<" not in label
    assert student.tokenizer.decode(pairs(student, [replace(problems[0].gold, answer="1000")], problems, "plain",
                                          "teacher")[0].completion) == "#### 1000</s>"


def test_the_repositorys_weighting_is_half_the_papers(setup, problems):
    made = pairs(setup().student, [p.gold for p in problems[:6]], problems, "plain")
    values = [two_task_loss(mean_lengths(made), from_weights)(setup().student, made).item() for from_weights in ((1.0, 1.0), (0.5, 0.5), (1.0, 0.0))]
    assert math.isclose(values[0], 2*values[1], rel_tol=1e-6) and values[2] < values[0]


def test_a_long_rationale_does_not_drown_the_label(setup, problems):
    "Summed token by token, the label would have a tenth of the say."
    made = pairs(setup().student, [p.gold for p in problems[:20]], problems, "plain")
    student, lengths = setup().student, mean_lengths(made)
    label, both = (two_task_loss(lengths, w)(student, made).item() for w in ((1.0, 0.0), (1.0, 1.0)))
    assert 0.35 < label/both < 0.65 and lengths[1] > 4*lengths[0]


def test_every_step_is_learnt_and_not_the_last_alone(make, problems):
    student = make()
    golds = [p.gold for p in problems[:10]]
    examples = step_examples(student, golds, problems, "plain")
    learnt = sum(len(e.completion) - 1 for e in examples)
    whole = sum(len(e.completion) - 1 for e in trace_examples(student, golds, problems, "plain"))
    last_alone = [step_examples(student, [t], problems, "plain")[-1] for t in golds]  # the known bug
    assert learnt == whole > sum(len(e.completion) - 1 for e in last_alone)
    assert len(examples) == sum(len(t.steps) + 1 for t in golds)


def test_no_context_has_two_continuations(make, problems, monkeypatch):
    "Where a step ends a decoder has to stop, and where the next begins it has to go on: without a cue that is the same place."
    from reasoning_distill.methods import step_by_step as module
    def twice(student):
        examples = step_examples(student, [problems[0].gold], problems, "plain")
        contexts = [(*e.prompt, *e.completion[:i]) for e in examples for i in range(len(e.completion))]
        return len(contexts) - len(set(contexts))
    assert twice(make()) == 0
    monkeypatch.setattr(module, "prompt_for_next", lambda prompt, written, template: prompt + written)
    assert twice(make()) == len(problems[0].gold.steps)


def test_a_step_has_its_own_limit_whatever_the_company(make, monkeypatch):
    from reasoning_distill import evaluate as module
    student = make()
    long = student.tokenizer("Ann has 3 eggs.\n"*30).input_ids
    def scripted(student, prompts, keys, max_new_tokens, **how):
        return [Completion(student.tokenizer.decode(ids := long[:n]), ids, False) for n in ((90, 20), (90, 20))[0][:len(prompts)]]
    monkeypatch.setattr(module, "sample", scripted)
    (alone,), _ = in_steps(student, ["a "], ["a"], "plain", 100, temperature=0.0)
    (beside, _), _ = in_steps(student, ["a ", "b "], ["a", "b"], "plain", 100, temperature=0.0)
    assert len(alone.ids) == len(beside.ids) == 100 and alone.text == beside.text and alone.truncated


def test_steps_are_asked_for_until_an_answer_stands_there(make, monkeypatch):
    from reasoning_distill import evaluate as module
    replies = iter([["A is 1.\n", "B is 2.\n", "C is 3.\n"], ["#### 1", "B is 3.\n", "cut"], ["#### 3"]])
    asked = []
    def scripted(student, prompts, keys, max_new_tokens, **how):
        asked.append([*prompts])
        return [Completion(text, [5]*4, text == "cut") for text in next(replies)]
    monkeypatch.setattr(module, "sample", scripted)
    found, read = in_steps(make(), ["a ", "b ", "c "], ["a", "b", "c"], "plain", temperature=0.0)
    assert [[p.removesuffix("Next:\n") for p in row] for row in asked] == [["a ", "b ", "c "], ["a A is 1.\n", "b B is 2.\n", "c C is 3.\n"],
                                                                           ["b B is 2.\nB is 3.\n"]]
    assert [c.text for c in found] == ["A is 1.\n#### 1", "B is 2.\nB is 3.\n#### 3", "C is 3.\ncut\n"] and [c.truncated for c in found] == [False,
                                                                                                                                           False,
                                                                                                                                           True]
    assert read[1] > read[0] and len(found[1].ids) == 12


def test_steps_end_at_the_limit(make, problems):
    "An untrained student never comes to an answer; it has to be stopped, and that has to be counted."
    result = summarise(evaluate(make(), problems[:4], "next_step", "plain", max_new_tokens=30))
    assert result["truncated"] == 1 and result["tokens"] == 30


def test_watching_is_done_without_dropout(setup, monkeypatch):
    from reasoning_distill.methods import contrastive as module
    modes = []
    def spy(student, tried, template):
        modes.append(student.model.training)
        return likelihoods(student, tried, template)
    monkeypatch.setattr(module, "likelihoods", spy)
    contrastive(setup(), ContrastiveConfig())
    assert len(modes) == 5 and not any(modes)


def test_a_vote_counts_values_and_its_whole_price(make, problems):
    replies = [Completion(text, [1], False) for text in ("#### 5", "#### 7", "nothing", "#### 7.0")]
    assert voted(replies, "number") is replies[1]
    student = make()
    one, five = (evaluate(student, problems[:3], "reason", "plain", 10, samples=n, temperature=t) for n, t in ((1, 0.0), (5, 0.7)))
    assert [p.read for p in five] == [5*p.read for p in one] and all(p.tokens <= 50 for p in five) and max(p.tokens for p in five) > 10


# STaR

def rounds_of(setup, monkeypatch, **settings):
    "The weights with which each training of a run begins, and what it trains on."
    seen = []
    def spy(student, train, *rest, **more):
        seen.append((weights(student), [student.tokenizer.decode(e.prompt) for e in train]))
        return fit(student, train, *rest, **more)
    monkeypatch.setattr(star_module, "fit", spy)
    solved = iter([20, 30, 40])
    def tries(student, problems, template, config, seed):  # a student that gets better
        count = next(solved) if "answer is" not in problems[0].question else 5
        return [p.gold for p in problems], [*problems[count:]]
    monkeypatch.setattr(star_module, "attempts", tries)
    given = setup(teacher=Scripted(right))
    return given, star(given, StarConfig(iterations=3, warm_traces=20, questions=50, enough=1.0, max_new_tokens=20, **settings)), seen


def test_each_round_starts_from_the_base_and_not_from_the_last_student(setup, monkeypatch):
    given, outcome, seen = rounds_of(setup, monkeypatch)
    warm, *rounds = [w for w, _ in seen]
    assert len(rounds) == 3 and all(torch.equal(w, rounds[0]) for w in rounds) and not torch.equal(rounds[0], warm)
    assert not torch.equal(weights(given.student), rounds[0])


def test_that_test_would_see_a_student_that_goes_on_from_the_last_round(setup, monkeypatch):
    monkeypatch.setattr(star_module, "set_weights", lambda student, weights: None)
    *_, seen = rounds_of(setup, monkeypatch)
    assert not torch.equal(seen[1][0], seen[2][0])


def test_no_hint_is_saved(setup, monkeypatch):
    *_, seen = rounds_of(setup, monkeypatch)
    (_, warm), *rounds = seen
    assert len(rounds[0][1]) == 25 and not any("The answer is" in prompt for _, prompts in rounds for prompt in prompts)
    assert sum("The answer is" in prompt for prompt in warm) == len(warm)/2, "the warm start shows what a hint is"


def test_that_test_would_see_a_hint_that_is_saved(setup, monkeypatch):
    ours = star_module.trace_examples
    def leaky(student, traces, problems, *rest): return ours(student, traces, [p if "(The" in p.question else hinted(p) for p in problems], *rest)
    monkeypatch.setattr(star_module, "trace_examples", leaky)
    *_, seen = rounds_of(setup, monkeypatch)
    assert any("The answer is" in prompt for _, prompts in seen[1:] for prompt in prompts)


def test_the_account_of_the_rounds(setup, monkeypatch):
    _, outcome, _ = rounds_of(setup, monkeypatch)
    rows = outcome.report["rounds"]
    assert [(r["solved"], r["rationalised"], r["discarded"]) for r in rows] == [(20, 5, 25), (30, 5, 15), (40, 5, 5)]
    assert [r["asked"] for r in rows] == [50]*3 and all(r["trained"] for r in rows)
    assert 8000 < outcome.history.tokens < 11_000, "all rounds and the warm start share the budget"
    steps = [p["step"] for p in outcome.history.curve]
    assert steps == sorted(steps) and outcome.history.best_step <= outcome.history.step


def test_without_hints_nothing_is_rationalised(setup, monkeypatch):
    _, outcome, _ = rounds_of(setup, monkeypatch, rationalise=False)
    assert [r["rationalised"] for r in outcome.report["rounds"]] == [0, 0, 0]


def test_it_stops_when_nothing_more_is_kept(setup, monkeypatch):
    monkeypatch.setattr(star_module, "attempts", lambda student, problems, *rest: ([p.gold for p in problems], [*problems[10:]]))
    given = setup(teacher=Scripted(right))
    outcome = star(given, StarConfig(warm_traces=20, questions=50, max_new_tokens=20, rationalise=False))
    assert [r["trained"] for r in outcome.report["rounds"]] == [True, False]


def timeless(report):
    "A report without the seconds in it."
    if isinstance(report, dict): return {k: timeless(v) for k, v in report.items() if "seconds" not in k}
    return [*map(timeless, report)] if isinstance(report, list) else report


@pytest.mark.parametrize("method, config, at", [(star, StarConfig(iterations=2, warm_traces=30, questions=40, max_new_tokens=20), ("round-1", 4)),
                                                (orca, OrcaConfig(), ("checkpoints", 16)), (contrastive, ContrastiveConfig(), ("checkpoints", 16)),
                                                (feedback, FeedbackConfig(questions=20, max_new_tokens=20), ("round-2", 4))])
def test_a_method_that_was_killed_goes_on_and_ends_the_same(setup, monkeypatch, tmp_path, method, config, at):
    "Interrupted in a training behind the first, or in the middle of the only one; then called again in the same folder with a new student."
    import sys
    module = sys.modules[method.__module__]
    deadly = [False]
    def mortal(student, train, validation, fit_config, seed, folder, *rest, **more):
        def stop(step):
            if deadly[0] and (folder.name, step) == at: raise KeyboardInterrupt
        return fit(student, train, validation, fit_config, seed, folder, *rest, **more, stop=stop)
    monkeypatch.setattr(module, "fit", mortal)
    if method is star:
        monkeypatch.setattr(star_module, "attempts", lambda student, problems, *rest: ([p.gold for p in problems], [*problems[20:]]))
    def run(name):
        given = replace(setup(teacher=Scripted(right)), folder=tmp_path/name, fit=FitConfig(tokens=30_000, evaluations=6))
        return given.student, method(given, config)
    whole, expected = run("whole")
    deadly[0] = True
    with pytest.raises(KeyboardInterrupt): run("killed")
    deadly[0] = False
    again, found = run("killed")
    assert torch.equal(weights(whole), weights(again)) and timeless(found.report) == timeless(expected.report)
    assert [p["validation"] for p in found.history.curve] == [p["validation"] for p in expected.history.curve] and len(found.history.starts) > 1


def test_attempts_accept_by_answer_or_by_steps_too(make, problems, monkeypatch):
    p = problems[0]
    first = p.gold.steps[0]
    false = right(p).replace(f"={first.result}>>", "=999>>", 1)
    monkeypatch.setattr(star_module, "sample", lambda student, prompts, *rest: [Completion(false, [1], False), Completion(right(p), [1], True)])
    lenient, strict = (star_module.attempts(make(), [p, replace(p, id="other")], "plain", StarConfig(accept=how), 0)[1] for how in ("answer",
                                                                                                                                    "steps"))
    assert [q.id for q in lenient] == ["other"] and len(strict) == 2, "one that was cut off is never accepted"


# Orca

def test_only_the_response_is_learnt(setup, oracle, monkeypatch):
    from reasoning_distill.methods import orca as module
    seen = []
    monkeypatch.setattr(module, "fit", lambda student, train, *rest, **more: seen.extend(train))
    given = setup(teacher=oracle())
    orca(given, OrcaConfig(samples=2))
    decode = given.student.tokenizer.decode
    assert len(seen) == 60*2*2 and all(any(decode(e.prompt).startswith(m) for m in STYLES.values()) for e in seen)
    assert not any(m in decode(e.completion) for m in STYLES.values() for e in seen)
    assert sum("Check:" in decode(e.completion) for e in seen) == 60


@pytest.mark.parametrize("tellings", [1, 2, 4])
def test_styles_are_dealt_out_evenly(problems, tellings):
    dealt = assigned(problems, tellings)
    assert [*dealt] == [*STYLES] and {len(part) for part in dealt.values()} == {120*tellings//4}
    assert all(sum(p in part for part in dealt.values()) == tellings for p in problems[:8])


@pytest.mark.parametrize("cumulative", [True, False])
def test_easy_problems_come_first(problems, cumulative):
    traces = [p.gold for p in problems for _ in range(2)]
    stages = stages_of(traces, problems, 3, cumulative)
    steps = {p.id: p.steps for p in problems}
    plan = plan_steps([10]*len(traces), 9000, 8, 0, stages)
    first, last = ([steps[traces[j].problem] for b in part for j in b] for part in (plan[:len(plan)//3], plan[-len(plan)//3:]))
    assert max(first) <= min(last) if not cumulative else sum(first)/len(first) < sum(last)/len(last)
    assert abs(len(plan) - 9000/80) <= 2


def test_the_weaker_teacher_comes_first(setup, oracle, monkeypatch):
    from reasoning_distill.methods import orca as module
    seen = {}
    monkeypatch.setattr(module, "fit", lambda student, train, *rest, stages: seen.update(train=train, stages=stages))
    given = replace(setup(teacher=Scripted(right)), assistant=Scripted(lambda p, j: f"Hm.\n#### {p.answer}"))
    given.assistant.name = given.assistant.key = "assistant"
    outcome = orca(given, OrcaConfig(curriculum="teacher"))
    texts = [given.student.tokenizer.decode(e.completion) for e in seen["train"]]
    assert all(texts[j].startswith("Hm.") for j in seen["stages"][0]) and not any(texts[j].startswith("Hm.") for j in seen["stages"][1])
    assert len(outcome.traces) == 2*(120 + 20), "both teachers are paid"


# Contrastive

def test_negatives_are_wrong_and_of_the_kind_they_say(problems):
    golds = [p.gold for p in problems]
    made = negatives(golds, problems, ContrastiveConfig(kinds=("wrong operation", "missing step")), 0)
    assert {m[0] for m in made if m} <= {"wrong operation", "missing step"} and sum(m is None for m in made) < 12
    assert not any(FILTERS["gold"]([m[1]], p) for m, p in zip(made, problems, strict=True) if m)
    assert made == negatives(golds, problems, ContrastiveConfig(kinds=("wrong operation", "missing step")), 0)


def test_sampled_negatives_are_the_teachers_own_for_the_same_question(problems):
    good, bad = ([replace(p.gold, answer=a or p.answer, sample=i) for p in problems[:5]] for i, a in ((0, ""), (1, "1000")))
    made = negatives(good, problems, ContrastiveConfig(negatives="sampled"), 0, [*good, *bad[:3], replace(bad[3], truncated=True)])
    assert [m and m[1].answer for m in made] == ["1000"]*3 + [None]*2 and all(m[1].problem == t.problem for m,
                                                                              t in zip(made, good, strict=False) if m)


def test_what_is_not_known_to_be_wrong_is_no_negative(problems):
    paris = replace(problems[0], answer="Paris", gold=None)
    texts = [replace(problems[0].gold, answer=a, steps=()) for a in ("Paris", "Paris, France", "London")]
    made = negatives(texts[:1], [paris], ContrastiveConfig(negatives="sampled"), 0, texts)
    assert [m[1].answer for m in made] == ["London"]


def test_contrastive_without_a_negative_says_so(setup):
    with pytest.raises(InputError, match="has a negative"): contrastive(setup(), ContrastiveConfig(negatives="sampled"))


def test_the_margin_is_on_means_and_ends_where_it_is_reached(make):
    student = make()
    a, b = student.encode(["Ann "]*2, ["has 3.", "has 3 eggs and 12 more eggs."])
    s = [row.mean().item() for row in score(student, ["Ann "]*2, ["has 3.", "has 3 eggs and 12 more eggs."])]
    pair = Pair(a.prompt, a.completion, rejected=b.completion)
    lacking = contrastive_loss(1.0, 5.0, 0.0)(student, [pair]).item()
    assert math.isclose(lacking, len(a.completion)*(5 - (s[0] - s[1])), rel_tol=1e-4)
    assert contrastive_loss(1.0, s[0] - s[1] - 0.1, 0.0)(student, [pair]).item() == 0


def test_without_the_anchor_both_become_unlikely(setup, problems, tmp_path):
    "A student that has learnt the traces by likelihood goes on with the margin alone."
    given = setup()
    examples = trace_examples(given.student, [p.gold for p in problems[:80]], problems, "plain")
    fit(given.student, examples[:60], examples[60:], FitConfig(tokens=60_000, evaluations=2, lr=5e-3), 0, tmp_path/"before")
    begun, tried = weights_of(given.student.model), trials(problems[60:80], [p.gold for p in problems[60:80]], 0)
    def means(): return [sum(row[i] for row in likelihoods(given.student, tried, "plain"))/len(tried) for i in (0, 1)]
    start, last = means(), {}
    for anchor in (1.0, 0.0):
        set_weights(given.student, begun)
        own = replace(given, fit=FitConfig(tokens=60_000, evaluations=3), folder=tmp_path/str(anchor))
        outcome = contrastive(own, ContrastiveConfig(weight=1.0, margin=3.0, anchor=anchor))
        last[anchor] = outcome.history.curve[-1]
        assert {*outcome.report["ranking"]["before"]} == {"all", *ContrastiveConfig().kinds}
    assert last[0.0]["good"] < start[0] - 0.1 and last[0.0]["bad"] < start[1] - 0.1, "the trap"
    assert last[1.0]["good"] > last[0.0]["good"] + 0.1, "and the way out"


def test_ranking_counts_by_kind():
    assert ranking([(-1, -2, "a"), (-2, -1, "a"), (-1, -3, "b")]) == {"all": 2/3, "a": 0.5, "b": 1.0}


# What several methods share

def test_lessons_are_bought_once_for_all_methods_that_ask_alike(setup):
    teacher = Scripted(right)
    given = setup(teacher=teacher)
    lessons(given, CotConfig())
    asked = len(teacher.asked)
    for config in (StepByStepConfig(), ContrastiveConfig(), CotConfig(filter="gold"), ClassicKdConfig(target="trace")): lessons(given, config)
    assert len(teacher.asked) == asked == 2


def test_a_chain_of_trainings_is_one_history(make, problems, tmp_path):
    student = make()
    examples = trace_examples(student, [p.gold for p in problems], problems, "plain")
    parts = [fit(student, examples[:50], examples[50:60], FitConfig(tokens=n, evaluations=2), 0, tmp_path/str(n)) for n in (2000, 3000)]
    whole = chained(parts)
    assert whole.tokens == sum(h.tokens for h in parts) and whole.step == sum(h.step for h in parts) and len(whole.curve) == 4
    assert whole.curve[-1]["tokens"] == whole.tokens and whole.best_step > parts[0].step and whole.best_loss == parts[1].best_loss


def test_weights_that_are_kept_do_not_change_with_the_model(make):
    student = make()
    kept = weights_of(student.model)
    with torch.no_grad(): next(student.model.parameters()).add_(1)
    name = next(iter(kept))
    assert not torch.equal(kept[name], dict(student.model.named_parameters())[name])


@pytest.mark.parametrize("build", [
    lambda: Asking(temperature=-1), lambda: Asking(max_new_tokens=0), lambda: StarConfig(warm_traces=0), lambda: StarConfig(enough=2),
    lambda: OrcaConfig(levels=0), lambda: ContrastiveConfig(filter="self_consistency"), lambda: StepByStepConfig(form="x"),
    lambda: ClassicKdConfig(alpha=2)])
def test_settings_out_of_range_are_one_line(build):
    with pytest.raises(InputError) as e: build()
    assert "\n" not in str(e.value)


def test_every_decoding_is_named_and_the_first_counts():
    for name, method in METHODS.items():
        ways = method.config().decodings
        assert ways and all(isinstance(how, Decoding) for how in ways.values()), name
    assert [*CotConfig().decodings] == ["reason", "maj@5"] and [*StepByStepConfig().decodings] == ["label", "rationale"]


def test_step_by_step_chooses_its_checkpoint_by_both_tasks(setup, monkeypatch):
    from reasoning_distill.methods import step_by_step as module
    seen = []
    monkeypatch.setattr(module, "fit", lambda student, train, validation, *rest: seen.append(validation))
    step_by_step(setup(), StepByStepConfig())
    of_label, of_rationale = (sum(e.mass for e in seen[0][i::2]) for i in (0, 1))
    assert math.isclose(of_label, of_rationale, rel_tol=0.05), "token by token it would be one to ten"
