"""The captured step on a GPU: the uncaptured one's numbers to the bit, no synchronisation, constant memory."""

import warnings

import pytest
import torch
from torch import nn
from trainers import assert_same, state_of_parts

from fastgan.networks import build
from fastgan.trainer import GANTrainer, to_numbers
from fastgan.training.capture import capturing
from fastgan.training.captured import make_capturable

pytestmark = pytest.mark.gpu
LATENT, N = 16, 32


class Dropping(nn.Module):
    """Draws from torch's default generator, inside the graph."""

    def __init__(self, discriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x):
        return self.discriminator(nn.functional.dropout(x, 0.1, self.training))


class Reading(Dropping):
    """Waits for the device, which a capture does not allow."""

    def forward(self, x):
        return self.discriminator(x * (1.0 if x.sum().item() < 1e30 else 0.0))


class ReadingForG(Dropping):
    """Waits only in G's step, after D's optimizer has stepped."""

    def forward(self, x):
        return self.discriminator(x * (1.0 if not x.requires_grad or x.sum().item() < 1e30 else 0.0))


def make(wrap=lambda d: d, networks="dcgan", **options):
    torch.manual_seed(0)
    generator, discriminator = build((1, 32, 32), LATENT, 8, networks)
    settings = {"latent_dim": LATENT, "device": "cuda", "r1": 0.0, **options}
    return GANTrainer(generator, wrap(discriminator), **settings)


def data():
    return torch.randint(0, 256, (200, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)).cuda()


def state(trainer):
    return {"random": trainer.random.get_state(), "cuda": torch.cuda.get_rng_state()} | state_of_parts(trainer)


