"""The sandbox of the code verifier: real solutions pass, broken ones fail, and hostile programs do no harm.

Hostile programs end by themselves after some seconds or gigabytes, so that a sandbox that fails this test does not take the machine with it.
"""
import ast
import gzip
import json
import os
import platform
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from reasoning_distill.core import InputError
from reasoning_distill.verify import code
from reasoning_distill.verify.code import (
    GUESTS,
    LONGEST,
    Limits,
    check_code,
    choose_isolation,
    extract_program,
    humaneval_job,
    mbpp_job,
    missing,
    run_program,
    run_programs,
)

room = pytest.mark.skipif(bool(missing("bubblewrap")), reason=f"bubblewrap does not work here: {missing('bubblewrap')}")
plain = pytest.mark.skipif(bool(missing("limits")), reason=f"process limits do not hold here: {missing('limits')}")
TIGHT = Limits(seconds=4, cpu_seconds=2, memory=2**27, processes=4, output=2**18, disk=2**23)
SLACK = 2**30  # bytes of memory that the rest of the machine may take meanwhile
SOLVED = "assert answer() == 42"
UNSOLVED = "assert answer() == 43  # TESTS-ARE-SECRET"


# ---------------------------------------------------------------- what must stay as it is

class Machine:
    "Canaries, ears and counts: what a program that got out would touch."

    def __init__(self, folder):
        self.folder, self.token = folder, secrets.token_hex(12)
        self.canaries = [place/f"canary-{self.token}" for place in (folder, Path.home(), ROOT)]
        for canary in self.canaries: canary.write_text(f"secret {self.token}")
        self.held = os.open(self.canaries[0], os.O_RDWR)
        os.set_inheritable(self.held, True)
        self.tcp, self.udp, self.path, self.abstract = (socket.socket(family, kind) for family, kind in (
            (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_STREAM),
            (socket.AF_UNIX, socket.SOCK_STREAM)))
        self.ears = (self.tcp, self.udp, self.path, self.abstract)
        for ear, at in zip(self.ears, (("127.0.0.1", 0), ("127.0.0.1", 0), str(folder/"s"), f"\0{self.token}"), strict=True):
            ear.bind(at)
            ear.setblocking(False)
            if ear is not self.udp: ear.listen()
        self.before, self.marks = {*processes()}, [mark(c) for c in self.canaries]
        self.free, self.crowd, self.least, self.most, self.done = available(), len(processes()), available(), 0, threading.Event()
        self.sampler = threading.Thread(target=self.sample, daemon=True)
        self.sampler.start()

    def sample(self):
        while not self.done.wait(0.02):
            self.least, self.most = min(self.least, available()), max(self.most, len(processes()))

    def names(self, places=None):
        "Where things are, as the hostile program is told; `places` are those it tries to write to."
        column, _, clone = code.MACHINES.get(platform.machine(), (0, 0, 0))
        known = {"HOME": str(Path.home()), "PROJECT": str(ROOT), "FOLDER": str(self.folder), "PREFIX": sys.base_prefix, "PID": os.getpid(),
                 "TOKEN": self.token[::-1], "TCP": self.tcp.getsockname()[1], "UDP": self.udp.getsockname()[1], "HELD": self.held,
                 "DISK": os.stat(ROOT).st_dev,
                 "NUMBERS": {n: v[column] for n, v in code.CALLS.items()} | {"clone": clone, "clone3": 435, "x32": 0x40000000 + 39},
                 "PLACES": places or ["/", str(Path.home()), str(ROOT), str(self.folder), sys.base_prefix, f"{sys.base_prefix}/lib", "/usr",
                                      "/usr/lib", "/etc", "/var/tmp", "/dev", "/dev/shm", "/proc", "/run"]}
        return "".join(f"{name} = {value!r}\n" for name, value in known.items()) + HELPERS

    def check(self, run, limits=TIGHT):
        "Nothing got out, nothing is left."
        said = f"{run.stdout}\n{run.error}"
        assert f"secret {self.token}" not in said and self.token not in said, said
        assert not [line for line in said.split("\n") if line.startswith("OUT ")], said
        assert [mark(c) for c in self.canaries] == self.marks
        assert not intruders(self.folder), intruders(self.folder)
        for ear in self.ears:
            try: heard = ear.recv(100) if ear is self.udp else ear.accept()
            except BlockingIOError: heard = None
            assert heard is None, f"{ear} heard {heard}"
        assert not {*children()} - self.before, "a child is left, or its zombie"
        assert not strangers(self.before), strangers(self.before)
        assert self.free - self.least < limits.most + SLACK, f"{(self.free - self.least)/2**20:.0f} MiB of memory were taken"
        assert self.most - self.crowd < limits.processes + 30, f"{self.most - self.crowd} more processes"
        assert run.seconds < limits.seconds + 3

    def close(self):
        self.done.set()
        for ear in self.ears: ear.close()
        os.close(self.held)
        for path in (*self.canaries, *intruders(self.folder)): path.unlink(missing_ok=True)


