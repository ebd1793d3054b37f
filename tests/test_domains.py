"""Domains: right, wrong and unverifiable in each; defects are found at the rates measured; no text breaks or slows a verifier."""
import gzip
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError, Step, Trace, Verdict
from reasoning_distill.domains import code, legal, medical
from reasoning_distill.domains.code import CODE, CODE_PARTS, code_cases, humaneval_case, mbpp_case, verify_code, worked
from reasoning_distill.domains.domain import (
    GENERAL,
    LONGEST,
    Assessment,
    Case,
    Check,
    Domain,
    Part,
    case_of,
    check_parts,
    judged,
    part_of,
    problem_of,
    prompt_of,
    sections,
    text_of,
    verify_general,
)
from reasoning_distill.domains.legal import LEGAL, check_citations, check_quotations, citations, legal_cases, legal_rates
from reasoning_distill.domains.math import MATH, answer_check, verify_math
from reasoning_distill.domains.medical import MEDICAL, check_advice, check_findings, medical_cases, medical_rates
from reasoning_distill.domains.registry import DOMAINS, domain_of
from reasoning_distill.tasks.arithmetic import arithmetic_task
from reasoning_distill.tasks.benchmarks import read_gsm8k
from reasoning_distill.tasks.generate import generate
from reasoning_distill.templates import target_for
from reasoning_distill.verify.code import Limits
from reasoning_distill.verify.grounding import plant_name, plant_number, rates, strange_names, strangers

STATUSES = ("right", "wrong", "unverifiable")
EGGS = Case("eggs", "Ann has 12 eggs, and Ben twice as many. How many together?", "36")
SAID = "Ben has 12*2 = 24.\nTogether 12+24 = 36.\n#### 36"
TIGHT = Limits(seconds=20, cpu_seconds=5)

# ---------------------------------------------------------------- cases and assessments


def test_a_row_becomes_a_case():
    row = {"id": 7, "question": "?", "answer": 36, "material": "m", "tests": ["assert a", "assert b"], "facts": {"1+1": "2"}}
    assert case_of(row) == Case("7", "?", "36", "m", "assert a\nassert b", {"1+1": "2"})
    assert case_of({"question": "?"}, id="r1") == Case("r1", "?")


@pytest.mark.parametrize("row, said", [
    ({"question": "?"}, "'id'"), ({"id": "a"}, "'question'"), ({"id": "a", "question": " "}, "'question'"), ({"id": "a", "question": 3},
    "'question' is '3'"),
    ({"id": "a", "question": "?", "anwser": "1"}, "'anwser' is unknown"), ({"id": "a", "question": "?", "tests": [1]}, "'tests'"),
    ({"id": "a", "question": "?", "answer": True}, "'answer' is 'True'"), ({"id": "a", "question": "?", "answer": None}, "'answer' is 'None'"),
    ({"id": "a", "question": "?", "facts": {"a": 1}}, "'facts'"), ({"id": "a", "question": "?", "facts": []}, "'facts'")])
def test_a_bad_row_is_refused_in_one_line(row, said):
    with pytest.raises(InputError) as e: case_of(row)
    assert said in str(e.value) and "\n" not in str(e.value)


def test_problem_and_prompt_show_the_material_and_never_the_answer():
    case = Case("c", "Why?", "gold-answer", "the material", "secret tests", {"a": "b"})
    problem = problem_of(case)
    assert "the material" in problem.question and (problem.id, problem.answer, problem.facts) == ("c", "gold-answer", {"a": "b"})
    for domain in DOMAINS.values():
        system, prompt = prompt_of(domain, case.question, case.material)
        assert system == domain.system and prompt.startswith("Why?") and "the material" in prompt and prompt.endswith(domain.instructions)
        assert "gold-answer" not in prompt and "secret" not in prompt
        assert "Material:" not in prompt_of(domain, "Why?")[1]


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.booleans()), max_size=6))
def test_the_status_of_the_whole_keeps_its_rule(found):
    whole = Assessment(tuple(Check(str(i), Verdict(status, reason="r"), must) for i, (status, must) in enumerate(found)))
    must = [status for status, needed in found if needed]
    expected = "wrong" if "wrong" in dict(found) else "right" if must and {*must} == {"right"} else "unverifiable"
    assert whole.status == expected and whole.right == (expected == "right") and bool(whole.reason) != whole.right
    assert whole.verdicts == [c.verdict for c in whole.checks]


