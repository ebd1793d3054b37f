"""Notebooks, tables and docstrings as pages for Sphinx: python docs/pages.py FOLDER. Nothing is executed but the package's imports."""

import argparse
import functools
import importlib
import inspect
import json
import re
import shutil
from pathlib import Path

import nbformat
from fastcore.docments import docments

ROOT = Path(__file__).parent.parent
SECTIONS = {  # in reading order: caption → pages, without their ending; a folder stands for all in it
    "Start": ["start", "nbs/glossary", "nbs/pitfalls"],
    "Guides": [f"guides/{name}" for name in ("flan_t5", "qwen_lora", "api_teacher", "slurm", "gpu", "several")] + ["nbs/scale"],
    "Concepts and data": ["nbs/00_core", "nbs/01_templates", "nbs/03_expressions", "nbs/02_stats", "nbs/04_process", "nbs/tasks"],
    "Models and training": ["nbs/models", "nbs/39_sharded", "nbs/40_training", "nbs/43_traces", "nbs/44_online", "nbs/41_evaluate"],
    "Teachers": ["nbs/teachers"],
    "Methods": ["nbs/methods"],
    "Verifiers": ["nbs/verify"],
    "Domains and pipeline": ["nbs/domains", "nbs/59_curation", "nbs/62_pipeline"],
    "Experiments and results": [f"nbs/experiments/{name}" for name in (
        "report", "distill", "teacher", "base", "feedback", "conditions", "compute", "limits", "claims", "cost", "landscape", "large", "calibration",
        "bench", "verify_bench", "scale", "growth", "paper")] + ["results"],
    "How experiments are run": ["nbs/60_config", "nbs/61_experiment", "nbs/62_workflow", "nbs/63_cli", "nbs/62_report", "nbs/64_landscape",
                                "nbs/65_bench", "nbs/66_calibration", "nbs/67_verify_bench", "nbs/68_inside", "nbs/68_scale", "nbs/69_studies",
                                "nbs/69_limits", "nbs/69_large", "nbs/70_claims", "nbs/71_cost", "nbs/72_paper", "nbs/74_growth"],
    "Course": ["nbs/course/course", "nbs/course/bachelor", "nbs/course/master", "nbs/course/phd", "nbs/course/report", "nbs/73_course"],
    "Reference": ["api", "changelog"],
}
CALIBRATED = ("arithmetic", "algebra", "science", "strategy", "gsm8k", "gsm8k_in_prose")  # sources of the calibration
RESULTS = {  # experiment → what a cell of it says → the committed tables and plots (.svg) beneath that cell; under "" stands what no cell shows
    "report": {'_shown["benchmark"]': ["overview", "benchmark"], '_shown["paired"]': ["paired"], '_shown["predictions"]': ["predictions"],
               '_shown["by_steps"]': ["by_steps"], '_shown["by_family"]': ["by_family"], "display(*_figures": ["loss.svg", "lengths.svg", "time"]},
    "feedback": {'tables["feedback"]': ["feedback"], 'tables["feedback_ablation"]': ["feedback_ablation"], "_found.figure": ["feedback.svg"]},
    "conditions": {'tables["conditions"]': ["conditions"], "": ["gpu"]},
    "compute": {"_found.figure": ["compute.svg"], 'tables["compute"]': ["compute"], 'tables["compute_ratio"]': ["compute_ratio"],
                '"kl_by_place"': ["recovery", "kl_by_place", "inside.svg"]},
    "limits": {"_found.figure": ["limits.svg"], '_shown["limits_steps"]': ["limits_steps"], '_shown["limits_law"]': ["limits_law"],
               '_shown["limits_facts"]': ["limits_facts"], '_shown["limits_length"]': ["limits_length"],
               '_shown["limits_transfer"]': ["limits_transfer"]},
    "claims": {"_ledger.to_markdown": ["claims"]},
    "cost": {"write_costs(**": ["cost.svg"], "readable_costs(_table)": ["cost"]},
    "landscape": {'_tables["gate"]': ["landscape_gate"], "landscape_figure(_runs)": ["landscape.svg"], '_tables["arms"]': ["landscape_arms"],
                  "study_teachers(_configs)": ["landscape_teachers"]},
    "large": {"study_large(**": ["large"]},
    "calibration": {"reliability_figure(_counts)": ["reliability.svg", "calibration_rates"], "precision(_counts)": ["calibration_precision"],
                    "confusion(_counts": [f"calibration_confusion_{task}" for task in CALIBRATED],
                    "answers_table(_counts)": ["calibration_answers"], "scores(_counts)": ["calibration_scores"],
                    "": [f"calibration_suspicions_{task}" for task in CALIBRATED]},
    "bench": {"bench(**": ["speed"]},
    "verify_bench": {"bench_verifiers(**": ["verify_speed"]},
    "scale": {"bench_scale(**": ["scale"]},
    "growth": {"_shown[0]": ["growth"], "_shown[1]": ["growth.svg"]},
    "paper": {"": ["published"]},
}
ALT = {"loss": "Validation loss of every method against training tokens, a panel for each task", "compute": "Accuracy against tokens and computation",
       "cost": "Cost of a thousand answers, and the number of answers after which a student has paid for its teacher",
       "feedback": "Validation loss of answers alone, chain of thought and feedback", "landscape": "Accuracy of the arms of the landscape, by task",
       "reliability": "Heatmap of how many traces with each kind of fault are called wrong, and at the right step, by task",
       "lengths": "Steps that students write, less those needed, on test problems and on harder ones, by method and task",
       "growth": "Seconds and memory against traces and length, and the loss curves of one process and of two",
       "inside": "Wrong samples of two students, each token coloured by its divergence from the teacher",
       "limits": "Accuracy by number of steps, facts recalled by size, accuracy by length of the question"}


