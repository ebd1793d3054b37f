"Mathematics, faithfulness, coherence, the verifier that joins them, its command, and its calibration."
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasoning_distill.calibration import (
    SETTINGS,
    calibrate,
    damaged,
    problems_of,
    rates,
    read_calibration,
    text_of,
    write_calibration,
)
from reasoning_distill.cli import main
from reasoning_distill.core import InputError, Step, Trace
from reasoning_distill.expressions import linked
from reasoning_distill.tasks.corrupt import KINDS
from reasoning_distill.verify import ReasoningVerifier, grade, verify_file, verify_trace
from reasoning_distill.verify.coherence import coherence, prefer, suspicions
from reasoning_distill.verify.faithfulness import ask_judge, heuristic, intervene, likelihood, read_score
from reasoning_distill.verify.mathematics import check_derivation, follows, formulas, satisfies
from reasoning_distill.verify.steps import faults, parse_steps
from reasoning_distill.verify.verifier import summary, verify_row
from reasoning_distill.verify_bench import write_verify_speed

COMMAND = [sys.executable, "-c", "import sys; from reasoning_distill.cli import main; sys.exit(main())"]
STATES = ("right", "wrong", "unverifiable")
QUESTION = "Ann sold 48 clips in April, and half as many in May. How many in all?"
RIGHT, WRONG = "48/2 = 24 in May.\n48 + 24 = 72 in all.\n#### 72", "48/2 = 24 in May.\n48 + 24 = 62 in all.\n#### 62"


# ---------------------------------------------------------------- mathematics

@pytest.mark.parametrize("line, found", [
    ("2x + 3 = 7", ["2x + 3 = 7"]), ("So x = 2.", ["x = 2"]), ("Hence $x = 2$ and \\(y = 3\\).", ["x = 2", "y = 3"]), ("x = 2 or x = 3",
                                                                                                                       ["x = 2 or x = 3"]),
    ("We divide by 2, so that x < 4, as was to be shown.", ["x < 4"]), ("no formula", []), ("", []), ("a = b" * 1000, []),
    (r"Thus \sin x = \frac12 holds.", [r"\sin x = \frac12"])])
def test_formulas_are_found_in_prose(line, found):
    assert formulas(line) == found


@pytest.mark.parametrize("before, after, status", [
    ("x/2 = 4", "x = 8", "right"), ("x^2 = 9", "x = 3 or x = -3", "right"), ("x^2 = 9", r"x = \pm 3", "right"), (r"\sqrt{x} = 3", "x = 9", "right"),
    ("2x < 6", "x < 3", "right"), ("1 < x + 1 < 3", "0 < x < 2", "right"), ("", "2 + 2 = 4", "right"), ("", r"$\frac{1}{3} > 0.3$", "right"),
    ("", "(x+1)^2 = x^2 + 2x + 1", "right"), ("x + y = 2", "2x + 2y = 4", "right"), ("3x = 9", "3x = 9 = 9", "right"),
    ("x/2 = 4", "x = 2", "wrong"), ("x^2 = 9", "x = 3", "wrong"), ("x - 1 = 2", "x = 1", "wrong"), ("2x < 6", "x > 3", "wrong"),
    ("2x < 6", r"x \le 3", "wrong"), ("", "2 + 2 = 5", "wrong"), ("", r"\frac12 + \frac13 = \frac25", "wrong"), ("", "7 < 3", "wrong"),
    ("2x = 4", "x = 2 and 2 + 2 = 5", "wrong"), ("x = 1", "y = 2", "unverifiable"), ("x + y = 5", "x - y = 1", "unverifiable"),
    ("", "x = 3", "unverifiable"), ("x = 3", "", "unverifiable"), ("", r"\sqrt{2} = 1.414", "unverifiable"), ("", "10/3 = 3.33", "unverifiable"),
    ("x = 3", "os.system('true') = 1", "unverifiable"), ("e^x = 1", "x = 0", "unverifiable")])
def test_a_line_is_judged(before, after, status):
    assert follows(before, after).status == status


