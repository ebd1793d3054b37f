from collections import Counter

import pytest

from reasoning_distill.core import InputError
from reasoning_distill.tasks import benchmarks
from reasoning_distill.tasks.arithmetic import arithmetic_task
from reasoning_distill.tasks.benchmarks import gsm8k_problem, read_gsm8k, stratified
from reasoning_distill.tasks.generate import generate
from reasoning_distill.tasks.splits import TaskConfig, load_task


@pytest.mark.parametrize("count", [0, 1, 7, 40, 99])
def test_a_stratified_cut_keeps_the_mix(count):
    problems = [p for n, k in ((50, 2), (30, 3), (20, 4)) for p in generate(arithmetic_task(), "train", n, k, (k,))]
    cut, rest = stratified(problems, count, seed=3)
    assert len(cut) == count and {p.id for p in cut} | {p.id for p in rest} == {p.id for p in problems} and len(rest) == 100 - count
    shares = Counter(p.steps for p in cut)
    assert all(abs(shares[k] - count*share) < 1 for k, share in ((2, 0.5), (3, 0.3), (4, 0.2)))


def test_gsm8k_from_a_folder_and_its_subfolder(gsm8k):
    assert read_gsm8k("test", str(gsm8k)) == read_gsm8k("test", str(gsm8k/"gsm8k"))
    found = load_task(TaskConfig("gsm8k", str(gsm8k), train=50, validation=12, test=20))
    assert [len(part) for part in (found.train, found.validation, found.test, found.teacher, found.base)] == [50, 12, 20, 0, 0]
    assert Counter(p.steps for p in found.validation) == {1: 4, 2: 4, 3: 4}
    assert not {p.question for p in found.train} & {p.question for p in found.validation}


def test_a_smaller_training_set_keeps_the_validation_set(gsm8k):
    small, large = (load_task(TaskConfig("gsm8k", str(gsm8k), train=n, validation=12, test=20)) for n in (10, 60))
    assert small.validation == large.validation and len(small.train) == 10


def test_a_single_file_is_cut_into_parts(gsm8k, tmp_path):
    for name in ("own.jsonl", "own.json"):
        own = (gsm8k/"gsm8k"/"train.jsonl").rename(tmp_path/name) if name == "own.jsonl" else (tmp_path/"own.jsonl").rename(tmp_path/name)
        found = load_task(TaskConfig("gsm8k", str(own), train=50, validation=12, test=20))
        parts = [{p.question for p in part} for part in (found.train, found.validation, found.test)]
        assert [len(p) for p in parts] == [50, 12, 20] and len(set().union(*parts)) == 82
    with pytest.raises(InputError, match="cannot be cut out"): load_task(TaskConfig("gsm8k", str(own), test=500))


def test_a_question_in_two_parts_is_refused(gsm8k):
    train, test = (gsm8k/"gsm8k"/f"{part}.jsonl" for part in ("train", "test"))
    with test.open("a") as f: f.write(train.read_text().splitlines()[0].replace("What", "what ") + "\n")
    with pytest.raises(InputError, match="stands in the data twice"): load_task(TaskConfig("gsm8k", str(gsm8k), train=50, validation=12, test=31))


def test_gsm8k_as_datasets_saves_it(gsm8k, tmp_path):
    from datasets import load_dataset
    load_dataset("json", data_files={part: str(gsm8k/"gsm8k"/f"{part}.jsonl") for part in ("train", "test")}).save_to_disk(tmp_path/"saved")
    assert [p.question for p in read_gsm8k("test", str(tmp_path/"saved"))] == [p.question for p in read_gsm8k("test", str(gsm8k))]
    with pytest.raises(InputError, match="no part 'dev'"): read_gsm8k("dev", str(tmp_path/"saved"))


def test_gsm8k_from_the_hub(monkeypatch, gsm8k):
    import datasets
    rows = [{"question": "What is 1 + 1?", "answer": "1+1 = <<1+1=2>>2\n#### 2"}]
    asked = []
    def load(*where, split): asked.append((*where, split)); return rows  # noqa: E702
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read_gsm8k("test")[0].answer == "2" and asked == [("openai/gsm8k", "main", "test")]
    def offline(*where, split): raise ConnectionError("no route")
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match="set data_dir"): read_gsm8k("test")


def test_broken_rows_of_a_data_set_are_named(gsm8k, edit):
    path = gsm8k/"gsm8k"/"train.jsonl"
    edit(path, 3, '{"question": "What')
    edit(path, 5, {"question": "What is 1 + 1?"})
    edit(path, 6, {"question": "What is 1 + 1?", "answer": "It is 2."})
    with pytest.raises(InputError) as e: read_gsm8k("train", str(gsm8k))
    said = str(e.value)
    assert "line 3: broken JSON" in said and "line 5: field 'answer' is missing" in said and "line 6: field 'answer' gives no final" in said


@pytest.mark.parametrize("row", [{"question": 3, "answer": "#### 1"}, {"question": " ", "answer": "#### 1"}, {"answer": "#### 1"}])
def test_a_row_without_a_readable_question_is_refused(row):
    with pytest.raises(InputError, match="question"): gsm8k_problem(row, "x")


def test_missing_places_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere is missing"): read_gsm8k("train", str(tmp_path/"nowhere"))
    with pytest.raises(InputError, match="holds no train.jsonl"): read_gsm8k("train", str(tmp_path))
    (tmp_path/"train.jsonl").touch()
    with pytest.raises(InputError, match="is empty"): read_gsm8k("train", str(tmp_path))


def test_real_gsm8k_reads_whole(real_data):
    train, test = (benchmarks.read_gsm8k(part, real_data) for part in ("train", "test"))
    assert len(train) == 7473 and len(test) == 1319
    assert all(p.answer and p.gold.steps for p in train + test)
    assert sum(bool(s.expression) for p in test for s in p.gold.steps) > 3000
