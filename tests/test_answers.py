import math
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning_distill.core import InputError, Problem
from reasoning_distill.stats import wilson
from reasoning_distill.templates import TEMPLATES, prompt_for, read_trace, target_for
from reasoning_distill.verify.answers import check_answer, extract_answer, number_value


@given(st.integers(-10**9, 10**9))
def test_a_number_is_its_value_however_it_is_written(n):
    for written in (f"{n}", f"{n:,}", f"{n}.00", f"${n:,}" if n >= 0 else f"-${-n}", f"{n} "): assert number_value(written) == n


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_a_fraction_is_exact(top, bottom):
    assert number_value(f"{top}/{bottom}") == Fraction(top, bottom)


@given(st.text(max_size=200))
def test_no_text_breaks_the_check(text):
    for reading in ("strict", "flexible"): assert check_answer(text, "72", reading).status in ("right", "wrong", "unverifiable")


@pytest.mark.parametrize("text, answer", [("#### 72", "72"), ("#### $1,200.50 each", "1200.5"), ("The answer is: 18.", "18"), ("#### 5\n#### 7", "7"),
                                          ("the final answer is 1/2", "0.5"), ("#### -3", "-3"), ("#### .5", "1/2")])
def test_marked_answers_are_right(text, answer):
    assert check_answer(text, answer).right


@pytest.mark.parametrize("text", ["", "####", "#### none", "72 clips", "#### 1/0", "#### " + "9"*5000])
def test_what_cannot_be_read_is_unverifiable_and_not_wrong(text):
    assert check_answer(text, "72").status == "unverifiable"


def test_the_flexible_reading_takes_the_last_number_only_without_a_marker():
    assert extract_answer("so 72 or 73", "flexible") == "73"
    assert check_answer("#### 70\nso 72", "72", "flexible").status == "wrong"


def test_text_answers_ignore_case():
    assert check_answer("The answer is Yes.", "yes").right and check_answer("#### no", "yes").status == "wrong"


@pytest.mark.parametrize("template", [name for name, layout in TEMPLATES.items() if not layout.chat])
def test_a_target_can_be_read_back(template, trace):
    again = read_trace(target_for(trace, "reason", template), "p")
    assert again.answer == "72" and len(again.steps) == 2
    assert ("<<" in target_for(trace, "reason", template)) == TEMPLATES[template].annotations


def test_braces_in_a_question_are_text():
    assert "{x}" in prompt_for(Problem("p", "What is {x} in {0}?", "1", 1), "reason", "plain")


def test_a_chat_template_needs_one_in_the_tokenizer(make):
    problem, student = Problem("p", "Why?", "1", 1), make()
    with pytest.raises(InputError, match="chat template"): prompt_for(problem, "reason", "chat", student.tokenizer)
    student.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    assert prompt_for(problem, "reason", "chat", student.tokenizer).startswith("<user>Why?")


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_bounds_solve_the_equation_that_defines_them(case):
    k, n = case
    low, high = wilson(k, n)
    assert 0 <= low <= k/n <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1: assert math.isclose(abs(k/n - bound), 1.959964*math.sqrt(bound*(1 - bound)/n), rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize("case", [(1, 0), (-1, 5), (6, 5)])
def test_an_impossible_rate_is_refused(case):
    with pytest.raises(InputError): wilson(*case)


def test_a_long_word_behind_a_number_takes_no_time():
    "A pattern that may cut a word into several tries every way to do so: n letters, time like n to the fourth."
    program = "from reasoning_distill.verify.answers import check_answer; print(check_answer('#### 12 ' + 'Paul'*5000 + '1', '12').status)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "unverifiable\n", done.stderr
