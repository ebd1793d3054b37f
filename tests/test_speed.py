"The quick paths give what the plain ones give, and the peers they are compared with do the same work. No speed is judged here."
import json

import pandas as pd
import pytest
import torch
from conftest import weights
from transformers import GemmaConfig, GemmaForCausalLM

from reasoning_distill import bench as module
from reasoning_distill.bench import bench, counted, distillation_trainer, gkd_trainer, peer_pass, trl_settings
from reasoning_distill.methods.on_policy import OnPolicyConfig, Sampled, on_policy_loss
from reasoning_distill.models import sampling, students
from reasoning_distill.models.losses import lm_loss
from reasoning_distill.models.sampling import DecoderStepper, LlamaStepper, sample, stepper_for
from reasoning_distill.models.students import Student, has_short_cut, quick_products, with_lora

PROMPTS = ["Ann has ", "A", "Question: Ann has 3 eggs.", "Ben has 12 apples more than Ann. "]*4


def loss_and_gradient(student, examples):
    student.model.zero_grad()
    loss = lm_loss(student, examples)
    loss.backward()
    return loss, torch.cat([p.grad.flatten() for p in student.model.parameters()])


@pytest.mark.parametrize("settings", [{}, dict(layers=3, width=64), dict(width=30, heads=3), dict(width=36, heads=1)])
@pytest.mark.parametrize("words", [1, 3, 40])
def test_loss_and_gradient_are_the_librarys(make, monkeypatch, settings, words):
    "Also past 256 tokens, where attention takes another way, and with weights that differ from example to example."
    student = make(**settings)
    examples = student.encode(["Ann has 3 eggs. "*words, "Ben"], ["#### 3", "He has 12.\n#### 12"], [1.0, 0.5])
    assert has_short_cut(student.model)
    ours = loss_and_gradient(student, examples)
    monkeypatch.setattr(students, "has_short_cut", lambda model: False)
    theirs = loss_and_gradient(student, examples)
    assert torch.allclose(ours[0], theirs[0], rtol=1e-5) and torch.allclose(ours[1], theirs[1], rtol=1e-3, atol=1e-4*theirs[1].abs().max())


def test_what_differs_from_a_plain_llama_goes_the_librarys_way(make, texts):
    plain = make()
    gemma = GemmaForCausalLM(GemmaConfig(vocab_size=len(plain.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                         num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=1))
    other = Student(gemma.eval(), plain.tokenizer, False)
    assert not has_short_cut(gemma) and stepper_for(other) is DecoderStepper
    assert len(sample(other, PROMPTS, max_new_tokens=4)) == len(PROMPTS) and torch.isfinite(lm_loss(other, other.encode(["A"], ["b"])))
    for change in (dict(num_key_value_heads=1), dict(attention_bias=True), dict(rope_parameters={"rope_type": "linear", "factor": 2.0}),
                   dict(hidden_act="gelu"), dict(attention_dropout=0.1)):
        model = type(plain.model)(type(plain.config)(**{**plain.config.to_dict(), **change}))
        assert not has_short_cut(model), change
    assert not has_short_cut(plain.model.double())
    with torch.autocast("cpu", torch.bfloat16): assert not has_short_cut(make().model)
    adapted = make()
    with_lora(adapted, 2, 0)  # puts its layers into the model that it was given
    assert not has_short_cut(adapted.model)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_the_short_way_samples_the_same(make, monkeypatch, temperature, batch_size):
    student = make(layers=2)
    ours = sample(student, PROMPTS, temperature=temperature, max_new_tokens=20, batch_size=batch_size)
    monkeypatch.setattr(sampling, "stepper_for", lambda student: DecoderStepper)
    assert ours == sample(student, PROMPTS, temperature=temperature, max_new_tokens=20, batch_size=batch_size)


def test_greedy_text_is_that_of_generate(make):
    student = make(layers=2)
    ours = sample(student, PROMPTS, temperature=0, max_new_tokens=16)
    for prompt, completion in list(zip(PROMPTS, ours, strict=True))[:4]:
        ids = torch.tensor(student.encode_prompts([prompt]))
        theirs = student.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)[0, ids.shape[1]:]
        assert completion.ids == theirs.tolist()


