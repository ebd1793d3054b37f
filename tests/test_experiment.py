import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from safetensors.torch import load_file

from reasoning_distill import experiment
from reasoning_distill.cli import main, notebook_parameters
from reasoning_distill.config import (
    METHODS,
    PRESETS,
    base_config,
    override,
    parameters,
    resolve,
    resolve_base,
    resolve_teacher,
    styles_config,
    teacher_config,
)
from reasoning_distill.core import InputError, to_dict
from reasoning_distill.experiment import distill, distill_all, open_student, run_folder, run_key, versions
from reasoning_distill.landscape import (
    ARMS,
    gate_holds,
    kept_runs,
    landscape,
    landscape_configs,
    readable,
    run_landscape,
    study_teacher,
    write_landscape,
)
from reasoning_distill.report import benchmark_table, beside, in_markdown, kept_records, report, row_name, rows_of, tables_of
from reasoning_distill.tasks.splits import TASKS, load_task
from reasoning_distill.workflow import grid

TINY = {"task.base": 200, "task.teacher": 300, "task.train": 60, "task.validation": 20, "task.test": 40, "task.hard": 10, "task.shift": 10,
        "task.steps": [2], "base.fit.tokens": 10_000, "teacher.fit.tokens": 60_000,
        "teacher.model.width": 32, "teacher.model.layers": 1, "student.width": 32, "student.layers": 1, "fit.tokens": 20_000, "max_new_tokens": 30}


def papermill(notebook, output, values, **how):
    "As a researcher calls it."
    given = [x for name, value in values.items() for x in ("-p", name, str(value))]
    return subprocess.Popen([sys.executable, "-m", "papermill", str(notebook), str(output), "--no-progress-bar", *given], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, **how)


def finish(process):
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def test_presets_cover_every_task_and_method():
    for preset in PRESETS:
        for task in TASKS:
            for method in METHODS: assert resolve(method, task, preset).task.name == task
        assert PRESETS[preset]["seeds"]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_ask_for_no_more_than_the_smallest_world_holds(preset):
    splits = load_task(resolve("cot", "strategy", preset, overrides={"task.base": 10}).task)
    assert len(splits.test) == resolve("cot", "strategy", preset).task.test


@pytest.mark.parametrize("given, part", [
    (dict(method="cott"), "method 'cott' is unknown: choose one of answer_only, classic_kd, contrastive, cot, feedback, on_policy, orca"),
    (dict(task="gsm9k"), "task 'gsm9k' is unknown"),
    (dict(preset="huge"), "preset 'huge' is unknown: choose one of full, large, quick, smoke"), (dict(template="xml"), "template 'xml' is unknown"),
    (dict(vocabulary="some"), "vocabulary 'some' is unknown"), (dict(overrides="{fit.lrr: 1}"), "did you mean 'lr'"),
    (dict(overrides="{fit.lr: fast}"), "lr"), (dict(overrides="[1]"), "name no settings"), (dict(overrides="{a: ["), "not YAML"),
    (dict(overrides={"options.sample": 5}), "did you mean 'samples'"), (dict(overrides={"options.samples": 0}), "samples = 0"),
    (dict(overrides={"fit": 1}), "group"), (dict(overrides={"options": {"samples": 5}}), "group"),
    (dict(overrides={"seed.x": 1}), "no group"),
    (dict(overrides={"options.samples.x": 1}), "no group"), (dict(overrides={"task.steps": 2}), "Config"), (dict(method=["cot"]), "unknown"),
    (dict(overrides={"method": "answer_only"}), "parameter of its own"), (dict(overrides={"max_new_tokens": 0}), "max_new_tokens = 0"),
    (dict(overrides={"threads": 0}), "threads = 0"), (dict(seed=-1), "seed = -1"), (dict(seed=2**70), "seed"),
    (dict(overrides={"task.teacher": -1}), "teacher = -1"), (dict(overrides={"fit.betas": 0.9}), "FitConfig"),
    (dict(overrides={"student.kind": "mamba"}), "model kind 'mamba'")])
def test_wrong_settings_are_one_clear_line(given, part):
    with pytest.raises(InputError, match=part.replace("(", r"\(").replace("[", r"\[")) as e: resolve(**given)
    assert "\n" not in str(e.value)


