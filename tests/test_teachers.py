import json
import logging
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError, read_jsonl
from reasoning_distill.teachers import prices, remote
from reasoning_distill.teachers.completions import Reply, Request, Store, Unanswered, complete, passed_on
from reasoning_distill.teachers.prices import FREE, PRICES, Budgeted, Price, by_characters, estimate, price_of, worst_tokens
from reasoning_distill.teachers.remote import RemoteConfig, anthropic_body, openai_body, remote_backend, same_model, seconds_until

KINDS = ("openai", "anthropic")
KEY = "hush-hush-0123456789"  # no server takes it
ASK = Request(model="toy-1", place="here", prompt="6*7", temperature=0.7, max_new_tokens=64, seed=3, sample=0)


# A server that speaks both languages and misbehaves as scripted: the n-th attempt of a prompt meets the n-th mood, and all later ones are good.

STATUS = {**{str(code): code for code in (400, 401, 403, 404, 408, 409, 429, 500, 503)}, "429 soon": 429, "429 never": 429, "moved": 307}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def do_POST(self):
        double, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        with double.lock:
            moods = double.script.get(prompt, [])
            mood = moods.pop(0) if moods else ""
            double.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.monotonic()))
        if mood == "hang": double.over.wait(5)
        else: double.over.wait(double.slow)
        if mood in STATUS: return self.refuse(STATUS[mood], {"429 soon": "0.3", "429 never": "3600"}.get(mood))
        if mood != "hang":
            with double.lock: double.billed.append((len(prompt), 10))
        try: self.say(self.words(mood, prompt, body["model"]), mood)
        except OSError: pass  # whoever asked has gone

    def words(self, mood, prompt, model):
        "A good answer in the language of the path, or what the mood makes of it."
        text = {"no text": "", "long thought": "", "refusal": ""}.get(mood, f"#### {prompt}")
        cut, model = mood in ("length", "long thought"), "toy-2" if mood == "other" else f"{model}-20260101"
        if self.path.endswith("/chat/completions"):
            message = {"content": text, "refusal": "I would rather not" if mood == "refusal" else None}
            choice = {"message": message, "finish_reason": "length" if cut else "stop", "logprobs": {"content": [{"logprob": -0.5}, {"logprob": 0}]}}
            return {"model": model, "choices": [] if mood == "empty" else [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 10}}
        reason = "max_tokens" if cut else "refusal" if mood == "refusal" else "end_turn"
        return {"type": "message", "role": "assistant", "model": model, "content": [] if mood == "empty" else [{"type": "text", "text": text}],
                "stop_reason": reason, "usage": {"input_tokens": len(prompt), "output_tokens": 10}}

    def say(self, words, mood):
        data = json.dumps(words).encode()
        if mood == "broken": data = data[:30]
        if mood == "sorry": data = b'{"error": {"message": "out of tokens"}}'
        if mood == "deep": data = b"[" * 100_000
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data) + (100 if mood == "cut" else 0)))
        for name, value in self.server.limits.pop(0) if self.server.limits else []: self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if mood == "cut": self.close_connection = True

    def refuse(self, status, after):
        data = json.dumps({"type": "error", "error": {"type": "some_error", "message": f"no, {status}: {self.server.words}"}}).encode()
        self.send_response(status)
        for name, value in (("content-type", "application/json"), ("content-length", str(len(data)))): self.send_header(name, value)
        if after: self.send_header("retry-after", after)
        if status == 307: self.send_header("location", f"http://localhost:{self.server.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(data)


class Double(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.over, self.script, self.seen, self.billed, self.limits, self.slow, self.words = (
            threading.Lock(), threading.Event(), {}, [], [], [], 0, "see the manual")

    def times(self, prompt): return [at for _, _, body, at in self.seen if body["messages"][-1]["content"] == prompt]

    def handle_error(self, *_): pass


@pytest.fixture
def double():
    server = Double()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "The waits between attempts, short."
    for kind in KINDS:
        base = pytest.importorskip(f"{kind}._base_client")
        monkeypatch.setattr(base, "INITIAL_RETRY_DELAY", 0.005)
        monkeypatch.setattr(base, "MAX_RETRY_DELAY", 0.01)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.005)
    monkeypatch.setenv("TOY_KEY", KEY)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path/"replies.db") as opened: yield opened


