import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reasoning_distill.core import Step, Trace, write_jsonl
from reasoning_distill.models.students import ModelConfig, build_student
from reasoning_distill.tasks.arithmetic import arithmetic_task
from reasoning_distill.tasks.generate import generate
from reasoning_distill.tasks.styles import styled
from reasoning_distill.teachers.local import GoldTeacher, LocalTeacher
from reasoning_distill.templates import prompt_for, read_trace, target_for
from reasoning_distill.training import FitConfig, Setup

ROOT = Path(__file__).parents[1]
KINDS = ("decoder", "encoder-decoder")


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def problems():
    return generate(arithmetic_task(largest=30), "train", 120, seed=0)


@pytest.fixture(scope="session")
def texts(problems):
    return [prompt_for(p, mode, "plain") + target_for(p.gold, mode, "plain") for p in problems for mode in ("reason", "answer")]


@pytest.fixture
def make(texts):
    "Students of either kind, small enough to train in a second; the same weights at each call."
    def build(kind="decoder", seed=0, **settings):
        return build_student(ModelConfig(kind=kind, **{"width": 32, "layers": 1, "heads": 2, "vocabulary": 400, **settings}), seed, texts=texts)
    return build


@pytest.fixture
def setup(make, problems, tmp_path):
    def build(kind="decoder", teacher=None):
        return Setup(make(kind), teacher or GoldTeacher(), problems[:60], problems[60:80], "plain", FitConfig(tokens=9000, evaluations=3), 0,
                     tmp_path/"run", tmp_path/"traces")
    return build


class Scripted:
    "A teacher whose replies are known."
    name, key, model = "scripted", "scripted", None

    def __init__(self, reply): self.reply, self.asked = reply, []

    def traces(self, problems, samples, temperature, max_new_tokens, seed, style=""):
        self.asked.append((len(problems), samples, temperature))
        return [read_trace(self.reply(p, j), p.id, source=self.name, sample=j, prompt_tokens=10, tokens=5, style=style)
                for p in problems for j in range(samples)]


class Oracle(LocalTeacher):
    "Writes what the generator wrote and has the scores of an untrained model."
    def traces(self, problems, samples, temperature, max_new_tokens, seed, style=""):
        return [replace(styled(p.gold, style) if style else p.gold, sample=j, tokens=9) for p in problems for j in range(samples)]


@pytest.fixture
def oracle(make):
    def build(kind="decoder", **settings): return Oracle(make(kind, seed=7, **settings), "plain", key=f"oracle-{kind}-{settings}")
    return build


def weights(student): return torch.cat([p.detach().flatten() for p in student.model.parameters()])


def right(p, sample=0): return target_for(p.gold, "reason", "plain")


@pytest.fixture
def trace():
    return Trace("p", (Step("In May she sold <<48/2=24>>24 clips.", "48/2", "24"), Step("In all <<48+24=72>>72.", "48+24", "72")), "72")


@pytest.fixture
def gsm8k(tmp_path):
    "A folder in GSM8K's layout with rows made here."
    def rows(start, count):
        for i in range(start, start + count):
            steps = 1 + i % 3
            lines = [f"Then {i}+{k} = <<{i}+{k}={i + k}>>{i + k}." for k in range(1, steps + 1)]
            yield {"question": f"What is {i} + {steps}?", "answer": "\n".join([*lines, f"#### {i + steps}"])}
    write_jsonl(tmp_path/"data"/"gsm8k"/"train.jsonl", rows(0, 90))
    write_jsonl(tmp_path/"data"/"gsm8k"/"test.jsonl", rows(1000, 30))
    return tmp_path/"data"


@pytest.fixture(scope="session")
def real_data():
    "The public benchmarks, where DATA_DIR says they are."
    folder = os.environ.get("DATA_DIR", "")
    if not (Path(folder)/"gsm8k"/"train.jsonl").is_file(): pytest.skip("set DATA_DIR to a folder with gsm8k/train.jsonl to test on real rows")
    return str(Path(folder).resolve())


@pytest.fixture
def edit():
    "Change one line of a file, counted from 1."
    def change(path, number, line):
        lines = Path(path).read_text().splitlines()
        lines[number - 1] = line if isinstance(line, str) else json.dumps(line)
        Path(path).write_text("\n".join(lines) + "\n")
    return change
