"""The presets for published checkpoints, end to end, on small ones of the same architectures in the same format and on real rows of GSM8K."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from test_experiment import finish
from test_experiment import papermill as started
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from reasoning_distill.config import resolve
from reasoning_distill.experiment import template_for
from reasoning_distill.models.students import from_checkpoint
from reasoning_distill.tasks.splits import TaskConfig, load_task
from reasoning_distill.templates import prompt_for, target_for
from reasoning_distill.training import FitConfig, fit

SMALL = {"task.train": 24, "task.validation": 8, "task.test": 8, "fit.tokens": 6000, "fit.evaluations": 2, "fit.batch_size": 4, "max_new_tokens": 60,
         "fit.precision": "no"}
CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


@pytest.fixture(scope="module")
def problems(real_data):
    "Short real problems, so that small teachers learn how a trace looks in seconds."
    found = load_task(TaskConfig(name="gsm8k", data_dir=real_data, train=7000, validation=100, test=10)).train
    return sorted(found, key=lambda p: len(p.question) + len(target_for(p.gold, "reason", "plain")))[:40]


def texts_of(problems, template): return [t for p in problems for t in (p.question, target_for(p.gold, "reason", template))]


def t5_tokenizer(problems):
    "A Unigram vocabulary with sentinels, and without newline or '<'."
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    clean = [t.replace("<", "").replace("\n", " ") for t in texts_of(problems, "t5")]
    raw.train_from_iterator(clean, trainers.UnigramTrainer(vocab_size=600, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                                           show_progress=False))
    return T5Tokenizer(vocab=[tuple(v) for v in json.loads(raw.to_str())["model"]["vocab"]], extra_ids=100)


def t5_checkpoint(folder, tokenizer, width):
    "As google/flan-t5: gated feed-forward layers, an untied head, more rows in it than tokens; weights in shards."
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer) + 28, d_model=width, d_kv=16, d_ff=2*width, num_layers=2, num_heads=4,
                                                feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0,
                                                eos_token_id=1))
    return saved(folder, model, tokenizer)


def qwen_tokenizer(problems):
    "Byte-level BPE, and a chat template whose end of a turn ends a reply."
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.train_from_iterator(texts_of(problems, "plain"), trainers.BpeTrainer(vocab_size=600, show_progress=False,
                                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML,
                                   additional_special_tokens=[AddedToken("<|im_start|>", special=True)])


def qwen_checkpoint(folder, tokenizer, width):
    "As Qwen2.5-Instruct: shared keys, a tied head with more rows than tokens, another number of them for each size; weights in shards."
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer) + width, hidden_size=width, intermediate_size=2*width, num_hidden_layers=2,
                                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
                                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))
    return saved(folder, model, tokenizer)


def saved(folder, model, tokenizer):
    model.save_pretrained(folder, max_shard_size="150KB")
    tokenizer.save_pretrained(folder)
    assert (folder/"model.safetensors.index.json").is_file() and len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def taught(folder, problems):
    "A teacher that knows some problems by heart, so that its traces can be read."
    teacher = from_checkpoint(str(folder))
    template = template_for(teacher)
    def encoded(part): return teacher.encode([prompt_for(p, "reason", template, teacher.tokenizer) for p in part],
                                             [target_for(p.gold, "reason", template) for p in part])
    fit(teacher, encoded(problems), encoded(problems), FitConfig(tokens=300_000, lr=5e-3, evaluations=2), 0, folder.parent/"fit")
    saved(folder, teacher.model, teacher.tokenizer)
    return folder


@pytest.fixture(scope="module")
def t5_pair(problems, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("t5"), t5_tokenizer(problems)
    return taught(t5_checkpoint(folder/"teacher", tokenizer, 64), problems), t5_checkpoint(folder/"student", tokenizer, 32)


@pytest.fixture(scope="module")
def qwen_pair(problems, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("qwen"), qwen_tokenizer(problems)
    return taught(qwen_checkpoint(folder/"teacher", tokenizer, 64), problems), qwen_checkpoint(folder/"student", tokenizer, 32)


@pytest.fixture(scope="module")
def data(problems, real_data, tmp_path_factory):
    "GSM8K's own rows in its own layout: those that the teachers know, and short ones to be tested on."
    folder, known = tmp_path_factory.mktemp("data"), {p.question for p in problems}
    for name in ("train", "test"):
        rows = [json.loads(line) for line in (Path(real_data)/"gsm8k"/f"{name}.jsonl").read_text().splitlines()]
        rows.sort(key=lambda r: len(r["question"]) + len(r["answer"]))
        if name == "train": rows = [r for r in rows if r["question"].strip() in known]
        (folder/"gsm8k").mkdir(exist_ok=True)
        (folder/"gsm8k"/f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:80]))
    return folder


def rehearse(preset, method, pair, data, folder, further=None):
    "The command of the guide, with folders in place of names on the hub, and less of everything."
    given = yaml.safe_load((ROOT/"configs"/"papermill"/f"{preset}.yaml").read_text())
    overrides = {**yaml.safe_load(given["overrides"]), **SMALL, **(further or {})}
    values = {**given, "method": method, "teacher": pair[0], "student": pair[1], "data_dir": data, "runs_dir": folder,
              "overrides": json.dumps(overrides)}
    code, said = finish(started(ROOT/"nbs"/"experiments"/"distill.ipynb", folder/f"{method}.ipynb", values, cwd=folder))
    assert code == 0, said[-3000:]
    place = next(p for p in folder.rglob("record.json") if json.loads(p.read_text())["config"]["method"] == method)
    return json.loads(place.read_text()), place.parent


@pytest.mark.parametrize("preset", ["flan-t5", "qwen"])
def test_a_preset_is_a_configuration_for_every_method_that_it_is_for(preset):
    given = yaml.safe_load((ROOT/"configs"/"papermill"/f"{preset}.yaml").read_text())
    for method in ("answer_only", "cot", "feedback", *["on_policy", "classic_kd"]*(preset == "qwen")):
        config = resolve(method, **given)
        assert config.teacher.source == given["teacher"] and config.student.source == given["student"] and config.template == given["template"]


@pytest.mark.parametrize("method, further", [("answer_only", {}), ("cot", {"options.max_new_tokens": 60}),
                                             ("feedback", {"options.max_new_tokens": 60, "options.drop": False, "options.asks": 1,
                                                           "options.questions": 8})])
def test_flan_t5_goes_through_the_papers_experiment(t5_pair, data, tmp_path, method, further):
    record, place = rehearse("flan-t5", method, t5_pair, data, tmp_path, further)
    assert record["metrics"]["strict"]["n"] == 8 and record["tokens"]["train"] >= 6000 and record["config"]["template"] == "t5"
    assert AutoModelForSeq2SeqLM.from_pretrained(place/"student").config.d_model == 32
    texts = [json.loads(line)["text"] for line in (place/"predictions.jsonl").read_text().splitlines()]
    assert len(texts) >= 8 and not any("\n" in t or "<" in t for t in texts), "what its vocabulary has not, it cannot write"


@pytest.mark.parametrize("method, further", [("cot", {"options.max_new_tokens": 60}),
                                             ("on_policy", {"options.max_new_tokens": 60, "options.longest": 40, "options.tries": 2})])
def test_a_decoder_pair_goes_through_adapters_and_its_own_samples(qwen_pair, data, tmp_path, method, further):
    record, place = rehearse("qwen", method, qwen_pair, data, tmp_path, further)
    assert record["metrics"]["strict"]["n"] == 8 and record["config"]["student"]["lora_rank"] == 16 and record["config"]["template"] == "chat"
    if method == "on_policy": assert record["tokens"]["own sampling"] > 0 and record["flops"]["scoring"] > 0
    student, tokenizer = AutoModelForCausalLM.from_pretrained(place/"student"), AutoTokenizer.from_pretrained(place/"student")
    assert not list((place/"student").glob("adapter*")), "merged"
    assert tokenizer.chat_template == CHATML and tokenizer.eos_token == "<|im_end|>" and student.config.vocab_size > len(tokenizer)
    prompt = prompt_for(load_task(TaskConfig(name="gsm8k", data_dir=str(data), train=4, validation=2, test=2)).test[0], "reason", "chat", tokenizer)
    assert prompt.startswith("<|im_start|>user\n") and prompt.endswith("<|im_start|>assistant\n")
