import json
from collections import Counter
from pathlib import Path

import pytest

from reasoning_distill.config import METHODS, PRESETS, resolve
from reasoning_distill.core import InputError, write_jsonl
from reasoning_distill.experiment import check_possible
from reasoning_distill.tasks.benchmarks import (
    BENCHMARKS,
    SUBJECTS,
    arc_problem,
    math_problem,
    read_benchmark,
    sentences,
    strategyqa_problem,
    unboxed,
)
from reasoning_distill.tasks.splits import TaskConfig, load_task
from reasoning_distill.teachers.local import GoldTeacher
from reasoning_distill.templates import TEMPLATES, target_for
from reasoning_distill.verify.answers import check_answer

BOXED = [r"\frac{3}{4}", "12", r"(-\infty, 3]", r"\text{even}", "10,000", r"2\sqrt{5}", r"\left\{1, 2\right\}", "x^2 + 1", r"30^\circ", r"\$4.50",
         r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\dfrac{\sqrt{\frac{1}{2}}}{3}", r"50\%", "-7"]


def math_row(i, answer=None):
    answer = answer or str(i + 2)
    return {"problem": f"What is ${i}$ and two more?", "level": f"Level {1 + i % 5}", "type": "Prealgebra",
            "solution": f"We begin with ${i}$.  Adding two,\n\\[{i} + 2.\\]\nSo it is $\\boxed{{{answer}}}$. We are done."}


def arc_row(i, labels="ABCD", key=1):
    return {"id": f"q{i}", "question": f"Which is {i}?", "choices": {"text": [f"{i} {k}" for k in range(len(labels))], "label": [*labels]},
            "answerKey": labels[key]}


def native(row):
    options = [{"text": t, "label": a} for t, a in zip(row["choices"]["text"], row["choices"]["label"], strict=True)]
    return {"id": row["id"], "question": {"stem": row["question"], "choices": options}, "answerKey": row["answerKey"]}


def strategy_row(i):
    return {"qid": str(i), "term": "t", "question": f"Is {i} more than two?", "answer": i > 2, "facts": [f"We ask for {i}.", "Two is two."],
            "decomposition": ["What is asked?"]*(1 + i % 3)}


ROWS = {"math": math_row, "arc": arc_row, "arc_easy": arc_row, "strategyqa": strategy_row}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*rows]))


def graded(problems):
    "Verdicts of the gold traces, in each template, with and without reasoning, read strictly and flexibly."
    return Counter(check_answer(target_for(p.gold, mode, template), p.answer, reading).status for p in problems for template in TEMPLATES
                   for mode in ("reason", "answer") for reading in ("strict", "flexible"))


# MATH

@pytest.mark.parametrize("answer", BOXED)
def test_a_boxed_answer_is_read_and_graded_right(answer):
    p = math_problem(math_row(3, answer), "x")
    assert (p.answer, p.gold.answer, p.steps) == (answer, answer, 4) and "boxed" not in "".join(s.text for s in p.gold.steps)
    assert graded([p]) == {"right": 16}


@pytest.mark.parametrize("solution, told, answer", [
    (r"$\boxed{1}$, then $\boxed{2}$. So the answer is clear.", "$1$, then $2$. So the answer is clear.", "2"),
    (r"It is $\boxed 7$.", "It is $7$.", "7"),
    (r"It is \fbox{7}.", "It is 7.", "7"), (r"\boxed{\boxed{3}}", "3", "3"), (r"\boxed{a\}b}", r"a\}b", r"a\}b"), ("\\boxed{1,\n2}", "1,\n2", "1, 2"),
    (r"\boxed{3", r"\boxed{3", ""), (r"\boxedx{3}", r"\boxedx{3}", ""), ("no box", "no box", "")])
def test_boxes_are_taken_off(solution, told, answer):
    assert unboxed(solution) == (told, answer)


def test_formulas_and_drawings_are_no_ends_of_sentences():
    text = ("Let $f(1. A) = 2$.  Then\n\\[f = 1. B\\] holds.\n\n[asy]\ndraw(a. B);\n\n[/asy] So \\begin{align*}\nx &= 1. Y\n\n\\end{align*} "
            "i.e. $x$ is \\$3. Done.")
    assert sentences(text) == ["Let $f(1. A) = 2$.", r"Then \[f = 1. B\] holds.",
                               "[asy] draw(a. B); [/asy] So \\begin{align*} x &= 1. Y \\end{align*} i.e. $x$ is \\$3.", "Done."]
    assert sentences(" \n") == [] and sentences("$ unclosed. Next") == ["$ unclosed.", "Next"]


@pytest.mark.parametrize("level, steps", [("Level 1", 1), ("Level 5", 5), ("Level ?", 0), (4, 4), ("4", 4), (None, 0)])
def test_the_level_is_the_difficulty(level, steps): assert math_problem({**math_row(0), "level": level}, "x").steps == steps