def mark(path): return path.exists() and (path.read_text(), path.stat().st_mode, path.stat().st_nlink, path.stat().st_mtime_ns, path.stat().st_uid)
def processes(): return [int(name) for name in os.listdir("/proc") if name.isdigit()]
def available(): return 1024*int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])


def intruders(folder):
    places = (folder, Path.home(), ROOT, Path(sys.base_prefix), Path(sys.base_prefix, "lib"), Path("/"), Path("/usr"), Path("/usr/lib"), Path("/etc"),
              Path("/tmp"), Path("/dev/shm"), Path("/var/tmp"))
    return [path for place in places if place.is_dir() for path in place.glob("intruder*")]


def strangers(before):
    "Processes that are new and either were started by the verifier or live in another process namespace."
    found = []
    for pid in {*processes()} - before:
        try:
            line, owner = Path(f"/proc/{pid}/cmdline").read_bytes(), os.stat(f"/proc/{pid}").st_uid
            if " Z " in Path(f"/proc/{pid}/stat").read_text() and parent(pid) == 1: continue  # dead, and init is about to say so
            outside = os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
        except OSError: continue
        if outside or b"trusted child" in line or owner in GUESTS: found.append((pid, line[:60]))
    return found


def parent(pid): return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
def children(): return [pid for pid in processes() if Path(f"/proc/{pid}").exists() and parent(pid) == os.getpid()]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    found = Machine(tmp_path)
    monkeypatch.setenv("CANARY", f"secret {found.token}")
    yield found
    found.close()


# ---------------------------------------------------------------- programs that try to get out, and end well

HELPERS = '''
import os, sys, time
START, TOKEN = time.time(), TOKEN[::-1]
CANARIES = [f"{place}/canary-{TOKEN}" for place in (FOLDER, HOME, PROJECT)]
def attempt(name, action, *given, quiet=False):
    try: got = action(*given)
    except BaseException as e: return print("no", name, type(e).__name__, str(e)[:60].replace(TOKEN, "..."))
    if not quiet: print("\\nOUT", name, str(got)[:200])
    return got
def show(path): return print("read", path.replace(TOKEN, "..."), open(path, errors="replace").read(3000))
def call(name, *given):
    import ctypes
    if ctypes.CDLL(None, use_errno=True).syscall(NUMBERS[name], *given) == -1: raise OSError(ctypes.get_errno(), name)
    return "succeeded"
def answer(): return 42
'''


def programs(name):
    "The programs of a file, and the outcomes that it expects of each."
    _, *parts = re.split(r"(?m)^#### (.+)$", (Path(__file__).parent/"hostile"/f"{name}.txt").read_text())
    heads = (head.partition(" -> ") for head in parts[::2])
    return {head: (text.strip(), outcomes.split(", ")) for (head, _, outcomes), text in zip(heads, parts[1::2], strict=True)}


SNEAKS, BRUTES, LIARS, PLAIN = map(programs, ("sneaks", "brutes", "liars", "plain"))


@room
@pytest.mark.parametrize("name", SNEAKS)
def test_a_program_that_tries_to_get_out_stays_in_and_passes_its_tests(machine, name):
    "It is expected to pass: so it is known to have run to its end, and to have tried."
    run = run_program(machine.names() + SNEAKS[name][0], SOLVED, TIGHT, "bubblewrap")
    assert run.outcome == "passed", run
    machine.check(run)


# ---------------------------------------------------------------- programs that take what they can

@room
@pytest.mark.parametrize("name", BRUTES)
def test_a_program_that_takes_what_it_can_is_stopped(machine, name):
    source, outcomes = BRUTES[name]
    limits = Limits(seconds=2, cpu_seconds=1, memory=2**27, processes=4, output=2**14, disk=2**23)
    run = run_program(machine.names() + source, SOLVED, limits, "bubblewrap")
    assert run.outcome in outcomes, run
    assert len(run.stdout) <= limits.output
    machine.check(run, limits)


