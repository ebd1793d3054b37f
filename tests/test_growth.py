"""Examples on disk, and how time and memory grow."""

import csv
import json
import random

import pytest
import statsmodels.api as sm

from reasoning_distill.core import InputError
from reasoning_distill.growth import apart, bench_growth, exponent, growth_table, write_growth
from reasoning_distill.models.mapped import FILE, Mapped, lengths_of, mapped
from reasoning_distill.models.students import Encoded


@pytest.fixture(scope="module")
def record(root): return json.loads((root/"paper"/"results"/"growth.json").read_text())


def test_the_committed_table_is_of_its_record(root, record, tmp_path):
    write_growth(record, str(tmp_path), str(tmp_path))
    for name in ("growth.md", "growth.csv", "growth.tex"): assert (tmp_path/name).read_text() == (root/"paper"/"tables"/name).read_text()
    assert (tmp_path/"growth.svg").read_text() == (root/"figures"/"growth.svg").read_text()


def test_what_the_record_shows(record):
    curves = {name: {r["size"]: r for r in rows} for name, rows in record["curves"].items()}
    held, read = curves["traces, in memory"], curves["traces, on disk"]
    assert [*held] == [*read] == [1000, 10_000, 100_000, 1_000_000] and read[1_000_000]["MB"] < held[1_000_000]["MB"]/5
    assert apart(record)[0] < 1e-4, "two processes train as one"
    rows = [*csv.reader(growth_table(record).to_csv(index=False).splitlines())]
    assert len(rows) == 6 and all(row[4] for row in rows)


def test_an_exponent_is_what_statsmodels_finds():
    rng = random.Random(0)
    sizes = [10, 20, 50, 100, 300]
    found = [n**0.7*rng.uniform(0.5, 2) for n in sizes]
    import numpy as np
    fitted = sm.OLS(np.log(found), sm.add_constant(np.log(sizes))).fit()
    assert exponent(sizes, found) == pytest.approx([fitted.params[1], *fitted.conf_int()[1]], rel=1e-6)


@pytest.mark.parametrize("wrong", [{"largest": 10}, {"length": 100}, {"questions": 7}, {"tokens": 1}])
def test_sizes_that_leave_nothing_are_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} = .* or more"): bench_growth(**wrong)


def test_a_file_that_is_no_examples_is_one_line(tmp_path):
    examples = [Encoded([1, 2, 3], [4, 2], 0.5)]*40
    found = mapped(iter(examples), tmp_path/"good")
    assert [*found] == examples and lengths_of(found) == [5]*40 == lengths_of(examples)
    for name, text in (("empty", b""), ("other", b"{}\n"*100), ("cut", (tmp_path/"good"/FILE).read_bytes()[:300])):
        (tmp_path/name).mkdir()
        (tmp_path/name/FILE).write_bytes(text)
        with pytest.raises(InputError, match="tokenise again"): Mapped(tmp_path/name)
    with pytest.raises(InputError, match="missing"): Mapped(tmp_path/"nowhere")


def test_none_is_a_file_of_none(tmp_path): assert len(mapped([], tmp_path/"none")) == 0 == len(lengths_of(Mapped(tmp_path/"none")))
