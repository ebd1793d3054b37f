import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_distill.core import InputError, Problem, Step, Trace, choose, fingerprint, from_dict, read_jsonl, to_dict, write_file, write_jsonl

words = st.text(max_size=20)
steps = st.builds(Step, words, words, words)
traces = st.builds(Trace, words, st.lists(steps, max_size=3).map(tuple), words, words, st.integers(0, 9), words)
problems = st.builds(Problem, words, words, words, st.integers(0, 9), st.none() | traces, words)


@given(problems)
def test_a_record_survives_the_way_through_json(problem):
    assert from_dict(Problem, to_dict(problem)) == problem


@given(st.lists(problems, min_size=1, max_size=4))
def test_a_record_survives_the_way_through_a_file(tmp_path_factory, records):
    path = write_jsonl(tmp_path_factory.mktemp("jsonl")/"x.jsonl", records)
    assert read_jsonl(path, lambda row: from_dict(Problem, row)) == records


def test_every_bad_row_is_named_with_its_line_and_reason(tmp_path):
    path = tmp_path/"rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b"\n[1]\n\n{"txt": "c"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError) as e: read_jsonl(path, lambda row: from_dict(Step, row))
    said = str(e.value)
    assert str(path) in said and "5 bad rows" in said and "\n" not in said
    for part in ("line 2: broken JSON", "line 3: expected an object", "line 4: empty", "line 5", "line 6: not UTF-8"): assert part in said


@pytest.mark.parametrize("content, part", [(None, "missing"), ("", "empty")])
def test_a_missing_and_an_empty_file_are_errors(tmp_path, content, part):
    path = tmp_path/"rows.jsonl"
    if content is not None: path.write_text(content)
    with pytest.raises(InputError, match=part): read_jsonl(path)


@pytest.mark.parametrize("row, name", [({}, "text"), ({"text": "a", "extra": 1}, "extra"), ({"text": 1}, "text"), ([1], "Step")])
def test_a_wrong_field_is_named(row, name):
    with pytest.raises(InputError, match=name): from_dict(Step, row)


def test_a_full_disk_leaves_the_old_file_and_says_one_line(tmp_path):
    path = write_file(tmp_path/"table.csv", "old")
    code = f"from reasoning_distill.core import write_file; write_file({str(path)!r}, 'x'*100_000)"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # noqa: E731
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode and "InputError" in done.stderr and "table.csv could not be written" in done.stderr
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="method 'cott' is unknown: choose one of answer_only, cot"):
        choose("cott", {"cot": 1, "answer_only": 2}, "method")


@given(st.dictionaries(words, st.integers() | words, max_size=5))
def test_a_fingerprint_does_not_depend_on_order(data):
    assert fingerprint(data) == fingerprint(dict(reversed(data.items())))
