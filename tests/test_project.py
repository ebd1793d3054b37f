import configparser
import re
import subprocess
import tomllib

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version


@pytest.fixture(scope="module")
def ini():
    parser = configparser.ConfigParser()
    parser.read(ROOT/"settings.ini")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def toml():
    return tomllib.loads((ROOT/"pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins():
    lines = [line for line in (ROOT/"constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9a-z.]+", line) for line in lines), "exact versions, without local parts such as +cpu"
    return {name.lower().replace("_", "-"): Version(version) for name, version in (line.split("==") for line in lines)}


def requirements(ini): return [*ini["requirements"].split(), *ini["dev_requirements"].split()]


def test_pyproject_repeats_settings(ini, toml):
    project = toml["project"]
    assert project["dependencies"] == ini["requirements"].split()
    assert project["optional-dependencies"]["dev"] == ini["dev_requirements"].split()
    assert (project["name"], project["version"], project["description"]) == (ini["lib_name"], ini["version"], ini["description"])
    assert project["requires-python"] == f">={ini['min_python']}"
    assert [f"{k}={v}" for k, v in project["scripts"].items()] == [ini["console_scripts"]]


def test_environment_repeats_settings(ini):
    environment = yaml.safe_load((ROOT/"environment.yml").read_text())
    *plain, from_pip = environment["dependencies"]
    assert plain == [f"python={ini['min_python']}", "pip"]
    assert from_pip["pip"] == ["-c constraints.txt", *requirements(ini), "-e ."]


def test_every_requirement_is_pinned_within_its_range(ini, pins):
    for text in requirements(ini):
        wanted = Requirement(text)
        assert wanted.name.lower() in pins, f"{wanted.name} is not in constraints.txt"
        assert pins[wanted.name.lower()] in wanted.specifier, text


def test_what_is_installed_is_what_is_pinned(pins):
    from importlib.metadata import PackageNotFoundError, version
    found = {}
    for name in pins:
        try: found[name] = Version(Version(version(name)).public)
        except PackageNotFoundError: continue
    assert len(found) > 100 and not {n: (str(v), str(pins[n])) for n, v in found.items() if v != pins[n]}


def test_the_version_is_one(ini):
    from reasoning_distill import __version__
    citation = yaml.safe_load((ROOT/"CITATION.cff").read_text())
    assert __version__ == ini["version"] == citation["version"] and f"## {ini['version']}" in (ROOT/"CHANGELOG.md").read_text()


def test_nothing_generated_by_a_run_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert not [t for t in tracked if t.startswith(("runs/", ".venv/", "_docs/")) or t.endswith((".safetensors", ".pt", ".bin"))]


def test_the_readme_shows_the_table_as_it_is(root):
    assert (root/"paper"/"tables"/"overview.md").read_text().strip() in (root/"README.md").read_text()