def test_a_trace_and_its_text_are_judged_alike():
    trace = Trace("eggs", (Step("Ben has 12*2 = 24."), Step("Together 12+24 = 36.")), "36")
    assert text_of(trace) == SAID and text_of(Trace("eggs", (), "", text="as written")) == "as written"
    assert verify_general(EGGS, trace) == verify_general(EGGS, SAID)


@pytest.mark.parametrize("text, found", [
    ("## Edge cases\nnone at all", "none at all"), ("**Edge cases:** none at all", "none at all"), ("**Edge cases**: none at all", "none at all"),
    ("1. Edge case: none at all", "none at all"), ("EDGE CASES: none at all", "none at all"), ("- Edge cases: none at all", "none at all"),
    ("Edge cases:\n\nnone at all", "none at all"), ("Edge cases:\nOther: none at all", ""), ("Edge cases:", ""), ("Edge cases: none", ""),
    ("The edge cases are none", ""), ("#### edge cases are none", "")])
def test_a_part_is_found_by_its_heading_and_needs_content(text, found):
    assert part_of(text, Part("edge cases", "edge cases?")) == found


def test_parts_that_are_missing_are_named():
    parts = (Part("one", "one"), Part("two", "two", r"\bsecond of all\b"))
    assert check_parts("One: a b\nTwo: c d", parts).right and check_parts("One: a b\nIt is second of all.", parts).right
    missing = check_parts("One: a b", parts)
    assert (missing.status, missing.reason, missing.extracted) == ("wrong", "no two", "one")
    assert check_parts("", parts, missing="unverifiable").status == "unverifiable"
    assert sections("a\nBut: c\nd")[1] == ("but", "c\nd")


def test_a_domain_is_in_range_and_known_by_name():
    assert [(d.name, d.temperature) for d in DOMAINS.values()] == [("general", 0.7), *((n, 0.3) for n in ("math", "code", "legal", "medical"))]
    assert all(domain_of(name).name == name for name in DOMAINS)
    with pytest.raises(InputError, match="choose one of code, general"): domain_of("alchemy")
    with pytest.raises(InputError, match="temperature = 3"): Domain("hot", "", "", verify_general, 3)


@pytest.mark.parametrize("name", DOMAINS)
def test_nothing_is_right_without_something_to_hold_it_against(name):
    "Good traces of which the gold answer, the tests or the outcome are not known."
    law, picture = legal_cases()[0], medical_cases()[0]
    texts = {"general": SAID, "math": SAID, "code": worked("def f(x): return x"), "legal": legal.good_trace(law),
        "medical": medical.good_trace(picture)}
    material = {"legal": law.material, "medical": picture.material}.get(name, "")
    assert DOMAINS[name].verify(Case("open", EGGS.question, material=material), texts[name]).status == "unverifiable"


@pytest.mark.parametrize("reply, status", [("SCORE: 0.9", "right"), ("SCORE: 0.2", "wrong"), ("SCORE: 7", "unverifiable"), ("fine", "unverifiable"),
                                           ("SCORE: 1\nSCORE: 0", "unverifiable"), ("", "unverifiable"), (None, "unverifiable")])
def test_a_judge_decides_only_in_its_format(reply, status):
    asked = []
    found = judged(GENERAL, lambda prompt: asked.append(prompt) or reply).verify(EGGS, SAID)
    assert found.status == status and found.checks[-1].name == "judge" and SAID in asked[0] and EGGS.question in asked[0]
    assert judged(GENERAL, lambda prompt: "SCORE: 1").verify(EGGS, SAID.replace("#### 36", "#### 35")).status == "wrong", "a judge saves nobody"