def test_overrides_reach_every_depth_and_leave_the_rest():
    config = resolve("cot", overrides="{fit.lr: 1e0, task.steps: [2], teacher.fit.tokens: 5, options.samples: 7}")
    assert (config.fit.lr, config.task.steps, config.teacher.fit.tokens, config.options["samples"]) == (1.0, (2,), 5, 7)
    assert override(config, {}) == config and resolve().fit.lr == resolve("answer_only").fit.lr < 1.0


def test_a_runs_name_follows_from_what_determines_its_result(tmp_path, gsm8k):
    moved = shutil.copytree(gsm8k, tmp_path/"moved")
    settings = {"task.train": 50, "task.validation": 12, "task.test": 20}
    def key(folder=gsm8k, method="cot", **more):
        config = resolve(method, "gsm8k", data_dir=str(folder), **{"overrides": settings, **more})
        return run_key(config, load_task(config.task))
    assert key() == key(moved) == key(runs_dir="elsewhere")
    with (moved/"gsm8k"/"test.jsonl").open("a") as f: f.write('{"question": "What is 5?", "answer": "#### 5"}\n')
    others = [key(moved), key(seed=1), key(method="answer_only"), key(overrides={**settings, "fit.lr": 0.1})]
    assert len({key(), *others}) == 5


def test_the_teacher_does_not_change_what_asks_for_none():
    def key(method, **more):
        config = resolve(method, overrides={**TINY, **more})
        return run_key(config, load_task(config.task))
    assert key("answer_only") == key("answer_only", **{"teacher.fit.lr": 0.1}) and key("cot") != key("cot", **{"teacher.fit.lr": 0.1})


def code_after(tmp_path, monkeypatch, module, old, new):
    "What the codes of all methods come to when a module is changed."
    copy = tmp_path/f"{module.replace('/', '-')}-{len(new)}"
    shutil.copytree(experiment.PACKAGE, copy)
    text = (copy/f"{module}.py").read_text()
    assert old in text
    (copy/f"{module}.py").write_text(text.replace(old, new))
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "PACKAGE", copy)
        for cached in (experiment._module, experiment.code_hash): cached.cache_clear()
        found = {name: experiment.code_of(resolve(name, preset="quick")) for name in METHODS}
    for cached in (experiment._module, experiment.code_hash): cached.cache_clear()
    return found


def test_a_changed_module_renames_the_runs_that_it_is_part_of(tmp_path, monkeypatch):
    before = {name: experiment.code_of(resolve(name, preset="quick")) for name in METHODS}
    def changed(*what):
        after = code_after(tmp_path, monkeypatch, *what)
        return {name for name in METHODS if after[name] != before[name]}
    assert changed("methods/star", "growth**i", "growth**(i + 1)") == {"star"}
    assert changed("methods/star", '"How the rounds go."', '"How many rounds there are."') == set(), "a docstring"
    assert changed("report", "100*right/n", "99*right/n") == changed("config", "0.0025", "0.003") == set(), "what comes to is in the run's name"
    assert changed("methods/orca", "tellings: int = 2", "tellings: int = 3") == {"orca"}
    assert changed("methods/cot", "given = lessons", "found = given = lessons") == {*METHODS}, "teachers and base students are made by it"
    assert changed("training", "random.Random(f\"plan/", "random.Random(f\"plans/") == {*METHODS}


def test_a_run_has_another_name_when_its_teachers_making_has(tmp_path):
    splits = load_task(resolve("cot", overrides=TINY).task)
    def key(method, **more): return run_key(resolve(method, overrides={**TINY, **more}), splits)
    assert key("cot") != key("cot", **{"teacher.fit.lr": 0.1}) and key("cot") == key("cot", **{"teacher.styles.tokens": 5, "assistant.fit.lr": 0.1})
    assert key("orca") != key("orca", **{"teacher.styles.tokens": 5}) and key("orca") == key("orca", **{"assistant.fit.lr": 0.1})
    by_teacher = {"options.curriculum": "teacher"}
    assert key("orca", **by_teacher) != key("orca", **by_teacher, **{"assistant.fit.lr": 0.1})
    assert key("cot") != key("cot", **{"base.fit.lr": 0.1}) and key("cot", **{"student.source": "scratch"}) == key(
        "cot", **{"student.source": "scratch", "teacher.model.source": "base"})


