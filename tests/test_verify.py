"Verdicts on mathematics, answers and steps: right where they must be, never right by accident, and always in time."
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError
from reasoning_distill.templates import ANNOTATION, split_answer
from reasoning_distill.verify import symbolic
from reasoning_distill.verify.answers import KINDS, check_answer, extract_answer, kind_of, number_value
from reasoning_distill.verify.steps import Equation, Fault, check_equation, equations, first_fault, parse_steps, readings, value_in
from reasoning_distill.verify.symbolic import compare

STATES = ("right", "wrong", "unverifiable")
EXAMPLES = {"prose": 7000, "solutions": 6000, "answers": 6000, "mathematics": 1500}  # of each kind of fuzzing


def fuzz(kind): return settings(max_examples=EXAMPLES[kind], deadline=None, suppress_health_check=list(HealthCheck))


def judge(text): return [check_equation(e).status for e in equations(text)]


def rows_of(folder):
    return [json.loads(line) for part in ("train", "test") for line in Path(folder, "gsm8k", f"{part}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def solutions(real_data):
    return rows_of(real_data)


# GSM8K: 8,792 solutions that are right by definition

def test_every_gold_solution_of_gsm8k_is_right_and_one_more_is_wrong(solutions):
    assert len(solutions) == 8792
    for row in solutions:
        gold = row["answer"].rpartition("#### ")[2]
        more = str(int(gold.replace(",", "")) + 1)
        for reading in ("strict", "flexible"):
            assert check_answer(row["answer"], gold, reading).right, row["answer"]
            assert check_answer(row["answer"], more, reading).status == "wrong", row["answer"]


def test_every_annotation_of_gsm8k_is_confirmed_and_one_more_is_not(solutions):
    found = [(left.strip(), right.strip()) for row in solutions for left, right in ANNOTATION.findall(row["answer"])]
    assert len(found) == 27998
    refused = [(left, right) for left, right in found if not check_equation(Equation(left, right, True)).right]
    assert not refused
    whole = [(left, str(int(right) + 1)) for left, right in found if right.isdigit()]
    states = [check_equation(Equation(left, more, True)).status for left, more in whole]
    assert states.count("wrong")/len(states) > 0.97 and states.count("right")/len(states) < 0.001  # the rest is within the rounding of its numbers


SLIPS = 30  # at most, of GSM8K's own: 192*100=$1920, 10 x 1,248 = 11,480, 70 + 40 = 100 and so on


def test_without_annotations_most_steps_of_gsm8k_are_confirmed_and_few_are_called_wrong(solutions):
    steps, confirmed, blamed = 0, 0, set()
    for i, row in enumerate(solutions):
        for line in row["answer"].split("\n")[:-1]:
            noted = ANNOTATION.findall(line)
            found = [check_equation(e) for e in equations(ANNOTATION.sub("", line))]
            states = {v.status for v in found}
            steps, confirmed = steps + bool(noted), confirmed + (bool(noted) and "right" in states and "wrong" not in states)
            if "wrong" in states: blamed.add(i)
    assert confirmed/steps > 0.98 and len(blamed)/len(solutions) <= 0.005
