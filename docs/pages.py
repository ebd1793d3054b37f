"""Notebooks, tables and docstrings as pages for Sphinx: python docs/pages.py FOLDER. Nothing is executed but the package's imports."""

import argparse
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
    "Guides": [f"guides/{name}" for name in ("flan_t5", "qwen_lora", "api_teacher", "slurm", "gpu")],
    "Concepts and data": ["nbs/00_core", "nbs/01_templates", "nbs/03_expressions", "nbs/02_stats", "nbs/04_process", "nbs/tasks"],
    "Models and training": ["nbs/models", "nbs/40_training", "nbs/43_traces", "nbs/44_online", "nbs/41_evaluate"],
    "Teachers": ["nbs/teachers"],
    "Methods": ["nbs/methods"],
    "Verifiers": ["nbs/verify"],
    "Domains and pipeline": ["nbs/domains", "nbs/59_curation", "nbs/62_pipeline"],
    "Experiments and results": [f"nbs/experiments/{name}" for name in (
        "report", "distill", "teacher", "base", "feedback", "conditions", "compute", "limits", "claims", "cost", "landscape", "calibration",
        "bench", "verify_bench", "scale", "paper")] + ["results"],
    "How experiments are run": ["nbs/60_config", "nbs/61_experiment", "nbs/62_workflow", "nbs/63_cli", "nbs/62_report", "nbs/64_landscape",
                                "nbs/65_bench", "nbs/66_calibration", "nbs/67_verify_bench", "nbs/68_inside", "nbs/68_scale", "nbs/69_studies",
                                "nbs/69_limits", "nbs/70_claims", "nbs/71_cost", "nbs/72_paper"],
    "Reference": ["api", "changelog"],
}
FIGURES = {"report": "loss", "calibration": "reliability"}  # experiment → its plot, where that has another name
FURTHER = {"claims": ["claims"], "cost": ["cost"], "bench": ["speed"], "verify_bench": ["verify_speed"], "scale": ["scale"],
           "calibration": ["calibration_rates", "calibration_precision", "calibration_answers", "calibration_scores"],
           "landscape": ["landscape_teachers"], "conditions": ["gpu"], "paper": ["published"]}  # tables that no cell names
ALT = {"loss": "Validation loss of every method against training tokens, a panel for each task", "compute": "Accuracy against tokens and computation",
       "cost": "Cost of a thousand answers, and the number of answers after which a student has paid for its teacher",
       "feedback": "Validation loss of answers alone, chain of thought and feedback", "landscape": "Accuracy of the arms of the landscape, by task",
       "reliability": "Heatmap of how many traces with each kind of fault are called wrong, and at the right step, by task",
       "limits": "Accuracy by number of steps, facts recalled by size, accuracy by length of the question"}


def tables() -> list[str]: return sorted(p.stem for p in (ROOT/"paper"/"tables").glob("*.md"))


def table_page(name: str) -> str:
    "A table of the results as a page."
    return f"# {name.replace('_', ' ')}\n\n{(ROOT/'paper'/'tables'/f'{name}.md').read_text()}"


def figure(name: str, up: str) -> str: return f"```{{figure}} {up}figures/{name}.svg\n:alt: {ALT[name]}\n```"


def committed(experiment: str, source: str, up: str) -> list[str]:
    "The committed tables and plot that a cell of an experiment shows."
    known, plot = set(tables()), FIGURES.get(experiment, experiment)
    names = [n for found in re.findall(r'"(\w+)"', source) for n in (found, f"{experiment}_{found}") if n in known] if "import" not in source else []
    drawn = [figure(plot, up)] if re.search(r"figure\b", source) and plot in ALT and "**parameters" not in source else []
    return drawn + [f"```{{include}} {up}results/{n}.table\n```" for n in names]