# ---------------------------------------------------------------- programs that say they passed

@room
@pytest.mark.parametrize("name", LIARS)
def test_a_program_that_says_it_passed_is_not_believed(machine, name):
    tests = "assert len('abc') == 3\nassert abs(-1) == 1\n" + UNSOLVED + "\nassert False"
    run = run_program(machine.names() + LIARS[name][0], tests, TIGHT, "bubblewrap")
    assert run.outcome in ("failed", "exited", "crashed"), run
    assert "TESTS-ARE-SECRET" not in run.stdout
    machine.check(run)


def test_there_are_enough_hostile_programs():
    assert len(SNEAKS) + len(BRUTES) + len(LIARS) >= 90


# ---------------------------------------------------------------- these tests can fail

HARMLESS = ("home folder", "parent's environment", "write everywhere", "connect to the machine", "unix sockets", "symbolic links",
            "a daemon", "a shell")


@pytest.mark.parametrize("name", HARMLESS)
def test_without_isolation_the_same_programs_are_seen_to_get_out(machine, name):
    source = SNEAKS[name][0].replace("\nassert set(os.environ)", "\nassert True or set(os.environ)")
    run = run_program(machine.names([str(machine.folder)]) + source, SOLVED, TIGHT, "none")
    assert run.outcome == "passed", run
    with pytest.raises(AssertionError): machine.check(run)
    time.sleep(3.2 if name == "a daemon" else 0)


# ---------------------------------------------------------------- process limits: what they promise, and no more

@plain
@pytest.mark.parametrize("name", PLAIN)
def test_process_limits_hold(machine, name):
    source, outcomes = PLAIN[name]
    limits, scratch = Limits(seconds=2, cpu_seconds=1, memory=2**27, output=2**14, disk=2**23), folders()
    run = run_program(machine.names() + source, SOLVED, limits, "limits")
    assert run.outcome in outcomes and "OUT" not in run.stdout, run
    assert not strangers(machine.before) and not {*children()} - machine.before
    assert machine.free - machine.least < limits.most + SLACK and machine.most - machine.crowd < 30
    assert run.seconds < limits.seconds + 3 and folders() <= scratch


def folders(): return {*Path(tempfile.gettempdir()).glob("program-*")}


@plain
def test_process_limits_clear_the_environment_and_give_a_scratch_folder(machine):
    program = "import os\nprint(dict(os.environ))\nopen('x', 'w').write('x')\nassert os.listdir('.') == ['x'] and os.getcwd() == os.environ['HOME']"
    run = run_program(program, "pass", TIGHT, "limits")
    assert run.outcome == "passed" and machine.token not in run.stdout, run


# ---------------------------------------------------------------- running

ANYWHERE = next(name for name in ("bubblewrap", "limits", "none") if not missing(name))
EACH = [pytest.param(name, marks=mark) for name, mark in (("bubblewrap", room), ("limits", plain), ("none", ()))]
WRONG = (("def add(a, b): return a*b", "TypeError: can't multiply sequence by non-int of type 'str'"),
         ("def add(a, b): return 4", "AssertionError: assert add('a', 'b') == 'ab'"),
         ("def add(a, b) return 4", "SyntaxError: expected ':' (<program>, line 1), before the tests"),
         ("import nothing_there", "ModuleNotFoundError: No module named 'nothing_there', before the tests"),
         ("x = 1", "NameError: name 'add' is not defined"),
         ("def add(a, b): raise ValueError('\x1b[31mred\\nline')", "ValueError: ?[31mred line"))


@pytest.mark.parametrize("isolation", EACH)
def test_a_right_program_passes_and_a_wrong_one_does_not(isolation):
    tests = "assert add(2, 2) == 4\nassert add('a', 'b') == 'ab'"
    run = run_program("print('über')\ndef add(a, b): return a + b", tests, TIGHT, isolation)
    assert (run.outcome, run.error, run.stdout, run.isolation) == ("passed", "", "über\n", isolation) and 0 < run.seconds < 4
    for program, error in WRONG:
        run = run_program(program, tests, TIGHT, isolation)
        assert (run.outcome, run.error) == ("failed", error)


