"""`fastgan.inspect_step` finds every planted problem in its line, and raises no false alarm."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
import training_steps
from torch import nn

import fastgan

PLANTED = re.compile(r"planted: (\w+)(?: x(\d+))?")
pytestmark = pytest.mark.usefixtures("one_thread")


def planted_in(source):
    lines, first = inspect.getsourcelines(source)
    return {(kind, first + i): int(n or 1) for i, line in enumerate(lines) for kind, n in PLANTED.findall(line)}


def of(report, file=training_steps.__file__):
    return {(f.kind, f.line): f.count for f in report.findings if f.file == file}


def made(seed=0):
    torch.manual_seed(seed)
    generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    pair = [torch.optim.Adam(m.parameters()) for m in (generator, discriminator)]
    return generator, discriminator, *pair


@pytest.mark.parametrize("codebase", training_steps.CODEBASES)
def test_only_planted_problems_are_found_each_in_its_line(codebase):
    torch.manual_seed(0)
    report = fastgan.inspect_step(codebase())
    planted = planted_in(codebase)
    assert of(report) == planted
    assert len(report.findings) == len(planted)
    waits = sum(n for (kind, _), n in planted.items() if kind == "wait")
    assert bool(report.capture) == bool(waits) and all(str(waits) in reason for reason in report.capture)
    assert report.accelerated is False


LOSSES = {
    "dcgan": {"binary cross-entropy of probabilities"},
    "hifigan": {"least squares against a constant", "L1 of feature maps"},
    "r3gan": {"softplus of differences"},
}
SIZES = {"dcgan": {"width": 0.0625}, "hifigan": {"width": 0.0625, "samples": 1024}, "r3gan": {"width": 0.01}}
thorough = pytest.mark.thorough


@pytest.mark.parametrize(
    "name", ["dcgan", pytest.param("hifigan", marks=thorough), pytest.param("r3gan", marks=thorough)]
)
def test_steps_with_and_without_fastgan(name):
    """The share of unused work in one form of a step is the work that the other form saves."""
    module = importlib.import_module(f"examples.integrations.{name}")
    upstream, less, ours = (
        fastgan.inspect_step(module.Step(use, batch=2, **SIZES[name]))
        for use in ((), ("generator_backward",), tuple(module.FASTGAN))
    )
    assert {f.what for f in upstream.findings if f.kind == "loss"} == LOSSES[name]
    wastes = [f for f in upstream.findings if f.kind == "gradients"]
    assert len(wastes) == (name != "r3gan")  # which freezes the network that does not learn
    for waste in wastes:
        assert round(waste.share * upstream.flops) == upstream.flops - less.flops > 0
        line = Path(module.__file__).read_text().splitlines()[waste.line - 1]
        assert waste.file == module.__file__ and "loss.backward()" in line
    assert not [f for f in less.findings if f.kind in ("gradients", "branch")]
    assert not ours.costs and not ours.capture and not [f for f in ours.findings if f.kind == "loss"]


OWN = {
    "alternating": {},
    "no penalty": {"r1": 0.0},
    "the same samples": {"r1": 0.0, "redraw": False},
    "one-stage": {"step": "one-stage"},
    "relativistic, one-stage": {"step": "one-stage", "objective": "relativistic", "r2": 0.5},
    "in parts": {"accumulate": 2},
    "mmd": {"objective": "mmd"},
}


@pytest.mark.parametrize("settings", OWN.values(), ids=OWN)
def test_no_false_alarm_on_our_own_step(settings):
    generator, discriminator, *_ = made()
    of_d = None if settings.get("objective") == "mmd" else discriminator
    trainer = fastgan.GANTrainer(generator, of_d, latent_dim=3, **settings)
    report = fastgan.inspect_step(trainer.step, torch.randn(16, 2))
    assert report.findings == () and report.capture == () and report.operators > 10 and report.flops > 0


@pytest.mark.parametrize("example", ["own_loop", "vocoder_step", "conditional", "dcgan_dropin"])
def test_no_false_alarm_on_the_examples(example, monkeypatch, capsys):
    """Runs of two steps: the only line with a cost is the one that prints."""
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", [example, "--steps", "2"])
    module = importlib.import_module(f"examples.{example}")
    report = fastgan.inspect_step(module.main)
    lines = Path(module.__file__).read_text().splitlines()
    assert report.costs and all(f.kind == "wait" and "print(" in lines[f.line - 1] for f in report.costs)


MASK = torch.tensor([True, False, True])
WAITS = {
    ".item()": lambda t: t.sum().item(),
    "float()": lambda t: float(t[0]),
    "int()": lambda t: int(t[0]),
    "bool()": lambda t: 1 if t[0] > 0 else 2,
    "format()": lambda t: f"{t[0]:.3f}",
    "repr()": lambda t: str(t),
    ".tolist()": lambda t: t.tolist(),
    ".cpu()": lambda t: t.cpu(),
    '.to("cpu")': lambda t: t.to("cpu"),
    ".numpy()": lambda t: t.numpy(),
    "numpy.asarray()": lambda t: __import__("numpy").asarray(t),
    "indexing with a boolean mask": lambda t: t[MASK],
    "nonzero()": lambda t: t.nonzero(),
    "masked_select()": lambda t: t.masked_select(MASK),
    "unique()": lambda t: t.unique(),
    "torch.equal()": lambda t: torch.equal(t, t + 1),
    "a slice whose bounds are tensors": lambda t: t[: MASK.sum()],
    "repeat_interleave() without output_size": lambda t: t.repeat_interleave(MASK.long()),
}


@pytest.mark.parametrize("name", WAITS)
def test_every_call_that_waits(name):
    report = fastgan.inspect_step(lambda t: [WAITS[name](t)], torch.ones(3))
    (wait,) = report.findings
    assert (wait.kind, wait.cost, wait.what, wait.file) == ("wait", True, name, __file__)
    assert wait.line == WAITS[name].__code__.co_firstlineno


HARMLESS = {
    "where": lambda t: torch.where(t > 0, t, 0.0),
    "masked_fill": lambda t: t.masked_fill(MASK, 0.0),
    "a mask that is filled": lambda t: t.clone().__setitem__(MASK, 0.0),
    "whole numbers as indices": lambda t: t[torch.arange(2)],
    "to its own device": lambda t: t.to(t.device),
    "one_hot": lambda t: nn.functional.one_hot(torch.arange(3), 4),
    "clip": lambda t: nn.utils.clip_grad_norm_([nn.Parameter(t)], 1.0),
    "median": lambda t: t.median(),
    "shape": lambda t: t.shape[0] + len(t) + t.numel(),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_calls_that_do_not_wait(name):
    assert fastgan.inspect_step(HARMLESS[name], torch.ones(3)).findings == ()


def test_a_tensor_of_host_numbers_is_a_note():
    (note,) = fastgan.inspect_step(lambda: torch.tensor([1.0, 2.0])).findings
    assert (note.kind, note.cost, note.what) == ("copy", False, "torch.tensor()")


def frozen_d(g, d, opt_g, opt_d):
    d.requires_grad_(False)
    d(g(torch.ones(4, 3))).mean().backward()
    opt_g.step()
    opt_g.zero_grad()
    d.requires_grad_(True)
    d(torch.ones(4, 2)).mean().backward()
    opt_d.step()
    opt_d.zero_grad()


def used_in_the_next_step(g, d, opt_g, opt_d):
    """The optimizer steps first, on the gradients of the previous call."""
    opt_d.step()
    d.zero_grad()
    d(torch.ones(4, 2)).mean().backward()


def zeroed_in_place(g, d, opt_g, opt_d):
    opt_d.zero_grad(set_to_none=False)
    d(torch.ones(4, 2)).mean().backward()
    opt_d.step()


def accumulated(g, d, opt_g, opt_d):
    for part in torch.ones(2, 4, 2):
        d(part).mean().backward()
    opt_d.step()
    opt_d.zero_grad()


def double_backward(g, d, opt_g, opt_d):
    x = torch.ones(4, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    opt_d.zero_grad()
    slope.square().sum().backward()
    opt_d.step()


@pytest.mark.parametrize("step", [frozen_d, used_in_the_next_step, zeroed_in_place, accumulated, double_backward])
def test_gradients_that_are_used_are_not_reported(step):
    assert fastgan.inspect_step(step, *made()).costs == ()


def wasted_in_place(g, d, opt_g, opt_d):
    opt_d.zero_grad(set_to_none=False)
    d(torch.ones(4, 2)).mean().backward()
    opt_d.step()
    opt_g.zero_grad(set_to_none=False)
    d(g(torch.ones(4, 3))).mean().backward()  # planted: gradients
    opt_g.step()


def not_detached(g, d, opt_g, opt_d):
    opt_d.zero_grad()
    d(g(torch.ones(4, 3))).mean().backward()  # planted: gradients
    opt_d.step()
    opt_g.zero_grad()
    fastgan.generator_backward(d(g(torch.ones(4, 3))).mean(), g)
    opt_g.step()


def never_learns(g, d, opt_g, opt_d):
    opt_g.zero_grad()
    d(g(torch.ones(4, 3))).mean().backward()  # planted: gradients
    opt_g.step()


ADVICE = {wasted_in_place: "generator_backward", not_detached: "detach", never_learns: "requires_grad_(False)"}


@pytest.mark.parametrize("step", ADVICE)
def test_gradients_that_nothing_uses_are_reported(step):
    report = fastgan.inspect_step(step, *made())
    (waste,) = report.costs
    assert {(waste.kind, waste.line): 1} == planted_in(step)
    assert ADVICE[step] in waste.advice and 0 < waste.share < 1 and "4 weights of Sequential" in waste.what


def test_a_generator_whose_graph_is_not_used():
    def step(g, d, opt_g, opt_d):
        fake = g(torch.ones(4, 3))  # planted: graph
        opt_d.zero_grad()
        d(fake.detach()).mean().backward()
        opt_d.step()
        with torch.no_grad():
            g(torch.ones(4, 3))

    report = fastgan.inspect_step(step, *made())
    assert of(report, __file__) == planted_in(step) and "no_grad" in report.costs[0].advice


def test_a_loss_scale():
    scaler = torch.amp.GradScaler("cpu")

    def step(g, d, opt_g, opt_d):
        opt_d.zero_grad()
        scaler.scale(d(torch.ones(4, 2)).mean()).backward()
        scaler.step(opt_d)  # planted: wait
        scaler.update()

    report = fastgan.inspect_step(step, *made())
    assert of(report, __file__) == planted_in(step)
    assert any("GradScaler" in reason for reason in report.capture)


def test_inspection_only_runs_two_steps():
    """Weights, states and random numbers are those of two plain steps; no hook and no mode remains."""

    def step(g, d, opt_g, opt_d):
        fake = g(torch.randn(4, 3))
        opt_d.zero_grad()
        d(fake.detach()).mean().backward()
        opt_d.step()
        opt_g.zero_grad()
        d(fake).mean().backward()
        opt_g.step()

    watched, plain = made(), made()
    torch.manual_seed(1)
    fastgan.inspect_step(step, *watched)
    after = torch.rand(3)
    torch.manual_seed(1)
    step(*plain), step(*plain)
    assert torch.equal(after, torch.rand(3))
    for a, b in zip(watched[:2], plain[:2]):
        for p, q in zip(a.parameters(), b.parameters()):
            assert torch.equal(p, q) and torch.equal(p.grad, q.grad) and p.requires_grad
    again = fastgan.inspect_step(step, *watched)
    assert [f.count for f in again.findings] == [f.count for f in fastgan.inspect_step(step, *watched).findings]


def test_an_error_of_the_step_is_raised_and_the_next_inspection_works():
    calls = []

    def step(t):
        calls.append(t.sum())
        if len(calls) == 2:
            raise KeyError("mine")
        return t.sum().item()

    with pytest.raises(KeyError, match="mine"):
        fastgan.inspect_step(step, torch.ones(3))
    (wait,) = fastgan.inspect_step(lambda t: t.sum().item(), torch.ones(3)).findings
    assert wait.count == 1
    with pytest.raises(TypeError, match="step: got Tensor"):
        fastgan.inspect_step(torch.ones(3))


@pytest.mark.gpu
def test_on_a_gpu():
    """Tensors on the host do not wait; unused gradients are reported in the line of the backward pass."""
    generator, discriminator = (m.cuda() for m in made()[:2])
    optimizers = [torch.optim.Adam(m.parameters()) for m in (generator, discriminator)]
    on_host, z = torch.ones(3), torch.randn(4, 3, device="cuda")

    def step():
        on_host.sum().item()
        label = torch.tensor([1.0], device="cuda")  # planted: copy
        fake = generator(z)
        optimizers[1].zero_grad()
        discriminator(fake.detach()).mean().backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        loss = discriminator(fake).mean() * label
        loss.sum().backward()  # planted: gradients
        optimizers[0].step()
        loss.cpu()  # planted: wait
        loss.to("cpu")  # planted: wait
        bool(loss > 0)  # planted: wait
        return loss[loss > 0]  # planted: wait

    report = fastgan.inspect_step(step)
    assert of(report, __file__) == planted_in(step) and report.accelerated
    assert len([reason for reason in report.capture if "Adam is not capturable" in reason]) == 2
    assert "copies from the host" in report.capture


@pytest.mark.parametrize("way", ["function", "method"])
@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_advice_for_a_compiled_network(way):
    """`generator_backward` would save nothing: for autograd a compiled network is one node."""
    generator, discriminator, optimizer_g, optimizer_d = made()
    if way == "function":
        discriminator = torch.compile(discriminator, backend="eager")
    else:
        discriminator.compile(backend="eager")

    def step():
        optimizer_d.zero_grad()
        discriminator(torch.ones(3, 2)).mean().backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        discriminator(generator(torch.ones(3, 3))).mean().backward()
        optimizer_g.step()

    (finding,) = fastgan.inspect_step(step).findings
    assert finding.kind == "gradients" and "requires_grad_(False) before it is called" in finding.advice