# ---------------------------------------------------------------- general and mathematics

@pytest.mark.parametrize("text, status", [(SAID, "right"), ("#### 36", "wrong"), (SAID.replace("#### 36", "#### 35"), "wrong"),
                                          (SAID.replace("#### 36", ""), "unverifiable"), ("One.\nTwo.\n#### 36.00", "right")])
def test_general(text, status): assert verify_general(EGGS, text).status == status


@pytest.mark.parametrize("text, status", [
    (SAID, "right"), (SAID.replace("12*2 = 24", "12*2 = 25"), "wrong"), (SAID.replace("#### 36", "#### 37"), "wrong"), ("It is plain.\n#### 36",
    "unverifiable"),
    (SAID.replace("#### 36", ""), "unverifiable"), ("Ben has 12*2 = 24.\nNo, 12*2 = 26.\n#### 36", "wrong")])
def test_mathematics_of_numbers(text, status): assert verify_math(EGGS, text).status == status


LINE = Case("line", "Solve $2x + 3 = 11$.")


@pytest.mark.parametrize("text, status", [("2x = 8\nx = 4\n#### x = 4", "right"), ("2x = 14\nx = 7\n#### x = 7", "wrong"),
    ("2x = 8\nx = 4\n#### x = 5", "wrong"),
                                          ("2x = 8\nx = 4\n#### 4", "unverifiable")])
def test_algebra_is_checked_without_a_gold_answer(text, status): assert verify_math(LINE, text).status == status


def test_a_lost_root_is_not_called_wrong_and_an_invented_one_is():
    roots = Case("roots", "Solve $x^2 - 5x + 6 = 0$ for $x > 2$.", "3")
    assert verify_math(roots, "So x = 2 or x = 3\nAs x > 2, x = 3\n#### 3").status == "unverifiable"
    assert verify_math(roots, "So x = 3 or x = 4\n#### 3").status == "wrong"
    assert answer_check(Case("two", "Solve $x + y = 5$ and $x - y = 1$."), "#### x = 3, y = 2").right


def test_gold_solutions_of_gsm8k_are_never_called_wrong_by_mathematics(real_data):
    rows = read_gsm8k("train", real_data)[32::64]
    found = [verify_math(Case(p.id, p.question, p.answer), p.gold).status for p in rows]
    assert found.count("right") > 0.6*len(rows) and found.count("wrong") <= 0.02*len(rows)


# ---------------------------------------------------------------- code

LARGEST = Case("largest", "Write largest(xs).", tests="assert largest([1, 3, 2]) == 3\nassert largest([]) is None")
GOOD = "def largest(xs): return max(xs, default=None)"


@pytest.mark.parametrize("text, status", [
    (worked(GOOD), "right"), (worked("def largest(xs): return max(xs)"), "wrong"), (worked("def largest(xs: pass"), "wrong"),
    (worked("def other(xs): return 3"), "wrong"), ("I cannot.", "unverifiable"), ("", "unverifiable"), (f"```python\n{GOOD}\n```", "unverifiable"),
    (worked("import os; os._exit(0)"), "wrong"), (worked("import sys; sys.exit(0)"), "wrong"), (worked("x = [0]*10**12"), "wrong")])
def test_programs_are_run(text, status): assert verify_code(LARGEST, text, TIGHT).status == status


def test_a_hostile_program_does_no_harm(tmp_path):
    canary = tmp_path/"canary"
    canary.write_text("alive")
    found = verify_code(LARGEST, worked(f"import os, shutil\nos.remove({str(canary)!r})\nshutil.rmtree({str(tmp_path)!r})"), TIGHT)
    assert found.status == "wrong" and canary.read_text() == "alive"


