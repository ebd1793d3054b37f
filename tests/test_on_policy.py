import math
from dataclasses import replace

import pytest
import torch
from conftest import KINDS, Scripted, right, weights

from reasoning_distill.core import InputError
from reasoning_distill.methods.classic_kd import Matched, kd_loss
from reasoning_distill.methods.on_policy import (
    OnPolicyConfig,
    Sampled,
    advantage,
    looked_at,
    noted,
    on_policy,
    on_policy_loss,
    policy_gradient,
    questions_of,
    written_by,
)
from reasoning_distill.models.divergences import ends_in_its_head, entropy, head_of, last_states, over_vocabulary
from reasoning_distill.models.losses import forward_kl, jsd, lm_loss, reverse_kl
from reasoning_distill.models.students import Encoded, with_lora
from reasoning_distill.online import block_of, drop_blocks, fit_online
from reasoning_distill.training import FitConfig


def gradient(student, value):
    student.model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in student.model.parameters() if p.grad is not None])


# Divergences in pieces

@pytest.mark.parametrize("kind", [*KINDS, "lora", "plain"])
def test_states_and_head_are_the_models_scores(make, kind):
    student = make("encoder-decoder" if kind == "encoder-decoder" else "decoder")
    if kind == "lora": student = with_lora(student, 2, 0)
    if kind == "plain": student.model.config.attention_dropout = 0.1  # not the short cut
    batch = student.batch(student.encode(["Ann has ", "Ben"], ["7 books.", " has 12 books. 7 + 5"]))
    at = batch.weights != 0
    head = student.model.get_output_embeddings()
    states = last_states(student, batch, at)
    assert states.shape == (int(at.sum()), 32) and torch.allclose(head_of(student)(states), student.logits(batch, at), atol=1e-5)
    assert student.model.get_output_embeddings() is head, "the head is put back"


def test_a_model_that_changes_its_scores_behind_the_head_goes_the_ordinary_way(make):
    student = make()
    batch = student.batch(student.encode(["Ann"], [" has 7"]))
    at = batch.weights != 0
    student.model.config.attention_dropout, student.model.config.final_logit_softcapping = 0.1, 30.0
    assert not ends_in_its_head(student) and torch.equal(head_of(student)(last_states(student, batch, at)), student.logits(batch, at))


def test_the_head_is_put_back_when_the_model_fails(make):
    student = make("encoder-decoder")
    batch = student.batch(student.encode(["Ann"], [" has 7"]))
    head = student.model.get_output_embeddings()
    with pytest.raises(ValueError, match="input_ids"): last_states(student, replace(batch, inputs={}), batch.weights != 0)
    assert student.model.get_output_embeddings() is head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elements", [1, 900, 2**22])
def test_pieces_give_the_same_divergence_and_gradient(make, kind, elements):
    student, teacher = make(kind), make(seed=5, width=48)
    examples = student.encode(["Ann has ", "Ben"], ["7 books.", " has 12 books. 7 + 5"])
    batch, theirs = student.batch(examples), teacher.batch(examples)
    at, there = batch.weights != 0, theirs.weights != 0
    def function(p, q): return jsd(p, q, 0.3)
    whole = gradient(student, function(teacher.logits(theirs, there).detach(), student.logits(batch, at)).sum())
    with torch.no_grad(): seen = last_states(teacher, theirs, there)
    found = over_vocabulary(function, teacher, seen, student, last_states(student, batch, at), elements)
    assert torch.allclose(gradient(student, found.sum()), whole, atol=1e-5)
    assert all(p.grad is None for p in teacher.model.parameters()), "the teacher is not trained"


def test_entropy_is_that_of_torch():
    logits = 30*torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(entropy(logits), torch.distributions.Categorical(logits=logits).entropy(), atol=1e-5)


# The losses

def test_the_sampled_gradient_is_the_exact_one_on_average_and_through_the_samples_it_vanishes():
    generator = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 5, generator=generator).log_softmax(-1)
    q.requires_grad_()
    def of(value): return torch.autograd.grad(value, q)[0]
    exact = of(reverse_kl(p[None], q[None]).sum())
    draws = torch.multinomial(q.detach().exp(), 200_000, replacement=True, generator=generator)
    logs = q.log_softmax(-1)[draws]
    found = of(policy_gradient(logs, logs.detach(), advantage(p[draws], logs)).mean())
    assert (found - exact).norm() < 0.02*exact.norm()
    wrong = of((q.log_softmax(-1)[draws] - p[draws]).mean())
    assert wrong.norm() < 0.02*exact.norm(), "no gradient is left of what flows through the samples"


