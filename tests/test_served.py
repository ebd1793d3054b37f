"""Samples from a server that really samples: an engine in a thread, which speaks completions and takes adapters."""

import json
import random
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest
import torch
from conftest import weights
from peft import PeftModel
from tokenizers.decoders import DecodeStream

from reasoning_distill.core import InputError
from reasoning_distill.methods.on_policy import OnPolicyConfig, on_policy
from reasoning_distill.models.sampling import sample_batch, uniforms
from reasoning_distill.models.students import Encoded, with_lora
from reasoning_distill.teachers.served import Engine, check_scores, name_of, read, sample_there


class Served:
    "What an engine holds: a base model, the adapters it was given, and the faults it is to have."
    def __init__(self, make):
        self.make, self.known, self.lock, self.fault, self.wrote, self.loaded = make, {}, Lock(), "", 0, []

    def load(self, lora_name, lora_path):
        if lora_name in self.known: return 400, {"error": {"message": f"The lora adapter '{lora_name}' has already been loaded."}}
        base = self.make("decoder")
        self.loaded.append(lora_name)
        stale = self.fault == "stale" and self.known
        self.known[lora_name] = [*self.known.values()][0] if stale else replace(base, model=PeftModel.from_pretrained(base.model, lora_path).eval())
        return 200, "Success"

    def complete(self, model, prompt, seed, temperature, max_tokens, logprobs, return_token_ids, **preferences):
        if preferences != {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}: return 400, {"error": {"message": f"{preferences}"}}
        if model not in self.known: return 404, {"error": {"message": f"The model `{model}` does not exist."}}
        student = self.known[model]
        ids = sample_batch(student, [prompt], uniforms(["0"], seed, max_tokens), temperature)[0]
        batch = student.batch([Encoded(prompt, ids)])
        with torch.no_grad(): scores = student.logprobs(batch)[batch.weights != 0].tolist()
        self.wrote += len(ids)
        text = student.tokenizer.decode(ids, skip_special_tokens=True)
        choice = {"index": 0, "text": text + "!"*(self.fault == "text"), "finish_reason": "stop", "token_ids": ids,
                  "prompt_token_ids": [1, *prompt] if self.fault == "prompt" else prompt,
                  "logprobs": None if self.fault == "no scores" else {"token_logprobs": scores, "tokens": [], "text_offset": [], "top_logprobs": []}}
        return 200, {"id": "c", "object": "text_completion", "created": 0, "model": model, "choices": [choice]}


@contextmanager
def running(served):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with served.lock:
                if served.fault == "broken": status, body = 500, {"error": {"message": "out of blocks"}}
                elif self.path == "/v1/load_lora_adapter": status, body = served.load(**given)
                elif self.path == "/v1/unload_lora_adapter" and served.fault == "killed": status, body = 200, "nobody asked"
                elif self.path == "/v1/unload_lora_adapter": status, body = 200, f"{served.known.pop(given['lora_name']) and 'gone'}"
                else: status, body = served.complete(**given)
            answer = json.dumps(body).encode() if isinstance(body, dict) else body.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if isinstance(body, dict) else "text/plain")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_): "Silence."

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture
def served(make): return Served(make)


@pytest.fixture
def pupil(make):
    student = with_lora(make("decoder"), 4, seed=0)
    learn(student)
    return student


def learn(student, much=0.05):
    "As a step of training: other adapters."
    with torch.no_grad():
        for i, p in enumerate(p for p in student.model.parameters() if p.requires_grad):
            p.add_(much*torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))


PROMPTS, KEYS = ["Ann has", "Ben has 3", "3 + 4 ="]*4, [str(i) for i in range(12)]


def test_a_server_with_the_students_weights_writes_its_samples(served, pupil, tmp_path):
    with running(served) as url:
        engine = Engine(url, tmp_path)
        first = sample_there(engine, pupil, PROMPTS, KEYS, 1.0, 20, seed=1)
        again = sample_there(engine, pupil, PROMPTS, KEYS, 1.0, 20, seed=1)
        learn(pupil)
        after = sample_there(engine, pupil, PROMPTS, KEYS, 1.0, 20, seed=1)
    assert [c.ids for c in first] == [c.ids for c in again] != [c.ids for c in after] and len({c.text for c in first}) > 6
    assert all(c.text == pupil.tokenizer.decode(c.ids, skip_special_tokens=True) and c.truncated == (c.ids[-1] != pupil.end) for c in first)
    assert len(set(served.loaded)) == 3 and not served.known, "each block under a name of its own, and none left"
    assert served.loaded[0].startswith(prefix := served.loaded[1].rsplit("-", 1)[0]) and not served.loaded[2].startswith(prefix)
    assert not [*tmp_path.iterdir()], "adapters that were handed over do not pile up"


def test_what_a_killed_run_left_on_the_server_is_in_nobodys_way(served, pupil, tmp_path):
    with running(served) as url:
        served.fault = "killed"
        first = sample_there(Engine(url, tmp_path), pupil, PROMPTS, KEYS, 1.0, 20)
        assert served.known
        again = sample_there(Engine(url, tmp_path), pupil, PROMPTS, KEYS, 1.0, 20)
    assert [c.ids for c in first] == [c.ids for c in again]


def reply(prompt, ids, text, scores):
    return {"choices": [{"text": text, "token_ids": ids, "prompt_token_ids": prompt, "logprobs": {"token_logprobs": scores}}]}