@pytest.fixture
def make(double):
    def build(kind="openai", **options):
        url = f"http://127.0.0.1:{double.server_port}" + ("/v1" if kind == "openai" else "")
        usual = {"concurrency": 8, "retries": 3, "timeout": 5, "key_variable": "TOY_KEY"}
        return remote_backend(RemoteConfig(kind, "toy-1", url, **{**usual, **options}))
    return build


def asks(backend, prompts): return [replace(ASK, model=backend.model, place=backend.place, prompt=p) for p in prompts]


# ---- what a server does wrong costs one row at most, and the row says what it was

GOOD = {"fine": [], "500": ["500"], "503": ["503", "503"], "408": ["408"], "409": ["409"], "429": ["429"], "429 soon": ["429 soon"], "cut": ["cut"],
        "broken": ["broken"], "deep": ["deep"], "empty": ["empty"], "no text": ["no text", "no text"], "length": ["length"],
        "mixed": ["500", "broken", "429"]}
BAD = {"400": "HTTP 400: no, 400: see the manual", "401": "HTTP 401: no, 401: see the manual", "403": "HTTP 403: no, 403: see the manual",
       "404": "HTTP 404: no, 404: see the manual", "429 never": "HTTP 429", "refusal": "the model refused", "moved": "HTTP 307",
       "long thought": "cut off at 64 tokens", "other": "'toy-1' was asked and 'toy-2' answered"}