def tables() -> list[str]: return sorted(p.stem for p in (ROOT/"paper"/"tables").glob("*.md"))


def table(name: str) -> str:
    "A table of the results; a figure and its interval stay on one line."
    text = (ROOT/"paper"/"tables"/f"{name}.md").read_text()
    return re.sub(r"(?<=\d) (?=\[-?[\d.,]+, )|(?<=\d,) (?=-?[\d.,]+\])", "\N{NO-BREAK SPACE}", text)


def table_page(name: str) -> str: return f"# {name.replace('_', ' ')}\n\n{table(name)}"


def result(name: str, titled: bool, up: str) -> str:
    "A committed plot, or a committed table that is titled where it stands among others."
    if name.endswith(".svg"): return f"```{{figure}} {up}figures/{name}\n:alt: {ALT[name.removesuffix('.svg')]}\n```"
    return (f"[{name.replace('_', ' ')}]({up}results/{name}.md)\n\n" if titled else "") + f"```{{include}} {up}results/{name}.table\n```"


def with_results(cells: list, experiment: str, up: str) -> list:
    "The cells of an experiment, and beneath each what it wrote when it was run last."
    wanted, out = dict(RESULTS.get(experiment, {})), []
    last = wanted.pop("", [])
    for cell in cells:
        found = [said for said in wanted if cell.cell_type == "code" and said in cell.source]
        names = [name for said in found for name in wanted.pop(said)]
        out += [cell, *(nbformat.v4.new_markdown_cell(result(n, len(names) > 1, up)) for n in names)]
    if wanted: raise ValueError(f"no cell of {experiment}.ipynb says {', '.join(wanted)}; mend RESULTS in docs/pages.py")
    return out + [nbformat.v4.new_markdown_cell("\n\n".join(["## Also committed", *(result(n, True, up) for n in last)]))]*bool(last)


def numbered(text: str, stem: str, start: int) -> str:
    "Displayed equations with labels, by which Sphinx numbers them."
    count = iter(range(start, start + text.count("$$")))
    return re.sub(r"^\$\$(.+?)\$\$[ \t]*$", lambda found: f"$$\n{found[1].strip()}\n$$ ({stem}-{next(count)})", text, flags=re.M | re.S)