def streamed(student, prompt, ids):
    "Text as vLLM builds it: token by token behind the prompt, half a character held back until its other half comes."
    stream = DecodeStream(ids=prompt, skip_special_tokens=True)
    return "".join(part for i in ids if (part := stream.step(student.tokenizer.backend_tokenizer, i)))


def test_half_a_character_is_no_other_tokenizer(pupil):
    prompt, rng, halves = pupil.encode_prompts(["Ann has"])[0], random.Random(0), 0
    whole = pupil.tokenizer("Ann é has 7 \U0001f600 eggs \u2014 ok").input_ids
    cut = [whole[:n] for n in range(1, len(whole) + 1)]
    for ids in [*cut, *(rng.choices(range(len(pupil.tokenizer)), k=20) for _ in range(300))]:
        text = streamed(pupil, prompt, ids)
        ours = pupil.tokenizer.decode(ids, skip_special_tokens=True)
        halves += text != ours
        for said in (text, ours): assert read(reply(prompt, ids, said, [-1.0]*len(ids)), prompt, pupil)[0].text == ours
        with pytest.raises(InputError, match="another tokenizer"): read(reply(prompt, ids, text + "7", [-1.0]*len(ids)), prompt, pupil)
    assert halves > 50, "the case occurs"


@pytest.mark.parametrize("score", [None, float("nan"), float("-inf")])
def test_a_score_that_is_no_number_is_refused(pupil, score):
    ids = pupil.tokenizer("7 eggs").input_ids
    text = pupil.tokenizer.decode(ids, skip_special_tokens=True)
    with pytest.raises(InputError, match="lacks what is needed"): read(reply([5], ids, text, [-1.0]*(len(ids) - 1) + [score]), [5], pupil)


def test_log_probabilities_agree_to_rounding_and_stale_ones_do_not(served, pupil, tmp_path):
    with running(served) as url:
        engine = Engine(url, tmp_path)
        found = sample_there(engine, pupil, PROMPTS, KEYS, 1.0, 20)
        prompts = pupil.encode_prompts(PROMPTS)
        served.load(name_of(pupil), str(pupil.save_adapters(tmp_path/"mine")))
        plain = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        said = [served.complete(name_of(pupil), p, 5, 1.0, 20, 1, True, **plain)[1]["choices"][0] for p in prompts]
        scored = [(replace(found[0], ids=c["token_ids"]), c["logprobs"]["token_logprobs"]) for c in said]
        assert check_scores(pupil, prompts, scored, engine) < 1e-5
        learn(pupil)
        with pytest.raises(InputError, match="nats a token off the student's, more than 0.05: it writes with other weights"):
            check_scores(pupil, prompts, scored, engine)
        served.fault = "stale"
        with pytest.raises(InputError, match="it writes with other weights"): sample_there(engine, pupil, PROMPTS, KEYS, 1.0, 20)


@pytest.mark.parametrize("fault, said", [("text", "its text"), ("prompt", "read 3 other tokens than the 2 that it was sent"),
                                         ("no scores", "lacks what is needed"), ("broken", "out of blocks.*; is it up, with --enable-lora")])
def test_a_server_that_is_wrong_is_one_line(served, pupil, tmp_path, fault, said, monkeypatch):
    monkeypatch.setattr("openai._constants.INITIAL_RETRY_DELAY", 0.01)
    served.fault = fault
    prompt = [next(t for t in ("An", "Ann", "Ann has", "Ben has 3") if len(pupil.encode_prompts([t])[0]) == 2)]
    with running(served) as url, pytest.raises(InputError, match=said) as e: sample_there(Engine(url, tmp_path), pupil, prompt, ["0"], 1.0, 8)
    assert "\n" not in str(e.value)


def test_who_is_not_there_and_who_has_no_adapters(make, pupil, tmp_path):
    with pytest.raises(InputError, match="server http://127.0.0.1:9/v1: .*refused.*is it up"):
        sample_there(Engine("http://127.0.0.1:9/v1", tmp_path), pupil, ["Ann"], ["0"], 1.0, 8)
    with pytest.raises(InputError, match="set student.lora_rank, or leave options.server empty"):
        sample_there(Engine("http://127.0.0.1:9/v1", tmp_path), make("decoder"), ["Ann"], ["0"], 1.0, 8)
    with pytest.raises(InputError, match="expected an address"): Engine("127.0.0.1:8000", tmp_path)
    with pytest.raises(InputError, match="concurrency = 0"): Engine("http://x", tmp_path, concurrency=0)


def test_on_policy_learns_from_a_servers_samples(served, setup, oracle, pupil):
    before = weights(pupil)
    with running(served) as url:
        given = replace(setup(teacher=oracle()), student=pupil)
        outcome = on_policy(given, OnPolicyConfig(longest=12, server=url))
    assert outcome.report["steps online"] > 3 and served.wrote > 500 and len(set(served.loaded)) > 2 and not served.known
    assert not torch.equal(before, weights(pupil))


def test_on_policy_asks_for_adapters_before_it_trains(setup, oracle):
    given = setup(teacher=oracle())
    with pytest.raises(InputError, match="set student.lora_rank"): on_policy(given, OnPolicyConfig(longest=12, server="http://127.0.0.1:9/v1"))
    assert not (given.folder/"checkpoints").exists()
