import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import apart
import pytest
import yaml
from conftest import ROOT

from reasoning_distill import cli, pipeline
from reasoning_distill.core import InputError, Trace, Verdict, read_jsonl, write_jsonl
from reasoning_distill.curation import Inspection, Overlap, Rules, curriculum, sieve, stream
from reasoning_distill.domains.code import worked
from reasoning_distill.models.students import ModelConfig, build_student
from reasoning_distill.pipeline import STAGES, configured, material_of, plan, read_config, run
from reasoning_distill.scale import write_scale
from reasoning_distill.tasks.arithmetic import arithmetic_task
from reasoning_distill.tasks.generate import generate
from reasoning_distill.teachers.completions import Store
from reasoning_distill.teachers.stored import KeptTeacher, kept_by
from reasoning_distill.templates import prompt_for, target_for


class Server:
    "A server that speaks OpenAI's protocol and knows the gold traces of its questions; `faults` says how it fails."

    def __init__(self, problems, delay=0.0):
        self.gold = {p.question: target_for(p.gold, "reason", "plain") for p in problems}
        self.delay, self.faults, self.served, self.begun = delay, {}, [], 0
        self.usage, self.remembers, self.known = True, False, {}  # `remembers`: a known Idempotency-Key gets the same reply, and no second bill
        self.lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *_): "Quiet."
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = outer.reply(asked, self.headers["Idempotency-Key"])
                data = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data)))): self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                    self.wfile.flush()
                except OSError: self.close_connection = True  # who asked is dead

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # who asked is dead
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self): return f"http://127.0.0.1:{self.http.server_port}/v1"

    def reply(self, asked, key):
        with self.lock: mine = self.known.setdefault(key, [threading.Lock(), None]) if self.remembers else [threading.Lock(), None]
        with mine[0]:
            mine[1] = mine[1] or self.written(asked)
            return mine[1]

    def written(self, asked):
        text = asked["messages"][-1]["content"]
        question = next(q for q in self.gold if q in text)
        with self.lock: self.begun += 1
        time.sleep(self.delay)
        if question in self.faults: return self.faults[question], {"error": {"message": "out of order"}}
        seed, written = asked.get("seed", 0), self.gold[question]
        if seed % 3 == 2: written = f"Let us see, attempt {seed}.\n{written}"  # samples differ
        with self.lock: self.served.append((question, seed))
        return 200, {"id": "x", "object": "chat.completion", "created": 0, "model": asked["model"],
                     "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": written}}],
                     **({"usage": {"prompt_tokens": 50, "completion_tokens": 40, "total_tokens": 90}} if self.usage else {})}


PROBLEMS = generate(arithmetic_task(largest=30), "train", 30, seed=3)


@pytest.fixture
def server():
    found = Server(PROBLEMS)
    yield found
    found.http.shutdown()


@pytest.fixture
def own(tmp_path, server, monkeypatch):
    "A configuration for questions of one's own; settings as in YAML."
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    questions = write_jsonl(tmp_path/"questions.jsonl", ({"id": p.id, "question": p.question, "answer": p.answer} for p in PROBLEMS))
    def build(folder="out", **changes):
        teacher = {"kind": "openai", "model": "tiny", "base_url": server.url, "samples": 2, "prices": {"input": 1.0, "output": 10.0}, "retries": 1,
                   **changes.pop("teacher", {})}
        return {"questions": str(questions), "output_dir": str(tmp_path/folder), "domain": "math", "teacher": teacher, "levels": 2, "epochs": 1,
                "student": {"width": 16, "layers": 1, "vocabulary": 300}, "max_new_tokens": 40, "fit": {"evaluations": 2}, **changes}
    return build


def files_of(folder):
    "What a run leaves, times, paths and cost aside: the account counts a charge whose reply was lost."
    names = ("traces.jsonl", "kept.jsonl", "dropped.jsonl", "failures.jsonl", "predictions.jsonl", "student/model.safetensors", "student/README.md")
    found = {name: re.sub(rb"cost of the teacher.*", b"", (Path(folder)/name).read_bytes()) for name in names}
    report = json.loads((Path(folder)/"report.json").read_text())
    return found | {"report": {k: report[k] for k in ("generate", "curate", "train", "evaluate")}}