def as_page(path: Path) -> nbformat.NotebookNode:
    "A notebook for readers: without hidden cells and directives, with committed results where a cell shows them."
    notebook, place = nbformat.read(path, as_version=4), path.relative_to(ROOT)
    up, experiment, cells = "../"*(len(place.parts) - 1), path.stem if path.parent.name == "experiments" else "", []
    said, equations = path.stem, 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            said = next((line.lstrip("# >*") for line in cell.source.splitlines() if line.strip()), said)
            cell.source = re.sub(r"\]\((?:\.\./)*paper/tables/(\w+)\.md\)", rf"]({up}results/\1.md)", numbered(cell.source, path.stem, equations + 1))
            equations += cell.source.count("$$")//2
            cells.append(cell)
        elif shown_code(cell, said): cells.append(cell)
    first = how_to_run(experiment) if experiment else " · ".join(filter(None, (where_listed(notebook.cells, up), how_long(place))))
    if first: cells.insert(1, nbformat.v4.new_markdown_cell(first))
    notebook.cells = with_results(cells, experiment, up)
    for i, cell in enumerate(notebook.cells): cell.id = f"cell-{i}"
    notebook.nbformat_minor = 5
    notebook.metadata.pop("widgets", None)
    return notebook


def shown_code(cell, said: str) -> bool:
    "Whether a cell of code has something to show; without directives, and its plot told in words."
    if re.search(r"^#\| *(hide|default_exp)\b", cell.source, re.M): return False
    cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|")).strip()
    cell.outputs = [o for o in cell.get("outputs", []) if o.output_type != "error" and not any("widget" in kind for kind in o.get("data", {}))]
    if "solution" in cell.metadata.get("tags", []): cell.metadata["tags"].append("hide-cell")  # folded
    if any("image/png" in o.get("data", {}) for o in cell.outputs): cell.metadata["mystnb"] = {"image": {"alt": f"Plot: {said[:120]}"}}
    return bool(cell.source)


def module_of(cells: list) -> str:
    "The module that a notebook exports, or nothing."
    return next((found[1] for cell in cells if (found := re.search(r"^#\| *default_exp +(\S+)", cell.source, re.M))), "")


@functools.cache
def homes() -> dict[str, Path]:
    "Each module's notebook."
    return {module_of(nbformat.read(p, as_version=4).cells): p.relative_to(ROOT) for p in notebooks()}


def how_long(place: Path) -> str:
    "What a notebook took when it was timed, or nothing."
    seconds = json.loads((ROOT/"paper"/"results"/"notebook_times.json").read_text())["seconds"].get(place.with_suffix("").as_posix())
    return f"Runs in {seconds:.0f} s on one core" if seconds else ""


def where_listed(cells: list, up: str) -> str:
    "From a notebook to its module's reference."
    name = module_of(cells)
    return f"Reference: [`reasoning_distill.{name}`]({up}api/{name}.md)" if name else ""


def how_to_run(experiment: str) -> str:
    "The command behind a page."
    command = "make report PRESET=full" if experiment == "report" else "make paper" if experiment == "paper" else \
        f"reasoning-distill notebook nbs/experiments/{experiment}.ipynb out.ipynb"
    elsewhere = "" if experiment in RESULTS else "\n\nWhat such runs came to is in the [report](report.ipynb)."
    return f"```bash\n{command}\n```{elsewhere}"


def api_page(name: str) -> str:
    "The public names of a module, each parameter with what it means."
    module = importlib.import_module(f"reasoning_distill.{name}")
    notebook = homes()[name]
    lines = [f"# {name}", "", (module.__doc__ or "").strip(), "", f"Explained and made in [{notebook.name}](../{notebook})", ""]
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value): lines += entry(public, value)
    return "\n".join(lines) + "\n"


def entry(name: str, value) -> list[str]:
    "A function or class: what it does, and a table of its parameters."
    given = docments(value, full=True, returns=True) if not getattr(value, "__abstractmethods__", None) else {}
    said = (value.__doc__ or "").strip().splitlines()
    lines = [f"## {name}", "", *signature(name, given), said[0] if said and not said[0].startswith(f"{name}(") else "", ""]
    rows = [row_of(key, about) for key, about in given.items() if key not in ("self", "cls")]
    rows = [cells for cells in rows if cells[0] != "*returns*" or any(cells[1:])]
    if not rows: return lines
    def line(cells): return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
    return lines + ["| parameter | type | default | meaning |", "|---|---|---|---|", *map(line, rows), ""]


def signature(name: str, given: dict) -> list[str]:
    "How it is called, where it is."
    asked = [key + (f"={default}" if (default := default_of(about)) else "")
             for key, about in given.items() if key not in ("self", "cls", "return")]
    return ["```python", f"{name}({', '.join(asked)})", "```", ""] if given else []