STUCK = {"always 500": ("500", "HTTP 500"), "always cut": ("cut", "connection to"), "always broken": ("broken", "the reply is no JSON, 4 times"),
         "always empty": ("empty", "the reply has no"), "always sorry": ("sorry", ": out of tokens, 4 times")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_retried_or_reported_and_the_run_goes_on(double, make, store, kind):
    double.script = {**{p: [*moods] for p, moods in GOOD.items()}, **{p: [p] for p in BAD}, **{p: [mood]*9 for p, (mood, _) in STUCK.items()}}
    backend = make(kind)
    prompts = [*GOOD, *BAD, *STUCK, *map(str, range(20))]
    results = dict(zip(prompts, complete(backend, asks(backend, prompts), store), strict=True))
    for prompt, moods in GOOD.items():
        r = results[prompt]
        assert isinstance(r, Reply) and r.text == f"#### {prompt}" and (r.prompt_tokens, r.tokens) == (len(prompt), 10), (prompt, r)
        assert len(double.times(prompt)) == 1 + len(moods) - (prompt == "length") and r.truncated == (prompt == "length")
    assert {p: results[p].lost for p in ("fine", "500", "cut", "no text", "mixed")} == {"fine": 0, "500": 0, "cut": 1, "no text": 2, "mixed": 1}
    for prompt, reason in BAD.items(): assert reason in results[prompt].reason and len(double.times(prompt)) == 1, results[prompt]
    for prompt, (_, reason) in STUCK.items(): assert reason in results[prompt].reason and len(double.times(prompt)) == 4, results[prompt]
    assert results["always 500"].lost == 0 and results["always empty"].lost == 4
    assert all("\n" not in r.reason for r in results.values() if isinstance(r, Unanswered))
    assert len(store.get(r.key for r in asks(backend, prompts))) == len(prompts) - len(BAD) - len(STUCK), "failures are not stored"


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_hangs_is_given_up(double, make, store, kind):
    double.script = {"once": ["hang"], "always": ["hang"]*9}
    backend = make(kind, timeout=1.0, retries=1)
    once, always = complete(backend, asks(backend, ["once", "always"]), store)
    assert once.text == "#### once" and once.lost == 1
    assert always.reason == f"no answer from {backend.place} within 1.0 s after 2 attempts" and always.lost == 2


def test_nobody_listens(store):
    backend = remote_backend(RemoteConfig("openai", "toy-1", "http://127.0.0.1:9/v1", retries=1))
    [result] = complete(backend, asks(backend, ["6*7"]), store)
    assert result.reason.startswith("connection to http://127.0.0.1:9/v1 failed after 2 attempts: ")


# ---- what is sent

def test_a_message_is_sent_as_the_documentation_has_it(double, make, store):
    backend = make("anthropic")
    complete(backend, [replace(r, system="Be brief.") for r in asks(backend, ["6*7"])], store)
    [(path, headers, body, _)] = double.seen
    assert path == "/v1/messages" and headers["x-api-key"] == KEY and headers["anthropic-version"] == "2023-06-01" and "authorization" not in headers
    assert headers["content-type"] == "application/json"
    assert body == {"model": "toy-1", "max_tokens": 64, "system": "Be brief.", "messages": [{"role": "user", "content": "6*7"}], "temperature": 0.7}


def test_a_chat_completion_is_sent_as_the_documentation_has_it(double, make, store):
    backend = make("openai")
    [reply] = complete(backend, [replace(r, system="Be brief.", sample=2, logprobs=True) for r in asks(backend, ["6*7"])], store)
    [(path, headers, body, _)] = double.seen
    assert path == "/v1/chat/completions" and headers["authorization"] == f"Bearer {KEY}"
    assert body == {"model": "toy-1", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6*7"}], "seed": 5,
                    "max_tokens": 64, "temperature": 0.7, "logprobs": True}
    assert reply.logprobs == (-0.5, 0.0)


def test_a_default_temperature_is_left_unsaid_where_others_may_be_refused():
    one = replace(ASK, temperature=1)
    assert "temperature" not in openai_body(one, official=True) and "extra_body" not in anthropic_body(one)
    assert openai_body(one, official=False)["temperature"] == 1 and openai_body(ASK, official=True)["max_completion_tokens"] == 64


def test_the_attempts_of_a_request_are_recognisable_as_one(double, make, store):
    double.script = {"p": ["500", "broken", "500"]}
    backend = make()
    [request] = asks(backend, ["p"])
    complete(backend, [request], store)
    assert [headers["idempotency-key"] for _, headers, _, _ in double.seen] == [request.key]*2 + [f"{request.key}-1"]*2


@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_is_not_shown_the_usual_key(double, make, store, monkeypatch, kind):
    monkeypatch.setenv(remote.KEYS[kind], KEY)
    backend = make(kind, key_variable="")
    complete(backend, asks(backend, ["6*7"]), store)
    assert KEY not in str(double.seen)


def test_environment_variables_do_not_redirect_requests(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    backend = remote_backend(RemoteConfig("openai", "gpt-4o"))
    assert str(backend.client.base_url).rstrip("/") == backend.place == "https://api.openai.com/v1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_is_in_nothing_that_is_written_down(double, make, store, caplog, capfd, tmp_path, kind):
    double.words, double.script = f"your key {KEY} and sk-other*****9876 are wrong", {"401": ["401"], "500": ["500"]*9, "cut": ["cut"]*9}
    with caplog.at_level(logging.DEBUG):
        backend = make(kind)
        results = complete(backend, asks(backend, ["401", "500", "cut", "fine"]), store)
    store.export_jsonl(tmp_path/"out.jsonl")
    written = "".join(p.read_bytes().decode("latin-1") for p in tmp_path.iterdir())
    shown = [repr(backend), repr(backend.config), str(results), caplog.text, *capfd.readouterr(), written, str(asdict(backend.config))]
    assert caplog.records and "[key]" in results[0].reason and "sk-other" not in str(results)
    assert not [text for text in shown if KEY in text]


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(monkeypatch):
    for key in ("hush hush", "hüsh", "a\nb"):
        monkeypatch.setenv("TOY_KEY", key)
        with pytest.raises(InputError, match="the key in TOY_KEY") as e: remote_backend(RemoteConfig("openai", "toy", key_variable="TOY_KEY"))
        assert key not in str(e.value)
    monkeypatch.delenv("TOY_KEY")
    with pytest.raises(InputError, match="TOY_KEY is empty"): remote_backend(RemoteConfig("openai", "toy", key_variable="TOY_KEY"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_that_is_missing_is_named(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(InputError, match=r"pip install 'reasoning_distill\[teachers\]'"): remote_backend(RemoteConfig(kind, "toy", "http://localhost"))


@pytest.mark.parametrize("options", [{"kind": "oracle"}, {"model": " "}, {"base_url": "localhost:1"}, {"base_url": "file:///etc"}, {"concurrency": 0},
                                     {"base_url": "https://me:hush@example.org"}, {"base_url": "https://example.org?key=hush"}, {"timeout": 0}])
def test_a_bad_configuration_is_refused(options):
    with pytest.raises(InputError) as e: RemoteConfig(**{"kind": "openai", "model": "toy", **options})
    assert "hush" not in str(e.value)


# ---- limits

def soon(seconds): return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("headers", [lambda: [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "500ms")],
                                     lambda: [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "0.5s")],
                                     lambda: [("anthropic-ratelimit-requests-remaining", "0"), ("anthropic-ratelimit-requests-reset", soon(0.5))]])
def test_nobody_asks_while_the_limit_is_used_up(double, make, store, headers):
    backend, start = make(concurrency=3), time.monotonic()
    double.limits = [headers()]
    complete(backend, asks(backend, ["first"]), store)
    complete(backend, asks(backend, map(str, range(6))), store)
    assert all(at - start > 0.45 for _, _, body, at in double.seen if body["messages"][0]["content"] != "first")
    assert len(double.seen) == 7 and time.monotonic() - start < 3


def test_the_limit_that_is_left_does_not_hold_anybody_up(double, make, store):
    double.limits = [[("x-ratelimit-remaining-requests", "1"), ("x-ratelimit-reset-requests", "60s")]]*3
    backend = make()
    start = time.monotonic()
    complete(backend, asks(backend, "abc"), store)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("kind", KINDS)
def test_retry_after_is_honoured(double, make, store, kind):
    double.script = {"p": ["429 soon"]}
    backend = make(kind)
    complete(backend, asks(backend, ["p"]), store)
    first, second = double.times("p")
    assert 0.28 < second - first < 2


@pytest.mark.parametrize("text,seconds", [("1s", 1), ("6m0s", 360), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("7", 7), ("2026-01-01T00:00:30Z", 30),
                                          ("2026-01-01T01:00:30+01:00", 30), ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
                                          ("2025-01-01T00:00:00Z", 0), ("soon", 0), ("", 0), ("5 parsecs", 0)])
def test_headers_that_say_how_long(text, seconds):
    assert seconds_until(text, datetime(2026, 1, 1, tzinfo=UTC)) == pytest.approx(seconds)


@given(st.text(max_size=30))
def test_a_header_is_never_too_odd(text): assert seconds_until(text) >= 0


@pytest.mark.parametrize("asked,answered,same", [
    ("gpt-4o", "gpt-4o-2024-08-06", True), ("gpt-4", "gpt-4-0613", True), ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", True),
    ("claude-opus-4-0", "claude-opus-4-20250514", True), ("claude-3-7-sonnet-latest", "claude-3-7-sonnet-20250219", True),
    ("Org/Toy-7B", "toy-7b", True), ("llama3", "llama3:latest", True),
    ("gpt-4o-2024-08-06", "gpt-4o", True), ("gpt-4o", "gpt-4o-mini", False), ("gpt-4", "gpt-4.1", False),
    ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06", False), ("claude-sonnet-4-5", "claude-haiku-4-5-20251001", False), ("toy:8b", "toy:70b", False)])
def test_names_of_one_model(asked, answered, same): assert same_model(asked, answered) == same


# ---- a run that is stopped

def test_closing_starts_nothing_new(double, make):
    backend, double.slow = make(concurrency=2), 0.05
    with closing(backend.answers(asks(backend, map(str, range(50))))) as stream: next(stream)
    time.sleep(0.3)
    assert len(double.seen) <= 3


@pytest.mark.parametrize("budget", [False, True])
def test_an_interrupted_run_keeps_what_was_paid(double, make, store, budget):
    backend, double.slow = make(concurrency=4), 0.2
    requests = asks(backend, map(str, range(60)))
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt): complete(Budgeted(backend, Price(1, 1), 100) if budget else backend, requests, store)
    assert 4 <= len(store.get(r.key for r in requests)) == len(double.billed) < 40


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, ZeroDivisionError])
def test_trouble_with_a_reply_loses_no_other(double, make, store, trouble):
    backend, double.slow = make(concurrency=4), 0.1
    requests = asks(backend, map(str, range(40)))
    def stumble(request, result): raise trouble
    with pytest.raises(trouble): complete(backend, requests, store, on_reply=stumble)
    assert 1 <= len(store.get(r.key for r in requests)) == len(double.billed) <= 5


# ---- complete and the store, without a server

@dataclass
class Fake:
    "Answers at once, in reverse order; what it was asked is written down."
    place: str = "here"
    model: str = "toy-1"
    name: str = "fake"
    fails: tuple = ()
    asked: list = field(default_factory=list)

    def answers(self, requests):
        for i, r in reversed([*enumerate(requests)]):
            self.asked.append(r)
            yield i, Unanswered("no") if r.prompt in self.fails else Reply(f"#### {r.prompt}", 5, 10, False, (-0.25, -1.5), 0.1)


def test_results_are_in_order_and_asked_once(store):
    fake = Fake(fails=("c",))
    requests = [replace(ASK, prompt=p) for p in "abcab"]
    results = complete(fake, requests, store)
    assert [r.text if isinstance(r, Reply) else r.reason for r in results] == ["#### a", "#### b", "no", "#### a", "#### b"] and len(fake.asked) == 3
    assert complete(fake, requests, store) == results and [r.prompt for r in fake.asked[3:]] == ["c"], "a failure is asked again, a reply is not"
    replay = complete(None, requests, store)
    assert replay[:2] == results[:2] and "not in the store" in replay[2].reason


def test_a_reply_is_on_disk_before_it_is_used(store):
    def look(request, result):
        with Store(store.path) as other: assert other.get([request.key]) == {request.key: result}
    complete(Fake(), [replace(ASK, prompt=p) for p in "abc"], store, on_reply=look)


def test_an_interruption_between_a_reply_and_the_disk_loses_nothing(store, monkeypatch):
    put, calls = store.put, []
    def interrupted(request, reply):
        calls.append(request)
        if len(calls) == 1: raise KeyboardInterrupt
        return put(request, reply)
    monkeypatch.setattr(store, "put", interrupted)
    with pytest.raises(KeyboardInterrupt): complete(Fake(), [ASK], store)
    assert [*store.get([ASK.key])] == [ASK.key]


def test_requests_for_another_are_refused(store):
    with pytest.raises(InputError, match="was given to"): complete(Fake(), [replace(ASK, model="other")], store)


def test_a_failure_cannot_be_stored(store):
    with pytest.raises(InputError, match="failures are not stored"): store.put(ASK, Unanswered("HTTP 500"))


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
asked = st.builds(lambda prompt, **rest: replace(ASK, prompt="x" + prompt, **rest), words, system=words, temperature=st.sampled_from([0, 0.7, 1]),
                  seed=st.integers(0, 3), sample=st.integers(0, 3), logprobs=st.booleans())


@given(asked, asked)
def test_a_key_stands_for_all_of_a_request(a, b): assert (a.key == b.key) == (a == b)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(asked, words, st.lists(st.floats(-50, 0), max_size=5))
def test_what_is_stored_comes_back(store, request_, text, scores):
    kept = store.put(request_, Reply(text, 1, 2, True, tuple(scores), 0.5))
    assert store.get([request_.key]) == {request_.key: kept}


@pytest.mark.parametrize("bad", [{"prompt": ""}, {"prompt": "\ud83d"}, {"temperature": float("nan")}, {"temperature": -1}, {"max_new_tokens": 0}])
def test_a_request_without_sense_is_refused(bad):
    with pytest.raises(InputError): replace(ASK, **bad)


def fill(store, count):
    for i in range(count): store.put(replace(ASK, sample=i), Reply(f"text {i} ✓", 5, 10, i % 2 == 0, (-0.5,)*(i % 3)))


def test_exports(store, tmp_path):
    fill(store, 7)
    rows = read_jsonl(store.export_jsonl(tmp_path/"a"/"out.jsonl"))
    assert [(r["text"], r["sample"], r["key"]) for r in rows] == [(f"text {i} ✓", i, replace(ASK, sample=i).key) for i in range(7)]
    from datasets import load_from_disk
    table = load_from_disk(store.export_dataset(tmp_path/"set"))
    assert table.to_list() == [{name: row[name] for name in table.column_names} for row in rows] and {*table.column_names} == {*rows[0]}
    assert {*os.listdir(tmp_path)} <= {"a", "set", "replies.db", "replies.db-wal", "replies.db-shm", ".replies.db.lock"}, "nothing is left behind"
    assert store.totals() == {"toy-1": {"replies": 7, "prompt tokens": 35, "tokens": 70}}


def test_an_empty_store_can_be_exported(store, tmp_path):
    assert store.export_jsonl(tmp_path/"out.jsonl").read_text() == "" and [*store.rows()] == [] and store.totals() == {}


def test_rows_are_read_in_chunks(store):
    fill(store, 25)
    assert [r.sample for r, _ in store.rows(chunk=10)] == [*range(25)]
    keys = [replace(ASK, sample=i).key for i in range(25)]
    assert {*store.get(keys, chunk=4)} == {*keys}


@pytest.mark.parametrize("content", [b"not a database at all, " * 50, b"SQLite format 3\0" + b"\xff"*4000])
def test_a_file_that_is_no_store_is_left_alone(tmp_path, content):
    (tmp_path/"x.db").write_bytes(content)
    with pytest.raises(InputError, match="name another file"): Store(tmp_path/"x.db")
    assert (tmp_path/"x.db").read_bytes() == content


def test_the_database_of_another_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path/"x.db")) as db: db.execute("CREATE TABLE t (x)")
    before = (tmp_path/"x.db").read_bytes()
    with pytest.raises(InputError, match="database of something else"): Store(tmp_path/"x.db")
    assert (tmp_path/"x.db").read_bytes() == before


