import inspect
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_experiment import TINY, finish, papermill

from reasoning_distill.cli import notebook_parameters
from reasoning_distill.config import seeds_in
from reasoning_distill.core import InputError
from reasoning_distill.inside import inside_figure, kept_inside
from reasoning_distill.studies import (
    ARMS,
    CONDITIONS,
    FEEDBACK,
    RATES,
    Curve,
    Trial,
    ablation_table,
    accuracy_at,
    budgets,
    budgets_table,
    compute_of,
    conditions_table,
    curves,
    feedback_table,
    kept_trials,
    needed,
    ratio_table,
    readable_study,
    shown,
    study,
    study_compute,
    study_conditions,
    study_feedback,
)

FEW = {**TINY, "fit.tokens": 6000, "task.teacher": 700, "task.validation": 60, "teacher.fit.tokens": 900_000, "teacher.model.width": 64,
       "task.largest": 20, "max_new_tokens": 60}  # a teacher that solves about every fourth problem


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "One folder for all runs, so that they have their teacher in common."
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def found(tmp_path_factory, runs):
    "A study of budgets from end to end, with two seeds."
    folder = tmp_path_factory.mktemp("compute")
    places = {name: str(folder/"out") for name in ("records_dir", "tables_dir", "figures_dir")}
    return folder, study_compute("smoke", tokens="5000 9000", warm=3000, seeds="0 1", overrides=FEW, runs_dir=runs, lanes=2, **places)


def test_a_study_of_budgets_keeps_what_its_tables_follow_from(found):
    folder, made = found
    assert {p.name for p in (folder/"out").iterdir()} == {
        "compute.jsonl", "compute.svg", "compute.pdf", "inside.json", *(f"{n}.{s}" for n in made.further for s in ("svg", "pdf")),
        *(f"{n}.{s}" for n in made.tables for s in ("csv", "md", "tex"))}
    assert {*made.tables} == {"compute", "compute_ratio", "recovery", "kl_by_place"}
    kept = kept_trials(folder/"out"/"compute.jsonl")
    assert len(kept) == 2*3*2 and [(t.condition, t.method, t.seed) for t in kept] == [(t.condition, t.method, t.seed) for t in made.trials]
    assert all("/" not in t.record.config["runs_dir"] for t in kept)
    pd.testing.assert_frame_equal(ratio_table(curves(kept)), made.tables["compute_ratio"])


def test_the_look_inside_follows_from_its_record(found, root):
    folder, made = found
    for name, table in kept_inside(folder/"out"/"inside.json").tables.items():
        pd.testing.assert_frame_equal(table, made.tables[name], check_dtype=False)
    kept = kept_inside(root/"paper"/"results"/"inside.json")
    for name, table in kept.tables.items():
        assert shown(table) == (root/"paper"/"tables"/f"{name}.md").read_text().split("\n\n")[0], name
    every = [s for samples in kept.samples.values() for s in samples]
    assert len(every) == 6 and all(len(s.tokens) == len(s.kl) and 0 <= s.wrong[0] < s.wrong[1] <= len(s.kl) for s in every)
    assert inside_figure(kept.samples).axes
    for text, message in (("", "cannot be read"), ("{}", "recovery"), (None, "is missing")):
        if text is not None: (folder/"broken.json").write_text(text)
        with pytest.raises(InputError, match=message): kept_inside(folder/("broken.json" if text is not None else "nowhere.json"))


def test_the_look_inside_is_at_the_largest_budget_in_whatever_order(found, runs, tmp_path, monkeypatch):
    from reasoning_distill import studies
    seen, real = [], studies.look_inside
    monkeypatch.setattr(studies, "look_inside", lambda configs: seen.extend(configs.values()) or real(configs))
    places = {name: str(tmp_path) for name in ("records_dir", "tables_dir", "figures_dir")}
    again = study_compute("smoke", tokens="9000 5000", warm=3000, seeds="0 1", overrides=FEW, runs_dir=runs, lanes=2, **places)
    assert [c.fit.tokens for c in seen] == [9000, 9000] and [c.seed for c in seen] == [0, 0]
    pd.testing.assert_frame_equal(again.tables["compute_ratio"], found[1].tables["compute_ratio"])


