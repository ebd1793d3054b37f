"""The course: every check passes with its solution and fails without; the report fills in its figures; the world of sums is what it says."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient import NotebookClient

from reasoning_distill.core import InputError
from reasoning_distill.course import ERRORS, Erring, beginner, keep_run, kept_runs, lab, moves_of, runs_table, steps_figure, sums
from reasoning_distill.teachers.local import GoldTeacher
from reasoning_distill.verify import verify_trace

TRACKS = ("bachelor", "master", "phd")


@pytest.fixture(scope="module")
def stripped(root, tmp_path_factory):
    "The students' notebooks, as `make course` writes them."
    folder = tmp_path_factory.mktemp("course")
    command = next(line for line in (root/"Makefile").read_text().replace("\\\n", " ").splitlines() if "nbs/course/*.ipynb" in line).split()
    command[command.index("--output-dir") + 1] = str(folder)
    sources = sorted(map(str, (root/"nbs"/"course").glob("*.ipynb")))
    given = [w.strip("'") for word in command for w in (sources if word == "nbs/course/*.ipynb" else [word])]
    done = subprocess.run([str(Path(sys.executable).parent/given[0]), *given[1:]], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    return folder


def small(path, keep_in):
    "A notebook with a budget of a moment."
    notebook = nbformat.read(path, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += f"\ntokens = 4000\nquestions = 240\nkeep_in = {str(keep_in)!r}"
    return notebook


def tagged(notebook, tag): return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


def execute(notebook, folder, **options):
    return NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, **options).execute()


@pytest.mark.parametrize("track", TRACKS)
def test_with_solutions_every_check_passes_and_the_report_fills_itself(root, tmp_path, track):
    done = execute(small(root/"nbs"/"course"/f"{track}.ipynb", tmp_path/"runs.jsonl"), root/"nbs"/"course", allow_errors=True)
    failed = [(o.evalue, c.metadata.get("tags", [])) for c in done.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert all("can be learnt from" in why and not tags for why, tags in failed) and len(failed) <= (track == "phd"), failed
    assert len(tagged(done, "task")) == len(tagged(done, "solution")) == len(tagged(done, "check")) >= 5
    papermill.execute_notebook(root/"nbs"/"course"/"report.ipynb", tmp_path/"report.ipynb", progress_bar=False, cwd=str(tmp_path),
                               parameters={"track": track, "author": "A. Student", "records": str(tmp_path/"runs.jsonl")})
    report = (tmp_path/"report.ipynb").read_text()
    assert "A. Student" in report and "image/png" in report and all(r.config["name"] in report for r in kept_runs(tmp_path/"runs.jsonl"))


@pytest.mark.parametrize("track", TRACKS)
def test_without_solutions_every_check_fails(stripped, tmp_path, track):
    notebook = small(stripped/f"{track}.ipynb", tmp_path/"runs.jsonl")
    assert not tagged(notebook, "solution") and not any(c.get("outputs") for c in notebook.cells) and len(tagged(notebook, "check")) >= 5
    done = execute(notebook, tmp_path, allow_errors=True)
    failed = [any(o.output_type == "error" for o in c.outputs) for c in done.cells if c.cell_type == "code"]
    checks = [f for f, c in zip(failed, (c for c in done.cells if c.cell_type == "code"), strict=True) if "check" in c.metadata.get("tags", [])]
    assert all(checks) and not any(failed[:4]), "what comes before the first task runs"


@pytest.mark.parametrize("given, named", [({"records": "nowhere.jsonl"}, "nowhere.jsonl"), ({}, "runs/course/phd.jsonl")])
def test_the_report_says_what_is_missing(root, tmp_path, given, named):
    with pytest.raises(papermill.PapermillExecutionError, match=f"{named} is missing: run nbs/course/phd.ipynb first"):
        papermill.execute_notebook(root/"nbs"/"course"/"report.ipynb", tmp_path/"out.ipynb", progress_bar=False, cwd=str(tmp_path),
                                   parameters={"track": "phd", **given})


@pytest.mark.parametrize("split", ["train", "validation", "test", "teacher"])
def test_rows_are_true_and_stay_in_their_world(split):
    problems = sums(split, 120, 5, steps=(2, 4, 7))
    assert [p.steps for p in problems[:3]] == [2, 4, 7] and len({p.question for p in problems}) == 120
    for p in problems:
        totals = [int(p.question.split()[2])]
        for n in moves_of(p): totals.append(totals[-1] + n)
        assert all(0 <= t <= 9 for t in totals) and str(totals[-1]) == p.answer and [int(s.result) for s in p.gold.steps] == totals[1:]
        assert verify_trace(p.question, p.gold, p.answer).first_wrong_step is None


def test_no_row_is_in_two_splits():
    rows = [{p.question for p in sums(split, 200, seed, steps=(3,))} for split in ("train", "test", "validation") for seed in (0, 1)]
    assert not (rows[0] | rows[1]) & (rows[2] | rows[3]) and not (rows[0] | rows[1]) & (rows[4] | rows[5])


@pytest.mark.parametrize("kind", ERRORS)
def test_a_teacher_errs_in_its_own_way_and_the_same_again(kind):
    problems = sums("train", 150, 0)
    ask = dict(samples=2, temperature=0.7, max_new_tokens=50, seed=0)
    traces = Erring(kind, 1.0).traces(problems, **ask)
    assert traces == Erring(kind, 1.0).traces(problems, **ask) and len(traces) == 300
    of = {p.id: p for p in problems}
    wrong = [t for t in traces if [s.result for s in t.steps] != [s.result for s in of[t.problem].gold.steps]]
    objected = [t for t in wrong if verify_trace(of[t.problem].question, t, of[t.problem].answer).first_wrong_step is not None]
    right = [t for t in wrong if t.answer == of[t.problem].answer]
    if kind == "slip": assert len(wrong) > 250 and not right and len(objected) == len(wrong)
    if kind == "pair": assert len(wrong) > 200 and len(right) == len(objected) == len(wrong)
    if kind == "misreading":
        assert 20 < len(wrong) < 150 and all("- 2" in of[t.problem].question for t in wrong)
        assert all(str(eval_sum(s.expression)) == s.result for t in traces for s in t.steps), "it calculates well, with what it has read"


def eval_sum(expression):
    left, sign, right = expression
    return int(left) + int(right) if sign == "+" else int(left) - int(right)


def test_a_run_keeps_a_record_and_repeats_itself(tmp_path):
    train, test = sums("train", 60, 0), sums("test", 24, 0)
    again = [lab("a", "cot", beginner(1), GoldTeacher(), train, test, tmp_path/str(i), tokens=5000, seed=1, options={"samples": 1}) for i in range(2)]
    assert again[0].metrics == again[1].metrics and again[0].key == again[1].key and again[0].curve == again[1].curve
    assert again[0].tokens["train"] >= 5000 and again[0].flops["train"] > 1e8 and again[0].config["teacher"] == "gold"
    path = tmp_path/"deep"/"runs.jsonl"
    for record in (again[0], replace(again[0], config={**again[0].config, "name": "b"}), again[1]): keep_run(record, path)
    assert [r.config["name"] for r in kept_runs(path)] == ["b", "a"]
    assert list(runs_table(kept_runs(path))["run"]) == ["b", "a"] and steps_figure(kept_runs(path)).axes


@pytest.mark.parametrize("wrong, message", [
    (lambda: sums("exam", 3, 0), "split 'exam' is unknown"), (lambda: sums("test", 900, 0, steps=(2,)), "ask for fewer"),
    (lambda: Erring("typo", 0.5), "kind of error 'typo' is unknown"), (lambda: Erring("slip", 2), "share = 2"),
    (lambda: lab("x", "magic", beginner(), GoldTeacher(), [], [], "."), "method 'magic' is unknown"),
    (lambda: kept_runs("nowhere.jsonl"), "is missing")])
def test_wrong_input_is_named(wrong, message):
    with pytest.raises(InputError, match=message): wrong()
