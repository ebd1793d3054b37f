import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

NOTEBOOKS = sorted(p for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
EXPERIMENTS = [p for p in NOTEBOOKS if p.parent.name == "experiments"]


BIN = Path(sys.executable).parent


def run(*command, cwd):
    path = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    "A copy of what is in the working tree, exported and cleaned anew."
    folder = tmp_path_factory.mktemp("fresh")/"reasoning_distill"
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT/name).is_file():
            (folder/name).parent.mkdir(parents=True, exist_ok=True)
            (folder/name).write_bytes((ROOT/name).read_bytes())
    generated = [*(folder/"reasoning_distill").rglob("*.py")]
    for path in generated:
        if path.name not in ("__init__.py", "_modidx.py"): path.unlink()
    run("git", "init", "-q", cwd=folder)
    run("nbdev_export", cwd=folder)
    run("nbdev_clean", cwd=folder)
    return folder


def test_a_fresh_export_is_the_package(fresh):
    names = {p.relative_to(f) for f in (ROOT, fresh) for p in (f/"reasoning_distill").rglob("*.py")}
    assert len(names) > 15
    different = [str(n) for n in names if not (ROOT/n).is_file() or not (fresh/n).is_file() or (ROOT/n).read_text() != (fresh/n).read_text()]
    assert not different, f"run 'make export': {different} differ from the notebooks"


def test_notebooks_are_clean(fresh):
    dirty = [str(p.relative_to(ROOT)) for p in NOTEBOOKS if p.read_text() != (fresh/p.relative_to(ROOT)).read_text()]
    assert not dirty, f"run 'make export': {dirty} hold execution counts or metadata"


def test_the_readme_is_the_index(fresh):
    run("make", "readme", "-o", ".venv/.ready", f"BIN={BIN}", cwd=fresh)
    assert (fresh/"README.md").read_text() == (ROOT/"README.md").read_text(), "run 'make export'"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_has_one_parameters_cell_and_no_definitions(path):
    cells = nbformat.read(path, as_version=4).cells
    assert sum("parameters" in c.metadata.get("tags", []) for c in cells) == 1, "papermill would run it with its defaults"
    assert len(cells) <= 16 and not any(line.startswith("class ") for c in cells for line in c.source.splitlines())
    assert not any(c.source.startswith("#| export") for c in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_opens_with_title_and_claim(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ") and "\n> " in notebook.cells[0].source
    assert len(notebook.cells) <= 60 and path.stat().st_size < 500_000


def test_modules_import_from_lower_floors_only():
    "A notebook's number is its place: each module imports from modules with smaller numbers."
    place, imports = {}, {}
    for path in NOTEBOOKS:
        source = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        name = next((line.split()[-1] for s in source for line in s.splitlines() if line.startswith("#| default_exp")), None)
        if not name: continue
        place[name] = int(path.stem.split("_")[0])
        lines = [line for s in source if s.startswith("#| export") for line in s.splitlines()]
        imports[name] = {line.split()[1].removeprefix("reasoning_distill.") for line in lines if line.startswith("from reasoning_distill.")}
    upward = [(a, b) for a, found in imports.items() for b in found if place[b] >= place[a]]
    assert len(place) > 12 and not upward


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_warning_of_somebodys_machine_is_committed(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not [o for c in cells for o in c.get("outputs", []) if o.output_type == "error" or o.get("name") == "stderr"]