CHILD = textwrap.dedent("""
    import os, sys
    from dataclasses import replace
    from reasoning_distill.core import InputError
    from reasoning_distill.teachers.completions import Reply, Request, Store
    ASK = Request(model="toy-1", place="here", prompt="6*7", temperature=0.7, max_new_tokens=64, seed=3, sample=0)
    def put(store, i): return store.put(replace(ASK, sample=i), Reply(f"{os.getpid()} " + "word "*400, 5, 10, False))
""")


def child(code, *arguments, **options):
    command = [sys.executable, "-c", CHILD + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def test_a_killed_process_loses_nothing_that_it_was_told_is_stored(tmp_path):
    path, told = tmp_path/"replies.db", 0
    for goes in (3, 17, 40):
        process = child("""
            store, i = Store(sys.argv[1]), int(sys.argv[2])
            while True:
                put(store, i); print(i, flush=True); i += 1
        """, path, told)
        for _ in range(goes): last = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split("\n")  # acknowledged before the kill reached it; the last line may be half
        process.wait()
        told = int([last.strip(), *[line for line in rest[:-1] if line]][-1]) + 1
        with Store(path) as store:
            assert {*store.get(replace(ASK, sample=i).key for i in range(told))} == {replace(ASK, sample=i).key for i in range(told)}
            assert store._all("PRAGMA integrity_check") == [("ok",)]
    assert told >= 60


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path/"replies.db"
    code = """
        store = Store(sys.argv[1])
        kept = [put(store, i).text.split()[0] for i in range(60)]
        print(" ".join(kept))
    """
    processes = [child(code, path) for _ in range(2)]
    said = [p.communicate()[0].split() for p in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    with Store(path) as store: there = [store.get([replace(ASK, sample=i).key]) for i in range(60)]
    assert said[0] == said[1] == [next(iter(r.values())).text.split()[0] for r in there], "both are handed what is stored"


def test_a_commit_waits_for_the_disk(tmp_path):
    for _ in range(2):  # made, and opened again
        with Store(tmp_path/"replies.db") as store:
            assert store._all("PRAGMA journal_mode") == [("wal",)] and store._all("PRAGMA synchronous") == [(2,)]


def test_threads_share_a_store(store):
    def work(start):
        for i in range(start, start + 30): store.put(replace(ASK, sample=i), Reply(str(i), 1, 1, False))
    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 15, 30)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert store.totals()["toy-1"]["replies"] == 60


def test_a_folder_that_cannot_be_written(tmp_path):
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    try:
        said, _ = child("""
            if os.getuid() == 0: os.setuid(65534)
            try: Store(sys.argv[1])
            except InputError as e: print(e)
        """, folder/"replies.db").communicate()
        assert "choose a folder that can be written" in said and str(folder) in said and said.count("\n") == 1, said
        assert not [*folder.iterdir()]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("how", ["limit", "disk"])
def test_a_disk_that_is_full(tmp_path, how):
    folder = tmp_path/"small"
    folder.mkdir()
    if how == "disk" and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    def small(): resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    try:
        said, _ = child("""
            store, i = Store(sys.argv[1]), 0
            try:
                while i < 2000: put(store, i); i += 1
            except InputError as e: print(i, e)
        """, folder/"replies.db", preexec_fn=small if how == "limit" else None).communicate()
        count, line = said.split(" ", 1)
        assert "what was stored is intact" in line and "make room" in line and line.count("\n") == 1, said
        shutil.copytree(folder, tmp_path/"roomy")
    finally:
        if how == "disk": subprocess.run(["umount", folder], check=True)
    with Store(tmp_path/"roomy"/"replies.db") as store:
        assert len([*store.rows()]) == int(count) > 5
        store.put(replace(ASK, sample=10**6), Reply("room again", 1, 1, False))


def test_nothing_heavy_is_imported():
    code = "import sys, reasoning_distill.teachers.prices; print([m for m in ('torch', 'openai', 'anthropic', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# ---- money

def test_prices_are_dated_and_unknown_ones_are_asked_for():
    assert all(p.date and p.source.startswith("https://") and 0 < p.input < p.output for p in PRICES.values())
    assert price_of("gpt-4o-2024-08-06") is PRICES["gpt-4o"] and price_of("gpt-4o", {"input": 1, "output": 2}) == Price(1, 2, source="given")
    assert price_of("mine", place="http://localhost:8000/v1") is FREE is price_of("mine", place="0a1b2c")
    with pytest.raises(InputError, match=r"no price is known for 'gpt-9': give it as prices: \{input: …, output: …\}"): price_of("gpt-9")
    for bad in ({"input": 1}, {"input": 1, "output": 2, "cached": 3}, *({"input": x, "output": 1} for x in (-1, None, "free", float("nan")))):
        with pytest.raises(InputError): price_of("gpt-4o", bad)


def test_an_estimate_counts_what_is_missing(store):
    requests = [replace(ASK, prompt="word "*8, sample=i) for i in range(10)]
    complete(Fake(), requests[:4], store)
    found = estimate([*requests, *requests], Price(1, 10), store=store)
    assert (found.calls, found.prompt_tokens, found.tokens) == (6, 6*by_characters("word "*8), 6*64)
    assert found.dollars == pytest.approx((60 + 10*384)/1e6) and "6 calls" in str(found)
    assert estimate(requests, Price(1, 10), lambda text: len(text.split())).prompt_tokens == 80


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 3), st.booleans()), max_size=40), st.floats(0, 0.05), st.integers(1, 4))
def test_no_budget_is_passed(results, limit, attempts):
    class Costly(Fake):
        def answers(self, requests):
            for i, r in reversed([*enumerate(requests)]):
                written, lost, good = results[r.sample]
                lost = min(lost, self.attempts - good)
                self.bill += (lost*64 + good*written)*10/1e6
                yield i, Reply("x", 0, written, False, lost=lost) if good else Unanswered("no", lost=lost)
    costly = Costly()
    costly.bill, costly.attempts = 0, attempts
    paid = Budgeted(costly, Price(1, 10), limit)
    got = [*paid.answers([replace(ASK, sample=i) for i in range(len(results))])]
    assert costly.bill <= paid.spent + 1e-12 <= limit + 1e-9 and sorted(i for i, _ in got) == [*range(len(results))]
    assert all("budget of" in r.reason for _, r in got if isinstance(r, Unanswered) and r.reason != "no")