def row_of(name: str, about) -> tuple[str, str, str, str]:
    "A parameter, or what is returned: name, type, default, meaning."
    default, meaning = default_of(about) if name != "return" else "", (about.get("docment") or "").replace("\n", " ")
    return (f"`{name}`" if name != "return" else "*returns*", in_words(about.get("anno")),
            f"`{default}`" if default else "", meaning)


def default_of(about: dict) -> str:
    "A default as it is written, or nothing where there is none; functions by their names."
    default = about.get("default", inspect.Parameter.empty)
    if default is inspect.Parameter.empty: return ""
    written = getattr(default, "__name__", repr(default))
    return written if len(written) <= 60 and " at 0x" not in written else "..."


def in_words(annotation) -> str:
    if annotation in (inspect.Parameter.empty, inspect._empty, None): return ""
    text = annotation.__name__ if inspect.isclass(annotation) and not hasattr(annotation, "__args__") else str(annotation)
    return f"`{re.sub(r'(typing|collections.abc|reasoning_distill[a-z_.]*)[.]', '', text)}`"


def notebooks() -> list[Path]:
    "Those that become pages; the index is the README, and that the page `start`."
    return [p for p in sorted((ROOT/"nbs").rglob("*.ipynb")) if p.name[0] != "_" and p.name != "index.ipynb" and ".ipynb_checkpoints" not in p.parts]


def modules() -> list[str]:
    found = [p.relative_to(ROOT/"reasoning_distill").with_suffix("") for p in (ROOT/"reasoning_distill").rglob("*.py") if not p.name.startswith("_")]
    return sorted(".".join(p.parts) for p in found)


def start_page() -> str:
    "The README, with its links turned to pages."
    text = (ROOT/"README.md").read_text()
    text = re.sub(r"\]\(paper/tables/(\w+)\.md\)", r"](results/\1.md)", text)
    return text.replace("](docs/guides/", "](guides/").replace("# reasoning_distill\n", "# Start\n", 1)


def members(page: str) -> list[str]:  # a folder's pages; a page is its own
    "What stands behind a name in `SECTIONS`."
    folder = ROOT/page
    return [f"{page}/{p.stem}" for p in sorted(folder.glob("*.ipynb"))] if folder.is_dir() and page.startswith("nbs/") else [page]


def toctrees() -> str:
    def tree(caption, pages): return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])
    return "\n".join(tree(caption, [m for page in pages for m in members(page)]) for caption, pages in SECTIONS.items())


def listing(title: str, intro: str, pages: list[str]) -> str: return "\n".join([f"# {title}", "", intro, "", "```{toctree}", "", *pages, "```", ""])


def write(folder: Path) -> None:
    "All sources of the site."
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("api", "guides", "results", "paper"): (folder/part).mkdir(parents=True)
    for path in notebooks():
        place = folder/path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(as_page(path)))
    for name in tables():
        (folder/"results"/f"{name}.md").write_text(table_page(name))
        (folder/"results"/f"{name}.table").write_text(table(name))
    for name in modules(): (folder/"api"/f"{name}.md").write_text(api_page(name))
    shutil.copytree(ROOT/"figures", folder/"figures")
    shutil.copy(ROOT/"paper"/"main.pdf", folder/"paper"/"main.pdf")
    (folder/"start.md").write_text(start_page())
    (folder/"changelog.md").write_text((ROOT/"CHANGELOG.md").read_text())
    (folder/"results.md").write_text(listing("All tables", "As committed; each says which code made it.", [f"results/{n}" for n in tables()]))
    (folder/"api.md").write_text(listing("Modules", "Public names with their parameters.", [f"api/{n}" for n in modules()]))
    (folder/"index.md").write_text((ROOT/"docs"/"index.md").read_text() + "\n" + toctrees())
    shutil.copy(ROOT/"docs"/"conf.py", folder/"conf.py")
    shutil.copytree(ROOT/"docs"/"_static", folder/"_static")
    for page in (ROOT/"docs"/"guides").glob("*.md"):
        (folder/"guides"/page.name).write_text(page.read_text().replace("](../../paper/tables/", "](../results/").replace("](../../", "](../"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
