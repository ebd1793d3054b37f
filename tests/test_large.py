"""The landscape for a GPU: its sizes, its clock, and what it needs to be installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from reasoning_distill.config import PRESETS
from reasoning_distill.core import InputError
from reasoning_distill.large import ROWS, large_configs, large_table, main, run_large, smaller, steps_of
from reasoning_distill.models.students import ModelConfig, build_student
from reasoning_distill.studies import kept_trials

LACKING = ("matplotlib", "pandas", "seaborn", "papermill", "nbformat", "datasets", "peft", "tabulate", "snakemake", "scipy", "statsmodels")
TINY = {"task.steps": [2], "task.base": 200, "task.teacher": 300, "task.train": 60, "task.validation": 20, "task.test": 20, "task.hard": 10,
        "task.shift": 10, "base.fit.tokens": 20_000, "teacher.fit.tokens": 80_000, "fit.tokens": 8000, "max_new_tokens": 24,
        "teacher.model.layers": 1, "student.layers": 1,
        **{f"{who}.{name}": value for who in ("base.fit", "teacher.fit", "fit") for name, value in (("batch_size", 8), ("lr", 3e-3))}}


def parameters(model, layers):
    tokenizer = build_student(ModelConfig(), 0, texts=["1"]).tokenizer
    whole = build_student(ModelConfig(width=model.width, layers=layers, heads=model.heads), 0, tokenizer)
    assert type(whole.model) is LlamaForCausalLM
    return sum(p.numel() for p in whole.model.parameters()) + (512 - len(tokenizer))*model.width


def test_the_preset_is_of_the_size_that_was_asked_for():
    configs = large_configs()
    config = next(c for (_, name, _), c in configs.items() if name == "on_policy")
    assert 10e6 < parameters(config.teacher.model, config.teacher.model.layers) < 30e6
    assert 1e6 < parameters(config.student, config.student.layers) < 3e6
    assert config.task.steps == (2, 3, 4, 5, 6, 7, 8) and len(PRESETS["large"]["seeds"]) == 5 and len(configs) == 1 + 5*len(ROWS)
    assert all(c.fit.precision == "bf16" and c.fit.compiled and c.base.fit.compiled for n, c in configs.items() if n[1] != "teacher")
    assert not any(c.fit.compiled or c.teacher.fit.precision != "no" for c in large_configs(on_cpu=True).values())
    assert steps_of(large_configs(0.1))["students"] == pytest.approx(steps_of(configs)["students"]/10)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_a_share_makes_everything_smaller_by_one_factor(share):
    whole, part = (next(c for (_, name, _), c in large_configs(s).items() if name == "cot") for s in (1.0, share))
    assert part.fit.tokens == round(whole.fit.tokens*share) and part.teacher.fit.tokens == round(whole.teacher.fit.tokens*share)
    assert part.task.train == round(whole.task.train*share) and part.student.width % (2*part.student.heads) == 0
    assert (part.student.width/whole.student.width)**2 == pytest.approx(share, rel=0.15) or share < 0.1
    assert smaller(1) == {}


def test_it_runs_whole_and_goes_on_where_time_was_up(tmp_path, capsys):
    def ask(**more):
        configs = large_configs(0.01, "0", True, {**TINY, "threads": 1}, str(tmp_path/"runs"))
        return run_large(configs, 1, record_file=tmp_path/"large.jsonl", **more)
    assert not ask(minutes=0) and "5 of 5 runs were not begun, teacher 0 the first of them" in capsys.readouterr().out
    found = ask(minutes=10)
    assert [name for _, name, _ in found] == ["teacher", *ROWS] and not (tmp_path/"paper").exists()
    trials = kept_trials(tmp_path/"large.jsonl")
    assert [t.method for t in trials] == ["teacher", *ROWS] and {t.condition for t in trials} == {"large, 0.01 of it"}
    assert str(tmp_path) not in (tmp_path/"large.jsonl").read_text()
    table = large_table(tmp_path/"large.jsonl", tmp_path)
    assert [(t.record.config["method"], t.record.config["corpus"]) for t in trials] == [("cot", "teacher"), ("answer_only", "train"),
                                                                                      *[("cot", "train")]*2, ("on_policy", "train")]
    assert [*table.method] == ["teacher", *ROWS] and "Preset `large`" in (tmp_path/"large.md").read_text()
    assert ask(minutes=10).keys() == found.keys() and "min  [5/5]" in capsys.readouterr().out, "found again"


def test_it_needs_little(root, tmp_path):
    "In an environment that has a link to each package but those that a bare one lacks."
    (tmp_path/"site").mkdir()
    for place in Path(torch.__file__).parent.parent.iterdir():
        if re.split(r"[-.]", place.name)[0].lower() not in LACKING and "editable" not in place.name: (tmp_path/"site"/place.name).symlink_to(place)
    def call(*words):
        return subprocess.run([sys.executable, "-S", *words], cwd=root, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "PYTHONPATH": str(tmp_path/"site"), "OMP_NUM_THREADS": "1"})
    for name in LACKING: assert call("-c", f"import {name}").returncode, f"{name} is there"
    given = {**TINY, "threads": 1}
    done = call("workflow/large.py", "--share", "0.01", "--seeds", "0", "--on-cpu", "--lanes", "1", "--overrides", json.dumps(given),
                "--runs-dir", str(tmp_path/"runs"), "--record-file", str(tmp_path/"l.jsonl"))
    assert done.returncode == 0, done.stderr[-2000:]
    records = [t.record for t in kept_trials(tmp_path/"l.jsonl")]
    assert len(records) == 1 + len(ROWS) and all("torch" in r.versions and "peft" not in r.versions for r in records)


@pytest.mark.parametrize("wrong, said", [(["--share", "0"], "share = 0.0 is out of range"), (["--seeds", "x"], "seeds 'x' cannot be read"),
                                         (["--overrides", "{fit.rl: 1}"], "setting 'rl' is unknown")])
def test_wrong_wishes_are_one_line(wrong, said, capsys):
    assert main(wrong) == 1
    assert said in (line := capsys.readouterr().err) and line.count("\n") == 1


def test_the_first_error_is_told_when_the_others_are_done(tmp_path):
    configs = large_configs(0.01, "0", True, {**TINY, "fit.lr": 1e9, "base.fit.lr": 1e-3, "teacher.fit.lr": 1e-3}, str(tmp_path/"runs"))
    some = {name: c for name, c in configs.items() if name[1] in ("teacher", "cot")}
    with pytest.raises(InputError, match="cot 0: the loss became|cot 0: .*can be learnt from"): run_large(some, 1, 10, tmp_path/"l.jsonl")
    assert json.loads((tmp_path/"l.jsonl").read_text().splitlines()[0])["method"] == "teacher"


def test_the_committed_table_is_of_its_records(root, tmp_path):
    large_table(root/"paper"/"results"/"large.jsonl", tmp_path)
    for name in ("large.md", "large.csv", "large.tex"): assert (tmp_path/name).read_text() == (root/"paper"/"tables"/name).read_text()
