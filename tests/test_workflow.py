"""The grid as a plan, and the plan carried out by Snakemake: on small notebooks of the same form, here and through a cluster's commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from reasoning_distill import cli, workflow
from reasoning_distill.config import resolve, resolve_base, resolve_teacher
from reasoning_distill.core import InputError
from reasoning_distill.workflow import grid, missing, plan

RUNS = {"base": (), "teacher": ("base",), "cot": ("base", "teacher"), "answers": ("base",)}  # name → whom it waits for
BODY = """from pathlib import Path
missing = [p for p in after if not Path(p).is_file()]
if missing: raise ValueError(f"{missing} should be there")
if fails: raise InputError(fails)
Path(record).write_text("{}")
open("order.txt", "a").write(name + " ")"""


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    "A folder that looks like the project, with a notebook that writes a record and one that writes a table."
    (tmp_path/"settings.ini").write_text("")
    (tmp_path/"workflow").symlink_to(root/"workflow")
    (tmp_path/"paper"/"tables").mkdir(parents=True)
    write(tmp_path/"cell.ipynb", 'name = ""\nrecord = ""\nafter = []\nfails = ""', "class InputError(Exception): pass\n" + BODY)
    write(tmp_path/"report.ipynb", "preset = ''", 'open("paper/tables/benchmark.md", "a").write(f"table of {preset}\\n")')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, parameters, body):
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(body)], metadata=metadata), path)


def planned(project, versions=(), fails=()):  # name → version, name → what it fails with
    "A plan as `plan` writes it: the record's name follows from the version of the run and of those before it."
    versions, fails = dict(versions), dict(fails)
    def record(name): return f"runs/{name}-{versions.get(name, 0)}{''.join(str(versions.get(n, 0)) for n in RUNS[name])}/record.json"
    def cell(name):
        given = {"name": name, "record": record(name), "after": [record(n) for n in RUNS[name]], "fails": fails.get(name, "")}
        return {"name": f"toy {name}", "record": record(name), "after": given["after"], "notebook": "cell.ipynb",
                "copy": f"runs/notebooks/{name}.ipynb", "parameters": yaml.safe_dump(given)}
    report = {"done": "runs/report.done", "notebook": "report.ipynb", "copy": "runs/notebooks/report.ipynb", "parameters": "{preset: toy}"}
    place, text = project/"runs"/"plan.json", json.dumps({"plan": "runs/plan.json", "runs": [cell(n) for n in RUNS], "report": report})
    place.parent.mkdir(exist_ok=True)
    if not place.is_file() or place.read_text() != text: place.write_text(text)
    return place


def order(project):
    "What was run since this was asked last."
    found = (project/"order.txt").read_text().split() if (project/"order.txt").is_file() else []
    (project/"order.txt").unlink(missing_ok=True)
    return found


def table(project): return (project/"paper"/"tables"/"benchmark.md").read_text().count("table of toy")


def test_only_what_is_missing_is_run(project, capfd):
    cli.run_report(planned(project), 2)
    ran = order(project)
    assert ran[:1] == ["base"] and ran.index("teacher") < ran.index("cot") and {*ran} == {*RUNS} and table(project) == 1
    said = capfd.readouterr().out
    assert "4 runs to do of 4" in said and all(f"toy {name}: " in said for name in RUNS)
    cli.run_report(planned(project), 2)
    assert order(project) == [] and table(project) == 1 and capfd.readouterr().out.startswith("0 runs to do of 4")
    for path in project.rglob("record.json"): os.utime(path, (path.stat().st_mtime - 1000*len(path.parent.name),)*2)  # ages in any order
    cli.run_report(planned(project), 2)
    assert order(project) == [] and table(project) == 1, "a run's age says nothing"
    cli.run_report(planned(project, {"answers": 1}), 2)
    assert order(project) == ["answers"] and table(project) == 2, "another code of one method is one run and the tables"
    next(project.glob("runs/cot-*/record.json")).unlink()
    cli.run_report(planned(project, {"answers": 1}), 2)
    assert order(project) == ["cot"], "what was killed is run again"


def test_a_run_that_fails_holds_up_those_behind_it_and_nobody_else(project, capfd):
    broken = planned(project, fails={"teacher": "the teacher is out"})
    with pytest.raises(InputError, match="^toy teacher: the teacher is out$"): cli.run_report(broken, 2)
    assert sorted(order(project)) == ["answers", "base"] and not (project/"paper"/"tables"/"benchmark.md").exists()
    assert "RuleException" not in "".join(capfd.readouterr()), "what Snakemake thinks of it is in its log"
    cli.run_report(planned(project), 2)
    assert order(project) == ["teacher", "cot"] and table(project) == 1


def test_a_profile_that_is_not_there_is_refused(project):
    with pytest.raises(InputError, match="profile 'nowhere' has no config.yaml"): cli.run_report(planned(project), 1, "nowhere")


def test_a_dry_run_with_the_slurm_profile_lists_the_cells(project, root, capfd):
    cli.run_report(planned(project), 2, str(root/"workflow"/"profiles"/"slurm"), dry=True)
    said = "".join(capfd.readouterr())
    assert all(f"toy-{name}" in said for name in RUNS) and "report" in said and order(project) == []


def test_the_parameters_of_a_cell_come_to_its_configuration():
    calls = {"distill": resolve, "base": resolve_base, "teacher": resolve_teacher}
    cells = grid("full", ["arithmetic", "algebra"], ["cot_gold", "orca"])
    assert all(calls[c.notebook](**yaml.safe_load(yaml.safe_dump(c.parameters))) == c.config for c in cells.values())
    assert cells["algebra", "orca", "seed 2"].after == (("algebra", "base"), ("algebra", "teacher"), ("algebra", "styles"))


def test_a_plan_is_made_once_and_again_when_the_code_is_another(tmp_path, monkeypatch):
    made, load = [], workflow.load_task
    monkeypatch.setattr(workflow, "load_task", lambda task: made.append(task.name) or load(task))
    cells = grid("smoke", ["strategy"], ["cot"], runs_dir=str(tmp_path))
    first, before = plan(cells, "smoke", str(tmp_path)), plan(cells, "smoke", str(tmp_path)).read_text()
    assert made == ["strategy"] and [r["name"] for r in missing(first)] == ["strategy base", "strategy teacher", "strategy cot seed 0"]
    monkeypatch.setattr(workflow, "versions", lambda: {"python": "4"})
    assert plan(cells, "smoke", str(tmp_path)).read_text() != before and made == ["strategy"]*2
    assert json.loads(before)["runs"] == json.loads(first.read_text())["runs"], "the names are the experiment's, which asks for its own versions"


def test_a_job_goes_through_the_commands_of_a_cluster(project, root, monkeypatch):
    "A stand-in for Slurm that runs a job when it is submitted."
    for name, does in {"sbatch": SBATCH, "srun": SRUN, "sacct": "echo '7|COMPLETED'", "squeue": "true", "scontrol": "true",
                       "sinfo": "echo 'standard*'", "sacctmgr": "echo ours", "sshare": "echo ours", "scancel": "true"}.items():
        path = project/"bin"/name
        path.parent.mkdir(exist_ok=True)
        path.write_text(does if does.startswith("#!") else f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{project/'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    own = yaml.safe_load((root/"workflow"/"profiles"/"slurm"/"config.yaml").read_text())
    (project/"profile").mkdir()
    asked_for = {**own["default-resources"], "slurm_account": "ours", "slurm_partition": "standard"}
    quick = {**own, "default-resources": asked_for, "latency-wait": 5, "slurm-init-seconds-before-status-checks": 1}
    (project/"profile"/"config.yaml").write_text(yaml.safe_dump(quick))
    place = planned(project)
    done = subprocess.run([sys.executable, "-c", f"from reasoning_distill.cli import run_report; from pathlib import Path; "
                           f"run_report(Path({str(place)!r}), 2, 'profile')"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {*order(project)} == {*RUNS} and table(project) == 1
    asked = (project/"submitted.txt").read_text()
    assert asked.count("sbatch") == len(RUNS) + 1 and "--mem 6000" in asked and "-t 60" in asked


SBATCH = f"""#!{sys.executable}
import os, subprocess, sys
open("submitted.txt", "a").write("sbatch " + " ".join(sys.argv[1:]) + "\\n")
wrap = next((a[7:] for a in sys.argv if a.startswith("--wrap=")), None) or sys.argv[sys.argv.index("--wrap") + 1]
done = subprocess.run(["bash", "-c", wrap], capture_output=True, text=True, env={{**os.environ, "SLURM_JOB_ID": "7"}})
open("job.log", "a").write(done.stdout + done.stderr)
print(7)
"""
SRUN = f"""#!{sys.executable}
import os, sys
left = sys.argv[1:]
while left and left[0].startswith("-"): left = left[2 if left[0] in ("-n", "-c") else 1:]
os.execvp(left[0], left)
"""
