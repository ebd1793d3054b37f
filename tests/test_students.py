import os
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from conftest import KINDS
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, T5Tokenizer

from reasoning_distill.core import InputError
from reasoning_distill.models.losses import lm_loss
from reasoning_distill.models.sampling import sample
from reasoning_distill.models.students import (
    ModelConfig,
    Student,
    check_same_vocabulary,
    forward_flops,
    from_checkpoint,
    from_scratch,
    train_tokenizer,
    with_lora,
)
from reasoning_distill.training import FitConfig, fit, recomputing


@pytest.mark.parametrize("kind", KINDS)
def test_no_prompt_token_is_in_the_loss(make, kind):
    student = make(kind)
    examples = student.encode(["Ann has 3 eggs. How many?\n", "Ben\n"], ["#### 3", "#### 14"])
    batch = student.batch(examples)
    logits = torch.randn(*batch.targets.shape, len(student.tokenizer), requires_grad=True)

    class Fixed(Student):
        def logits(self, batch, at): return logits[at]

    lm_loss(Fixed(student.model, student.tokenizer, student.seq2seq), examples).backward()
    counted = [student.tokenizer.decode(row[g.abs().sum(-1) > 0]) for row, g in zip(batch.targets, logits.grad, strict=True)]
    assert counted == ["#### 3</s>", "#### 14</s>"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_token_is_learnt_where_it_doubles_as_padding(texts, kind):
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.pad_token = tokenizer.eos_token
    student = from_scratch(ModelConfig(kind=kind, width=32, layers=1, heads=2), tokenizer, 0)
    batch = student.batch(student.encode(["Ann\n", "Ann has 3\n"], ["#### 3", "#### 3 and so on"]))
    ends = ((batch.targets == student.end) & (batch.weights > 0)).sum(-1)
    assert ends.tolist() == [1, 1] and all(row[w > 0][-1] == student.end for row, w in zip(batch.targets, batch.weights, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_a_plain_forward_pass(make, kind):
    student = make(kind)
    example = student.encode(["Ann has 3 eggs.\n"], ["#### 3"])[0]
    batch = student.batch([example])
    ours = student.logprobs(batch)[0][batch.weights[0] > 0]
    if student.seq2seq:
        labels = torch.tensor([example.completion])
        logits = student.model(input_ids=torch.tensor([example.prompt]), labels=labels).logits[0]
    else:
        ids = torch.tensor([[*example.prompt, *example.completion]])
        logits = student.model(input_ids=ids).logits[0, len(example.prompt) - 1:-1]
    theirs = logits.log_softmax(-1).gather(-1, torch.tensor(example.completion)[:, None]).squeeze(-1)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_student_is_the_same_elsewhere(make, texts, tmp_path, kind):
    "Trained, saved, and loaded in a fresh process with plain transformers: the same greedy outputs."
    student, prompts = make(kind), [t.split("\n")[0] + "\nAnswer at once.\n" for t in texts[1:9:2]]
    examples = student.encode(prompts*8, [f"#### {i % 9}" for i in range(len(prompts)*8)])
    before = [p.clone() for p in student.model.parameters()]
    fit(student, examples, examples[:8], FitConfig(tokens=6000, batch_size=8, evaluations=2), 0, tmp_path/"checkpoints")
    assert any(not torch.equal(a, b) for a, b in zip(before, student.model.parameters(), strict=True))
    student.save(tmp_path/"student")
    code = f"""
import json, sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
folder = {str(tmp_path/"student")!r}
auto = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(folder).is_encoder_decoder else AutoModelForCausalLM
model, tokenizer = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
for prompt in json.loads(sys.stdin.read()):
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(input_ids=ids.input_ids, attention_mask=ids.attention_mask, max_new_tokens=12, do_sample=False)[0]
    out = out[1:] if auto is AutoModelForSeq2SeqLM else out[ids.input_ids.shape[1]:]
    print(json.dumps(tokenizer.decode(out, skip_special_tokens=True)))
assert "reasoning_distill" not in sys.modules
"""
    import json
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(prompts), capture_output=True, text=True, check=True)
    elsewhere = [json.loads(line) for line in done.stdout.splitlines()]
    here = sample(student, prompts, temperature=0, max_new_tokens=12)
    assert elsewhere == [c.text for c in here] == [c.text for c in sample(from_checkpoint(str(tmp_path/"student")), prompts, temperature=0,
                                                                             max_new_tokens=12)]
    assert any("####" in c.text for c in here)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_are_trained_and_merged_when_saved(make, tmp_path, kind):
    student = with_lora(make(kind), 4, seed=0)
    frozen = {n: p.clone() for n, p in student.model.named_parameters() if not p.requires_grad}
    examples = student.encode(["Ann\n"]*8, ["#### 3"]*8)
    batch = student.batch(examples[:2])
    fit(student, examples, examples, FitConfig(tokens=1500, batch_size=4, evaluations=2), 0, tmp_path/"checkpoints")
    assert all(torch.equal(frozen[n], p) for n, p in student.model.named_parameters() if n in frozen)
    after = student.logprobs(batch)
    assert not torch.allclose(after, make(kind).logprobs(batch), atol=1e-3)
    student.save(tmp_path/"student")
    loaded = from_checkpoint(str(tmp_path/"student"))
    assert torch.allclose(loaded.logprobs(batch), after, atol=1e-4) and not list((tmp_path/"student").glob("adapter*"))
    assert len(sample(student, ["Ann\n"], max_new_tokens=3)) == 1


def t5_tokenizer(texts):
    "A SentencePiece-like vocabulary, which has no '<' and no newline, as T5's."
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    clean = [t.replace("<", "").replace("\n", " ") for t in texts]
    raw.train_from_iterator(clean, trainers.UnigramTrainer(vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                                           show_progress=False))
    import json
    return T5Tokenizer(vocab=[tuple(v) for v in json.loads(raw.to_str())["model"]["vocab"]], extra_ids=0)


def test_a_t5_checkpoint_in_its_own_format(texts, trace, tmp_path):
    from reasoning_distill.experiment import template_for
    from reasoning_distill.templates import target_for
    tokenizer = t5_tokenizer([*texts, "Step 1: In May she sold 24 clips. The answer is 72"])
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
                                                decoder_start_token_id=0, pad_token_id=0, eos_token_id=1))
    model.save_pretrained(tmp_path/"t5")
    tokenizer.save_pretrained(tmp_path/"t5")
    student = from_checkpoint(str(tmp_path/"t5"))
    assert student.seq2seq and student.encode_prompts(["Ann has 3"])[0][-1] == student.end  # T5 closes its prompts
    assert template_for(student) == "t5"
    with pytest.raises(InputError, match="template 't5'"): student.encode(["Ann"], [target_for(trace, "reason", "plain")])
    examples = student.encode(["Ann"], [target_for(trace, "reason", "t5")])
    assert student.batch(examples).targets[0, -1] == student.end and torch.isfinite(lm_loss(student, examples))