def as_page(path: Path) -> nbformat.NotebookNode:
    "A notebook for readers: without hidden cells and directives, with committed results where a cell shows them."
    notebook, place = nbformat.read(path, as_version=4), path.relative_to(ROOT)
    up, experiment, cells = "../"*(len(place.parts) - 1), path.stem if path.parent.name == "experiments" else "", []
    said = path.stem
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            said = next((line.lstrip("# >*") for line in cell.source.splitlines() if line.strip()), said)
            cell.source = re.sub(r"\]\((?:\.\./)*paper/tables/(\w+)\.md\)", rf"]({up}results/\1.md)", cell.source)
            cells.append(cell)
            if experiment and len(cells) == 1: cells.append(nbformat.v4.new_markdown_cell(how_to_run(experiment)))
            continue
        if re.search(r"^#\| *(hide|default_exp)\b", cell.source, re.M): continue
        cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|")).strip()
        if not cell.source: continue
        cell.outputs = [o for o in cell.get("outputs", []) if o.output_type != "error"]
        if any("image/png" in o.get("data", {}) for o in cell.outputs): cell.metadata["mystnb"] = {"image": {"alt": f"Plot: {said[:120]}"}}
        cells.append(cell)
        if experiment: cells += [nbformat.v4.new_markdown_cell(text) for text in committed(experiment, cell.source, up)]
    rest = [n for n in FURTHER.get(experiment, []) if n in tables()]
    if rest:
        cells.append(nbformat.v4.new_markdown_cell("## As committed"))
        cells += [nbformat.v4.new_markdown_cell(f"```{{include}} {up}results/{n}.table\n```") for n in rest]
    notebook.cells = cells
    for i, cell in enumerate(notebook.cells): cell.id = f"cell-{i}"
    notebook.nbformat_minor = 5
    return notebook


def how_to_run(experiment: str) -> str:
    "The command behind a page."
    command = "make report PRESET=full" if experiment == "report" else "make paper" if experiment == "paper" else \
        f"reasoning-distill notebook nbs/experiments/{experiment}.ipynb out.ipynb"
    return f"```bash\n{command}\n```"


def api_page(name: str) -> str:
    "The public names of a module, each parameter with what it means."
    module = importlib.import_module(f"reasoning_distill.{name}")
    lines = [f"# {name}", "", (module.__doc__ or "").strip(), ""]
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value): lines += entry(public, value)
    return "\n".join(lines) + "\n"


def entry(name: str, value) -> list[str]:
    "A function or class: what it does, and a table of its parameters."
    given = docments(value, full=True, returns=True) if not getattr(value, "__abstractmethods__", None) else {}
    said = (value.__doc__ or "").strip().splitlines()
    lines = [f"## {name}", "", said[0] if said and not said[0].startswith(f"{name}(") else "", ""]
    rows = [row_of(key, about) for key, about in given.items() if key not in ("self", "cls")]
    rows = [cells for cells in rows if cells[0] != "*returns*" or any(cells[1:])]
    if not rows: return lines
    def line(cells): return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"
    return lines + ["| parameter | type | default | |", "|---|---|---|---|", *map(line, rows), ""]


def row_of(name: str, about) -> tuple[str, str, str, str]:
    "A parameter, or what is returned: name, type, default, meaning."
    default, meaning = about.get("default"), (about.get("docment") or "").replace("\n", " ")
    return (f"`{name}`" if name != "return" else "*returns*", in_words(about.get("anno")),
            "" if default in (inspect.Parameter.empty, None) else f"`{str(default)[:60]}`", meaning)


def in_words(annotation) -> str:
    if annotation in (inspect.Parameter.empty, inspect._empty, None): return ""
    text = annotation.__name__ if inspect.isclass(annotation) and not hasattr(annotation, "__args__") else str(annotation)
    return f"`{re.sub(r'(typing|collections.abc|reasoning_distill[a-z_.]*)[.]', '', text)}`"


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
    for path in (ROOT/"nbs").rglob("*.ipynb"):
        if path.name == "index.ipynb" or path.name.startswith("_") or ".ipynb_checkpoints" in path.parts: continue
        place = folder/path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(as_page(path)))
    for name in tables():
        (folder/"results"/f"{name}.md").write_text(table_page(name))
        (folder/"results"/f"{name}.table").write_text((ROOT/"paper"/"tables"/f"{name}.md").read_text())
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