def test_from_questions_to_a_student(own, server, tmp_path):
    said = []
    found = run(configured(own()), say=said.append)
    assert [line.split(":")[0] for line in said] == [*STAGES] == [*found]
    folder = tmp_path/"out"
    parts = material_of(configured(own()))
    assert [len(x) for x in (parts.train, parts.validation, parts.test)] == [24, 3, 3]
    assert len(server.served) == 2*24 + 3 == found["generate"]["traces"] == len([*stream(folder/"traces.jsonl", Trace)])
    kept, dropped = [*stream(folder/"kept.jsonl", Trace)], [json.loads(line) for line in (folder/"dropped.jsonl").open()]
    assert len(kept) == found["curate"]["kept"] and len(kept) + len(dropped) == 51 and found["curate"]["verdicts"]["right"] >= len(kept)
    predictions = read_jsonl(folder/"predictions.jsonl")
    assert len(predictions) == 3 and found["evaluate"]["answers"]["strict"]["n"] == 3
    assert found["evaluate"]["answers"]["strict"]["right"] == sum(p["strict"] == "right" for p in predictions)
    assert found["save"]["cost"] == pytest.approx((51*50*1.0 + 51*40*10.0)/1e6)
    card = (folder/"student"/"README.md").read_text()
    assert "tiny (openai)" in card and f"{len(kept)} of 51 traces kept" in card and "n = 3" in card
    assert "steps, mean" in card and f"${found['save']['cost']:.4f}" in card
    from datasets import load_from_disk
    assert len(load_from_disk(str(folder/"dataset"))) == len(kept) and (folder/"dataset"/"README.md").is_file()
    from transformers import AutoModelForCausalLM
    AutoModelForCausalLM.from_pretrained(folder/"student")

    again, count = [], len(server.served)
    run(configured(own()), say=again.append)
    assert len(server.served) == count and all("found" in line for line in again), "nothing is done twice"


def test_a_change_further_down_asks_nobody_again(own, server):
    run(configured(own()), until="curate", say=lambda line: None)
    count, said = len(server.served), []
    run(configured(own(rules={"least_steps": 3})), until="train", say=said.append)
    assert len(server.served) == count and "found" in said[0] and "found" not in said[1] + said[2]
    run(configured(own(rules={"least_steps": 3}, epochs=2)), until="train", say=said.append)
    assert "found" in said[4] and "found" not in said[5] and len(server.served) == count
    run(configured(own(teacher={"concurrency": 2}, budget=9.0, rules={"least_steps": 3}, epochs=2)), until="train", say=said.append)
    assert all("found" in line for line in said[6:]), "how patiently one asks, and for how much, changes nothing"
    run(configured(own(teacher={"samples": 3})), until="generate", say=said.append)
    assert len(server.served) == count + 24, "one more sample a question, and no other"


def test_what_a_stage_depends_on_makes_it_stale(own, tmp_path):
    "Gold answers, the starting checkpoint, a file that is gone: what hangs on them is done again."
    questions, quiet = tmp_path/"questions.jsonl", {"say": lambda line: None}
    texts = [p.question for p in PROBLEMS]
    for seed in (0, 1): build_student(ModelConfig(width=16, layers=1, vocabulary=300), seed, texts=texts).save(tmp_path/f"start-{seed}")
    start = tmp_path/"start"
    shutil.copytree(tmp_path/"start-0", start)
    settings = own(rules={"verdict": "right"}) | {"student": {"source": str(start)}}
    first = run(configured(settings), **quiet)
    shutil.rmtree(start)
    shutil.copytree(tmp_path/"start-1", start)
    other = run(configured(settings), **quiet)
    losses = [[level["validation loss"] for level in found["train"]["levels"]] for found in (first, other)]
    assert losses[0] != losses[1] and first["curate"] == other["curate"], "another start, another training"

    for gone in ("kept.jsonl", "student", "dataset"):
        shutil.rmtree(tmp_path/"out"/gone) if (tmp_path/"out"/gone).is_dir() else (tmp_path/"out"/gone).unlink()
        run(configured(settings), **quiet)
        assert (tmp_path/"out"/gone).exists() and (tmp_path/"out"/"student"/"README.md").is_file()

    write_jsonl(questions, ({"id": p.id, "question": p.question, "answer": f"{p.answer}1"} for p in PROBLEMS))
    with pytest.raises(InputError, match="kept a trace"): run(configured(settings), **quiet)