def test_all_completions_enumerated_give_the_gradient_of_the_exact_loss():
    "Two tokens of three words each: the exact loss sums what autograd says of each state, weighted by how often the student comes there."
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(4, 3, generator=generator).requires_grad_()  # first token; second token behind each first
    p = torch.randn(4, 3, generator=generator)
    first = q[0].softmax(-1).detach()
    enumerated = reverse_kl(p[:1], q[:1]).sum() + (first*reverse_kl(p[1:], q[1:])).sum()
    expected = torch.autograd.grad(enumerated, q)[0]
    total = torch.zeros_like(q)
    for a in range(3):
        for b in range(3):
            chance = (q[0].softmax(-1)[a]*q[1 + a].softmax(-1)[b]).item()
            total += chance*torch.autograd.grad(reverse_kl(p[[0, 1 + a]], q[[0, 1 + a]]).sum(), q)[0]
    assert torch.allclose(total, expected, atol=1e-5)


def test_an_old_sample_counts_by_its_ratio_and_gets_no_gradient_from_the_sampler():
    student, old = torch.tensor([-1.0], requires_grad=True), torch.tensor([-2.0], requires_grad=True)
    policy_gradient(student, old.detach(), torch.tensor([0.5])).sum().backward()
    assert math.isclose(student.grad.item(), -math.e*0.5, rel_tol=1e-5) and old.grad is None
    assert not advantage(torch.tensor([1.0], requires_grad=True), student).requires_grad


