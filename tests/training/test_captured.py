"""`fastgan.capture`. On a CPU: the plain step, with the reason; rehearsals and optimizers are restored. On a GPU: the
captured step gives the uncaptured one's numbers to the bit."""

import contextlib
import random
import threading
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import fastgan
from fastgan.training import capture as graphs
from fastgan.training import captured as room
from fastgan.training.capture import drawn_from, host_numbers, state_restored
from fastgan.training.captured import ZERO_STATE_OPTIMIZERS, detached, make_capturable, why_not_capturable

pytestmark = pytest.mark.usefixtures("one_thread")
N, LATENT = 8, 3


class Loop:
    """A user's training loop: its step, and the state that the step changes."""

    def __init__(self, device="cpu", optimizer=torch.optim.Adam, wrap=None, dtype=None, generator=None, **settings):
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(LATENT, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).to(device)
        hidden = [nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Dropout(0.1), nn.Linear(8, 1)]
        self.discriminator = nn.Sequential(*hidden).to(device)
        self.average = nn.Linear(2, 2).to(device).requires_grad_(False)  # changed in place, but not by an optimizer
        pair = (self.generator, self.discriminator)
        self.networks = [*pair, self.average]
        self.optimizers = [optimizer(m.parameters(), **{"lr": 1e-2, **settings}) for m in pair]
        self.wrap, self.random, self.calls, self.dues = wrap, generator, 0, []
        self.scaler = torch.amp.GradScaler("cuda") if dtype is torch.float16 else None
        self.cast = lambda: torch.autocast(str(device).split(":")[0], dtype, dtype is not None, cache_enabled=False)

    def learn(self, player, loss):
        of, optimizer = (self.generator, self.discriminator)[player], self.optimizers[player]
        optimizer.zero_grad()
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        torch.autograd.backward(scaled, inputs=list(of.parameters()))
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)

    def step(self, real, due=False):
        self.calls += 1
        self.dues.append(due)
        z = torch.randn(len(real), LATENT, generator=self.random, device=real.device)
        with self.cast():
            fake = self.generator(z)
            logits = self.discriminator(real), self.discriminator(fake.detach())
        loss_d = fastgan.discriminator_loss(*logits)
        penalty = fastgan.r1_penalty(self.discriminator, real, gamma=2.0) if due else loss_d.new_zeros(())
        self.learn(1, loss_d + penalty)
        with self.cast():
            loss_g = fastgan.generator_loss(self.discriminator(fake))
        self.learn(0, loss_g)
        if self.scaler is not None:
            self.scaler.update()
        with torch.no_grad():
            self.average.weight.lerp_(real.float().T @ real.float() / len(real), 0.1)
        if self.wrap:
            self.wrap(loss_g)
        return {"loss_d": loss_d, "parts": [loss_g, (penalty,)]}

    def state(self):
        found = {f"{i}.{k}": v for i, m in enumerate(self.networks) for k, v in m.state_dict().items()}
        for i, o in enumerate(self.optimizers):
            of_weights = [o.state[p] for group in o.param_groups for p in group["params"] if p in o.state]
            found |= {f"optimizer {i}.{j}.{k}": v for j, one in enumerate(of_weights) for k, v in one.items()}
        return {k: v.clone() for k, v in found.items() if v is not None}

    def captured(self, *inputs, **options):
        return fastgan.capture(
            self.step, *inputs, networks=self.networks, optimizers=self.optimizers, scaler=self.scaler, **options
        )


def batches(count, device="cpu", n=N):
    random_numbers = torch.Generator().manual_seed(5)
    return [torch.randn(n, 2, generator=random_numbers).to(device) for _ in range(count)]


def numbers(values):
    return [v.item() for v in (values["loss_d"], values["parts"][0], values["parts"][1][0])]


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert not [k for k in a if not torch.equal(a[k], b[k])]