def test_a_released_answer_counts_more_than_the_box():
    assert math_problem({**math_row(1), "answer": "4", "unique_id": "x"}, "x").answer == "4"


def test_the_official_tree_reads_as_the_file_does(tmp_path):
    rows = {s: [math_row(100*k + i) for i in range(12)] for k, s in enumerate(SUBJECTS)}
    for part in ("train", "test"):
        for subject, found in rows.items():
            for i, r in enumerate(found):
                (folder := tmp_path/"tree"/"MATH"/part/subject).mkdir(parents=True, exist_ok=True)
                (folder/f"{i}.json").write_text(json.dumps(r))
        write_jsonl(tmp_path/"lines"/"math"/f"{part}.jsonl", [r for found in rows.values() for r in found])
    tree, lines = (read_benchmark("math", "train", str(tmp_path/f)) for f in ("tree", "lines"))
    assert tree == lines and len(tree) == 84 and tree[10].id == "math/train/10"
    assert read_benchmark("math", "train", str(tmp_path/"tree"/"MATH")) == tree
    (tmp_path/"tree"/"MATH"/"train"/"algebra"/"3.json").write_text("{")
    (tmp_path/"tree"/"MATH"/"train"/"geometry"/"7.json").write_text(json.dumps({"problem": "?"}))
    with pytest.raises(InputError, match="2 bad rows: algebra/3.json: broken JSON .*; geometry/7.json: field 'solution' is missing"):
        read_benchmark("math", "train", str(tmp_path/"tree"))


# ARC

@pytest.mark.parametrize("labels", ["ABCD", "1234", "ABC", "ABCDE", "12345"])
def test_options_get_letters_and_the_key_moves_with_them(labels):
    for key, letter in enumerate("ABCDE"[:len(labels)]):
        p = arc_problem(arc_row(7, labels, key), "x")
        assert p.answer == letter and f"\n({letter}) 7 {key}" in p.question and len(p.question.split("\n")) == len(labels) + 1
        assert p == arc_problem(native(arc_row(7, labels, key)), "x") and graded([p]) == {"right": 16}


@pytest.mark.parametrize("change, part", [
    ({"answerKey": "E"}, "'answerKey' is 'E': expected one of the labels A, B, C, D"), ({"answerKey": ""}, "'answerKey' is ''"),
    ({"answerKey": None}, "'answerKey' is missing"), ({"choices": None}, "'choices' is None"),
    ({"choices": {"text": ["a"], "label": ["A"]}}, "two to five"),
    ({"choices": {"text": ["a", "b"], "label": ["A", "A"]}}, "two to five"),
    ({"choices": {"text": [*"abcdef"], "label": [*"ABCDEF"]}}, "two to five"),
    ({"choices": {"text": ["a", "b", "c"], "label": ["A", "B"]}}, r"\['A', 'B', None\]: expected two to five, each another one"),
    ({"choices": {"text": ["a", " "], "label": ["A", "B"]}}, "not a text"),
    ({"choices": {"label": ["A", "B"]}}, "'text' is missing"), ({"choices": ["a", "b"]}, "expected lists"),
    ({"question": None}, "'question' is not a text"),
    ({"question": {"choices": []}}, "'question' is not a text")])
def test_a_row_of_arc_that_cannot_be_read_says_why(change, part):
    with pytest.raises(InputError, match=part): arc_problem({**arc_row(1), **change}, "x")


def test_easy_and_challenge_are_not_mixed_up(tmp_path):
    for part, n in (("train", 40), ("dev", 10), ("test", 10)):
        start = {"train": 0, "dev": 100, "test": 200}[part]
        write_jsonl(tmp_path/"arc"/f"challenge_{part}.jsonl", [arc_row(start + i) for i in range(n)])
        write_jsonl(tmp_path/"arc"/f"easy_{part}.jsonl", [arc_row(1000 + start + i) for i in range(n)])
        write_jsonl(tmp_path/"zip"/"ARC-Easy"/f"ARC-Easy-{part.capitalize()}.jsonl", [native(arc_row(1000 + start + i)) for i in range(n)])
    hard, easy = (load_task(TaskConfig(name, str(tmp_path), train=99, validation=8, test=9)) for name in ("arc", "arc_easy"))
    assert [len(p) for p in (hard.train, hard.validation, hard.test)] == [40, 8, 9] and "Which is 0?" in hard.train[0].question
    assert "Which is 1000?" in easy.train[0].question
    assert all(p.id.startswith("arc_easy/validation/") for p in easy.validation)
    assert read_benchmark("arc_easy", "train", str(tmp_path/"zip")) == easy.train
    with pytest.raises(InputError, match="holds no challenge_train.jsonl or ARC-Challenge-Train.jsonl or .*itself nor in arc/ or ARC-Challenge/"):
        read_benchmark("arc", "train", str(tmp_path/"zip"))