def test_every_arm_begins_alike_and_ends_at_its_budget(found):
    for t in found[1].trials:
        budget = int(t.condition.replace(",", ""))
        assert budget <= t.record.tokens["train"] < budget + 1500
        if t.method != "cot": assert abs(t.record.metrics["report"]["warm"]["tokens"] - 3000) < 800
        assert compute_of(t.record) <= sum(t.record.flops[k] for k in ("train", "teacher", "own sampling"))
        assert {"train", "validation"} <= {*t.record.metrics} and t.record.metrics["validation"]["n"] == t.record.metrics["train"]["n"] == 60
    by = {(t.method, t.condition, t.seed): t for t in found[1].trials}
    first = by["on_policy", "5,000", 0].record
    assert first.flops["scoring"] > 0 == by["reward_only", "5,000", 0].record.flops["scoring"] == by["cot", "5,000", 0].record.flops["scoring"]


def test_only_the_traces_that_are_used_are_paid_for(found):
    r = next(t.record for t in found[1].trials if t.method == "cot")
    half = replace(r, tokens={**r.tokens, "train": 500, "teacher": 1000}, flops={**r.flops, "teacher": 8.0, "train": 1.0, "own sampling": 0.0})
    assert compute_of(half) == 1.0 + 4.0
    assert compute_of(replace(half, tokens={**half.tokens, "train": 5000})) == 1.0 + 8.0
    scored = replace(half, flops={**half.flops, "scoring": 6.0})
    assert compute_of(scored) == 1.0 + 6.0 + 1.0


@pytest.mark.parametrize("target, at", [(10, 1), (5, 1), (15, 10**0.5), (20, 10), (25, 10**1.5), (40, 1000)])
def test_computation_grows_with_the_logarithm(target, at):
    assert needed([1, 10, 100], [10, 20, 30], target) == pytest.approx(at)


def test_what_never_grows_is_never_reached():
    assert needed([1, 10, 100], [10, 20, 20], 21) == math.inf and needed([1, 10, 100], [10, 20, 15], 21) == math.inf
    assert math.isnan(accuracy_at([10, 100], [1, 2], 5)) and math.isnan(accuracy_at([10, 100], [1, 2], 200))
    assert accuracy_at([1, 100], [10, 20], 10) == pytest.approx(15)


def test_a_ratio_is_found_again_and_its_interval_holds_it():
    rng = np.random.default_rng(3)
    def arm(name, scale): return Curve(name, [1, 10, 100], [scale, 10*scale, 100*scale],
                                       (rng.random((3, 3, 1000)) < np.array([0.3, 0.5, 0.7])[:, None, None]).astype(int))
    table = ratio_table({"on_policy": arm("on_policy", 1.0), "cot": arm("cot", 5.0)}, rounds=300)
    assert table.ratio[1] == pytest.approx(5, rel=0.3) and (table.low[1:] < 5).all() and (table.high[1:] > 5).all()
    with pytest.raises(InputError, match="differ in seeds or problems"):
        ratio_table({"on_policy": arm("on_policy", 1.0), "cot": replace(arm("cot", 1.0), marks=np.zeros((3, 2, 1000), int))})


def test_a_missing_seed_is_named(found):
    with pytest.raises(InputError, match="row 'cot' has not the same seeds for every budget"):
        curves([t for t in found[1].trials if (t.method, t.condition, t.seed) != ("cot", "5,000", 1)])


def test_conditions_are_compared_with_their_own_control(found):
    def marked(condition, method, seed, marks):
        r = found[1].trials[0].record
        rate = {"n": len(marks), "right": marks.count("1"), "accuracy": marks.count("1")/len(marks)}
        return Trial(condition, method, seed, replace(r, metrics={**r.metrics, "marks": marks, "strict": rate}))
    trials = [marked("a", "cot", 0, "0000"), marked("a", "on_policy", 0, "1100"), marked("b", "cot", 0, "1111"), marked("b", "on_policy", 0, "1100")]
    table = conditions_table(trials)
    assert table[table.method == "on_policy"].points.tolist() == [50.0, -50.0] and table[table.method == "cot"].points.isna().all()


def test_options_go_to_the_rows_that_have_them():
    configs = study({"c": (("cot", "on_policy"), {"options.warm_share": 0.8, "task.train": 50})}, preset="smoke", seeds="4")
    assert [*configs] == [("c", "cot", 4), ("c", "on_policy", 4)] and all(c.task.train == 50 for c in configs.values())
    assert configs["c", "on_policy", 4].options["warm_share"] == 0.8 and "warm_share" not in configs["c", "cot", 4].options