def test_a_budget_holds_at_a_server_that_stumbles(double, make, store):
    double.script = {str(i): [mood] for i, mood in enumerate(["cut", "broken", "500", "other", "no text", "length"]*5)}
    backend = make(retries=2)
    requests = asks(backend, map(str, range(200)))
    paid = Budgeted(backend, Price(1, 1000), 1.5)
    results = complete(paid, requests, store)
    bill = sum(paid.price.of(*tokens) for tokens in double.billed)
    assert 0.2 < bill <= paid.spent <= 1.5 < paid.spent + 3*paid.worst(requests[0])
    told = [r.reason for r in results if isinstance(r, Unanswered) and r.reason.startswith("budget of $1.5000 reached: $")]
    assert told and len(told) < 190
    double.script, missing, before = {}, estimate(requests, paid.price, store=store).calls, len(double.seen)
    again = complete(Budgeted(backend, Price(1, 1000), 1000), requests, store)
    assert all(isinstance(r, Reply) for r in again) and len(double.seen) - before == missing < 200, "the next run asks for the rest alone"


def test_an_interruption_reaches_through_a_budget():
    def inner():
        try: yield 0, "a"
        except KeyboardInterrupt:
            yield 1, "b"
            raise
    stream = passed_on(inner(), lambda i, r: (i, r.upper()))
    assert next(stream) == (0, "A") and stream.throw(KeyboardInterrupt()) == (1, "B")
    with pytest.raises(KeyboardInterrupt): next(stream)


def test_the_worst_prompt_is_an_upper_bound():
    assert worst_tokens(replace(ASK, prompt="数"*10, system="")) == 30 + 64 and prices.is_local("http://[::1]:80/v1")