def test_any_method_learns_from_the_kept_traces(own, server):
    "Contrastive and step-by-step students ask as they always do; STaR asks for greedy traces, which the teacher has to write."
    for method in ("step_by_step", "contrastive"):
        run(configured(own(method=method)), until="train", say=lambda line: None)
    count = len(server.served)
    assert count == 51
    run(configured(own(method="star", options={"iterations": 1, "questions": 8, "warm_traces": 6})), until="train", say=lambda line: None)
    assert len(server.served) > count


def test_a_method_that_needs_scores_is_refused_where_there_is_text_alone(own):
    with pytest.raises(InputError, match="needs the scores of its teacher"): run(configured(own(method="on_policy")), say=lambda line: None)


def test_rows_that_fail_are_reported_and_asked_again(own, server, tmp_path, capsys):
    config = tmp_path/"config.yaml"
    config.write_text(yaml.safe_dump(own()))
    victim = material_of(configured(own())).train[4]
    server.faults = {victim.question: 400}
    assert cli.main(["run", str(config)]) == 1
    said = capsys.readouterr().out
    failures = read_jsonl(tmp_path/"out"/"failures.jsonl")
    assert [f["problem"] for f in failures] == [victim.id]*2 and "2 requests were not answered" in said and "out of order" in said
    assert (tmp_path/"out"/"report.json").is_file(), "the run went on"
    server.faults, count = {}, len(server.served)
    assert cli.main(["run", str(config)]) == 0
    assert len(server.served) == count + 2


def test_a_plan_asks_nobody_and_a_budget_stops_cleanly(own, server, tmp_path, capsys):
    config = tmp_path/"config.yaml"
    config.write_text(yaml.safe_dump(own(teacher={"max_new_tokens": 100, "concurrency": 1})))
    assert cli.main(["run", str(config), "--dry-run"]) == 0 and not server.served
    assert "51 calls" in capsys.readouterr().out
    budget = f"{plan(read_config(config)).dollars/4:.6f}"
    assert cli.main(["run", str(config), "--budget", budget]) == 1
    said, count = capsys.readouterr().out, len(server.served)
    assert 0 < count < 51 and "stopped at the budget" in said and not (tmp_path/"out"/"kept.jsonl").exists()
    assert cli.main(["run", str(config), "--budget", budget]) == 1 and len(server.served) == count, "the budget is of all runs together"
    assert plan(read_config(config)).calls == 51 - count
    assert cli.main(["run", str(config)]) == 0 and len(server.served) == 51


def test_a_server_that_does_not_count_is_charged_at_worst(own, server):
    server.usage = False
    settings = own(budget=0.02, teacher={"max_new_tokens": 100})
    run(configured(settings), say=lambda line: None)
    count = len(server.served)
    run(configured(settings), say=lambda line: None)
    assert 0 < count < 20 and len(server.served) == count


def test_what_cannot_be_trained_is_refused_before_anything_is_paid(own, server, tmp_path):
    for wrong in ({"method": "on_policy"}, {"student": {"source": "base"}}, {"student": {"source": str(tmp_path/"none")}}):
        with pytest.raises(InputError): plan(configured(own(**wrong)))
        with pytest.raises(InputError): run(configured(own() | wrong), say=lambda line: None)
    assert not server.served