@pytest.mark.parametrize("call, part", [
    (lambda: seeds_in("0, 1"), "seeds '0, 1' cannot be read"), (lambda: seeds_in(""), "cannot be read"),
    (lambda: budgets([5], 6), "leaves nothing after a warm start of 6"), (lambda: budgets([], 6), "no budgets"),
    (lambda: study({"c": (("cott",), {})}), "'cott' is unknown"), (lambda: study({"c": (("cot",), {"fit.tokns": 1})}), "'tokns' is unknown")])
def test_wrong_input_is_named(call, part):
    with pytest.raises(InputError, match=part): call()


def test_an_interval_stands_beside_what_it_belongs_to():
    table = pd.DataFrame([{"method": "a", "ratio": math.inf, "low": 1.25, "high": math.inf, "beyond": True, "flops": 1.5e12, "p": 0.0001},
                          {"method": "b", "ratio": 2.0, "low": math.nan, "high": math.nan, "beyond": False, "flops": 1.0, "p": math.nan}])
    found = readable_study(table)
    assert found.values.tolist() == [["a", "never", "[1.2, more]", "yes", "1.5e+12", "< 0.001"], ["b", "2.0", "", "no", "1", ""]]


def test_the_study_of_feedback_from_end_to_end(tmp_path, runs):
    places = {name: str(tmp_path/"out") for name in ("records_dir", "tables_dir", "figures_dir")}
    made = study_feedback("smoke", seeds="0", overrides=FEW, runs_dir=runs, lanes=2, **places)
    assert made.tables["feedback"].method.tolist() == ["answer_only", "cot", "feedback"]
    assert made.tables["feedback"]["published test"].tolist() == [59.0, 71.0, 75.0]
    ablation = made.tables["feedback_ablation"].set_index("method")
    assert ablation.loc["feedback_without_asking", "asked again"] == 0 and ablation.loc["feedback_without_repair", "repaired"] == 0
    assert math.isnan(ablation.loc["feedback", "points"]) and not math.isnan(ablation.loc["cot", "points"])
    assert ablation.loc["feedback_off", "traces' steps before"] == ablation.loc["feedback_off", "after"]


def test_the_notebook_of_conditions_runs_as_it_stands(root, tmp_path, runs):
    values = {"preset": "smoke", "seeds": "0", "overrides": json.dumps(FEW), "runs_dir": runs, "records_dir": tmp_path/"out",
              "tables_dir": tmp_path/"out"}
    code, said = finish(papermill(root/"nbs"/"experiments"/"conditions.ipynb", tmp_path/"out.ipynb", values, cwd=tmp_path))
    assert code == 0, said
    assert {p.name for p in (tmp_path/"out").iterdir()} == {"conditions.jsonl", *(f"conditions.{s}" for s in ("csv", "md", "tex"))}


def test_notebooks_pass_on_what_the_calls_take(root):
    for name, call in (("compute", study_compute), ("conditions", study_conditions), ("feedback", study_feedback)):
        assert notebook_parameters(root/"nbs"/"experiments"/f"{name}.ipynb") == [*inspect.signature(call).parameters]


def test_the_committed_tables_follow_from_the_kept_trials(root):
    trials = {name: kept_trials(root/"paper"/"results"/f"{name}.jsonl") for name in ("gpu", "conditions", "feedback", "compute")}
    found = curves(trials["compute"])
    tables = {"gpu": conditions_table(trials["gpu"]), "conditions": conditions_table(trials["conditions"]),
              "feedback": feedback_table(trials["feedback"]), "feedback_ablation": ablation_table(trials["feedback"]),
              "compute": budgets_table(found), "compute_ratio": ratio_table(found)}
    for name, table in tables.items(): assert shown(table) in (root/"paper"/"tables"/f"{name}.md").read_text(), name


def test_every_study_has_all_its_rows_with_three_seeds(root):
    def rows(name): return Counter((t.condition, t.method) for t in kept_trials(root/"paper"/"results"/f"{name}.jsonl"))
    assert {*rows("conditions")} == {(where, row) for where, (names, _) in CONDITIONS.items() for row in names} | \
        {(f"learning rate {rate:g}", "on_policy") for rate in RATES}
    assert {row for _, row in rows("feedback")} == {*FEEDBACK} and {row for _, row in rows("compute")} == {*ARMS}
    assert {*rows("conditions").values(), *rows("feedback").values(), *rows("compute").values()} == {3}