def test_a_start_token_is_written_once(texts):
    tokenizer = train_tokenizer(texts, 400)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    from tokenizers.processors import TemplateProcessing
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)])
    student = from_scratch(ModelConfig(width=32, layers=1, heads=2), tokenizer, 0)
    for prompt in ("Ann has", "<s>Ann has"): assert student.encode_prompts([prompt])[0].count(tokenizer.bos_token_id) == 1
    assert tokenizer.bos_token_id not in student.encode(["Ann"], [" has"])[0].completion


def test_generation_settings_of_a_checkpoint_do_not_leak(make, tmp_path):
    student = make()
    plain = sample(student, ["Ann has "]*30, max_new_tokens=8)
    student.model.generation_config = GenerationConfig(temperature=0.01, top_k=1, top_p=0.1, repetition_penalty=5.0, do_sample=True,
                                                       eos_token_id=student.end, pad_token_id=student.padding)
    student.save(tmp_path/"student")
    loaded = from_checkpoint(str(tmp_path/"student"))
    assert [c.text for c in sample(loaded, ["Ann has "]*30, max_new_tokens=8)] == [c.text for c in plain]
    assert len({c.text for c in plain}) > 20
    loaded.save(tmp_path/"again")
    assert "temperature" not in (tmp_path/"again"/"generation_config.json").read_text()


def test_vocabularies_are_compared_by_content(make, texts):
    ours = make().tokenizer
    check_same_vocabulary(ours, make("encoder-decoder").tokenizer)
    with pytest.raises(InputError, match=r"400 and 300 tokens"): check_same_vocabulary(ours, train_tokenizer(texts, 300))
    words = ours.get_vocab()
    same_size = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({f"x{i}": i for i in words.values()})), eos_token="x1")
    with pytest.raises(InputError, match="400 and 400"): check_same_vocabulary(ours, same_size)


@pytest.mark.parametrize("content, part", [({}, "cannot be loaded"), ({"config.json": "{"}, "cannot be loaded"),
                                           ({"config.json": '{"model_type": "llama"}'}, "cannot be loaded")])
def test_a_broken_checkpoint_is_one_line(tmp_path, content, part):
    (tmp_path/"model").mkdir()
    for name, text in content.items(): (tmp_path/"model"/name).write_text(text)
    with pytest.raises(InputError, match=part) as e: from_checkpoint(str(tmp_path/"model"))
    assert "\n" not in str(e.value) and str(tmp_path/"model") in str(e.value)


def test_damaged_weights_are_one_line(make, tmp_path):
    path = make().save(tmp_path/"student")/"model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be loaded"): from_checkpoint(str(tmp_path/"student"))


def test_a_checkpoint_that_lacks_weights_is_refused(make, tmp_path):
    from safetensors.torch import load_file, save_file
    path = make(layers=2).save(tmp_path/"student")/"model.safetensors"
    save_file({n: w for n, w in load_file(path).items() if ".layers.1." not in n}, path, {"format": "pt"})
    with pytest.raises(InputError, match="lacks 9 weights, model.layers.1"): from_checkpoint(str(tmp_path/"student"))