# StrategyQA

def test_facts_are_the_reasoning_and_not_in_the_question():
    p = strategyqa_problem(strategy_row(5), "x")
    assert (p.answer, p.steps, [s.text for s in p.gold.steps]) == ("yes", 3, ["We ask for 5.", "Two is two."]) and "Two is two" not in p.question
    joined = {"question": "So?", "answer": "False", "facts": "One is one. Two is two."}
    assert [s.text for s in strategyqa_problem(joined, "x").gold.steps] == ["One is one.", "Two is two."]
    assert (strategyqa_problem(joined, "x").steps, strategyqa_problem(joined, "x").answer) == (2, "no")


@pytest.mark.parametrize("change, part", [({"answer": None}, "no public answers: dev is tested on"),
                                          ({"answer": "maybe"}, "'maybe': expected true or false"),
                                          ({"facts": 3}, "'facts' is 3"), ({"facts": [3]}, "'facts'"), ({"decomposition": {}}, "'decomposition'"),
                                          ({"question": 3}, "'question' is not a text: 3")])
def test_a_row_of_strategyqa_that_cannot_be_read_says_why(change, part):
    with pytest.raises(InputError, match=part): strategyqa_problem({**strategy_row(1), **change}, "x")


def test_dev_is_tested_on_and_validation_is_cut_out_of_train(tmp_path):
    write(tmp_path/"strategyqa_train.json", map(strategy_row, range(60)))
    write(tmp_path/"dev.json", map(strategy_row, range(100, 120)))
    write(tmp_path/"strategyqa_test.json", [{"qid": "1", "question": "Is it?"}])
    found = load_task(TaskConfig("strategyqa", str(tmp_path), validation=12, test=20))
    assert [len(p) for p in (found.train, found.validation, found.test)] == [48, 12, 20]
    assert Counter(p.steps for p in found.validation) == {1: 4, 2: 4, 3: 4}
    (tmp_path/"dev.json").unlink()
    with pytest.raises(InputError, match="strategyqa_test.json has 1 bad row: row 1: field 'answer' is missing"):
        load_task(TaskConfig("strategyqa", str(tmp_path)))
    alone = load_task(TaskConfig("strategyqa", str(tmp_path/"strategyqa_train.json"), validation=12, test=20))
    assert [len(p) for p in (alone.train, alone.validation, alone.test)] == [28, 12, 20]


# all of them

@pytest.mark.parametrize("name", ROWS)
def test_every_source_gives_the_same_problems(name, tmp_path, monkeypatch):
    import datasets
    rows = {part: [ROWS[name](start + i) for i in range(8)] for part, start in (("train", 0), ("validation", 100), ("test", 200))}
    for part, found in rows.items():
        write_jsonl(tmp_path/"lines"/name/f"{part}.jsonl", found)
        write(tmp_path/"array"/f"{part}.json", found)
    datasets.DatasetDict({part: datasets.Dataset.from_list(found) for part, found in rows.items()}).save_to_disk(tmp_path/"saved"/name)
    asked = []
    def load(hub, config, split):
        asked.append((hub, config, split))
        return rows[split] if config == BENCHMARKS[name].configs[0] else []
    monkeypatch.setattr(datasets, "load_dataset", load)
    for part in rows:
        first, *others = (read_benchmark(name, part, str(tmp_path/p) if p else "") for p in ("lines", "array", "saved", ""))
        assert len(first) == 8 and all(first == other for other in others) and first[3].id == f"{name}/{part}/3"
    assert {config for _, config, _ in asked} == {*BENCHMARKS[name].configs}
    cut = [load_task(TaskConfig(name, str(tmp_path/p) if p else "", validation=2, test=5)) for p in ("lines", "array", "saved", "")]
    assert [len(s.train) for s in cut] == [8, 8, 8, 8 if name.startswith("arc") else 6]
    assert all(len(s.validation) == 2 and len(s.test) == 5 for s in cut)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_hub_out_of_reach_is_one_clear_line(name, monkeypatch):
    import datasets
    def offline(*where, split): raise ConnectionError("no route")
    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=f"{BENCHMARKS[name].title} could not be fetched .*set data_dir to a folder with .*train.jsonl and"):
        read_benchmark(name, "train")