@pytest.mark.parametrize("isolation", EACH)
def test_what_a_program_prints_is_kept_up_to_the_limit(isolation):
    run = run_program("import sys\nfor i in range(1000): print('line', i)\nsys.stderr.write('e'*1000)", "pass", TIGHT, isolation)
    assert run.outcome == "passed" and run.stdout == "".join(f"line {i}\n" for i in range(1000))
    run = run_program("while True: print('x'*99)", "pass", Limits(seconds=4, output=1000), isolation)
    assert run.outcome == "output limit" and run.stdout == ("x"*99 + "\n")*10


LIBRARY = """from __future__ import annotations
import asyncio, collections, dataclasses, datetime, decimal, enum, fractions, functools, heapq, itertools, json, math, pickle, random, re, typing
@dataclasses.dataclass
class P:
    x: int
async def g(x): return x
def f(x): return asyncio.run(g(pickle.loads(pickle.dumps(P(x))).x))
"""


def test_the_standard_library_works():
    run = run_program(LIBRARY, "assert f(3) == 3", TIGHT, ANYWHERE)
    assert run.outcome == "passed", run


def test_texts_of_any_kind_are_run_and_not_tripped_over():
    for program in ("", "\0", "\ud800", "x = '\ud800'", "é = 1", "\r\n", "x = 1\r\ny = 2\r\n", "# " + "x"*10**6, "'''"):
        assert run_program(program, "pass", TIGHT, ANYWHERE).outcome in ("passed", "failed")
    assert run_program("x = 1", "assert x ==", TIGHT, ANYWHERE).outcome == "tests broken"


