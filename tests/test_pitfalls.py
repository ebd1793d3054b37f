"""The museum of bugs names tests that exist; the glossary's terms are whole and lead somewhere."""

import re

import nbformat
import pytest


@pytest.fixture(scope="module")
def read(root): return lambda name: [c for c in nbformat.read(root/"nbs"/f"{name}.ipynb", as_version=4).cells]


def test_every_bug_has_a_test_that_catches_it(root, read):
    prose = "\n".join(c.source for c in read("pitfalls") if c.cell_type == "markdown")
    tests = "\n".join(p.read_text() for p in (root/"tests").glob("test_*.py"))
    sections = re.split(r"^## \d+\. ", prose, flags=re.M)[1:]
    assert len(sections) == 10 and all("*What it falsifies:*" in s and "*Caught by*" in s for s in sections)
    named = re.findall(r"`(test_\w+)`", prose)
    assert len(named) >= 7 and [n for n in named if f"def {n}(" not in tests] == []
    assert [p for p in re.findall(r"`((?:tests|methods)/\w+(?:\.py)?)`", prose)
            if not ((root/p).is_file() or (root/"nbs"/f"{p}.ipynb").is_file())] == []


def test_every_bug_is_shown_and_refused(read):
    code = [c.source for c in read("pitfalls") if c.cell_type == "code"]
    assert sum("assert" in source for source in code) >= 10 and not any(re.search(r"assert .* or True|assert True", source) for source in code)


def test_every_term_has_four_cells_and_leads_somewhere(root, read):
    rows = [line for c in read("glossary") for line in c.source.splitlines() if line.startswith("| [")]
    assert len(rows) > 55
    for row in rows:
        term, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 3 and all(cells), row
        assert (root/"nbs"/re.search(r"\]\(([^)]+)\)", term)[1]).is_file(), row
        assert re.search("[іїєґа-яʼ']", cells[1]) and not re.search("[ыэъё]", cells[1]), f"{row}: Ukrainian has no such letters"
        assert re.search("[а-яё]", cells[2]) and not re.search("[іїєґ]", cells[2]), f"{row}: Russian has no such letters"


def test_terms_are_in_order(read):
    for cell in read("glossary")[1:]:
        terms = re.findall(r"^\| \[([^]]+)\]", cell.source, flags=re.M)
        assert terms == sorted(terms, key=str.lower)