def test_a_program_without_tests_is_unverifiable():
    assert verify_code(Case("c", "?"), worked(GOOD)).status == "unverifiable"
    assert check_parts(worked(GOOD), CODE_PARTS).right and CODE.parts == CODE_PARTS


ROW = {"task_id": 7, "text": "Double it.", "code": "def twice(x): return 2*x", "test_setup_code": "", "test_list": ["assert twice(2) == 4",
    "assert twice(0) == 0"]}
EVAL = {"task_id": "HumanEval/0", "prompt": "import math\n\ndef root(x):\n    \"\"\"The root.\"\"\"\n", "entry_point": "root",
        "canonical_solution": "    return math.sqrt(x)\n", "test": "def check(candidate):\n    assert candidate(4) == 2"}


def test_rows_of_public_sets_become_cases(tmp_path):
    case = mbpp_case(ROW)
    assert case.id == "mbpp/7" and "assert twice(2) == 4" in case.question and "twice(0)" not in case.question and "twice(0)" in case.tests
    assert verify_code(humaneval_case(EVAL), worked("def root(x): return math.sqrt(x)"), TIGHT).right, "imports of the prompt stand before it"
    (tmp_path/"mbpp.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path/"HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(EVAL).encode()))
    assert code_cases(tmp_path, "mbpp") == [case] and code_cases(tmp_path, "humaneval")[0].id == "humaneval/0"


@pytest.mark.parametrize("rows, said", [([ROW, {**ROW, "test_list": []}], "line 2: field 'test_list' is empty"), ([{**ROW, "text": 1}],
    "field 'text' is '1'"),
                                        ([{**ROW, "task_id": None}], "field 'task_id'"), ([{}], "line 1: field 'code'")])