# ---- on a CPU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [None, 1, 3])
def test_on_a_cpu_it_is_the_plain_step_with_the_reason(every):
    ours, plain = Loop(), Loop()
    real = batches(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = ours.captured(real[0], every=every)
    assert fast.reason == "CUDA graphs are for GPUs, and the networks are on cpu"
    assert ours.calls == 0 and not any(o.state for o in ours.optimizers)
    assert all(type(g["lr"]) is float and not g["capturable"] for o in ours.optimizers for g in o.param_groups)
    due = [every is not None and i % every == 0 for i in range(7)]
    torch.manual_seed(1)
    got = [numbers(fast(x)) for x in real]
    torch.manual_seed(1)
    assert got == [numbers(plain.step(x, d)) for x, d in zip(real, due)]
    assert_same(ours.state(), plain.state())
    assert fast.calls == 7 and ours.dues == due


def test_values_are_detached():
    loop = Loop()
    fast, (real,) = loop.captured(*batches(1)), batches(1)
    values = fast(real)
    assert list(values) == ["loss_d", "parts"] and type(values["parts"][1]) is tuple
    assert not any(v.requires_grad for v in (values["loss_d"], values["parts"][0], values["parts"][1][0]))
    assert len(numbers(fast(real[:5]))) == len(numbers(values))  # another batch size runs, too
    assert detached("text") == "text" and detached(None) is None


def test_a_step_without_inputs_and_single_networks():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step():
        optimizer.zero_grad()
        net(torch.ones(3, 2)).mean().backward()
        optimizer.step()
        return net.bias

    before = net.bias.item()
    fast = fastgan.capture(step, networks=net, optimizers=optimizer)
    assert net.bias.item() == before
    assert fast().item() == pytest.approx(before - 0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"step": 3}, TypeError, "step: got int, expected a function"),
        ({"inputs": ["text"]}, TypeError, "inputs: got str, expected tensors"),
        ({"networks": [3]}, TypeError, "networks: got int, expected torch.nn.modules.module.Module"),
        ({"networks": [nn.ReLU()]}, ValueError, "networks: got weights on 0 devices, expected one"),
        ({"networks": [nn.Linear(1, 1), nn.Linear(1, 1, device="meta")]}, ValueError, "on 2 devices"),
        ({"optimizers": [nn.Linear(1, 1)]}, TypeError, "optimizers: got Linear, expected torch.optim"),
        ({"generators": [0]}, TypeError, "generators: got int"),
        ({"every": 0}, ValueError, "every: got 0, expected at least 1"),
        ({"warmup": 0.5}, ValueError, "warmup: got 0.5, expected a whole number"),
    ],
)
def test_bad_arguments(change, error, message):
    loop = Loop()
    asked = {"step": loop.step, "inputs": batches(1), "networks": loop.networks, "optimizers": loop.optimizers} | change
    with pytest.raises(error, match=message):
        fastgan.capture(asked.pop("step"), *asked.pop("inputs"), **asked)
    assert loop.calls == 0
    with pytest.raises(TypeError, match="inputs: got list"):
        loop.captured(*batches(1))([1.0])


@pytest.mark.parametrize("used", [False, True])
def test_a_capture_that_fails_leaves_everything_as_it_was(used, monkeypatch):
    """Here it fails because there is no CUDA; on a GPU a step that waits for the device takes this path."""
    monkeypatch.setattr(room, "_why_not", lambda *_: None)  # as on a GPU
    ours, plain = Loop(), Loop()
    real = batches(4)
    for loop in (ours, plain) if used else ():
        torch.manual_seed(3)
        loop.step(real[0])
    before = ours.state()
    with pytest.warns(UserWarning, match="the step runs uncaptured: "):
        fast = ours.captured(real[0])
    assert fast.reason and "\n" not in fast.reason
    assert_same(ours.state(), before)
    assert all(type(g["lr"]) is float and not g["capturable"] for o in ours.optimizers for g in o.param_groups)
    torch.manual_seed(1)
    got = [numbers(fast(x)) for x in real]
    torch.manual_seed(1)
    assert got == [numbers(plain.step(x)) for x in real]
    assert_same(ours.state(), plain.state())


@pytest.mark.parametrize("optimizer", ZERO_STATE_OPTIMIZERS)
def test_undone_rehearsals_of_optimizers_that_begin_with_zeros(optimizer):
    """After the rehearsals the steps are those of an optimizer that has never stepped."""
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    ours, plain = Loop(optimizer=optimizer, **settings), Loop(optimizer=optimizer, **settings)
    real = batches(4)
    with state_restored(ours.networks, ours.optimizers, []):
        for _ in range(3):
            ours.step(real[0], True)
    torch.manual_seed(1)
    got = [numbers(ours.step(x)) for x in real]
    torch.manual_seed(1)
    assert got == [numbers(plain.step(x)) for x in real]
    assert_same(ours.state(), plain.state())
    assert why_not_capturable(optimizer(nn.Linear(1, 1).parameters(), lr=0.1, **settings)) is None