def test_the_students_vocabulary_is_in_its_name(tmp_path, make):
    make().save(tmp_path/"teacher")
    splits = load_task(resolve("answer_only", overrides=TINY).task)
    def key(**more): return run_key(resolve("answer_only", overrides={**TINY, **more}), splits)
    loaded = {"teacher.source": str(tmp_path/"teacher")}
    assert key() == key(**loaded) and key(**{"student.source": "scratch"}) != key(**{"student.source": "scratch"}, **loaded)


def test_other_gold_steps_are_another_run():
    config = resolve("cot", teacher="gold", overrides=TINY)
    splits = load_task(config.task)
    p = splits.train[0]
    changed = replace(p, gold=replace(p.gold, steps=tuple(replace(s, text="So it is.") for s in p.gold.steps)))
    assert run_key(config, splits) != run_key(config, replace(splits, train=[changed, *splits.train[1:]]))


@pytest.mark.parametrize("method, more", [("classic_kd", {}), ("cot", {"options.filter": "self_consistency"})])
def test_what_gold_solutions_cannot_give_is_refused_before_anything_runs(tmp_path, method, more):
    with pytest.raises(InputError, match="gold solution"):
        distill(resolve(method, teacher="gold", overrides={**TINY, **more}, runs_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_grid_leaves_out_what_its_teacher_cannot_do_unless_asked_for():
    names = [name for _, name, *_ in grid("smoke", ["gsm8k"])]
    assert "cot" in names and "star" in names and not any("kd" in name for name in names)
    with pytest.raises(InputError, match="needs the scores"): grid("smoke", ["gsm8k"], ["classic_kd"])


def test_quick_is_a_part_of_full():
    for task in ("arithmetic", "strategy"):
        quick, full = (resolve("cot", task, preset, seed=0) for preset in ("quick", "full"))
        splits = load_task(replace(quick.task, base=10, teacher=10, train=10))
        assert run_key(quick, splits) == run_key(full, splits) and run_folder(quick, splits) == run_folder(full, splits)


def test_the_teacher_of_styles_goes_on_from_the_usual_one(tmp_path):
    config = resolve("orca", overrides={**TINY, "teacher.styles.tokens": 20_000}, runs_dir=str(tmp_path))
    styles, splits = styles_config(config), load_task(config.task)
    assert experiment.STARTS["teacher"](styles) == teacher_config(config)
    record = distill(styles, splits)
    assert row_name(record).startswith("styles (") and record.config["corpus"] == "styles" and sum(record.metrics["report"]["stages"]) == 0
    assert {*record.metrics["report"]["styles"]} == {"step by step", "patient teacher", "critical thinker", "domain expert"}
    begun = open_student(styles, splits)
    taught = load_file(run_folder(teacher_config(config), splits)/"student"/"model.safetensors")
    assert all((p == taught[name]).all() for name, p in begun.model.named_parameters())


@pytest.mark.parametrize("method, more", [("orca", {}), ("step_by_step", {}), ("step_by_step", {"options.form": "next_step"}), ("contrastive", {})])
def test_a_record_tells_what_each_way_of_asking_gave(tmp_path, method, more):
    record = distill(resolve(method, teacher="gold", overrides={**TINY, **more}, runs_dir=str(tmp_path)))
    metrics = record.metrics
    assert len(metrics["marks"]) == 40 and set(metrics["marks"]) <= {"0", "1"} and metrics["read"] > 0
    assert {way: found["strict"]["n"] for way, found in metrics["decodings"].items()} == ({"rationale": 40} if metrics["decoding"] == "label" else {})
    assert record.tokens["evaluate"] > 0 and record.flops["teacher"] == record.flops["own sampling"] == 0
    kept = {p.name for p in tmp_path.glob(f"arithmetic/{method}-*/predictions*.jsonl")} - {"predictions.jsonl"}
    assert kept == {f"predictions-{name}.jsonl" for name in metrics["decodings"]}
    assert {"training", "evaluation", "teacher", "own sampling", "last start"} == {*record.seconds}


def test_distil_from_a_teacher_from_scratch_once(tmp_path):
    config = resolve("cot", overrides={**TINY, "teacher.fit.tokens": 400_000, "teacher.model.width": 64, "teacher.model.layers": 2,
                                       "options.max_new_tokens": 60}, runs_dir=str(tmp_path))
    record = distill(config)
    folders = sorted(p.name.split("-")[0] for p in (tmp_path/"arithmetic").iterdir())
    assert folders == ["base", "base", "cot", "teacher", "traces"]  # the student's and the teacher's
    assert record.tokens["train"] >= 20_000 and record.flops["teacher"] > 0 and record.tokens["teacher"] > 60*3
    assert record.metrics["strict"]["n"] == 40 and len(record.curve) == config.fit.evaluations
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert distill(config) == record
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert row_name(distill(teacher_config(config))).startswith("teacher (")


def test_a_student_starts_from_the_base_and_the_base_is_made_once(tmp_path):
    config = resolve("answer_only", overrides=TINY, runs_dir=str(tmp_path))
    splits = load_task(config.task)
    base = distill(base_config(config), splits)
    assert base.config["corpus"] == "base" and base.config["student"]["source"] == "scratch" and base.tokens["train"] >= 10_000
    begun, weights = open_student(config, splits), load_file(run_folder(base_config(config), splits)/"student"/"model.safetensors")
    assert all((p == weights[name]).all() for name, p in begun.model.named_parameters())
    other = replace(config, seed=5, method="cot", options={}, task=replace(config.task, teacher=200, rarity=0.5))
    assert distill(base_config(other)) == base and run_key(other, load_task(other.task)) != run_key(config, splits)
    drawn = [resolve("cot", draw=d, overrides=TINY) for d in (0, 1)]
    assert len({run_key(base_config(c), load_task(c.task)) for c in drawn}) == 2


def test_a_corpus_keeps_its_own_validation_problems(tmp_path):
    "The teacher's checkpoint is chosen on problems like its own, not on the students'."
    config = resolve_teacher(overrides=TINY)
    from reasoning_distill.experiment import _lessons
    splits = load_task(config.task)
    train, validation = _lessons(config, splits)
    assert [*train, *validation] == splits.teacher and len(validation) == 20
    with pytest.raises(InputError, match="leaves nothing"): _lessons(config, replace(splits, teacher=splits.teacher[:20]))


def test_a_landscape_from_end_to_end(tmp_path):
    settings = {**TINY, "teacher.fit.tokens": 300_000, "teacher.model.width": 64, "task.largest": 20}
    configs = landscape_configs("smoke", "arithmetic", draw=3, seeds=2, overrides=settings, runs_dir=str(tmp_path))
    assert [*configs][0] == ("arithmetic", "teacher", 0) and len(configs) == 1 + 2*len(ARMS)
    assert all(c.task.seed == c.base.seed == 3 for c in configs.values())
    assert len({c.fit.tokens for (_, arm, _), c in configs.items() if arm != "teacher"}) == 1
    runs = run_landscape(configs, lanes=2)
    tables = landscape(runs)
    assert write_landscape(tables, runs, str(tmp_path/"out"), str(tmp_path/"out")).startswith("The gate")
    assert {p.name for p in (tmp_path/"out").iterdir()} == {f"landscape_{n}.{s}" for n in ("gate", "arms") for s in ("csv", "md", "tex")} | {
        "landscape.svg", "landscape.pdf"}
    assert {"all", "ordinary", "inverse", "2", "hard", "shift"} == set(tables["arms"].group)
    study = study_teacher(configs["arithmetic", "raw", 0], count=10, samples=2)
    assert study.group.tolist() == ["ordinary", "inverse"] and study.problems.max() == 10


def test_the_committed_landscape_follows_from_the_kept_records(root):
    tables = landscape(kept_runs(root/"paper"/"results"/"landscape.jsonl"))
    for name, table in tables.items():
        assert readable(table).to_markdown(index=False, disable_numparse=True) in (root/"paper"/"tables"/f"landscape_{name}.md").read_text()
    required = [met for scope, met in zip(tables["gate"].scope, tables["gate"].met, strict=True) if scope in ("arithmetic", "average")]
    assert gate_holds(tables["gate"]) and len(required) == 6 and all(required)


def test_the_committed_report_follows_from_the_kept_records(root):
    for name, text in in_markdown(tables_of(kept_records(root/"paper"/"results"/"benchmark.jsonl"))).items():
        assert text in (root/"paper"/"tables"/f"{name}.md").read_text(), name


def test_what_was_kept_stays_beside_what_was_run_again(root):
    kept = kept_records(root/"paper"/"results"/"benchmark.jsonl")
    again, new = [replace(r, code="other", key="new") for r in kept[5:8]], versions()
    same = [replace(r, versions=new) for r in kept]
    found = beside(again, same, "full")
    assert len(found) == len(kept) and sum(r.key == "new" for r in found) == 3, "what was run again takes the place of what was kept"
    assert beside(again, [replace(r, versions={"python": "2.7"}) for r in kept], "full") == beside(again, [], "full"), "other versions, other results"


def test_students_of_another_teacher_do_not_stand_beside(root):
    kept = [replace(r, versions=versions()) for r in kept_records(root/"paper"/"results"/"benchmark.jsonl")]
    teacher = next(r for r in kept if (r.config["task"]["name"], r.config["corpus"]) == ("strategy", "teacher"))
    other = replace(teacher, key="new", metrics={**teacher.metrics, "marks": "0"*len(teacher.metrics["marks"])})
    found = beside([other], kept, "full")
    assert [r.key for r in found if r.config["task"]["name"] == "strategy"] == ["new"]
    assert len([r for r in found if r.config["task"]["name"] != "strategy"]) == len([r for r in kept if r.config["task"]["name"] != "strategy"])
    assert len(beside([replace(teacher, key="new")], kept, "full")) == len(kept), "the same teacher, trained again"


def test_the_report_notebook_runs_as_it_stands(root, tmp_path):
    distill(resolve("answer_only", overrides=TINY, runs_dir=str(tmp_path)))
    places = {name: str(tmp_path/"out") for name in ("tables_dir", "figures_dir", "records_dir")}
    code, said = finish(papermill(root/"nbs"/"experiments"/"report.ipynb", tmp_path/"out.ipynb", {"runs_dir": tmp_path, **places}, cwd=tmp_path))
    assert code == 0, said
    assert {p.stem for p in (tmp_path/"out").iterdir()} == {"benchmark", "by_steps", "by_family", "paired", "predictions", "overview", "time", "loss"}


@pytest.mark.parametrize("draw", ["3 3", "x", "", "-1", "1.5"])
def test_draws_are_one_or_one_a_task(draw):
    with pytest.raises(InputError, match="one for each of the 4 tasks"): landscape_configs(draw=draw)


def test_all_runs_are_done_before_an_error_is_raised(tmp_path):
    good = resolve("answer_only", overrides=TINY, runs_dir=str(tmp_path))
    said = []
    with pytest.raises(InputError, match="bad: checkpoint ./none is missing"):
        distill_all({("bad",): replace(good, student=replace(good.student, source="./none")), ("good",): good}, 2, said.append)
    assert sorted(line.split("] ")[1].split(":")[0] for line in said) == ["bad", "good"] and list(tmp_path.rglob("answer_only*/record.json"))


def test_an_encoder_decoder_goes_the_same_way(tmp_path):
    record = distill(resolve("cot", teacher="gold", overrides={**TINY, "student.kind": "encoder-decoder"}, runs_dir=str(tmp_path)))
    assert record.metrics["strict"]["n"] == 40 and "student.kind=encoder-decoder" in row_name(record)


def test_checkpoints_as_teacher_and_student(tmp_path, make, texts):
    make().save(tmp_path/"a")
    make(vocabulary=300).save(tmp_path/"b")
    common = dict(overrides={**TINY, "options.samples": 1}, runs_dir=str(tmp_path/"runs"))
    with pytest.raises(InputError, match="400 and 300 tokens"):
        distill(resolve("cot", teacher=str(tmp_path/"a"), student=str(tmp_path/"b"), **common))
    with pytest.raises(InputError, match="checkpoint ./none is missing"): distill(resolve("cot", student="./none", **common))
    with pytest.raises(InputError, match="checkpoint ./none is missing"): distill(resolve("cot", teacher="./none", **common))
    record = distill(resolve("answer_only", student=str(tmp_path/"b"), **common | {"overrides": TINY}))
    assert "student.source=b" in row_name(record) and record.metrics["strict"]["n"] == 40


def test_text_alone_can_cross_vocabularies(tmp_path, make):
    make(vocabulary=300).save(tmp_path/"b")
    config = resolve("cot", teacher=str(tmp_path/"b"), vocabulary="any", overrides={**TINY, "options.samples": 1}, runs_dir=str(tmp_path))
    with pytest.raises(InputError, match="traces of b can be learnt from"): distill(config)  # it is untrained, and allowed


def test_no_teacher_from_scratch_without_a_corpus(gsm8k, tmp_path):
    settings = {"task.train": 50, "task.validation": 12, "task.test": 20}
    config = resolve("cot", "gsm8k", teacher="scratch", data_dir=str(gsm8k), overrides=settings, runs_dir=str(tmp_path))
    for refused in (config, teacher_config(config)):
        with pytest.raises(InputError, match="task 'gsm8k' has no problems for a teacher"): distill(refused)


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="runs in one process"): distill(resolve(runs_dir=str(tmp_path)))


def test_a_changed_solution_is_not_learnt_from_its_old_version(gsm8k, tmp_path):
    settings = dict(overrides={"task.train": 50, "task.validation": 12, "task.test": 20, "fit.tokens": 3000, "student.layers": 1},
                    data_dir=str(gsm8k), runs_dir=str(tmp_path))
    first = distill(resolve("cot", "gsm8k", **settings))
    path = gsm8k/"gsm8k"/"train.jsonl"
    path.write_text(path.read_text().replace("Then", "And then"))
    second = distill(resolve("cot", "gsm8k", **settings))
    assert first.key != second.key and first.row != second.row and first.curve != second.curve
    names = [name for _, name in rows_of([first, second])]
    assert len(names) == 2 and all(name.startswith("cot") and "[" in name for name in names)


def test_a_notebook_can_be_run_twice_in_one_session(root, tmp_path):
    "Cells after the parameters leave no names behind that look like parameters."
    for name in ("distill", "base", "teacher", "report", "landscape", "bench"):
        notebook = nbformat.read(root/"nbs"/"experiments"/f"{name}.ipynb", as_version=4)
        assigned = set()
        for cell in notebook.cells:
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                for node in ast.parse(cell.source).body:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else []
                    assigned |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        assert {n for n in assigned if not n.startswith("_")} <= {"config", "record", "fig", "ax", "benchmark", "by_steps", "figure"}, name


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path/"file").touch()
    with pytest.raises(InputError, match="set runs_dir"): distill(resolve("cot", teacher="gold", overrides=TINY, runs_dir=str(tmp_path/"file")))