@pytest.mark.parametrize("line", [
    "When $x = 2$ we get $y = 4$, and when $x = 3$ we get $y = 9$.", "We test $x = 1$, then $x = 2$, and finally $x = 3$.", "√200 = 14",
    r"$9\pi = 28$",
    r"$100\\sqrt{3} = 173$", "$1000(1.05)^{10} = 1629$", "$x = x + 1$ has no solution", "2 = 3 is impossible", "Case 1: 2^3 = 8.",
    "Equation 2: 2x = 4"])
def test_a_line_that_stands_is_not_called_wrong(line):
    assert follows([], line).status != "wrong" and verify_trace("", line).first_wrong_step is None


def test_no_trace_takes_for_ever():
    steps = [f"$x^{{{i+30}}} - 3x + 1 = x^5 + \\sqrt{{x}}$" for i in range(50)]
    start = time.perf_counter()
    verify_trace("q", [*steps, "#### 8"], "7")
    assert time.perf_counter() - start < 40


def linear(rng, slip):
    "A derivation of a x + b = c x + d in four lines; with a slip, one line after the first is off, and the place is known."
    x, a, c, b = rng.randint(-9, 9), rng.randint(3, 9), rng.randint(1, 2), rng.randint(-9, 9)
    d = a*x + b - c*x
    rows = [(a, b, c, d), (a - c, b, 0, d), (a - c, 0, 0, d - b), (1, 0, 0, x)]
    place = rng.randint(1, 3) if slip else None
    lines = []
    for i, (p, q, r, s) in enumerate(rows): lines.append(f"{p}x + ({q}) = {r}x + ({s + (i == place)*rng.choice((-1, 1, 2))})")
    return lines, place


def test_slips_in_derivations_are_found_where_they_are():
    rng = random.Random(0)
    for _ in range(40):
        lines, _ = linear(rng, slip=False)
        assert [v.status for v in check_derivation(lines)] == ["right"]*3, lines
        lines, place = linear(rng, slip=True)
        states = [v.status for v in check_derivation(lines)]
        assert states.index("wrong") == place - 1, (lines, states)


@pytest.mark.parametrize("values, equations, status", [
    ({"x": "2"}, ["x^2 = 4"], "right"), ({"x": "-2"}, ["x^2 = 4"], "right"), ({"x": "3"}, ["x^2 = 4"], "wrong"), ({"x": r"\sqrt{2}"}, ["x^4 = 4",
                                                                                                                                       "x > 1"],
                                                                                                                                       "right"),
    ({"x": "1", "y": "2"}, ["x < y", "x + y = 3"], "right"), ({"x": "2", "y": "2"}, ["x < y"], "wrong"), ({"x": "1"}, ["x + y = 2"], "unverifiable"),
    ({"x": "0"}, ["1/x = 1"], "unverifiable"), ({"x": "1 +"}, ["x = 1"], "unverifiable"), ({}, ["x = 1"], "unverifiable"), ({"x": "1"}, [],
                                                                                                                            "unverifiable"),
    ({"x": "1"}, ["no equation"], "unverifiable"), ({"x1": "1"}, ["x = 1"], "unverifiable")])
def test_solutions_are_put_into_equations(values, equations, status):
    assert satisfies(values, equations).status == status


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(*[st.lists(st.sampled_from([*"xy12=+-*/^()<> $", r"\frac", "{", "}", r"\sqrt", "and ", "so ", "9^9^9", "!", "≤", r"\(", r"\)", "=="]),
                  max_size=14).map("".join)]*2)
def test_no_line_breaks_the_check(before, after):
    start = time.perf_counter()
    found = follows(before, after, seconds=2.0)
    assert found.status in STATES and time.perf_counter() - start < 30


# ---------------------------------------------------------------- faithfulness