@pytest.mark.parametrize("wrong", [dict(width=0), dict(layers=0), dict(heads=0), dict(length=0), dict(vocabulary=10), dict(lora_rank=-1),
                                   dict(width=33)])
def test_a_size_out_of_range_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))): ModelConfig(**wrong)


def test_pickled_weights_are_not_read(make, tmp_path):
    student = make()
    student.save(tmp_path/"student")
    (tmp_path/"student"/"model.safetensors").unlink()
    torch.save(student.model.state_dict(), tmp_path/"student"/"pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"): from_checkpoint(str(tmp_path/"student"))


def test_too_long_an_example_is_refused(make):
    student = make(length=16)
    with pytest.raises(InputError, match="the model takes 16"): student.encode(["Ann has "*20], ["3"])
    with pytest.raises(InputError, match="the model takes 16"): sample(student, ["Ann has "], max_new_tokens=16)


def test_flops_of_an_encoder_decoder_count_the_encoder_on_the_prompt_alone(make):
    student = make("encoder-decoder")
    assert forward_flops(student, 10, 0) + forward_flops(student, 0, 7) == forward_flops(student, 10, 7)
    assert forward_flops(student, 0, 7) > forward_flops(student, 7, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_saved_apart_make_the_same_model(make, tmp_path, kind):
    student = with_lora(make(kind), 4, seed=0)
    with torch.no_grad():
        for p in student.model.parameters():
            if p.requires_grad: p.add_(0.05*torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    assert make(kind).save_adapters(tmp_path/"none") is None and not (tmp_path/"none").exists()
    place, base = student.save_adapters(tmp_path/"adapters"), make(kind)
    merged = from_checkpoint(str(student.save(tmp_path/"student")))
    apart = replace(base, model=PeftModel.from_pretrained(base.model, place).eval())
    batch = student.batch(student.encode(["Ann has", "3 +"], [" 7 eggs.", " 4"]))
    with torch.no_grad(): ours, whole, plain = (s.logprobs(batch) for s in (apart, merged, make(kind)))
    assert torch.allclose(ours, whole, atol=1e-4) and not torch.allclose(ours, plain, atol=1e-2)
    assert sum(p.stat().st_size for p in place.iterdir()) < sum(p.stat().st_size for p in (tmp_path/"student").iterdir())


@pytest.mark.parametrize("kind, rank", [*((k, 0) for k in KINDS), ("decoder", 4)])
def test_recomputed_activations_give_the_same_gradient_in_less_memory(make, kind, rank):
    def build():
        student = make(kind, layers=6)
        return with_lora(student, rank, seed=0) if rank else student
    found = {}
    for recompute in (False, True):
        student, held = build(), set()
        examples = student.encode(["Ann has"]*6, [f" {i} eggs, and {i} more." for i in range(6)])
        def pack(x, held=held):
            held.add((x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()))
            return x
        with recomputing(student.model, FitConfig(recompute=recompute)):
            student.model.train()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x): loss = lm_loss(student, examples)
            own = {p.untyped_storage().data_ptr() for p in student.model.parameters()}
            loss.backward()
        assert not student.model.is_activation_checkpointing
        found[recompute] = ([p.grad for p in student.model.parameters() if p.requires_grad], sum(size for at, size in held if at not in own))
    (plain, much), (again, little) = found[False], found[True]
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-3) for a, b in zip(plain, again, strict=True)) and len(plain) == len(again) > 10
    assert little < much/3


HUB = {"gated": (403, "GatedRepo", "ask for access on the model's page"), "missing": (404, "RepoNotFound", "check the name, and log in")}


class Hub(BaseHTTPRequestHandler):
    "Answers as the hub does for a model that may not be read."
    def do_GET(self):
        status, code, _ = HUB[self.path.split("/")[2]] if self.path.startswith("/own/") else HUB["missing"]
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", "no"), ("Content-Length", "0")): self.send_header(name, value)
        self.end_headers()

    do_HEAD = do_GET
    def log_message(self, *_): "Silence."


def test_what_the_hub_refuses_is_told_with_a_way_out(tmp_path):
    code = "\n".join(["import sys", "from reasoning_distill.core import InputError", "from reasoning_distill.models.students import from_checkpoint",
                      "for name in sys.argv[1:]:", "    try: from_checkpoint(name)", "    except InputError as e: print(e)"])
    def said(names, **environment):
        done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, timeout=200,
                              env={**os.environ, "HF_HOME": str(tmp_path), **environment})
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        lines = said([f"own/{name}" for name in HUB], HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    for line, (name, (_, _, advice)) in zip(lines, HUB.items(), strict=True): assert line.startswith(f"checkpoint own/{name} ") and advice in line
    [line] = said(["own/any"], HF_HUB_OFFLINE="1")
    assert "call 'hf download NAME --local-dir FOLDER', and name that folder" in line
