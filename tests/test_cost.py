import math
from dataclasses import replace

import pytest

from reasoning_distill.cli import notebook_parameters
from reasoning_distill.core import InputError
from reasoning_distill.cost import Assumptions, cost_figure, cost_of, cost_table, readable_costs, speed_of, write_costs
from reasoning_distill.report import kept_records


@pytest.fixture(scope="module")
def kept(): return kept_records()


@pytest.fixture(scope="module")
def pair(kept):
    found = {r.config["corpus"] + r.config["method"]: r for r in kept if r.config["task"]["name"] == "arithmetic" and r.config["seed"] == 0}
    return found["traincot"], next(r for name, r in found.items() if name.startswith("teacher"))


def test_the_committed_costs_follow_from_the_kept_records(root, kept):
    text = readable_costs(cost_table(kept, Assumptions())).to_markdown(index=False, disable_numparse=True)
    assert text in (root/"paper"/"tables"/"cost.md").read_text()


def test_a_student_has_paid_for_itself_where_the_lines_cross(pair):
    cost = cost_of(*pair, Assumptions())
    assert cost.distilling + cost.even*cost.answer == pytest.approx(cost.even*cost.teacher)


def test_everything_grows_with_its_price(pair):
    usual, dear = cost_of(*pair, Assumptions(hour=0.05)), cost_of(*pair, Assumptions(hour=0.10))
    assert dear.answer == pytest.approx(2*usual.answer) and dear.teacher == usual.teacher and dear.distilling > usual.distilling
    assert cost_of(*pair, Assumptions(rounds=3)).distilling == pytest.approx(3*usual.distilling)
    own = cost_of(*pair, Assumptions(teacher=""))
    seconds = pair[0].seconds["training"] + pair[0].seconds["own sampling"] + pair[0].seconds["teacher"]
    assert own.distilling == pytest.approx(0.05*seconds/3600) and own.teacher < usual.teacher


def test_a_student_that_is_dearer_never_pays(pair):
    student, teacher = pair
    slow = replace(student, seconds={**student.seconds, "evaluation": 1e9})
    assert cost_of(slow, teacher, Assumptions(teacher="")).even == math.inf
    assert "never" in readable_costs(cost_table([slow, teacher], Assumptions(teacher=""))).values


def test_students_without_a_teacher_are_left_out(kept):
    methods = {*cost_table(kept, Assumptions()).method}
    assert "answer_only" not in methods and {"cot", "star", "orca"} <= methods


@pytest.mark.parametrize("call, part", [
    (lambda kept: Assumptions(teacher="gpt-9"), "no price is known for 'gpt-9'"), (lambda kept: Assumptions(rounds=0), "rounds"),
    (lambda kept: cost_table([], Assumptions()), "run 'make report' first"),
    (lambda kept: speed_of(replace(kept[0], seconds={"evaluation": 0.0})), "has no seconds of evaluation"),
    (lambda kept: cost_figure(cost_table(kept, Assumptions()), "chess"), "task 'chess' has no student")])
def test_wrong_input_is_named(kept, call, part):
    with pytest.raises(InputError, match=part): call(kept)


def test_the_notebook_passes_on_what_the_call_takes(root):
    import inspect
    assert notebook_parameters(root/"nbs"/"experiments"/"cost.ipynb") == [*inspect.signature(write_costs).parameters]