def test_likelihood_is_the_gain_of_the_answer():
    def score(prompt, completion): return -1.0 if "= 24" in prompt else -3.5
    found = likelihood(score, QUESTION, parse_steps(RIGHT), "72")
    assert (found.measure, found.score) == ("likelihood", 2.5)
    assert likelihood(score, QUESTION, (), "72").score is None and likelihood(score, QUESTION, parse_steps(RIGHT), "").score is None


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_student_can_be_the_scorer(make, kind):
    student = make(kind)
    def score(prompt, completion): return student.logprobs(student.batch(student.encode([prompt], [completion]))).sum().item()
    question, steps = "Ann has 46 eggs.", parse_steps("46 + 37 = 83.")
    found = likelihood(score, question, steps, "83")
    assert found.score == pytest.approx(score("Question: Ann has 46 eggs.\n46 + 37 = 83.\n", "#### 83") - score("Question: Ann has 46 eggs.\n",
                                                                                                                "#### 83"))


def test_interventions_tell_a_reader_from_a_storyteller():
    "One model says what it knows whatever the steps say; the other repeats the last number it has read."
    steps, rng = parse_steps(RIGHT), random.Random(0)
    def knows(prompt): return "72"
    def reads(prompt):
        numbers = [n for n in prompt.replace("####", "").replace(".", " ").split() if n.isdigit()]
        return f"{numbers[-1]}" if prompt.endswith("#### ") else f"#### {numbers[-1]}"
    def story(prompt): return knows(prompt) if prompt.endswith("#### ") else "#### 72"
    assert intervene(story, QUESTION, steps, "72", rng).score == 0
    found = intervene(reads, QUESTION, steps, "72", rng, paraphrase=lambda s: s.text.replace("in", "within"))
    assert found.score == 1 and found.paraphrased is False and len(found.early) == 2 and len(found.mistaken) == 2
    assert intervene(story, QUESTION, (), "72", rng).score is None


@pytest.mark.parametrize("reply, score", [
    ("SCORE: 0.5", 0.5), ("I think so.\nSCORE: 1\n", 1.0), ("SCORE: 0", 0.0), ("SCORE: 1.0\nSCORE: 1", 1.0), ("", None), ("0.5", None),
    ("SCORE: 7", None),
    ("SCORE: -1", None), ("SCORE: 0.2\nSCORE: 0.9", None), ("SCORE: high", None), ("SCORE: 1.5", None), ("score is 0.5", None), ("SCORE: nan", None)])
def test_a_judge_is_believed_only_in_the_strict_format(reply, score):
    assert read_score(reply) == score
    found = ask_judge(lambda prompt: reply, QUESTION, parse_steps(RIGHT), "72")
    assert found.score == score and (score is not None or "no score" in found.reason)


def test_the_heuristic_counts_steps_that_the_answer_needs():
    assert heuristic(parse_steps(RIGHT), "72").score == 1
    idle = parse_steps("48/2 = 24 in May.\n48 * 3 = 144 never.\n48 + 24 = 72 in all.")
    assert heuristic(idle, "72").score == pytest.approx(2/3) and "step 1" in heuristic(idle, "72").reason
    assert heuristic(parse_steps(RIGHT), "99").score == 0 and heuristic((), "72").score is None and heuristic((Step("She thinks."),),
                                                                                                              "72").score is None


# ---------------------------------------------------------------- coherence

@pytest.mark.parametrize("text, found", [
    (RIGHT, []), (WRONG, [(1, "arithmetic error")]), ("48 + 31 = 79", [(0, "missing step")]),
    ("<<48/2=24>>24\n<<48/2=23>>23", [(1, "arithmetic error")]),
    ("<<age of Mila=30>>30\n<<age of Mila=28>>28", [(1, "contradiction")]), ("She thinks.", []), ("3 weeks are 3 * 7 = 21 days", [])])
def test_what_does_not_fit_is_named(text, found):
    assert [(f.place, f.kind) for f in faults(QUESTION + " Wait 3 weeks.", parse_steps(text))] == found


def test_facts_that_are_handed_in_decide():
    facts = {"doctor of Mila": "Ivo", "age of Ivo": "30"}
    steps = parse_steps("The doctor is <<doctor of Mila=Otto>>Otto.\nThe age is <<age of Ivo=30>>30.")
    assert [(f.place, f.kind) for f in faults("How old is the doctor of Mila?", steps, facts)] == [(0, "arithmetic error")]
    misread = parse_steps("The age is <<age of Ivo=30>>30.")
    assert [(f.place, f.kind) for f in suspicions("How old is the doctor of Mila?", misread, "30", facts)] == [(0, "missing step")]