def test_bad_rows_are_named(tmp_path, rows, said):
    (tmp_path/"mbpp.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(InputError, match=said): code_cases(tmp_path, "mbpp")


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(InputError, match="has none of"): code_cases(tmp_path, "humaneval")
    with pytest.raises(InputError, match="choose one of humaneval, mbpp"): code_cases(tmp_path, "apps")
    (tmp_path/"HumanEval.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be unpacked"): code_cases(tmp_path, "humaneval")
    (tmp_path/"HumanEval.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(InputError, match=r"HumanEval.jsonl.gz has 1 bad row"): code_cases(tmp_path, "humaneval")


@pytest.mark.parametrize("name, count", [("mbpp", 974), ("humaneval", 164)])
def test_references_pass_and_fail_once_broken(real_data, name, count):
    "Every 32nd task: a scripted author who knows the reference."
    cases = code_cases(real_data, name)
    assert len(cases) == count == len({c.id for c in cases})
    for case in cases[::32]:
        assert verify_code(case, worked(case.answer), TIGHT).right, case.id
        assert verify_code(case, worked(f"{case.answer}\n\nraise ValueError"), TIGHT).status == "wrong", case.id


# ---------------------------------------------------------------- law and medicine

def held_to(rates, hard):
    beyond = {kind: r for kind, r in rates.items() if "beyond" in kind}
    planted = {kind: r for kind, r in rates.items() if "good" not in kind and kind not in beyond}
    assert rates["good"] == (0, 36) and rates["good, written to be hard"] == (hard, 3)
    assert len(planted) >= 11 and all(found == of == 36 for found, of in planted.values()), planted
    assert beyond and all(found == 0 for found, _ in beyond.values()), "the rubric sees more than it says"


def test_the_rates_of_the_legal_rubric_are_those_measured(): held_to(legal_rates(), hard=2)
def test_the_rates_of_the_medical_rubric_are_those_measured(): held_to(medical_rates(), hard=2)


@pytest.mark.parametrize("cases, material", [(legal_cases(), LEGAL), (medical_cases(), MEDICAL)])
def test_there_are_twelve_cases_with_material_and_outcome(cases, material):
    assert len({c.id for c in cases}) == len({c.question + c.material for c in cases}) == 12 and all(c.answer and c.material for c in cases)
    assert all(c.material in prompt_of(material, c.question, c.material)[1] for c in cases)


LAW = "[Harbour Act s 3] A berth is let for a year.\n[Orlo v Quay 12] A berth that is left empty falls back."


@pytest.mark.parametrize("text, status", [
    ("[Harbour Act s 3]", "right"), ("Harbour Act, § 3(2)", "right"), ("section 3(1)(b) of the Harbour Act", "right"), ("Under Section 3", "right"),
    ("In Orlo vs. Quay (12)", "right"), ("Following Orlo v Quay it falls back", "right"), ("[A berth is let for a year]", "right"),
    ("[Harbour Act s 33]", "wrong"), ("Harbour Act § 4", "wrong"), ("s. 30 Harbour Act", "wrong"), ("Orlo v Quay 13", "wrong"), ("Quay v Orlo",
    "wrong"),
    ("Old Harbour Act s 3", "wrong"), ("section 4", "wrong"), ("[custom of the sea]", "wrong"), ("nothing is cited", "unverifiable"), ("",
    "unverifiable")])
def test_citations(text, status): assert check_citations(text, LAW).status == status


def test_one_citation_has_one_form():
    forms = [*map(citations, ("[Harbour Act s 3]", "section 3 of the Harbour Act", "§ 3 Harbour Act", "The Harbour Act, s. 3(2)"))]
    assert {k for f in forms for k in f} == {"harbour act s 3"}


@pytest.mark.parametrize("text, status", [('"A berth is let for a year"', "right"), ("“a berth that is left Empty”", "right"), ('"so to speak"',
    "right"),
                                          ('"A berth is let for two years"', "wrong"), ('""""', "right")])
def test_quotations(text, status): assert check_quotations(text, LAW).status == status


@pytest.mark.parametrize("text, status", [("[no fever]", "right"), ("[NO  fever]", "right"), ("[fever]", "wrong"), ("[age 17]", "wrong"), ("fever",
    "unverifiable")])
def test_findings(text, status): assert check_findings(text, "no fever\nage 71").status == status


@pytest.mark.parametrize("text, status", [
    ("Take two of them.", "wrong"), ("So:\n- take aspirin", "wrong"), ("The patient should start insulin.", "wrong"), ("5 ml of it", "wrong"),
    ("1.5 mg twice a day", "wrong"), ("I recommend amoxicillin.", "wrong"), ("Take a history.", "right"), ("CRP 12 mg/l", "right"),
    ("It takes two days.", "right"),
    ("One could take a swab.", "right"), ("She had taken 500 mg", "right")])
def test_advice(text, status): assert check_advice(text, "She had taken 500 mg of it").status == status


# ---------------------------------------------------------------- strangers

CLIPS = "Ann sold forty-eight clips in April, and half as many in May. How many in all?"


@pytest.mark.parametrize("text, found", [
    ("In May 48/2 = 24.\nIn all 48 + 24 = 72.", []), ("In June she sold 31.\nIn all 48 + 31 = 79.", ["31"]),
    ("Then <<48+33=81>>81.\nThen <<81-17=64>>64.", ["33", "17"]),
    ("Zoe has 48/2 = 24.", ["Zoe"]), ("So Zoe's are 48/2 = 24.", ["Zoe"]), ("Adding gives 48 + 24 = 72.", []),
    ("On Monday Ann's friends and I count.", []),
    ("", []), ("Forty-eight clips * 12 months = 576.", []), ("48 * 1.5 = 72.", [])])
def test_strangers(text, found): assert strangers(CLIPS, text) == found


def test_what_the_material_gives_is_at_home():
    assert strangers(CLIPS, "Zoe sold 48 + 31 = 79.", "Zoe sold 31.") == [] != strangers(CLIPS, "Zoe sold 48 + 31 = 79.")
    assert strangers("A dozen eggs, three hundred nuts, 20% off, ¾ of it.", "12 * 300 = 3600. 300 * 0.8 = 240. 300 * 0.75 = 225.") == []


@pytest.mark.parametrize("number, said", [("9"*150, "9"*150), ("5.5", "5.5"), ("33.125", "33.125"), ("1234567", "1234567")])
def test_a_stranger_is_told_in_digits(number, said): assert strangers(CLIPS, f"So {number} + 48 = 7.") == [said]


def test_planted_strangers_are_found_in_generated_problems():
    made = [(p.question, target_for(p.gold, "reason", "plain")) for p in generate(arithmetic_task(), "train", 60, seed=1)]
    found = rates(made)
    assert found["gold"][0] == 0
    for what in ("number", "name"): assert found[what][0] >= 0.85*found[what][1], found


def test_planting_changes_the_text_or_says_that_it_cannot():
    rng = random.Random(0)
    assert plant_number(CLIPS, "no step", rng) == "" == plant_name(CLIPS, "no name", rng)
    assert plant_number(CLIPS, "In all <<48+24=72>>72.", rng) != "In all <<48+24=72>>72."


def test_the_rates_on_gsm8k_are_those_measured(real_data):
    rows = read_gsm8k("train", real_data)[::8][::4]
    found = rates([(p.question, p.gold.text) for p in rows])
    (accused, of), (numbers, n), (names, m) = (found[what] for what in ("gold", "number", "name"))
    assert accused/of < 0.06 and numbers/n > 0.88 and names/m > 0.88, found


# ---------------------------------------------------------------- text of any kind

PIECES = ["Complexity:", "## Tests\n", "**Notice**", "[Harbour Act s 3]", "Orlo v Quay 12", "section 3 of the ", "Harbour Act", "#### 36\n", "#### ",
    "\n", "- ", "* ", "x = 2",
          "48/2 = 24. ", "Take ", "mg ", "500", "[", "]", '"', "“", "Ann's ", "Zoe ", "and ", "of ", "A ", "§", "v ", "$", "{", "1. ", " ",
          "```python\n", "½", "\0", "É"]
QUICK = {name: d for name, d in DOMAINS.items() if name in ("general", "legal",
    "medical")}  # the others run what they find, within limits of their own
LAWSUIT = Case("c", "Is it so?", "yes", LAW + "\nno fever")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=200))
def test_no_text_breaks_a_verifier(text):
    for domain in QUICK.values(): assert domain.verify(LAWSUIT, text).status in STATUSES
    check_parts(text, CODE_PARTS)
    assert len({*strangers(text, text)} & {*strange_names(text, text)}) == 0, "what is given is no stranger"
    citations(text)


@pytest.mark.parametrize("piece", [*PIECES, "Aa ", "Aa and ", "s 3 of the Aa ", "a ", "take the ", "one should take a ", "I recommend ", "12 ", "1,",
    "(1)", "****", "__a", "A:\n",
                                   "a-", "twenty-", "three hundred ", "Zz's", "=", "= 1", "not ", "or ", ";"])
def test_text_made_to_be_slow_is_read_at_once(piece):
    text, start = (piece*(LONGEST//len(piece)))[:LONGEST - 1] + "!", time.process_time()
    for domain in QUICK.values(): domain.verify(LAWSUIT, text)
    check_parts(text, CODE_PARTS)
    strangers(text, text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("text", ["x = "*5000, "9**9**9 = 1", "$"*9999, r"\frac{"*900 + " = x", "1/0 = x", "= = =",
    "\n".join(f"x^{k} = {k}" for k in range(60))])
def test_hostile_mathematics_ends_in_time(text):
    start = time.monotonic()
    assert MATH.verify(LINE, text).status in ("wrong", "unverifiable")
    assert time.monotonic() - start < 60


def test_modules_of_the_package_are_not_taken_for_those_of_python():
    import math
    assert math.pi and code.__name__ == "reasoning_distill.domains.code"