def test_optimizers_that_cannot_be_captured():
    def of(kind, stepped=False, **settings):
        net = nn.Linear(1, 1)
        optimizer = kind(net.parameters(), lr=0.1, **settings)
        if stepped:
            net(torch.ones(1, 1)).sum().backward()
            optimizer.step(lambda: 0.0)
        return why_not_capturable(optimizer)

    assert of(torch.optim.Adagrad) == "Adagrad cannot be captured: it has no setting `capturable`"
    assert "LBFGS cannot be captured" in of(torch.optim.LBFGS)
    for kind in (torch.optim.NAdam, torch.optim.ASGD, torch.optim.Rprop):
        assert "take one uncaptured step before" in of(kind) and of(kind, stepped=True) is None
    dampened = {"momentum": 0.9, "dampening": 0.5}
    assert "SGD does not begin with zeros" in of(torch.optim.SGD, **dampened)
    assert of(torch.optim.SGD, stepped=True, **dampened) is None and of(torch.optim.SGD, momentum=0.9) is None


def test_scheduled_learning_rates():
    """A rate that a scheduler writes as a number does not reach the graph; one written into a tensor does."""
    for kind, expected in ((torch.optim.SGD, "learning rate of SGD"), (torch.optim.AdamW, None)):
        optimizer = kind(nn.Linear(1, 1).parameters(), lr=0.1)
        other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        of_it, of_other = (torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (optimizer, other))
        assert why_not_capturable(optimizer, [of_other]) is None
        why = why_not_capturable(optimizer, [of_other, of_it])
        assert why is None if expected is None else expected in why


def test_made_capturable_and_back():
    net = nn.Linear(1, 1)
    optimizer = torch.optim.Adam([{"params": [net.weight], "lr": 0.5}, {"params": [net.bias]}], lr=0.25)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    back = make_capturable(optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert [r.item() for r in rates] == [0.5, 0.25] and all(group["capturable"] for group in optimizer.param_groups)
    optimizer.state[net.weight] = {"step": torch.zeros(())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there was no step before
        schedule.step()
    assert [r.item() for r in rates] == [0.25, 0.125]  # in place, so that a graph reads them
    back()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25] and not optimizer.state
    assert not any(group["capturable"] for group in optimizer.param_groups)
    sgd = torch.optim.SGD(net.parameters(), lr=0.5)
    make_capturable(sgd)
    assert type(sgd.param_groups[0]["lr"]) is float


def test_random_numbers_of_the_host():
    network = nn.Linear(1, 1)
    for name, draw in (
        ("Python's random", random.random),
        ("NumPy's random", np.random.rand),
        ("torch's generator of the CPU", lambda: torch.rand(1)),
    ):
        before = host_numbers()
        assert drawn_from(before) == ""
        with state_restored([network], [], []):
            draw()
            assert drawn_from(before) == name
        assert drawn_from(before) == ""


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64])
def test_both_normal_numbers_of_a_pair_are_noticed(kind, request):
    own = np.random.get_bit_generator()
    request.addfinalizer(lambda: np.random.set_bit_generator(own))
    np.random.set_bit_generator(kind(0))
    for _ in range(2):  # NumPy draws two and keeps the second
        before = host_numbers()
        np.random.randn()
        assert drawn_from(before) == "NumPy's random"


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.fixture
def deterministic():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def both(every=None, own_numbers=False, **settings):
    """A captured loop and a plain one with the same optimizers."""
    loops = []
    for _ in range(2):
        generator = torch.Generator("cuda").manual_seed(2) if own_numbers else None
        loops.append(Loop("cuda", generator=generator, **settings))
    ours, plain = loops
    fast = ours.captured(*batches(1, "cuda"), every=every, generators=[ours.random] if own_numbers else ())
    for optimizer in plain.optimizers:
        make_capturable(optimizer)
    assert fast.reason is None
    return ours, fast, plain


MODES = {
    "Adam": {},
    "AdamW, fused": {"optimizer": torch.optim.AdamW, "fused": True},
    "RMSprop": {"optimizer": torch.optim.RMSprop},
    "SGD with momentum": {"optimizer": torch.optim.SGD, "momentum": 0.9},
    "lazy penalty": {"every": 4},
    "penalty in every step": {"every": 1},
    "a generator of its own": {"own_numbers": True},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16, "fused": True},
}


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_captured_steps_are_the_uncaptured_ones_to_the_bit(mode, deterministic):
    every = MODES[mode].get("every")
    ours, fast, plain = both(**MODES[mode])
    calls, real = ours.calls, batches(12, "cuda")
    torch.manual_seed(1)
    got = [numbers(fast(x)) for x in real]
    drawn = torch.rand(3, device="cuda")
    torch.manual_seed(1)
    expected = [numbers(plain.step(x, every is not None and i % every == 0)) for i, x in enumerate(real)]
    assert got == expected and torch.equal(drawn, torch.rand(3, device="cuda"))
    assert_same(ours.state(), plain.state())
    assert ours.calls == calls  # the step's Python code has not run again