def test_parameters_refuse_what_the_call_does_not_know():
    namespace = {"method": "cot", "_": "x", "In": [], "Out": {}, "Path": Path, "METHODS": resolve}
    assert parameters(resolve, namespace) == {"method": "cot"}
    with pytest.raises(InputError, match="parameter 'sed' is unknown: did you mean 'seed'"): parameters(resolve, {**namespace, "sed": 1})


@pytest.mark.parametrize("values, part", [
    ({"metod": "cot"}, "parameter 'metod' is unknown: did you mean 'method'? valid names are method, task, preset, seed, draw, data_dir"),
    ({"method": "cott"}, "method 'cott' is unknown"), ({"task": "gsm8k", "data_dir": "./nowhere"}, "data folder ./nowhere is missing")])
def test_plain_papermill_stops_at_bad_input_with_one_line(root, tmp_path, values, part):
    code, said = finish(papermill(root/"nbs"/"experiments"/"distill.ipynb", tmp_path/"out.ipynb", values, cwd=tmp_path))
    assert code and f"InputError: {part}" in said and "resolve(" not in said.split("InputError")[1]


def test_bad_rows_stop_papermill_with_file_and_line(root, tmp_path, gsm8k, edit):
    edit(gsm8k/"gsm8k"/"train.jsonl", 3, '{"question": ')
    code, said = finish(papermill(root/"nbs"/"experiments"/"distill.ipynb", tmp_path/"out.ipynb", {"task": "gsm8k", "data_dir": gsm8k}, cwd=tmp_path))
    assert code and "train.jsonl has 1 bad row: line 3: broken JSON" in said