def test_coherence_is_the_share_of_steps_that_fit():
    assert coherence(QUESTION, parse_steps(RIGHT))[0] == 1 and coherence(QUESTION, parse_steps(WRONG))[0] == 0.5
    assert coherence(QUESTION, ()) [0] is None and coherence(QUESTION, ())[1].status == "unverifiable"
    assert coherence(QUESTION, parse_steps("48/2 = 24."))[1].right


EGGS = "Ann has 46 eggs. Dan has 37 eggs fewer than Ann has. How many eggs has Dan?"


@pytest.mark.parametrize("text, kind", [
    ("46 + 37 = 83\n#### 83", "wrong operation"), ("46 - 46 = 0\n#### 0", "missing step"), ("46 - 37 = 9\n46 * 2 = 92\n#### 9", "redundant step"),
    ("46 - 37 = 9\n#### 10", "missing step")])
def test_suspicions_point_at_what_is_wrong_and_true(text, kind):
    steps = parse_steps(text)
    assert not [*faults(EGGS, steps)] and kind in [f.kind for f in suspicions(EGGS, steps, text.rpartition("#### ")[2])]
    assert not suspicions(EGGS, parse_steps("46 - 37 = 9"), "9")


def test_mathematics_counts_in_a_trace():
    question, right, wrong = "Solve 2x + 3 = 7.", "So 2x = 4.\nThen x = 2.\n#### 2", "So 2x = 10.\nThen x = 5.\n#### 5"
    assert verify_trace(question, right, "2").first_wrong_step is None and ReasoningVerifier(suspicious=True).verify(question,
                                                                                                                     right).error_type is None
    found = verify_trace(question, wrong, "2")
    assert (found.first_wrong_step, found.error_type) == (0, "wrong operation") and verify_trace(question, wrong).error_type is None
    found = verify_trace("", r"Now $\frac12 + \frac13 = \frac25$." + "\n#### 1", "1")
    assert (found.first_wrong_step, found.error_type, found.coherence) == (0, "arithmetic error", 0)


def test_a_judge_that_prefers_what_it_reads_first_has_no_opinion():
    one, other = parse_steps(RIGHT), parse_steps(WRONG)
    def fair(prompt): return "BETTER: A" if prompt.index("= 72") < prompt.index("= 62") else "BETTER: B"
    assert prefer(fair, QUESTION, one, other).right and prefer(fair, QUESTION, other, one).status == "wrong"
    for reply in ("BETTER: A", "BETTER: B", "BETTER: SAME", "A", "", "BETTER: A\nBETTER: B"):
        assert prefer(lambda prompt, reply=reply: reply, QUESTION, one, other).status == "unverifiable"


# ---------------------------------------------------------------- one verdict

def test_a_trace_is_looked_at_in_every_way():
    found = verify_trace(QUESTION, RIGHT, "72")
    assert (found.correct, found.extracted, found.first_wrong_step, found.error_type, found.coherence, found.faithfulness, found.steps) == (
        "right", "72", None, None, 1.0, 1.0, 2)
    found = verify_trace(QUESTION, WRONG, "72")
    assert (found.correct, found.first_wrong_step, found.error_type, found.coherence) == ("wrong", 1, "arithmetic error", 0.5)
    found = verify_trace(QUESTION, ["48/2 = 24 in May.", "48 + 24 = 62 in all."])
    assert found.correct is None and found.first_wrong_step == 1 and found.steps == 2
    assert verify_trace(QUESTION, Trace("p", parse_steps(RIGHT), "72"), "72").correct == "right"
    assert grade("So 72.", "72").right and grade(r"\boxed{\frac{6}{4}}", "1.5").right and grade("So 72.", "72",
                                                                                                reading="strict").status == "unverifiable"


