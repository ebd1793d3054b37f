import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from conftest import KINDS, weights

from reasoning_distill.core import InputError
from reasoning_distill.models.losses import lm_loss
from reasoning_distill.models.students import Encoded
from reasoning_distill.online import fit_online
from reasoning_distill.training import FitConfig, fit, optimiser_step, plan_steps, prepared, validation_loss


@pytest.fixture
def examples(make):
    student = make()
    return student.encode(["Ann\n"]*12, [f"#### {'7'*(1 + i*i % 23)}" for i in range(12)])


def weights_after_a_step(student, examples, micro_batch, processes=1):
    optimizer = torch.optim.SGD(student.model.parameters(), lr=1.0)
    value, _ = optimiser_step(student, examples, optimizer, Accelerator(), FitConfig(micro_batch=micro_batch, clip=1e9))
    return value, torch.cat([p.detach().flatten() for p in student.model.parameters()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [1, 5, 7])
def test_micro_batches_give_the_gradient_of_the_whole_batch(make, kind, micro_batch):
    "One denominator for the whole step: 5 leaves a last window of 2, and lengths differ 20-fold."
    student = make(kind)
    examples = student.encode(["Ann\n"]*12, [f"#### {'7'*(1 + i*i % 23)}" for i in range(12)])
    whole, expected = weights_after_a_step(student, examples, 12)
    cut, found = weights_after_a_step(make(kind), examples, micro_batch)
    assert torch.allclose(expected, found, atol=2e-6) and math.isclose(whole, cut, rel_tol=1e-5)


def test_an_examples_weight_counts_in_the_loss_and_in_the_denominator(make, examples):
    doubled = [replace(examples[0], weight=2.0), *examples[1:3]]
    value, found = weights_after_a_step(make(), doubled, 2)
    again, expected = weights_after_a_step(make(), [examples[0], *examples[:3]], 4)
    assert math.isclose(value, again, rel_tol=1e-5) and torch.allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_training_changes_every_weight_and_lowers_the_loss(make, examples, tmp_path, kind):
    student = make(kind)
    before = {n: p.clone() for n, p in student.model.named_parameters()}
    first = validation_loss(student, examples, Accelerator(), FitConfig())
    history = fit(student, examples, examples, FitConfig(tokens=4000, batch_size=4, evaluations=3), 0, tmp_path)
    assert not [n for n, p in student.model.named_parameters() if torch.equal(p, before[n])]
    assert history.best_loss < 0.7*first and history.tokens >= 4000
    assert history.prompt_tokens + history.completion_tokens == history.tokens


def test_the_validation_loss_is_the_mean_over_tokens(make, examples):
    student = make()
    with torch.no_grad(): costs = [lm_loss(student, [e]).item() for e in examples]
    mean = sum(costs)/sum(len(e.completion) for e in examples)
    assert math.isclose(validation_loss(student, examples, Accelerator(), FitConfig(micro_batch=5)), mean, rel_tol=1e-5)
    assert student.model.training


def test_the_weights_with_the_least_validation_loss_are_kept(make, examples, tmp_path):
    other = [Encoded(e.prompt, [7, 8, 9, e.completion[-1]]) for e in examples]  # training makes these worse and worse
    student = make()
    history = fit(student, examples, other, FitConfig(tokens=6000, batch_size=4, evaluations=6, lr=1e-2), 0, tmp_path)
    losses = {p["step"]: p["validation"] for p in history.curve}
    assert history.best_step == min(losses, key=losses.get) != history.step
    student.model.eval()
    assert math.isclose(validation_loss(student, other, Accelerator(), FitConfig()), history.best_loss, rel_tol=1e-5)


def test_the_plan_uses_the_budget_and_every_example_once_an_epoch():
    lengths = [10 + i % 90 for i in range(230)]
    plan = plan_steps(lengths, 3*sum(lengths), 16, seed=4)
    assert sorted(i for b in plan for i in b) == sorted(3*list(range(230)))
    assert sum(lengths[i] for b in plan[:-1] for i in b) < 3*sum(lengths)


def test_bf16_trains(make, examples, tmp_path):
    history = fit(make(), examples, examples, FitConfig(tokens=3000, batch_size=4, evaluations=3, precision="bf16"), 0, tmp_path/"a")
    exact = fit(make(), examples, examples, FitConfig(tokens=3000, batch_size=4, evaluations=3), 0, tmp_path/"b")
    assert history.curve[0]["validation"] != exact.curve[0]["validation"]
    assert math.isclose(history.curve[0]["validation"], exact.curve[0]["validation"], rel_tol=0.05)
    assert history.curve[-1]["validation"] < history.curve[0]["validation"]


@pytest.mark.parametrize("loop", ["fit", "online"])
def test_both_loops_recompute_where_asked_and_leave_the_model_as_it_was(make, examples, tmp_path, loop):
    found, seen = {}, {False: set(), True: set()}
    for recompute in (False, True):
        def loss(student, batch, seen=seen[recompute]):
            seen.add(student.model.is_activation_checkpointing)
            return lm_loss(student, batch)
        student, config, folder = make(), FitConfig(tokens=2000, batch_size=4, evaluations=2, recompute=recompute), tmp_path/str(recompute)
        if loop == "fit": fit(student, examples, examples, config, 0, folder, loss)
        else: fit_online(student, lambda *_: examples, Encoded, examples, config, 0, folder, loss, 3)
        assert not student.model.is_activation_checkpointing
        found[recompute] = weights(student)
    assert seen == {False: {False}, True: {True}} and torch.allclose(found[False], found[True], atol=1e-3)


def test_a_diverging_loss_stops_with_one_line(make, examples, tmp_path):
    with pytest.raises(InputError, match=r"lower lr than 1e\+09"):
        fit(make(), examples, examples, FitConfig(tokens=50_000, lr=1e9, clip=1e12), 0, tmp_path)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize("micro_batch, advice", [(4, "set fit.micro_batch to 2, which changes no gradient"), (1, "set fit.recompute to true")])
def test_what_does_not_fit_is_told_with_what_makes_it_less(make, tmp_path, error, micro_batch, advice):
    def loss(*_): raise error
    examples = make().encode(["Ann has "]*8, [f"{i} eggs." for i in range(8)])
    with pytest.raises(InputError, match=f"out of memory at {micro_batch} examples of up to [0-9]+ tokens in a forward pass: {advice}"):
        fit(make(), examples, examples, FitConfig(tokens=500, micro_batch=micro_batch), 0, tmp_path, loss)


def test_other_failures_are_not_called_a_want_of_memory(make, tmp_path):
    def loss(*_): raise RuntimeError("shapes do not match")
    examples = make().encode(["Ann has "]*8, [f"{i} eggs." for i in range(8)])
    with pytest.raises(RuntimeError, match="shapes do not match"): fit(make(), examples, examples, FitConfig(tokens=500), 0, tmp_path, loss)


RUN = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from reasoning_distill import training
from reasoning_distill.models.students import ModelConfig, build_student
from reasoning_distill.training import FitConfig, fit
torch.set_num_threads(1)
student = build_student(ModelConfig(kind=sys.argv[3], width=32, layers=1), 0, texts=["Ann has 7 eggs."]*5)
examples = student.encode(["Ann has "]*40, [f"{i} eggs." for i in range(40)])
shared = sys.argv[4:] == ["sharded"]
config = FitConfig(tokens=int(sys.argv[2]), batch_size=6, micro_batch=4, evaluations=8, sharded=shared)
held, moments, optimizers, prepared = [], [], [], training.prepared
def size(tensors): return sum((t.to_local() if hasattr(t, "to_local") else t).numel() for t in tensors)
def noted(*given):
    found = prepared(*given)
    optimizers.append(found[1])
    return found

def watch(student):
    held.append(size(student.model.parameters()))
    moments.append(size(state[name] for state in optimizers[-1].state.values() for name in ("exp_avg", "exp_avg_sq")))
    return {}

training.prepared = noted

history = fit(student, examples[:29], examples[29:], config, 0, sys.argv[1], watch=watch)
if PartialState().is_main_process:
    weights = {n: p.detach().clone() for n, p in student.model.named_parameters()}
    found = {"processes": PartialState().num_processes, "history": history.curve, "starts": history.starts, "held": held, "moments": moments}
    torch.save({**found, "weights": weights}, Path(sys.argv[1])/"result.pt")
"""


TWO = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]


def start(folder, tokens, kind="decoder", launcher=(), more=()):
    "A run in a process of its own; what it says goes to a file, since a pipe that nobody reads stops who writes."
    with said_by(folder).open("a") as log:
        return subprocess.Popen([sys.executable, *launcher, folder.parent/"run.py", str(folder), str(tokens), kind, *more], stdout=log, stderr=log,
                                start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def said_by(folder): return folder.parent/f"{folder.name}.log"


def kill_midway(folder, process):
    "As soon as there is a checkpoint."
    while not list(folder.glob("step-*/history.json")):
        assert process.poll() is None, said_by(folder).read_text()[-3000:]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder/"result.pt").exists(), "the run ended before it could be killed"


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    (tmp_path/"run.py").write_text(RUN)
    whole = start(tmp_path/"whole", 60_000)
    kill_midway(tmp_path/"killed", start(tmp_path/"killed", 60_000))
    for name, process in (("whole", whole), ("killed", start(tmp_path/"killed", 60_000))):
        assert process.wait(300) == 0, said_by(tmp_path/name).read_text()[-3000:]
    a, b = (torch.load(tmp_path/name/"result.pt") for name in ("whole", "killed"))
    assert all(torch.equal(p, b["weights"][n]) for n, p in a["weights"].items()) and a["history"] == b["history"]
    assert a["starts"] == [0] and len(b["starts"]) == 2 and b["starts"][1] > 0


def ended(tmp_path, **processes):
    for name, process in processes.items(): assert process.wait(240) == 0, said_by(tmp_path/name).read_text()[-3000:]
    return [torch.load(tmp_path/name/"result.pt") for name in processes]


def check_alike(a, b):
    assert all(torch.allclose(p, b["weights"][n], atol=1e-4) for n, p in a["weights"].items()) and a["weights"].keys() == b["weights"].keys()
    assert all(math.isclose(p["validation"], q["validation"], rel_tol=1e-4) for p, q in zip(a["history"], b["history"], strict=True))


@pytest.mark.parametrize("how", [(), ("sharded",)])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_as_one(tmp_path, kind, how):
    (tmp_path/"run.py").write_text(RUN)
    a, b = ended(tmp_path, one=start(tmp_path/"one", 3000, kind), two=start(tmp_path/"two", 3000, kind, TWO, how))
    assert (a["processes"], b["processes"]) == (1, 2)
    check_alike(a, b)
    size = sum(p.numel() for p in a["weights"].values())
    for name, all_of_it in (("held", size), ("moments", 2*size)):
        assert a[name] == [all_of_it]*8 and len(b[name]) == 8
        assert all(0.45 < n/all_of_it < 0.55 if how else n == all_of_it for n in b[name])


def test_a_killed_run_of_parts_goes_on(tmp_path):
    (tmp_path/"run.py").write_text(RUN)
    kill_midway(tmp_path/"killed", start(tmp_path/"killed", 12_000, "decoder", TWO, ("sharded",)))
    a, b = ended(tmp_path, whole=start(tmp_path/"whole", 12_000), killed=start(tmp_path/"killed", 12_000, "decoder", TWO, ("sharded",)))
    check_alike(a, b)
    assert len(b["starts"]) == 2 and b["starts"][1] > 0


def test_what_this_loop_cannot_do_is_refused(make, examples, tmp_path):
    with pytest.raises(InputError, match="and there is one: start several with torchrun"):
        fit(make(), examples, examples, FitConfig(tokens=3000, sharded=True), 0, tmp_path)
    with pytest.raises(InputError, match="sharded and compiled"): FitConfig(sharded=True, compiled=True)
    for kind in (DistributedType.DEEPSPEED, DistributedType.FSDP):
        with pytest.raises(InputError, match=f"accelerate's {kind.value}: start it with torchrun, and set fit.sharded"):
            prepared(make(), FitConfig(), SimpleNamespace(distributed_type=kind))


@pytest.mark.parametrize("wrong", [dict(tokens=0), dict(lr=0.0), dict(batch_size=-1), dict(weight_decay=-1.0), dict(betas=(2.0, 3.0)),
                                   dict(warmup=2.0), dict(precision="fp8"), dict(evaluations=0)])
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))): FitConfig(**wrong)


def test_compiled_training_is_the_same_training(make, examples, tmp_path):
    found = []
    for compiled in (False, True):
        student = make("decoder")
        history = fit(student, examples, examples, FitConfig(tokens=3000, batch_size=4, evaluations=3, compiled=compiled), 0, tmp_path/str(compiled))
        found.append(([p["validation"] for p in history.curve], weights(student), [*student.model.state_dict()]))
    (plain, ours, names), (quick, theirs, others) = found
    assert quick == pytest.approx(plain, rel=1e-3) and torch.allclose(ours, theirs, atol=2e-3) and names == others
    assert not torch.equal(ours, theirs), "other kernels round otherwise"
