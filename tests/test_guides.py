"""Every command of the README and the guides says something that can be run: targets, notebooks, parameters, settings, options and files exist."""

import re
import shlex
import subprocess

import pytest
import yaml

from reasoning_distill.cli import main, notebook_parameters, parser, plain_value
from reasoning_distill.config import resolve
from reasoning_distill.large import large_parser
from reasoning_distill.pipeline import read_config
from reasoning_distill.workflow import grid

PLAIN = ("export", "source", "cd", "git", "pip", "cp", "conda", "vllm")


def commands(text: str) -> list[str]:
    "What the bash blocks of a text say, and the commands that stand in its sentences."
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    return [line.strip() for block in blocks for part in block.splitlines() for line in part.split("&&") if line.strip()]


def all_commands(root):
    pages = [root/"README.md", *sorted((root/"docs"/"guides").glob("*.md"))]
    return [(page.name, line) for page in pages for line in commands(page.read_text())]


def check(line: str, root) -> None:  # raises, or fails an assertion
    "Whether a command could be run as it stands."
    words = shlex.split(line, comments=True)
    if words[0] in PLAIN:
        if words[:2] == ["pip", "install"]: assert {w for w in words[2:] if w.endswith(".txt")} <= {"constraints.txt"}
        if words[0] == "cp": assert (root/words[1]).is_file()
    elif words[0] == "make": assert subprocess.run(["make", "-n", *words[1:]], cwd=root, capture_output=True).returncode == 0
    elif words[0] == "papermill":
        given = yaml.safe_load((root/words[words.index("-f") + 1]).read_text()) if "-f" in words else {}
        given |= dict(zip(words[words.index("-p") + 1::3], words[words.index("-p") + 2::3], strict=True))
        assert {*given} <= {*notebook_parameters(root/words[1])} and words[2].endswith(".ipynb")
        resolve(**{name: plain_value(value) for name, value in given.items()})
    elif words[:2] == ["python", "workflow/large.py"]: assert (root/words[1]).is_file() and large_parser().parse_args(words[2:])
    elif words[0] == "reasoning-distill":
        options = parser().parse_args(words[1:])
        if options.command == "run" and (root/options.config).is_file(): read_config(root/options.config)
        if options.command == "report": assert grid(options.preset, options.tasks, options.methods, options.seeds)
        if getattr(options, "profile", ""): assert yaml.safe_load((root/options.profile/"config.yaml").read_text())["executor"]
    else: raise AssertionError(f"nobody knows {words[0]}")


def test_every_command_can_be_run(root):
    found = all_commands(root)
    assert len(found) > 25 and {page for page, _ in found} >= {"README.md", "flan_t5.md", "qwen_lora.md", "api_teacher.md", "slurm.md", "gpu.md"}
    for page, line in found:
        try: check(line, root)
        except (Exception, SystemExit) as e: raise AssertionError(f"{page}: {line}: {e}") from e


@pytest.mark.parametrize("line", ["make reprot", "papermill nbs/experiments/distill.ipynb out.ipynb -p metod cot",
                                  "papermill nbs/experiments/distill.ipynb out.ipynb -p overrides '{fit.ler: 1}'", "sudo rm",
                                  "reasoning-distill report --presets smoke", "reasoning-distill report --tasks gsm9k"])
def test_a_command_that_cannot_is_found(line, root):
    with pytest.raises((Exception, SystemExit)): check(line, root)


def test_links_of_readme_and_guides_lead_somewhere(root):
    for page in (root/"README.md", *(root/"docs"/"guides").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent/target).exists(), f"{page.name}: {target}"


def test_the_offline_configuration_tells_its_price_as_the_readme_says(root, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(["run", "configs/offline.yaml", "--dry-run"]) == 0 and capsys.readouterr().out


def test_a_plan_trains_nobody_and_says_what_the_trained_teacher_would(monkeypatch, tmp_path):
    from reasoning_distill import experiment, pipeline
    settings = {"output_dir": str(tmp_path/"out"), "task": "arithmetic", "preset": "smoke", "domain": "math", "student": {"source": "base"},
                "teacher": {"kind": "scratch", "samples": 2, "max_new_tokens": 64}, "method": "cot", "epochs": 1}
    config = pipeline.configured(settings)
    monkeypatch.setattr(experiment, "_distill", lambda *_: pytest.fail("a plan trained"))
    found = pipeline.plan(config)
    assert found.calls > 100 and found.dollars == 0