@pytest.fixture
def deterministic():
    """cuDNN's deterministic algorithms: others are not bit-equal from run to run, captured or not."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


MODES = {
    "float32": {"precision": "float32"},
    "bfloat16": {},
    "float16": {"precision": "float16"},
    "lazy penalties": {"r1": 0.5, "r2": 0.5, "r1_every": 4},
    "penalty in every step": {"r1": 0.5},
    "one-stage": {"step": "one-stage"},
    "one-stage, r1": {"step": "one-stage", "r1": 0.5, "r1_every": 2},
    "relativistic": {"objective": "relativistic"},
    "accumulated": {"accumulate": 2},
    "batch norm": {"networks": "dcgan-batchnorm"},
    "dropout": {"wrap": Dropping, "concatenate": False},
    "same samples": {"redraw": False},
}


@pytest.mark.parametrize("mode", MODES)
def test_replayed_steps_are_the_uncaptured_ones_to_the_bit(mode, deterministic):
    def train(capture):
        trainer = make(capture=capture, **MODES[mode])
        torch.manual_seed(7)
        samples = data()
        return trainer, [to_numbers(trainer.step(trainer.draw(samples, N))) for _ in range(12)], state(trainer)

    captured, a, after = train(None)
    plain, b, expected = train(False)
    assert captured.capture_reason is None and captured._graphs is not None
    assert plain.capture_reason == "capture=False" and plain._graphs is None
    assert a == b
    assert_same(after, expected)


def test_a_schedule_reaches_the_captured_step(deterministic):
    captured, plain = make(), make(capture=False)
    samples = data()
    for k in range(8):
        real = captured.draw(samples, N)
        plain.draw(samples, N)
        for trainer in (captured, plain):
            trainer.set_learning_rate(2e-3 * (1 - k / 8))
            trainer.step(real)
    assert captured._graphs is not None
    assert_same(state(captured), state(plain))
    captured.set_learning_rate(0.0)
    before = state(captured)
    captured.step(real)
    trained = ("generator.", "discriminator.")  # the average of G's weights still moves
    assert all(torch.equal(v, before[k]) for k, v in state(captured).items() if k.startswith(trained))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_own_optimizers_are_captured(kind, deterministic):
    """They begin with numbers as rates, and not capturable; a new rate reaches the captured step."""
    trainers = []
    for capture in (True, False):
        torch.manual_seed(0)
        networks = build((1, 32, 32), LATENT, 8, "dcgan")
        optimizers = [kind(network.parameters(), lr=1e-3) for network in networks]
        own = {"latent_dim": LATENT, "device": "cuda", "r1": 0.0, "capture": capture, "precision": "float32"}
        trainers.append(GANTrainer(*networks, optimizers=optimizers, **own))
        if not capture:
            for optimizer in optimizers:
                make_capturable(optimizer)
    for lr in (1e-3, 1e-4):
        for trainer in trainers:
            trainer.set_learning_rate(lr)
            trainer.fit(data(), steps=3, batch=N)
    assert trainers[0].capture_reason is None and trainers[0]._graphs is not None
    assert_same(*map(state, trainers))


def test_compiled_and_captured(deterministic):
    captured, plain = make(compile=True), make(compile=True, capture=False)
    samples = data()
    for _ in range(6):
        real = captured.draw(samples, N)
        plain.draw(samples, N)
        assert to_numbers(captured.step(real)) == to_numbers(plain.step(real))
    assert captured.capture_reason is None
    assert_same(state(captured), state(plain))


def test_resumed_captured_run_is_the_uninterrupted_one(tmp_path, deterministic):
    straight, first, second = (make(r1=0.5, r1_every=4) for _ in range(3))
    samples = data()
    history = straight.fit(samples, steps=20, batch=N, log_every=5)
    one = first.fit(samples, steps=10, batch=N, log_every=5)
    first.save(tmp_path / "half.pt")
    second.fit(samples, steps=3, batch=N)  # captures before it loads
    second.load(tmp_path / "half.pt")
    assert one + second.fit(samples, steps=10, batch=N, log_every=5) == history
    a, b = state(second), state(straight)
    assert_same(a, b)


@pytest.mark.capture_fails
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize(
    "wrap",
    [Reading, lambda d: Reading(Dropping(d)), ReadingForG],
    ids=["reads", "reads and draws", "reads in G's step"],
)
def test_a_step_that_cannot_be_captured_runs_uncaptured_with_the_reason(deterministic, wrap, precision):
    """A failed capture changes nothing: values, stream, random state, memory, later captures."""

    def train(**options):
        torch.manual_seed(7)
        trainer, samples = make(wrap, concatenate=False, precision=precision, **options), data()
        values = [to_numbers(trainer.step(trainer.draw(samples, N))) for _ in range(3)]
        return trainer, values, torch.randn(5, device="cuda")

    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="the step runs uncaptured: .*captur"):
        reading, values, drawn = train()
    assert reading.capture_reason and reading._graphs is None
    assert torch.cuda.current_stream() == stream and not torch.cuda.is_current_stream_capturing()
    plain, expected, expected_drawn = train(capture=False)
    assert values == expected and torch.equal(drawn, expected_drawn)
    assert_same(state(reading), state(plain))
    torch.cuda.empty_cache()  # raises if a capture is still active for the allocator
    other, samples = make(), data()
    for _ in range(3):
        other.step(other.draw(samples, N))
    assert other.capture_reason is None and other._graphs is not None


@pytest.mark.capture_fails
def test_memory_after_a_failed_capture():
    def held():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()

    stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    before = held()
    for _ in range(2):
        with pytest.raises(RuntimeError), capturing(torch.cuda.CUDAGraph(), pool, stream):
            torch.randn(2**20, device="cuda").sum().item()
    assert held() == before
    segments = {tuple(s["segment_pool_id"]) for s in torch.cuda.memory_snapshot()}
    kept = torch.ones(2**22, device="cuda")
    new = {tuple(s["segment_pool_id"]) for s in torch.cuda.memory_snapshot()}
    assert kept.sum().item() == 2**22 and tuple(pool) not in new - segments


def test_a_batch_of_another_size_runs_uncaptured(deterministic):
    captured, plain = make(), make(capture=False)
    samples = data().float() / 127.5 - 1
    for n in (N, N, 7, N):
        assert to_numbers(captured.step(samples[:n])) == to_numbers(plain.step(samples[:n]))
    assert_same(state(captured), state(plain))


def test_a_captured_step_does_not_synchronise():
    trainer, samples = make(r1=0.5, r1_every=2), data()
    for _ in range(3):
        trainer.step(trainer.draw(samples, N))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            trainer.step(trainer.draw(samples, N))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_defaults_of_a_gpu():
    trainer = make()
    half = torch.cuda.is_bf16_supported(including_emulation=False)
    assert trainer.settings["precision"] == ("bfloat16" if half else "float32")
    assert trainer.settings["channels_last"] is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.step(trainer.draw(data(), N))
    assert trainer.capture_reason is None


@pytest.mark.slow
@pytest.mark.parametrize("capture", [None, False])
def test_ten_thousand_steps_take_no_more_memory(capture):
    trainer, samples = make(r1=0.5, r1_every=16, capture=capture), data()
    for _ in range(50):
        trainer.step(trainer.draw(samples, N))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(10_000):
        trainer.step(trainer.draw(samples, N))
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before