def test_time_limits_hold_in_threads():
    start, found = time.monotonic(), []
    def loop(): found.append(run_program("while True: pass", "pass", Limits(seconds=1), ANYWHERE))
    threads = [threading.Thread(target=loop) for _ in range(3)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert [(r.outcome, r.seconds < 3) for r in found] == [("time limit", True)]*3 and time.monotonic() - start < 10


def test_many_programs_keep_their_order_and_leave_nothing_open():
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    jobs = [(f"import time; time.sleep({(7 - i) % 3/20}); x = {i}", f"assert x == {i} and {i} % 3") for i in range(12)]
    runs = run_programs(jobs, TIGHT, ANYWHERE, workers=3)
    assert [r.outcome for r in runs] == ["passed" if i % 3 else "failed" for i in range(12)]
    assert before == (len(os.listdir("/proc/self/fd")), threading.active_count())
    assert run_programs([], TIGHT, ANYWHERE) == []


@room
def test_two_programs_at_once_do_not_share_their_limits():
    "Processes are counted for each program, not for all of them."
    program = "import os, time\nfor _ in range(3):\n    if os.fork() == 0: time.sleep(0.7); os._exit(0)\ntime.sleep(0.7)"
    runs = run_programs([(program, "pass")]*4, Limits(seconds=8, processes=4), "bubblewrap", workers=4)
    assert [r.outcome for r in runs] == ["passed"]*4, runs


@room
def test_it_dies_with_its_parent():
    "A killed experiment leaves no program behind."
    before = {*processes()}
    parent = subprocess.Popen([sys.executable, "-c", "from reasoning_distill.verify.code import *; "
                               "run_program('import time; print(1); time.sleep(60)', 'pass', Limits(seconds=60), 'bubblewrap')"], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not any(os.path.basename(line.split(b"\0")[0]).startswith(b"python") for _, line in strangers(before)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while strangers(before) and time.monotonic() < deadline: time.sleep(0.05)
    assert not strangers(before)


def test_an_isolation_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(code, "missing", lambda name: "" if name == "none" else "not on this machine")
    for isolation in ("auto", "bubblewrap", "limits"):
        with pytest.raises(InputError, match=r"not on this machine.*install bubblewrap.*isolation='none'"):
            run_program("x = 1", "assert x", isolation=isolation)
        verdict = check_code("```python\nx = 1\n```", "assert x == 1", isolation=isolation)
        assert verdict.status == "unverifiable" and "not on this machine" in verdict.reason
    assert choose_isolation("none") == "none"
    monkeypatch.setattr(code, "missing", lambda name: "no" if name == "bubblewrap" else "")
    assert choose_isolation() == "limits"
    with pytest.raises(InputError, match="bubblewrap does not work here"): choose_isolation("bubblewrap")
    with pytest.raises(InputError, match="'docker' is unknown: choose one of auto, bubblewrap"): choose_isolation("docker")


def test_without_bwrap_the_verifier_falls_back_and_says_so(monkeypatch):
    monkeypatch.setattr(code, "which", lambda name: None)
    monkeypatch.setattr(code, "missing", code.missing.__wrapped__)
    assert code.missing("bubblewrap") == "there is no command bwrap"
    if missing("limits"): return
    verdict = check_code("```python\nx = 1\n```", "assert x == 1")
    assert verdict.right and verdict.reason == "passed (isolation: limits)"


@pytest.mark.parametrize("cap", ["AS", "NPROC"])
def test_limits_that_do_not_hold_are_not_called_an_isolation(monkeypatch, cap):
    "The burglar is what decides."
    whole = code._python
    monkeypatch.setattr(code, "_python", lambda *given: [word for word in whole(*given) if not word.startswith(f"{cap}=")])
    for name in ("bubblewrap", "limits"):
        if not missing(name): assert "were to be had" in code.missing.__wrapped__(name)


def test_a_child_that_cannot_start_is_no_verdict_on_the_program(monkeypatch):
    monkeypatch.setattr(code, "LAUNCHER", "raise SystemExit('out of order')")
    run = run_program("x = 1", "assert x", TIGHT, ANYWHERE)
    assert (run.outcome, run.error) == ("not run", "out of order") and code.grade(run).status == "unverifiable"
    monkeypatch.setattr(code, "_python", lambda *given: ["/nowhere/python"])
    assert run_program("x = 1", "assert x", TIGHT, "none").outcome == "not run"


@pytest.mark.parametrize("field, value", [("seconds", 0), ("memory", 1000), ("processes", 0), ("output", -1), ("disk", -1), ("cpu_seconds", 0)])
def test_limits_that_make_no_sense_are_refused(field, value):
    with pytest.raises(InputError, match=f"{field} = {value} is too small"): Limits(**{field: value})


# ---------------------------------------------------------------- verdicts and extraction

CODE = "def f(x):\n    return x\n"
REPLY = f"Here:\n```python\n{CODE}```"


def test_verdicts_name_the_isolation_and_the_reason():
    right = check_code(REPLY, "assert f(1) == 1", TIGHT, ANYWHERE)
    assert right.right and (right.extracted, right.expected, right.reason) == (CODE, "assert f(1) == 1", f"passed (isolation: {ANYWHERE})")
    wrong = check_code(REPLY, "assert f(1) == 3", TIGHT, ANYWHERE)
    assert wrong.status == "wrong" and wrong.reason == f"failed: AssertionError: assert f(1) == 3 (isolation: {ANYWHERE})"
    assert check_code("```python\ndef g(x): return f(x)*2\n```", "assert g(1) == 2", TIGHT, ANYWHERE, before=CODE).right


@pytest.mark.parametrize("reply, tests, reason", [
    ("I cannot.", "assert f(1) == 1", "no program"), (REPLY, "", "no tests"), (REPLY, "\n  # none\n", "no tests"),
    (REPLY, "assert f(", "tests broken")])
def test_what_was_not_tested_is_unverifiable(reply, tests, reason):
    found = check_code(reply, tests, TIGHT, ANYWHERE)
    assert found.status == "unverifiable" and reason in found.reason


@pytest.mark.parametrize("reply, program", [
    (f"```python\n{CODE}```", CODE), (f"```\n{CODE}```", CODE), (f"text\n~~~py\n{CODE}~~~\ntext", CODE), (f"```Python\r\n{CODE}```", CODE),
    (f"````\n{CODE}````", CODE), (f"``` {{.python .numberLines}}\n{CODE}```", CODE), (f"```python\n{CODE}", CODE),
    ("1. So:\n\n   ```python\n   def f(x):\n       return x\n   ```", CODE),
    (f"```text\nnothing\n```\n```python\n{CODE}```\n```bash\nrm -rf /\n```", CODE),
    (f"```python\n{CODE}```\nUse:\n```python\nprint(f(input()))\n```", CODE),
    (f"```python\ndef f(x): pass\n```\nNo, rather:\n```python\n{CODE}```", CODE),
    (f"```python\nimport math\n```\n```python\n{CODE}```", f"import math\n\n{CODE}"),
    ("```python\nx = 1\n```\n```python\ny = 2\n```", "y = 2\n"),
    (CODE, CODE), (f"Sure!\n{CODE}It returns x.", CODE), (f"import math\n\n{CODE}\nThat is all.", f"import math\n\n{CODE}"),
    ("@cache\ndef f(x):\n    '''It\nis x.\n    '''\n    return x\nDone.", "@cache\ndef f(x):\n    '''It\nis x.\n    '''\n    return x\n"),
    ("class A:\n    x = 1\n\nA.y = 2\n", "class A:\n    x = 1\n"),
    ("async def f():\n    pass\nLIMIT = 3\nok", "async def f():\n    pass\nLIMIT = 3\n"),
    ("", ""), ("42", ""), ("I would define a class for this.", ""), ("from here we import nothing", ""), ("```bash\nls\n```", ""),
    ("```\n[1, 2]\n```", ""), ("```python\n```", ""), ("x"*(LONGEST + 1), ""), (None, ""), (CODE + "#"*LONGEST, "")])
def test_programs_are_found(reply, program):
    assert extract_program(reply) == program


PIECES = (*"`~\n\t \"'()[]:=@#.,;\\{}x1é\0\ud800", "def f(x):\n", "class A:\n", "import a\n", "from a import b\n",
          "```python\n", "\n```\n", "~~~", "\r\n", "    return x\n")


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=300))
def test_no_reply_breaks_the_extraction(reply):
    program = extract_program(reply)
    assert program == "" or program.endswith("\n") and len(program) <= 2*len(reply) + 2


@pytest.mark.parametrize("end", ["", "`", "x"])
@pytest.mark.parametrize("piece", [*PIECES, "` ", "def f(", "import a as ", "import a.", "from a ", "@a.", "a=", "a:", "'''", '"""\n', "if )  ",
                                   "class A\n", "```python\ndef f():\n", "```python\ndef f():\n```\n", "async ", ") "])
def test_extraction_is_quick_on_text_made_to_be_slow(piece, end):
    start = time.perf_counter()
    for before in ("", "if ", "~~~", "import"): extract_program((before + piece*(LONGEST//len(piece)))[:LONGEST - 1] + end)
    assert time.perf_counter() - start < 8


# ---------------------------------------------------------------- real solutions

def rows(real_data, name):
    path = Path(real_data, name)
    if not path.is_file(): pytest.skip(f"DATA_DIR has no {name}")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.decode().splitlines()]


def broken(program, called):
    "The program with one line broken: the first statement of the tested function asks for a name that is not there."
    with warnings.catch_warnings(action="ignore"): tree = ast.parse(program)  # MBPP has escapes such as '\\d'
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    function = functions[next(word for word in re.findall(r"\w+", called) if word in functions)]
    first = int(isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant) and len(function.body) > 1)
    function.body[first] = ast.Return(ast.Name("nothing_of_that_name", ast.Load()))
    return ast.unparse(ast.fix_missing_locations(tree))


def outcomes(jobs): return [run.outcome for run in run_programs(jobs, Limits(seconds=30, cpu_seconds=20), ANYWHERE)]


def test_humaneval_passes_and_fails_with_a_line_broken(real_data):
    data = rows(real_data, "humaneval/HumanEval.jsonl.gz")
    jobs = [humaneval_job(row) for row in data]
    assert outcomes(jobs) == ["passed"]*164
    assert outcomes([(broken(program, row["entry_point"]), tests) for row, (program, tests) in zip(data, jobs, strict=True)]) == ["failed"]*164


def test_mbpp_passes_and_fails_with_a_line_broken(real_data):
    data = rows(real_data, "mbpp/mbpp.jsonl")
    jobs = [mbpp_job(row) for row in data]
    found = dict(zip((row["task_id"] for row in data), outcomes(jobs), strict=True))
    assert {i: outcome for i, outcome in found.items() if outcome != "passed"} == {} and len(found) == 974
    worse = outcomes([(broken(program, " ".join(row["test_list"])), tests) for row, (program, tests) in zip(data, jobs, strict=True)])
    assert [row["task_id"] for row, outcome in zip(data, worse, strict=True) if outcome != "failed"] == []


@pytest.mark.parametrize("row", [{}, {"prompt": 1}, {"code": "x", "test_setup_code": "", "test_list": "assert"}])
def test_rows_in_another_form_are_refused(row):
    for job in (humaneval_job, mbpp_job):
        with pytest.raises(InputError, match="expected a"): job(row)