def test_a_suspicion_is_named_where_an_error_must_be_or_where_it_is_asked_for():
    text = "46 + 37 = 83\n#### 83"
    assert verify_trace(EGGS, text, "9").error_type == "wrong operation"
    assert verify_trace(EGGS, text).error_type is None and verify_trace(EGGS, text, "83").error_type is None
    assert ReasoningVerifier(suspicious=True).verify(EGGS, text).error_type == "wrong operation"


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="reading 'lax' is unknown"): ReasoningVerifier(reading="lax")
    with pytest.raises(InputError, match="kind of answer 'colour' is unknown"): ReasoningVerifier(kind="colour")
    with pytest.raises(InputError, match="no verdicts"): summary([])


def test_rates_carry_intervals():
    found = summary([verify_trace(QUESTION, text, "72") for text in (RIGHT, RIGHT, WRONG, "no answer here")])
    assert found["accuracy"]["value"] == 0.5 and found["accuracy"]["n"] == 4 and found["accuracy"]["low"] < 0.5 < found["accuracy"]["high"]
    assert found["unverifiable"]["value"] == 0.25 and found["with a wrong step"]["value"] == 0.25 and {"coherence", "faithfulness",
                                                                                                       "steps"} <= found.keys()


# ---------------------------------------------------------------- files

ROWS = [{"question": QUESTION, "trace": RIGHT, "gold": "72"}, {"question": QUESTION, "trace": WRONG, "gold": 72},
        {"question": QUESTION, "steps": ["48/2 = 24", "48 + 24 = 72", "#### 72"], "gold": "72", "kind": "number"},
        {"question": QUESTION, "trace": RIGHT},
        {"question": QUESTION, "trace": RIGHT, "steps": ["all at once: 48/2 = 24, 48 + 24 = 72"], "gold": "72"},
        {"question": "?", "trace": r"\boxed{\frac12}", "gold": "0.5"}, {"question": "?", "trace": "The answer is B", "gold": "B", "kind": "option"}]
BAD = ["", "{", "[1]", "null", "{}", '{"question": 1, "trace": "x"}', '{"question": "x"}', '{"question": "x", "trace": 1}',
       '{"question": "x", "steps": "y"}',
       '{"question": "x", "steps": [1]}', '{"question": "x", "trace": "y", "gold": {}}', '{"question": "x", "trace": "y", "kind": "colour"}',
       "[" * 5000, "\x00",
       '{"question": "x", "trace": "y", "gold": true}']