@pytest.mark.gpu
def test_a_schedule_reaches_the_captured_step(deterministic):
    ours, fast, plain = both()
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (*ours.optimizers, *plain.optimizers)]
    for run in (fast, plain.step):
        torch.manual_seed(1)
        for x in batches(6, "cuda"):
            run(x)
            for schedule in schedules[:2] if run is fast else schedules[2:]:
                schedule.step()
    assert_same(ours.state(), plain.state())


@pytest.mark.gpu
def test_batches_on_the_host_and_of_another_size(deterministic):
    ours, fast, plain = both()
    sizes = [N, N, 5, N]
    real = [x[:n] for x, n in zip(batches(4), sizes)]
    torch.manual_seed(1)
    got = [fast(x.pin_memory() if i % 2 else x) for i, x in enumerate(real)]
    assert got[0]["loss_d"] is got[1]["loss_d"] is got[3]["loss_d"] and got[2]["loss_d"] is not got[0]["loss_d"]
    torch.manual_seed(1)
    expected = [numbers(plain.step(x.cuda())) for x in real]
    assert numbers(got[3]) == expected[3] and numbers(got[2]) == expected[2]
    assert_same(ours.state(), plain.state())


@pytest.mark.gpu
def test_a_captured_step_does_not_synchronise():
    _, fast, _ = both(every=2)
    real = batches(4, "cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for x in real:
            fast(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_random_numbers_of_the_host_are_not_captured():
    loop = Loop("cuda", wrap=lambda loss: random.random())
    with pytest.warns(UserWarning, match="draws from Python's random"):
        fast = loop.captured(*batches(1, "cuda"))
    assert fast.reason == "the step draws from Python's random, which a graph would repeat"
    fast(*batches(1, "cuda"))


@pytest.mark.gpu
@pytest.mark.capture_fails
@pytest.mark.parametrize("settings", [{}, {"dtype": torch.float16}, {"own_numbers": True}])
def test_a_step_that_waits_runs_uncaptured_with_the_reason(settings, deterministic):
    settings = dict(settings)
    own = settings.pop("own_numbers", False)
    generators = [torch.Generator("cuda").manual_seed(2) if own else None for _ in range(2)]
    ours, plain = (Loop("cuda", wrap=torch.Tensor.item, generator=g, **settings) for g in generators)
    before = ours.state()
    with pytest.warns(UserWarning, match="the step runs uncaptured: "):
        fast = ours.captured(*batches(1, "cuda"), generators=[ours.random] if own else ())
    assert fast.reason and "\n" not in fast.reason
    assert_same(ours.state(), before)
    torch.manual_seed(1)
    got = [numbers(fast(x)) for x in batches(4, "cuda")]
    torch.manual_seed(1)
    assert got == [numbers(plain.step(x)) for x in batches(4, "cuda")]
    assert_same(ours.state(), plain.state())


def test_a_capture_that_fails_restores_the_random_state_of_the_host(monkeypatch):
    """The uncaptured run draws the numbers that were drawn during the capture."""
    for name in ("Stream", "current_stream", "stream", "graph_pool_handle", "CUDAGraph"):  # as if there were a GPU
        monkeypatch.setattr(torch.cuda, name, mock.MagicMock())
    monkeypatch.setattr(graphs, "capturing", lambda *_: contextlib.nullcontext())
    before = random.getstate()
    with pytest.raises(RuntimeError, match="draws from Python's random"):
        graphs.Graphs(
            lambda _: random.random(), [], torch.device("cuda"), [None], [], contextlib.nullcontext(), rehearsals=0
        )
    assert random.getstate() == before


def test_other_threads_may_use_cuda_during_a_capture(monkeypatch):
    """In PyTorch's default mode their calls, such as pinning memory, would end the capture."""
    asked = {}
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda _, **options: contextlib.nullcontext(asked.update(options)))
    with graphs.capturing(None, (), None):
        pass
    assert asked["capture_error_mode"] == "thread_local"


@pytest.mark.gpu
def test_another_thread_may_pin_memory_during_a_capture():
    stop, pinned, wrong = threading.Event(), [], []

    def pin():
        try:
            while not stop.is_set():
                pinned.append(torch.empty(2**16, dtype=torch.uint8).pin_memory())  # kept: each needs a new block
        except RuntimeError as error:
            wrong.append(error)

    thread = threading.Thread(target=pin)
    thread.start()
    _, fast, _ = both()
    stop.set()
    thread.join()
    assert fast.reason is None and not wrong