def samples(student, teacher, texts=("7 books.", " has 12")):
    ours, theirs = student.encode(["Ann has "]*2, texts), teacher.encode(["Ann has "]*2, texts)
    return looked_at(student, teacher, [Sampled(e.prompt, e.completion, e.weight, t.prompt) for e, t in zip(ours, theirs, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_loss_is_the_divergence_over_the_completions(make, kind):
    student, teacher = make(kind), make(kind, seed=3)
    examples = samples(student, teacher)
    batch = student.batch(examples)
    at = batch.weights != 0
    p, q = teacher.logits(batch, at), student.logits(batch, at)
    for beta, expected in ((1.0, reverse_kl(p, q)), (0.0, forward_kl(p, q)), (0.5, jsd(p, q))):
        assert torch.isclose(on_policy_loss(teacher, OnPolicyConfig(beta=beta))(student, examples), expected.sum(), rtol=1e-4)
    assert all(math.isclose(e.notes["kl"], part.mean().item(), rel_tol=1e-3)
               for e, part in zip(examples, reverse_kl(p, q).split([len(e.completion) for e in examples]), strict=True))


def test_on_the_teachers_own_traces_it_is_classic_distillation(make):
    student, teacher = make(), make(seed=3)
    examples = samples(student, teacher)
    matched = [Matched(e.prompt, e.completion, e.weight, e.teacher_prompt) for e in examples]
    ours = on_policy_loss(teacher, OnPolicyConfig(beta=0.0))(student, examples)
    assert torch.isclose(ours, kd_loss(teacher, alpha=1.0, softness=1.0)(student, matched), rtol=1e-4)


def test_a_teacher_with_the_students_weights_has_no_objection(make):
    student = make()
    examples = samples(student, student)
    for config in (OnPolicyConfig(), OnPolicyConfig(estimator="sampled")):
        assert gradient(student, on_policy_loss(make(), config)(student, examples)).abs().max() < 1e-5


def test_the_reward_makes_better_samples_likelier_and_does_not_ask_the_teacher(make):
    student = make()
    good, bad = (replace(e, gain=g) for e, g in zip(samples(student, student), (0.5, -0.5), strict=True))
    loss = on_policy_loss(None, OnPolicyConfig(distance=0.0, reward=1.0))
    before = [lm_loss(student, [e]).item() for e in (good, bad)]
    optimizer = torch.optim.SGD(student.model.parameters(), 0.05)
    loss(student, [good, bad]).backward()
    optimizer.step()
    after = [lm_loss(student, [e]).item() for e in (good, bad)]
    assert after[0] < before[0] and after[1] > before[1]


# Drawing

def test_questions_come_in_epochs_each_exactly_once(problems):
    few = problems[:10]
    rows = [questions_of(few, block, 4, seed=1) for block in range(10)]
    order = [(epoch, p.id) for row in rows for epoch, p in row]
    assert all(len(row) == 4 for row in rows) and len({*order}) == 40 and [e for e, _ in order] == sorted(e for e, _ in order)
    assert rows[2] == questions_of(few, 2, 4, seed=1) != questions_of(few, 2, 4, seed=2)


def test_a_sample_depends_on_its_question_and_epoch_and_not_on_the_block(setup, oracle):
    given, config = setup(teacher=oracle()), OnPolicyConfig(tries=2, longest=8)
    p, q = given.train[:2]
    one, two = written_by(given.student, [(0, p), (0, q)], given, config), written_by(given.student, [(3, q), (0, p)], given, config)
    assert [e.completion for e in one[:2]] == [e.completion for e in two[2:]] and [e.completion for e in one[2:]] != [e.completion for e in two[:2]]
    assert all(len(e.completion) <= 8 and e.truncated == (e.completion[-1] != given.student.end) for e in one)


def test_gains_compare_the_samples_of_one_question(setup, oracle, monkeypatch):
    from reasoning_distill.methods import on_policy as module
    from reasoning_distill.models.sampling import Completion
    given = setup(teacher=oracle())
    p, q = given.train[:2]
    texts = [right(p), right(p), "#### 100000", "#### 100000", *[right(q)]*4]
    monkeypatch.setattr(module, "sample", lambda *about: [Completion(t, [1, given.student.end], False) for t in texts])
    found = written_by(given.student, [(0, p), (0, q)], given, OnPolicyConfig())
    assert [e.gain for e in found] == [0.5, 0.5, -0.5, -0.5, 0, 0, 0, 0] and [e.right for e in found] == [True]*2 + [False]*2 + [True]*4


def test_a_collapse_is_told_with_its_numbers_and_a_way_out():
    sure = Sampled([0], [1, 2], sampler=[0.0, 0.0], notes={"entropy": 0.001, "kl": 1.0, "teacher_entropy": 0.4})
    note = noted(OnPolicyConfig())
    with pytest.raises(InputError, match=r"the student's entropy is 0.001 nats a token, the teacher's 0.4 .* lower options.lr"): note([sure])
    both = replace(sure, notes={**sure.notes, "entropy": 0.2})
    assert note([both])["entropy"] == 0.2 and note([Sampled([0], [1])]) == {}


# The method

@pytest.mark.parametrize("settings", [{}, {"estimator": "sampled"}, {"beta": 0.5, "share": 0.5}, {"share": 0.0}, {"distance": 0.0, "reward": 1.0}])
def test_the_budget_is_kept_and_everything_is_accounted_for(setup, oracle, settings):
    given = setup(teacher=oracle())
    outcome = on_policy(given, OnPolicyConfig(longest=10, **settings))
    assert 9000 <= outcome.history.tokens < 9000 + 3000 and outcome.report["warm"]["tokens"] < 0.4*9000 + 1500
    own = settings.get("share", 1.0)
    assert (outcome.sampling > 0) == (outcome.sampling_tokens > 0) == (own > 0) and (outcome.scoring > 0) == (settings.get("distance") != 0.0)
    online = [p for p in outcome.history.curve if "gradient" in p]
    assert len(online) == given.fit.evaluations and all({"objective", "held out"} <= {*p} for p in online)
    if settings.get("distance") != 0.0: assert all(p["gradient"] > 0 for p in online)
    if own: assert all({"entropy", "length", "truncated", "right", "age"} <= {*p} and p["length"] <= 10 for p in online)
    assert all(("kl" in p) == bool(own and settings.get("distance") != 0.0) for p in online)


@pytest.mark.parametrize("settings, by", [({}, "objective"), ({"distance": 0.0, "reward": 1.0}, "objective"),
                                          ({"share": 0.0, "beta": 0.0}, "validation")])
def test_the_weights_that_are_kept_are_best_where_the_student_writes(setup, oracle, settings, by):
    history = on_policy(setup(teacher=oracle()), OnPolicyConfig(longest=10, **settings)).history
    best = min((p for p in history.curve if "objective" in p), key=lambda p: p[by])
    assert (history.best_step, history.best_loss) == (best["step"], best[by])


def test_half_of_a_mixed_block_is_the_teachers(setup, oracle, monkeypatch):
    from reasoning_distill.methods import on_policy as module
    seen = []
    real = module.fit_online
    def spying(student, draw, *rest):
        seen.extend(draw(student, 0))
        return real(student, draw, *rest)
    monkeypatch.setattr(module, "fit_online", spying)
    on_policy(setup(teacher=oracle()), OnPolicyConfig(share=0.5, longest=10))
    assert len(seen) == 64 and sum(bool(e.sampler) for e in seen) == 32


def test_a_teacher_that_cannot_score_is_refused(setup, make, oracle):
    with pytest.raises(InputError, match="on_policy needs its teacher's scores, and scripted gives text alone"):
        on_policy(setup(teacher=Scripted(right)), OnPolicyConfig())
    with pytest.raises(InputError, match="different vocabularies"):
        on_policy(setup(teacher=oracle(vocabulary=300)), OnPolicyConfig())
    teacher = oracle()
    teacher.model.tokenizer.eos_token = "<pad>"
    with pytest.raises(InputError, match="end their texts with different tokens"): on_policy(setup(teacher=teacher), OnPolicyConfig())


def test_killed_in_the_middle_of_a_block_it_ends_the_same(setup, oracle, monkeypatch, tmp_path):
    from reasoning_distill.methods import on_policy as module
    deadly = [False]
    real = module.fit_online
    def mortal(*about):
        def stop(step):
            if deadly[0] and step == 21: raise KeyboardInterrupt
        return real(*about, stop=stop)
    monkeypatch.setattr(module, "fit_online", mortal)
    def run(name):
        given = replace(setup(teacher=oracle()), folder=tmp_path/name, fit=FitConfig(tokens=30_000, evaluations=6))
        return given.student, on_policy(given, OnPolicyConfig(longest=12))
    whole, expected = run("whole")
    deadly[0] = True
    with pytest.raises(KeyboardInterrupt): run("killed")
    deadly[0] = False
    again, found = run("killed")
    assert torch.equal(weights(whole), weights(again)) and found.report == expected.report and len(found.history.starts) == 4
    assert [p["kl"] for p in found.history.curve[-3:]] == [p["kl"] for p in expected.history.curve[-3:]]


# The loop

def test_a_block_is_on_disk_before_it_is_used_and_read_back(tmp_path):
    made = []
    def draw():
        made.append(1)
        return [Sampled([1], [2, 3], 1.0, [4], [-0.125, -3.0], 0.5, True, False, {"entropy": 1/3})]
    one, two = (block_of(tmp_path, 7, Sampled, draw) for _ in range(2))
    assert one == two == draw() and len(made) == 2 and (tmp_path/"block-000007.jsonl").is_file()
    for block in (5, 6): block_of(tmp_path, block, Sampled, draw)
    drop_blocks(tmp_path, 7)
    assert [f.name for f in tmp_path.iterdir()] == ["block-000007.jsonl"]


def test_the_samples_are_those_of_the_student_at_the_beginning_of_their_block(make, tmp_path):
    student, drawn = make(), []
    def draw(student, block):
        drawn.append((block, weights(student)))
        return student.encode(["Ann"]*16, [" has 7"]*16)
    held_out = student.encode(["Ann"], [" has 7"])
    history = fit_online(student, draw, Encoded, held_out, FitConfig(tokens=2000, batch_size=4, evaluations=2), 0, tmp_path, lm_loss, 4)
    assert [b for b, _ in drawn] == [*range(math.ceil(history.step/4))]
    assert all((a != b).any() for (_, a), (_, b) in zip(drawn, drawn[1:], strict=False))


def test_nothing_to_choose_by_is_refused(make, tmp_path):
    with pytest.raises(InputError, match="0 validation examples"):
        fit_online(make(), lambda *about: [], Encoded, [], FitConfig(), 0, tmp_path, lm_loss, 4)