def test_no_key_and_no_password_reaches_the_disk(own, tmp_path, capsys):
    for secret, teacher in (("hunter2", {"base_url": "http://me:hunter2@127.0.0.1:9/v1"}), ("hunter3", {"base_url": "http://127.0.0.1:9/v1?key=hunter3"}),
                            ("sk-hunter4", {"key_variable": "sk-hunter4"})):
        (tmp_path/"config.yaml").write_text(yaml.safe_dump(own(teacher=teacher)))
        assert cli.main(["run", str(tmp_path/"config.yaml")]) == 2
        said = capsys.readouterr()
        (tmp_path/"config.yaml").unlink()
        assert secret not in said.err + said.out
        assert not [p for p in tmp_path.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


def test_a_server_that_answers_nothing_is_named(own, server, tmp_path):
    server.faults = {p.question: 401 for p in PROBLEMS}
    with pytest.raises(InputError, match="tiny answered none of 3 requests .*out of order.*failures.jsonl"):
        run(configured(own()), say=lambda line: None)


def test_an_interruption_is_one_line(own, tmp_path, capsys, monkeypatch):
    (tmp_path/"config.yaml").write_text(yaml.safe_dump(own()))
    def stopped(*_, **__): raise KeyboardInterrupt
    monkeypatch.setattr(cli, "run", stopped)
    assert cli.main(["run", str(tmp_path/"config.yaml")]) == 130 and capsys.readouterr().err.count("\n") == 1


def test_the_split_hardly_moves_with_one_more_question(own, tmp_path):
    before = material_of(configured(own()))
    write_jsonl(tmp_path/"more.jsonl", [*read_jsonl(tmp_path/"questions.jsonl"), {"id": "new", "question": "What is 3 + 4?", "answer": "7"},
                                        {"id": "twin", "question": before.test[0].question, "answer": "1"}])
    after = material_of(configured(own() | {"questions": str(tmp_path/"more.jsonl")}))
    assert len({p.id for p in before.test} & {p.id for p in after.train}) <= 1
    assert any("twin" in {p.id for p in part} and before.test[0].id in {p.id for p in part} for part in (after.train, after.validation, after.test))


def _killed(config, due):
    "Run in another process and kill it as soon as `due` says so; whether it was killed."
    child, begun = apart.start(config), time.perf_counter()
    while not due() and child.is_alive():
        assert time.perf_counter() - begun < 120, "it neither ended nor came to where it is to be killed"
        time.sleep(0.002)
    alive = child.is_alive()
    child.kill()
    child.join()
    return alive


def after(seconds, since=lambda: True):
    "Due so long after something has come true."
    begun = []
    def due():
        if not begun and since(): begun.append(time.perf_counter())
        return bool(begun) and time.perf_counter() - begun[0] > seconds
    return due


@pytest.mark.parametrize("remembers", [True, False])
def test_killed_at_twenty_moments(own, server, tmp_path, remembers):
    "Ten times while generating and ten while training; afterwards everything is as it would have been."
    server.delay, settings = 0.02, dict(epochs=30, fit={"evaluations": 8})
    whole = configured(own("whole/out", **settings))
    run(whole, until="curate", say=lambda line: None)
    start = time.perf_counter()
    run(whole, say=lambda line: None)
    trained, server.served, broken, folder = time.perf_counter() - start, [], own("broken/out", **settings), tmp_path/"broken"/"out"
    server.remembers = remembers
    rng, generating, training = random.Random(0), 0, 0
    for _ in range(10):
        wanted = server.begun + rng.randint(1, 5)
        generating += _killed(broken, lambda wanted=wanted: server.begun >= wanted)
    for _ in range(10): training += _killed(broken, after(rng.uniform(0, 0.12)*trained, (folder/"training").is_dir))
    time.sleep(0.2)
    run(configured(broken), say=lambda line: None)
    twice = len(server.served) - 51
    print(f"killed {generating} times while generating and {training} while training; {twice} of 51 completions were bought twice")
    assert generating == 10 and training >= 5
    assert len({*server.served}) == 51, "no completion is missing"
    assert twice <= (0 if remembers else generating*whole.teacher.concurrency), "only what was on its way when the process died is asked for twice"
    with Store(folder/"completions.sqlite") as store: assert sum(1 for _ in store.rows()) == 51
    assert files_of(folder) == files_of(tmp_path/"whole"/"out")
    costs = [json.loads((f/"report.json").read_text())["cost"] for f in (tmp_path/"whole"/"out", folder)]
    assert costs[0] <= costs[1] <= costs[0]*(1 + generating*whole.teacher.concurrency/51), "never less than what was paid for what is there"


def test_a_reply_that_was_received_is_not_bought_again(own, server):
    "Killed while training, when nothing is on its way: the teacher is asked nothing more."
    run(configured(own()), until="curate", say=lambda line: None)
    count = len(server.served)
    for seconds in (0.05, 0.2, 0.5): _killed(own(), after(seconds))
    run(configured(own()), say=lambda line: None)
    assert len(server.served) == count


@pytest.mark.parametrize("wrong, message", [
    ({"quesions": "x"}, "setting 'quesions' is unknown: did you mean 'questions'"),
    ({"teacher": {"kind": "opanai"}}, "teacher kind 'opanai' is unknown"),
    ({"task": "arithmetic"}, "exactly one of 'questions' and 'task'"), ({"fit": {"lr": "fast"}}, "lr"), ({"epochs": 0}, "epochs = 0"),
    ({"teacher": {"kind": "local", "model": ""}}, "needs a model"), ({"domain": "maths"}, "domain 'maths' is unknown"), ({"rules": 3}, "is a group"),
    ({"options": {"smaples": 3}}, "setting 'options.smaples' is unknown"),
    ({"teacher": {"temperature": 0, "samples": 3}}, "set teacher.samples to 1")])
def test_wrong_settings(own, tmp_path, capsys, wrong, message):
    settings = own()
    settings |= {k: {**settings[k], **v} if isinstance(v, dict) and isinstance(settings.get(k), dict) else v for k, v in wrong.items()}
    (tmp_path/"config.yaml").write_text(yaml.safe_dump(settings))
    assert cli.main(["run", str(tmp_path/"config.yaml")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("rows, message", [
    ([{"answer": "3"}], "'question' is missing"), ([{"question": "a?"}, {"question": "b?"}], "at least 3"),
    ([{"id": "x", "question": "a?"}]*3, "'x' twice")])
def test_wrong_questions(own, tmp_path, rows, message):
    path = write_jsonl(tmp_path/"bad.jsonl", rows)
    with pytest.raises(InputError, match=message): material_of(configured(own() | {"questions": str(path)}))


def test_a_folder_that_cannot_be_written(own, tmp_path):
    (tmp_path/"file").write_text("")
    with pytest.raises(InputError): run(configured(own() | {"output_dir": str(tmp_path/"file"/"out")}), say=lambda line: None)


def settled(server) -> int:
    "How many requests were served, once those that were on their way have arrived."
    count = -1
    while count != len(server.served):
        count = len(server.served)
        time.sleep(1)
    return count


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk(own, tmp_path, server):
    place = tmp_path/"small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode: pytest.skip("no mount here")
    try:
        with pytest.raises(InputError): run(configured(own() | {"output_dir": str(place/"out")}), say=lambda line: None)
        subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
        count = settled(server)
        run(configured(own() | {"output_dir": str(place/"out")}), say=lambda line: None)
        with Store(place/"out"/"completions.sqlite") as store: stored = sum(1 for _ in store.rows())
        assert stored == 51 and len(server.served) <= count + 51, "what was stored before the disk was full is intact"
    finally: subprocess.run(["umount", place])


def test_programs_from_a_scripted_author(own, server, tmp_path):
    "Code from questions to a student: what fails its tests is dropped, what passes keeps its lines as they were."
    def row(i): return {"id": f"code/{i}", "question": f"Write a function plus_{i}(x) that adds {i} to a number.", "answer": program(i),
                        "tests": [f"assert plus_{i}(1) == {i + 1}"]}
    def program(i): return f"def plus_{i}(x):\n    if x is None:\n        return None\n    return x + {i}"
    questions = write_jsonl(tmp_path/"programs.jsonl", map(row, range(8)))
    server.gold = {row(i)["question"]: worked(program(i) if i != 3 else program(2)) for i in range(8)}
    settings = own(domain="code", rules={"verdict": "right"}, teacher={"samples": 1}, levels=1, held_out=0.2) | {"questions": str(questions)}
    found = run(configured(settings), say=lambda line: None)
    kept, dropped = [*stream(tmp_path/"out"/"kept.jsonl", Trace)], read_jsonl(tmp_path/"out"/"dropped.jsonl")
    assert len(kept) + len(dropped) == 6 and all(d["rule"] == "verdict" and d["problem"] == "code/3" for d in dropped)
    assert all(target_for(t, "reason", "plain") == t.text and "\n        return None\n" in t.text for t in kept)
    assert found["evaluate"]["with a gold answer"] == 0 and found["evaluate"]["domain"]["n"] == 2
    with pytest.raises(InputError, match="questions have none"): plan(configured(settings | {"method": "answer_only"}))


def test_gold_solutions_as_the_teacher(tmp_path, gsm8k, monkeypatch):
    small = {"task.train": 40, "task.validation": 10, "task.test": 10}
    monkeypatch.setattr(pipeline, "experiment_config",
                        lambda c: pipeline.resolve("cot", c.task, c.preset, c.seed, data_dir=c.data_dir, overrides=small))
    rules = {"verdict": "any", "least_steps": 1, "overlap": 1.0, "strangers": False}
    config = configured({"task": "gsm8k", "data_dir": str(gsm8k), "teacher": {"kind": "gold"}, "output_dir": str(tmp_path/"out"), "levels": 1,
                         "epochs": 1, "student": {"width": 16, "layers": 1}, "max_new_tokens": 8, "rules": rules, "fit": {"evaluations": 1}})
    found = run(config, say=lambda line: None)
    assert found["generate"]["traces"] == 50 and found["curate"]["kept"] == 50 and found["evaluate"]["questions"] == 10


def test_a_checkpoint_at_hand_teaches_and_another_learns(own, chat_model, tmp_path, gsm8k, monkeypatch):
    "The walk of the configuration with Flan-T5, on small checkpoints in the same format: a folder as teacher, a T5 as student."
    found = run(configured(own(teacher={"kind": "local", "model": str(chat_model), "max_new_tokens": 8})), until="curate", say=lambda line: None)
    assert found["generate"]["traces"] == 51 and found["generate"]["failed"] == 0 and found["curate"]["kept"] == 0
    with Store(tmp_path/"out"/"completions.sqlite") as store: asked, _ = next(store.rows())
    assert asked.prompt.startswith("system: ") and asked.prompt.endswith("assistant: "), "in the layout of its chat template"

    texts = [p.question + target_for(p.gold, "reason", "t5") for p in PROBLEMS]
    start = build_student(ModelConfig(kind="encoder-decoder", width=16, layers=1, vocabulary=300), 0, texts=texts).save(tmp_path/"t5")
    small = {"task.train": 40, "task.validation": 10, "task.test": 10}
    monkeypatch.setattr(pipeline, "experiment_config",
                        lambda c: pipeline.resolve("cot", c.task, c.preset, c.seed, data_dir=c.data_dir, overrides=small))
    settings = {**yaml.safe_load((ROOT/"configs"/"gsm8k-flan-t5.yaml").read_text()), "data_dir": str(gsm8k), "output_dir": str(tmp_path/"t5-out"),
                "teacher": {"kind": "gold"}, "rules": {"verdict": "right", "least_steps": 1, "overlap": 1.0}, "epochs": 1, "max_new_tokens": 8}
    found = run(configured(settings | {"student": {"source": str(start)}, "template": "t5"}), say=lambda line: None)
    assert found["train"]["template"] == "t5" and found["curate"]["verdicts"] == {"right": 50}
    from transformers import AutoModelForSeq2SeqLM
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path/"t5-out"/"student")


def test_the_ready_configurations_can_be_read():
    found = sorted((ROOT/"configs").glob("*.yaml"))
    assert [p.stem for p in found] == ["gsm8k-flan-t5", "offline", "own-questions"] and all(read_config(p) for p in found)


@pytest.fixture
def chat_model(tmp_path):
    "A small checkpoint with a chat template, saved in Hugging Face's format."
    texts = [prompt_for(p, "reason", "plain") + target_for(p.gold, "reason", "plain") for p in PROBLEMS]
    student = build_student(ModelConfig(width=16, layers=1, vocabulary=300), 0, texts=texts)
    student.tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    return student.save(tmp_path/"chat-model")


def test_against_a_real_server(own, chat_model, tmp_path):
    "`transformers serve`: another implementation of the protocol than the double of these tests."
    pytest.importorskip("fastapi")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [str(Path(sys.executable).parent/"transformers"), "serve", str(chat_model), "--device", "cpu", "--host", "127.0.0.1", "--port",
               str(port)]
    with (tmp_path/"log").open("w") as log: process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(600):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0: break
            assert process.poll() is None, (tmp_path/"log").read_text()[-2000:]
            time.sleep(0.2)
        teacher = {"model": str(chat_model), "base_url": f"http://127.0.0.1:{port}/v1", "samples": 1, "max_new_tokens": 8, "timeout": 120.0,
                   "temperature": 0.7}
        found = run(configured(own(teacher=teacher)), until="curate", say=lambda line: None)
        made = found["generate"]
        assert made["traces"] == 27 and made["written"] > 0 and made["read"] > 27, (tmp_path/"log").read_text()[-2000:]
        assert sum(found["curate"]["dropped"].values()) == 27, "an untrained model's replies pass no rule"
    finally:
        process.terminate()
        process.wait(30)


# curation

def test_every_trace_is_accounted_for_once():
    traces = [Trace(p.id, p.gold.steps, p.answer, text=target_for(p.gold, "reason", "plain"), sample=j) for p in PROBLEMS for j in range(2)]
    looks = Inspection(lambda p, t: Verdict("right"))
    found = [*sieve(traces, {p.id: p for p in PROBLEMS}, Rules(), looks, Overlap(PROBLEMS[:5]))]
    assert [s.trace for s in found] == traces
    assert all(s.rule == "overlap" for s in found[:10]) and {s.rule for s in found[10:] if s.trace.sample} == {"duplicate"}


def test_levels_by_known_difficulty():
    traces = [Trace(p.id, p.gold.steps, p.answer) for p in PROBLEMS]
    found = curriculum(PROBLEMS, traces, 3)
    assert [len(level) for level in found] == [10, 10, 10] and sorted(p.id for level in found for p in level) == sorted(p.id for p in PROBLEMS)
    assert all(a.steps <= b.steps for low, high in zip(found, found[1:], strict=False) for a in low for b in high)


def test_the_committed_table_of_scale_is_of_its_record(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    table = write_scale(json.loads((root/"paper"/"results"/"scale.json").read_text()), str(tmp_path))
    for made in tmp_path.iterdir(): assert made.read_text() == (root/"paper"/"tables"/made.name).read_text(), made.name
    assert table.questions.max() >= 10_000 and table["memory added, MB"].max() < 50


def test_a_kept_teacher_knows_only_what_was_kept():
    traces = [Trace(p.id, p.gold.steps, p.answer, sample=j) for p in PROBLEMS[:2] for j in range(3)]
    teacher = KeptTeacher(kept_by(traces, PROBLEMS, sampled=True))
    assert teacher.traces(PROBLEMS[:2], 2, 0.7, 10, 0) == [traces[i] for i in (0, 1, 3, 4)]
    for wrong in (dict(temperature=0.0), dict(style="patient teacher"), dict(problems=PROBLEMS[:3])):
        with pytest.raises(InputError, match="no teacher to ask"):
            teacher.traces(**{"problems": PROBLEMS[:2], "samples": 1, "temperature": 0.7, "max_new_tokens": 10, "seed": 0} | wrong)