def test_bad_rows_and_places_are_named(tmp_path):
    write(tmp_path/"train.json", [arc_row(0), 3, {**arc_row(1), "answerKey": "X"}])
    with pytest.raises(InputError, match="train.json has 2 bad rows: row 2: expected an object, found int; row 3: field 'answerKey' is 'X'"):
        read_benchmark("arc", "train", str(tmp_path))
    (tmp_path/"train.json").write_text("[{")
    with pytest.raises(InputError, match="neither a JSON array .* nor JSON lines"): read_benchmark("arc", "train", str(tmp_path))
    (tmp_path/"train.json").write_text("[]")
    with pytest.raises(InputError, match="is empty"): read_benchmark("arc", "train", str(tmp_path))
    with pytest.raises(InputError, match="data folder nowhere is missing: set data_dir to a folder with math/train.jsonl and math/test.jsonl"):
        read_benchmark("math", "train", "nowhere")
    with pytest.raises(InputError, match="benchmark 'squad' is unknown"): read_benchmark("squad", "train")


def test_copies_are_left_out_of_training_and_never_out_of_the_test(tmp_path):
    write_jsonl(tmp_path/"train.jsonl", [arc_row(i) for i in (*range(20), 5, 20, 30)])
    write_jsonl(tmp_path/"dev.jsonl", [arc_row(i) for i in (*range(20, 30), 31)])
    write_jsonl(tmp_path/"test.jsonl", [arc_row(i) for i in range(30, 40)])
    with pytest.warns(UserWarning, match="ARC-Challenge: .* questions stand in it") as said:
        found = load_task(TaskConfig("arc", str(tmp_path), validation=99, test=99))
    assert [w.message.args[0].split(" ")[1] for w in said] == ["1", "3"]
    assert [len(p) for p in (found.train, found.validation, found.test)] == [20, 10, 10]


# as tasks

def test_gold_answers_without_reasoning_teach_no_reasoning():
    problems = [arc_problem(arc_row(i), f"arc/train/{i}") for i in range(3)]
    with pytest.raises(InputError, match="problem arc/train/0 has a gold answer and no reasoning to learn from: name a teacher"):
        GoldTeacher().traces(problems, 1, 0.0, 64, 0)
    for name in METHODS:
        config = resolve(name, "arc")
        if name == "answer_only": check_possible(config)
        else:
            with pytest.raises(InputError, match="gold"): check_possible(config)
        check_possible(resolve(name, "arc", teacher="some/model"))
    with pytest.raises(InputError, match="method 'cot' learns from reasoning, and the gold answers of task 'arc' come without any"):
        check_possible(resolve("cot", "arc"))
    check_possible(resolve("cot", "math"))


def test_presets_of_public_tasks():
    for preset in PRESETS:
        for name in BENCHMARKS: assert resolve("answer_only", name, preset).teacher.source == "gold"
        assert resolve("cot", "math", preset).template == "boxed"
    assert resolve("cot", "gsm8k", "full").task.test == 1319 and resolve("cot", "gsm8k", "smoke").max_new_tokens == 192


@pytest.mark.parametrize("name, part, file", [
    ("arc", "train", "arc/challenge_train.jsonl"), ("arc", "validation", "arc/challenge_dev.jsonl"), ("arc", "test", "arc/challenge_test.jsonl"),
    ("arc_easy", "train", "arc/easy_train.jsonl"), ("arc_easy", "test", "arc/easy_test.jsonl"),
    ("strategyqa", "train", "strategyqa/train.jsonl"), ("strategyqa", "test", "strategyqa/dev.jsonl"), ("gsm8k", "test", "gsm8k/test.jsonl")])
def test_real_rows_are_read_whole_and_their_gold_answers_graded_right(real_data, name, part, file):
    path = Path(real_data, file)
    if not path.is_file(): pytest.skip(f"{file} is not there")
    problems = read_benchmark(name, part, real_data)
    assert len(problems) == len(path.read_text().splitlines()) and graded(problems[::5]) == {"right": 16*len(problems[::5])}
    assert all(bool(p.gold.steps) == BENCHMARKS[name].reasons for p in problems)


def test_the_first_release_of_arc_is_the_same_as_the_hubs(real_data):
    old, new = (Path(real_data, "arc", f"challenge_dev{form}.jsonl") for form in ("_native_format_50", ""))
    if not old.is_file(): pytest.skip("arc/challenge_dev_native_format_50.jsonl is not there")
    old, new = read_benchmark("arc", "dev", str(old)), read_benchmark("arc", "dev", str(new))
    assert [(p.question, p.answer) for p in old] == [(p.question, p.answer) for p in new[:50]] and len(old) == 50


@pytest.mark.filterwarnings("ignore:.*stand in it")
@pytest.mark.parametrize("name, sizes", [("arc", (499, 200, 500)), ("strategyqa", (1860, 200, 229))])
def test_real_rows_are_cut_into_parts(real_data, name, sizes):
    if not Path(real_data, name).is_dir(): pytest.skip(f"{name} is not there")
    found = load_task(TaskConfig(name, real_data, train=9999, validation=200, test=9999))
    assert tuple(map(len, (found.train, found.validation, found.test))) == sizes