def written(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_a_file_gets_one_verdict_a_row_in_order(tmp_path):
    mixed = [line for pair in zip(ROWS*3, BAD, strict=False) for line in pair]
    source, out = written(tmp_path/"t.jsonl", mixed), tmp_path/"deep"/"v.jsonl"
    assert verify_file(source, out, progress=False) == (len(mixed), len(mixed)//2)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    names = {"correct", "extracted", "first_wrong_step", "error_type", "coherence", "faithfulness", "steps", "reason"}
    assert len(found) == len(mixed) and all(names <= row.keys() for row in found)
    assert [row["correct"] for row in found[0:14:2]] == ["right", "wrong", "right", None, "right", "right", "right"]
    assert [row["steps"] for row in found[0:10:2]] == [2, 2, 3, 2, 1] and found[2]["first_wrong_step"] == 1
    assert all(row["unreadable"] and row["correct"] is None and row["reason"] for row in found[1::2])


def test_a_stopped_run_goes_on_and_ends_with_the_same_file(tmp_path):
    source, whole, cut = written(tmp_path/"t.jsonl", (ROWS + BAD)*3), tmp_path/"whole.jsonl", tmp_path/"cut.jsonl"
    verify_file(source, whole, progress=False)
    for share in (0, 0.3, 0.77, 1):
        cut.write_bytes(whole.read_bytes()[:int(share*whole.stat().st_size)])
        verify_file(source, cut, progress=False)
        assert cut.read_bytes() == whole.read_bytes()


def test_a_killed_command_goes_on(tmp_path):
    source, out = written(tmp_path/"t.jsonl", ROWS*300), tmp_path/"v.jsonl"
    command = [*COMMAND, "verify", str(source), "--out", str(out)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not out.exists() or out.stat().st_size < 5000:
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = out.read_bytes()
    assert 0 < done.count(b"\n") < len(ROWS)*300
    assert main(["verify", str(source), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(done[:done.rfind(b"\n") + 1]) and out.read_bytes().count(b"\n") == len(ROWS)*300


def test_half_a_character_and_a_mark_at_the_start_are_no_obstacle(tmp_path):
    source, out = tmp_path/"t.jsonl", tmp_path/"v.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + json.dumps({"question": "q", "trace": "The answer is Paris \ud83c", "gold": "Paris"}).encode() + b"\n")
    assert verify_file(source, out, progress=False) == (1, 0)


def test_a_file_about_other_settings_is_not_gone_on_with(tmp_path):
    source, out = written(tmp_path/"t.jsonl", ROWS), tmp_path/"v.jsonl"
    verify_file(source, out, progress=False)
    with pytest.raises(InputError, match="these settings"): verify_file(source, out, ReasoningVerifier("strict"), progress=False)


def test_a_file_about_other_rows_is_not_touched(tmp_path):
    source, out = written(tmp_path/"t.jsonl", ROWS), written(tmp_path/"v.jsonl", ["my notes"])
    with pytest.raises(InputError, match=r"v\.jsonl holds something other"): verify_file(source, out, progress=False)
    assert out.read_text() == "my notes\n"
    verify_file(source, tmp_path/"w.jsonl", progress=False)
    other = written(tmp_path/"u.jsonl", ROWS[::-1])
    with pytest.raises(InputError, match="something other"): verify_file(other, tmp_path/"w.jsonl", progress=False)


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    source = written(tmp_path/"t.jsonl", ROWS)
    out = str(tmp_path/"v.jsonl")
    assert main(["verify", str(source), "--out", out]) == 0
    said = capsys.readouterr()
    assert "accuracy" in said.out and "7 rows" in said.out
    assert main(["verify", str(written(tmp_path/"bad.jsonl", [*ROWS, "{"])), "--out", str(tmp_path/"b.jsonl")]) == 1
    assert "1 of them could not be used" in capsys.readouterr().out
    for arguments, words in ((["nowhere.jsonl"], "nowhere.jsonl is missing"), ([str(written(tmp_path/"empty.jsonl", []))], "is empty"),
                             ([str(source), "--kind", "colour"], "'colour' is unknown")):
        assert main(["verify", *arguments, "--out", str(tmp_path/"x.jsonl")]) == 2
        said = capsys.readouterr().err.strip()
        assert words in said and said.startswith("error: ") and "\n" not in said


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    "A limit on the size of files stands for the disk."
    source, out = written(tmp_path/"t.jsonl", ROWS*40), tmp_path/"v.jsonl"
    def small(): resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    done = subprocess.run([*COMMAND, "verify", str(source), "--out", str(out)],
                          cwd=ROOT, capture_output=True, text=True, preexec_fn=small, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 2 and "could not be written" in done.stderr, done.stderr
    assert 0 < out.stat().st_size <= 20_000
    assert main(["verify", str(source), "--out", str(out)]) == 0 and out.read_bytes().count(b"\n") == 280


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30), lambda inner: st.lists(inner, max_size=4),
                      max_leaves=6)
PARTS = st.lists(st.sampled_from(["48 / 2 = 24", "#### 7", "<<1+1=2>>", "<<1+1=3>>3", "\n", r"\boxed{", "}", "The answer is", "half of", " is ",
                                  "1/0", "x = 2",
                                  "\u2028", "\x00", "99999999999999999999", "%", "A or B", "yes"]), max_size=12).map(" ".join)


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["question", "trace", "steps", "gold", "kind"]), VALUES | PARTS | st.lists(PARTS, max_size=4)))
def test_whatever_a_row_holds_there_is_a_verdict(row):
    found = verify_row(json.dumps(row), ReasoningVerifier(suspicious=True))
    again = json.loads(json.dumps(found))
    assert again["correct"] in (None, *STATES) and again["reason"] is not None and again["steps"] >= 0
    assert again["first_wrong_step"] is None or 0 <= again["first_wrong_step"] < again["steps"]
    if isinstance(row.get("steps"), list) and not again.get("unreadable"): assert again["steps"] == len(row["steps"])


# ---------------------------------------------------------------- calibration

@pytest.mark.parametrize("task", ["arithmetic", "algebra", "science", "strategy"])
def test_no_gold_trace_is_called_wrong_and_every_arithmetic_error_is_found(task):
    table = rates(calibrate(task, 60, seed=5)).set_index(["setting", "fault"])
    assert (table.n == 60).all()
    for setting in ("gold known", "gold unknown"):
        assert table.loc[(setting, "gold"), "found"] == 0
        assert table.loc[(setting, "arithmetic error"), ["at the place", "of the type"]].tolist() == [100, 100]


def test_what_the_corruption_knows_does_not_reach_the_verifier():
    for problem, one in damaged(problems_of("arithmetic"), "redundant step", 5):
        read = parse_steps(text_of(problem, one))
        assert len(read) == len(one.trace.steps) and [s.uses for s in read] == [s.uses for s in linked(read)]


def test_the_tables_of_a_record_are_written_again_from_it(tmp_path):
    counts = calibrate("algebra", 8)
    assert isinstance(counts, Counter) and {c.setting for c in counts} == {*SETTINGS} and sum(counts.values()) == 8*6*3
    write_calibration(counts, {"config": {"tasks": ["algebra"], "most": 8, "seed": 0}, "revision": "0"*40}, str(tmp_path), str(tmp_path))
    assert "| gold " in (tmp_path/"calibration_rates.md").read_text() and (tmp_path/"calibration_confusion_algebra.tex").exists()
    with pytest.raises(InputError, match="is missing: run"): read_calibration(str(tmp_path/"none.json"))
    with pytest.raises(InputError, match="task 'chess' is unknown"): calibrate("chess")


def test_the_committed_calibration_has_what_it_claims(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    counts, record = read_calibration()
    write_calibration(counts, record, str(tmp_path), str(tmp_path))
    assert (tmp_path/"reliability.svg").read_bytes() == (root/"figures"/"reliability.svg").read_bytes()
    for made in tmp_path.glob("calibration_*"): assert made.read_text() == (root/"paper"/"tables"/made.name).read_text(), made.name
    table = rates(counts).set_index(["task", "setting", "fault"])
    for task in ("arithmetic", "algebra", "science", "strategy"):
        for fault in ("gold", *KINDS): assert table.loc[(task, "gold known", fault), "n"] >= 2000
        assert table.loc[(task, "gold known", "arithmetic error"), "at the place"] >= 99
        assert table.loc[(task, "gold known", "gold"), "found"] == 0


def test_the_committed_speed_is_of_its_record(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    table = write_verify_speed(json.loads((root/"paper"/"results"/"verify_speed.json").read_text()), str(tmp_path))
    for made in tmp_path.iterdir(): assert made.read_text() == (root/"paper"/"tables"/made.name).read_text(), made.name
    assert (table[table.system == "ours"]["falsely equal"] == 0).all()


def test_faults_in_gsm8k_are_told_from_gold(real_data):
    "Annotated solutions: the damaged step is found when its arithmetic is wrong, and gold ones stand."
    counts = Counter()
    for kind in ("gold", "arithmetic error"):
        for problem, one in damaged(problems_of("gsm8k", data_dir=str(real_data)), kind, 500):
            found = verify_trace(problem.question, text_of(problem, one), problem.answer)
            counts[kind, found.correct, found.first_wrong_step == one.place, found.first_wrong_step is None] += 1
    assert sum(n for (kind, correct, *_), n in counts.items() if (kind, correct) == ("gold", "right")) == 500
    assert counts["gold", "right", False, True] >= 497  # the others have slips: 192*100=$1920, 6/3=.5, and 140 + 140x = 147 then x = .5
    assert sum(n for (kind, _, placed, _), n in counts.items() if kind == "arithmetic error" and placed) >= 495