@pytest.mark.parametrize("arguments, part", [
    (["notebook", "DISTILL", "OUT", "-p", "metod", "cot"], "parameter 'metod' is unknown"),
    (["notebook", "UNTAGGED", "OUT"], "0 cells tagged 'parameters'"),
    (["notebook", "none.ipynb", "OUT"], "none.ipynb is missing"), (["notebook", "BROKEN", "OUT"], "cannot be read"),
    (["notebook", "DISTILL", "OUT", "-p", "preset", "huge"], "preset 'huge' is unknown"), (["report", "--methods", "cott"], "variant 'cott'"),
    (["report", "--preset", "huge"], "preset 'huge'"),
    (["notebook", "DISTILL", "DISTILL"], "cannot be written"), (["notebook", "DISTILL", ""], "cannot be written"),
    (["notebook", "DISTILL", "broken.ipynb/out.ipynb"], "cannot be made"), (["notebook", "DISTILL", "OUT", "-p", "overrides", "{a: ["], "not YAML"),
    (["report", "--tasks", "gsm8k", "--data-dir", "nowhere"], "data folder nowhere is missing")])
def test_the_command_line_says_one_line_and_exits_with_2(root, tmp_path, monkeypatch, capsys, arguments, part):
    notebook = nbformat.read(root/"nbs"/"experiments"/"distill.ipynb", as_version=4)
    for cell in notebook.cells: cell.metadata.pop("tags", None)
    nbformat.write(notebook, tmp_path/"untagged.ipynb")
    (tmp_path/"broken.ipynb").write_text("{")
    places = {"DISTILL": str(root/"nbs"/"experiments"/"distill.ipynb"), "UNTAGGED": "untagged.ipynb", "BROKEN": "broken.ipynb", "OUT": "out.ipynb"}
    for folder in ("nbs", "settings.ini"): (tmp_path/folder).symlink_to(root/folder)
    monkeypatch.chdir(tmp_path)
    assert main([places.get(a, a) for a in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and part in said and said.count("\n") == 1


def test_a_kernel_that_dies_at_its_start_is_started_again(root, tmp_path, monkeypatch):
    from reasoning_distill import cli
    outcomes = iter([(1, "RuntimeError: Kernel died before replying to kernel_info"), (0, "done")])
    def started(command, stdout, stderr):
        code, said = next(outcomes)
        stdout.write(said)
        stdout.flush()
        return subprocess.CompletedProcess(command, code)
    monkeypatch.setattr(cli.subprocess, "run", started)
    assert cli.run_notebook(root/"nbs"/"experiments"/"report.ipynb", tmp_path/"out.ipynb", {}) == tmp_path/"out.ipynb"
    outcomes = iter([(1, "ValueError: no")])
    with pytest.raises(InputError, match="failed: see"): cli.run_notebook(root/"nbs"/"experiments"/"report.ipynb", tmp_path/"out.ipynb", {})


def test_a_grid_asks_the_teacher_last():
    names = [" ".join(name) for name in grid("smoke", ["arithmetic"], ["cot", "answer_only"], seeds=[0, 1])]
    assert names == ["arithmetic base", "arithmetic teacher", *(f"arithmetic {m} seed {s}" for m in ("answer_only", "cot") for s in (0, 1))]
    names = [" ".join(name) for name in grid("smoke", ["arithmetic"], ["orca", "cot_gold", "t5_cot", "answer_only"])]
    assert names == [f"arithmetic {n}" for n in ("base", "teacher", "answer_only seed 0", "cot_gold seed 0", "t5_cot seed 0", "styles",
                                                 "orca seed 0")]
    assert " ".join(map(str, [*grid("smoke", ["arithmetic"], ["answer_only"])][0])) == "arithmetic base"


def test_notebook_parameters_are_the_arguments_of_the_call(root):
    import inspect
    calls = {"distill": resolve, "report": report, "teacher": resolve_teacher, "base": resolve_base, "landscape": landscape_configs}
    for name, function in calls.items():
        assert notebook_parameters(root/"nbs"/"experiments"/f"{name}.ipynb") == [*inspect.signature(function).parameters]


def test_a_killed_notebook_goes_on_and_gives_the_same_table(root, tmp_path):
    "kill -9 of the papermill process and its kernel in the middle of training; the same command again."
    values = {"method": "cot", "teacher": "gold", "overrides": json.dumps({**TINY, "fit.tokens": 150_000}), "preset": "smoke"}
    def run(name):
        return papermill(root/"nbs"/"experiments"/"distill.ipynb", tmp_path/f"{name}.ipynb", {**values, "runs_dir": tmp_path/name}, cwd=tmp_path)
    whole = run("whole")
    while not (tmp_path/"whole").exists():  # its kernel has started: two that start at once may pick one port
        assert whole.poll() is None, whole.communicate()[0]
        time.sleep(0.02)
    killed = run("killed")
    while not list((tmp_path/"killed").glob("arithmetic/cot-*/checkpoints/step-*/history.json")):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    for kernel in kernels_of(tmp_path/"killed"): os.kill(kernel, signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path/"killed").rglob("cot-*/record.json")), "the run ended before it could be killed"
    for process in (whole, run("killed")):
        code, said = finish(process)
        assert code == 0, said
    records = {name: json.loads(next((tmp_path/name).rglob("cot-*/record.json")).read_text()) for name in ("whole", "killed")}
    assert records["whole"]["starts"] == [0] and len(records["killed"]["starts"]) == 2 and records["killed"]["starts"][1] > 0
    assert records["whole"]["metrics"] == records["killed"]["metrics"] and records["whole"]["curve"] == records["killed"]["curve"]
    for name in records: report("smoke", str(tmp_path/name), *[str(tmp_path/name/"out")]*3)
    for file in ("benchmark.csv", "benchmark.md", "benchmark.tex", "by_steps.csv", "by_family.csv", "paired.csv", "loss.svg", "loss.pdf"):
        assert (tmp_path/"whole"/"out"/file).read_bytes() == (tmp_path/"killed"/"out"/file).read_bytes(), file


def kernels_of(folder):
    "Processes that hold the run's lock: papermill's kernel is in a process group of its own."
    for entry in Path("/proc").glob("[0-9]*"):
        try: held = [os.readlink(f) for f in (entry/"fd").iterdir()]
        except OSError: continue
        if any(str(folder) in h for h in held) and int(entry.name) != os.getpid(): yield int(entry.name)


def test_records_of_other_code_stay_out_of_the_table(tmp_path):
    config = resolve("answer_only", overrides=TINY, runs_dir=str(tmp_path))
    record = distill(config)
    other = tmp_path/"arithmetic"/"old"/"record.json"
    other.parent.mkdir()
    other.write_text(json.dumps(to_dict(replace(record, code="another"))))
    *_, others = report("smoke", str(tmp_path), *[str(tmp_path/"out")]*3)
    assert others == 1 and len(benchmark_table([record])) == 1
    other.write_text("{")
    with pytest.raises(InputError, match="record .* cannot be read"): report("smoke", str(tmp_path), *[str(tmp_path/"out")]*3)


def test_real_gsm8k_rows_train_and_test_a_student(root, tmp_path, real_data):
    values = {"method": "cot", "task": "gsm8k", "data_dir": real_data, "preset": "smoke", "runs_dir": tmp_path,
              "overrides": json.dumps({"fit.tokens": 40_000, "task.test": 40, "student.layers": 1})}
    code, said = finish(papermill(root/"nbs"/"experiments"/"distill.ipynb", tmp_path/"out.ipynb", values, cwd=tmp_path))
    assert code == 0, said
    record = json.loads(next(tmp_path.rglob("record.json")).read_text())
    assert record["metrics"]["strict"]["n"] == 40 and record["config"]["teacher"]["source"] == "gold"
