import re
import shutil
import subprocess

import pytest

from reasoning_distill.config import ROWS
from reasoning_distill.core import InputError
from reasoning_distill.paper import macros, published_table, write_paper
from reasoning_distill.report import kept_records, lengths_figure, needed, reasoners

RESULT = re.compile(r"\\result\{([^}]*)\}|\\within\{([^}]*)\}\{([^}]*)\}")


def bare_numbers(text: str) -> list[str]:
    "Numbers in the prose of a LaTeX text: not in formulas, settings of the page, or names of files, labels and records."
    body = text.split(r"\begin{document}")[-1]
    body = re.sub(r"(?<!\\)%.*", "", body)
    body = re.sub(r"\\begin\{(equation)\}.*?\\end\{\1\}|\$[^$]*\$", "", body, flags=re.S)
    body = RESULT.sub("", body)
    body = re.sub(r"\\(cite[tp]?|ref|label|input|includegraphics|setlength|row|texttt)(\[[^]]*\])?(\{[^}]*\})+", "", body)
    return re.findall(r"(?<![\w-])\d[\d.,]*", body)


@pytest.fixture(scope="module")
def text(root): return (root/"paper"/"main.tex").read_text()


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    return write_paper(paper_dir=str(folder/"generated"), tables_dir=str(folder)), folder/"generated"


def test_no_number_of_the_text_is_typed(text): assert bare_numbers(text) == []


@pytest.mark.parametrize("said, found", [("reaches 62.6 percent", ["62.6"]), ("of 1,000 problems", ["1,000"]), (r"about 40\% of it", ["40"]),
                                         (r"reaches \result{acc/a/b} percent of $2x$ in GSM8K \citep{ho2023}", [])])
def test_a_typed_number_is_found(said, found): assert bare_numbers(rf"\begin{{document}} {said}") == found


def test_every_number_of_the_text_has_a_record(text, made):
    names = [name for groups in RESULT.findall(text.split(r"\begin{document}")[1]) for name in groups if name]
    assert len(names) > 30 and not {*names} - {*made[0]}


def test_the_committed_numbers_and_tables_follow_from_the_records(root, made):
    numbers, folder = made
    committed = {p.name: p.read_text() for p in (root/"paper"/"generated").iterdir()}
    assert committed == {p.name: p.read_text() for p in folder.iterdir()} and len(committed) > 10
    assert (root/"paper"/"tables"/"published.md").read_text() == (folder.parent/"published.md").read_text()


def test_all_tables_of_the_text_are_made(text, made):
    assert {*re.findall(r"\\input\{generated/(\w+)\}", text)} <= {p.stem for p in made[1].iterdir()}


def test_published_numbers_are_labelled(text):
    assert "published" in text[text.index(r"\input{generated/published}"):][:200].lower() and published_table().shape == (6, 6)


def test_replies_are_as_long_as_the_examples_a_seed_aside():
    "As the text says, below the figure of lengths."
    rows = {key: row for key, row in reasoners(kept_records()).items() if key[1] in ROWS}
    test, hard = ([m["written"] - needed(m) for row in rows.values() for r in row for m in [r.metrics if part == "test" else r.metrics["hard"]]]
                  for part in ("test", "hard"))
    assert len(test) > 100 and max(map(abs, test)) < 0.4 and sum(beyond > -0.4 for beyond in hard) == 1
    assert len(lengths_figure(kept_records()).axes) == 4


def test_wrong_input_is_named():
    with pytest.raises(InputError, match="cannot be a macro's"): macros({"a%b": "1"})
    with pytest.raises(InputError): write_paper(records_dir="nowhere")


@pytest.mark.skipif(not shutil.which("latexmk"), reason="needs latexmk")
def test_the_paper_is_set_without_complaint(root, tmp_path):
    shutil.copytree(root/"paper", tmp_path/"paper")
    shutil.copytree(root/"figures", tmp_path/"figures")
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path/"paper", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path/"paper"/"main.log").read_text(errors="replace")
    assert "undefined" not in log and [float(pt) for pt in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(pt) > 1] == []
    with_a_gap = (tmp_path/"paper"/"main.tex").read_text().replace(r"\result{seeds}", r"\result{nobody knows}", 1)
    (tmp_path/"paper"/"main.tex").write_text(with_a_gap)
    broken = subprocess.run(command, cwd=tmp_path/"paper", capture_output=True, text=True)
    assert broken.returncode != 0 and "No record stands behind" in broken.stdout