def test_rows_that_leave_take_their_past_with_them(make):
    student = make(layers=2)
    ids = student.encode_prompts(PROMPTS[:6])
    with torch.inference_mode():
        steppers = [kind(student, ids, 8) for kind in (LlamaStepper, DecoderStepper)]
        for tokens, rows in ((None, [0, 1, 2, 5]), ([5, 6, 7, 8], [3, 0]), ([9, 9], [1])):
            scores = [s.step(None if tokens is None else torch.tensor(tokens)) for s in steppers]
            assert torch.allclose(*scores, atol=1e-4)
            for s in steppers: s.keep(torch.tensor(rows))


def test_quick_products_are_exact_and_leave_the_setting_as_it_was():
    a, b = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
    before = torch.backends.mkldnn.matmul.fp32_precision
    with quick_products(512): product = a @ b
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    exact = a.double() @ b.double()
    assert (product - exact).abs().max() < 3*(a @ b - exact).abs().max()
    with pytest.raises(KeyError), quick_products(512): raise KeyError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_processor_that_rounds_for_some_shapes_multiplies_the_plain_way(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": True})
    assert not students.products_stay_exact()


def sampled(inputs):
    "The examples in a peer's batch: the student's completions, and what it read before."
    if "labels" in inputs: ids, real, own = inputs["input_ids"], inputs["attention_mask"].bool(), inputs["labels"] != -100
    else:
        ids, real, own = (torch.cat([inputs[f"prompt_{kind}"]*share, inputs[f"completion_{kind}"]], 1).to(dtype)
                          for kind, share, dtype in (("ids", 1, torch.long), ("mask", 1, torch.bool), ("mask", 0, torch.bool)))
    rows = [(i[r & ~o].tolist(), i[o].tolist()) for i, r, o in zip(ids, real, own, strict=True)]
    return [Sampled(prompt, completion, 1.0, prompt) for prompt, completion in rows]


@pytest.mark.parametrize("peer", ["gkd", "distillation"])
def test_a_peer_trains_on_what_is_counted_and_with_our_loss(make, tmp_path, peer):
    student, teacher, seen = make(), make(width=48, seed=1), []
    examples = student.encode(PROMPTS, [" 3 eggs"]*len(PROMPTS))
    build = gkd_trainer(student, teacher, examples, 9) if peer == "gkd" else distillation_trainer(student, teacher, PROMPTS, 9)
    ours = on_policy_loss(teacher, OnPolicyConfig())

    def trainer(model, settings):
        found = build(model, settings)
        compute = found.compute_loss
        def noting(model, inputs, num_items_in_batch=None, **how):
            batch, share = sampled(inputs), inputs.get("num_items_in_batch", num_items_in_batch)
            seen.extend(batch)
            loss = compute(model, inputs, num_items_in_batch=num_items_in_batch, **how)
            assert torch.isclose(loss, ours(Student(model, student.tokenizer, False), batch)/share, rtol=1e-3)
            return loss
        found.compute_loss = noting
        return found

    before, model = weights(student), make().model
    written = counted(model, student.end)
    trainer(model, trl_settings(str(tmp_path), 4, 1e-2)).train()
    assert sum(written) == sum(len(e.completion) for e in seen) and len(written) == len(PROMPTS)//4
    assert sorted(e.prompt for e in seen) == sorted(student.encode_prompts(PROMPTS))
    assert not torch.equal(weights(Student(model, student.tokenizer, False)), before)
    assert peer_pass(student, build, 4) > 0 and torch.equal(weights(student), before)


def test_bench_measures_every_system(tmp_path, monkeypatch):
    "In the record and in the table."
    monkeypatch.setattr(module, "product_speed", lambda: 1e9)
    record = bench(width=16, layers=1, teacher_width=24, problems=24, batch_size=2, prompts=8, max_new_tokens=6, warmup_tokens=1000, repetitions=1,
                   runs_dir=str(tmp_path/"runs"), tables_dir=str(tmp_path/"tables"))
    systems = {work: [r["system"] for r in record["rows"] if r["work"] == work] for work in {r["work"] for r in record["rows"]}}
    assert systems == {"training": ["ours", "TRL", "TRL, by length", "TRL, packed"], "greedy": ["ours", "generate"], "sampling": ["ours", "generate"],
                       "on-policy": ["ours", "ours, sampled each step", "TRL, GKD", "TRL, distillation"]}
    assert all(r["least"] > 0 and r["share_of_product"] > 0 for r in record["rows"])
    assert [json.loads(p.read_text()) for p in (tmp_path/"runs"/"bench").iterdir()] == [record]
    assert len(pd.read_csv(tmp_path/"tables"/"speed.csv")) == len(record["rows"])
