from types import SimpleNamespace

import pytest
import torch
from conftest import KINDS

from reasoning_distill.models.sampling import pick, prompts_at_once, sample, uniforms

PROMPTS = ["Ann has ", "A", "Question: Ann has 3 eggs.", "Ben has 12 apples more than Ann. "]*6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_a_completion_does_not_depend_on_its_batch(make, kind, temperature):
    student, keys = make(kind), [str(i) for i in range(len(PROMPTS))]
    first, *others = (sample(student, PROMPTS, keys=keys, temperature=temperature, max_new_tokens=20, batch_size=n) for n in (1, 3, 24))
    assert all(first == other for other in others)
    turned = sample(student, PROMPTS[::-1], keys=keys[::-1], temperature=temperature, max_new_tokens=20, batch_size=7)
    assert turned[::-1] == first


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_from_seed_and_key_and_nothing_else(make, kind):
    student = make(kind)
    torch.manual_seed(1)
    first = sample(student, PROMPTS, max_new_tokens=12, seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert sample(student, PROMPTS, max_new_tokens=12, seed=5) == first
    assert torch.equal(state, torch.get_rng_state())
    assert sample(student, PROMPTS, max_new_tokens=12, seed=6) != first
    assert len({c.text for c in sample(student, ["Ann has "]*20, max_new_tokens=12)}) > 10


def test_a_finished_row_leaves_the_batch(make, monkeypatch):
    from reasoning_distill.models import sampling
    sizes, step = [], sampling.LlamaStepper.step
    def counted(self, tokens):
        scores = step(self, tokens)
        sizes.append(len(scores))
        scores[:, self_end] += 2.0
        return scores
    student = make()
    self_end = student.end
    monkeypatch.setattr(sampling.LlamaStepper, "step", counted)
    completions = sample(student, ["Ann has "]*200, max_new_tokens=200, batch_size=200)
    assert sizes[0] == 200 and sizes[-1] < 30 and sizes == sorted(sizes, reverse=True)
    assert all(c.ids.count(student.end) == (not c.truncated) and (c.truncated or c.ids[-1] == student.end) for c in completions)


def test_the_limit_counts_as_truncation(make):
    completions = sample(make(), PROMPTS, max_new_tokens=3)
    assert all(len(c.ids) == 3 for c in completions if c.truncated) and any(c.truncated for c in completions)


def test_picks_have_the_models_distribution():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0])
    for temperature in (0.5, 1.0, 2.0):
        counts = torch.bincount(pick(logits.expand(40_000, 4), uniforms(["x"], 3, 40_000)[0], temperature), minlength=4)/40_000
        assert torch.allclose(counts, (logits/temperature).softmax(-1), atol=0.012)


def test_the_largest_number_still_picks_a_token():
    logits = torch.full((1, 1000), -50.0)
    assert 0 <= pick(logits, torch.tensor([1 - 2**-53]).double(), 1.0).item() < 1000


@pytest.mark.parametrize("device, parameters, together", [("cpu", 10, 64), ("cuda", 10, 2048), ("cuda", 50_000_000, 256), ("mps", 10, 64)])
def test_small_models_leave_a_gpu_room_for_more(device, parameters, together):
    model = SimpleNamespace(parameters=lambda: [torch.empty(parameters, device="meta")])
    assert prompts_at_once(SimpleNamespace(device=torch.device(device), model=model)) == together
