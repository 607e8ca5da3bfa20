"""A first look at both networks, on copies, before anything is trained: what they accept, what they return, and what is
wrong with it, in one line."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastgan.checks import said
from fastgan.formulas.objectives import find
from fastgan.training import checks
from fastgan.training.config import TrainerConfig

LOOKS = 12  # at D with other weights, before it is said to give probabilities


class Look(NamedTuple):
    """logits: D's, a sample. mixes: does a sample's logit depend on the other samples of its batch?"""

    logits: int
    mixes: bool


class FirstLook:
    """What is known of a pair of networks before they are trained, and of the samples that D accepts.

    made: one generated sample. seen: what there is to know of D, None without one. passes: autocast's dtype or None.
    classes: how many there are, if both networks are told a label beside what they see.
    Raises TypeError or ValueError if G accepts no such z, D accepts none of its samples or returns no logits."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module | None, latent_dim: int, passes=None, classes=None
    ):
        self.discriminator, self.passes = discriminator, passes
        like = next(p for p in generator.parameters() if p.is_floating_point())
        self.dtype = like.dtype
        random = torch.Generator("cpu").manual_seed(0)
        z = torch.randn(4, latent_dim, generator=random, dtype=torch.float32, device="cpu").to(like.device, like.dtype)
        self.labels = () if classes is None else (torch.arange(4, device=like.device) % classes,)
        self.seen = None
        try:
            with self._autocast(like.device):
                self.made = _look_at_generator(generator, z, self.labels)[:1].clone()
                if discriminator is not None:
                    self.seen = _look_at_discriminator(discriminator, self._noise(), self.labels)
        except (TypeError, ValueError) as error:
            if discriminator is None or not _fit(discriminator, generator, rows=z, labels=self.labels):
                raise
            raise ValueError(
                "generator: got a network that takes what the other one makes of z, expected "
                "GANTrainer(generator, discriminator), in this order"
            ) from error
        self.kinds = {(self.made.shape[1:], self.made.dtype)}
        if passes is not None:
            self.kinds.add((self.made.shape[1:], like.dtype))

    def gives_probabilities(self) -> bool:
        with self._autocast(self.made.device):
            return _gives_probabilities(self.discriminator, self._noise(), self.labels)

    def _noise(self) -> Tensor:
        """Four points of which no two have anything in common, as samples of one's own generator might."""
        random = torch.Generator("cpu").manual_seed(1)
        shape = (4, *self.made.shape[1:])
        return torch.randn(shape, generator=random, dtype=torch.float32, device="cpu").to(self.made)

    def check(self, name: str, samples: Tensor, together: bool) -> None:
        """Raises TypeError or ValueError unless the networks accept such samples. Reads shapes only; a kind of samples
        not seen before is tried on D. together: D sees them in one batch with generated ones."""
        checks.samples(name, samples)
        kind = samples.shape[1:], samples.dtype
        if kind in self.kinds and samples.device == self.made.device:
            return
        if not samples.is_floating_point():
            raise TypeError(f"{name}: got {samples.dtype}, expected floats; images of 0..255 go through `trainer.draw`")
        if samples.device != self.made.device:
            raise ValueError(f"{name}: got a tensor on {samples.device}, expected {self.made.device}, as the networks")
        same = samples.shape[1:] == self.made.shape[1:]
        if self.discriminator is None:
            fits = samples[0].numel() == self.made[0].numel()
        else:
            with self._autocast(samples.device):
                rows = samples[:4].detach()
                labels = tuple(y[: len(rows)] for y in self.labels)
                fits = (same or not together) and _fit(self.discriminator, rows=rows, labels=labels)
        if not fits:
            shapes = [", ".join(["(N", *map(str, x.shape[1:])]) + ")" for x in (samples, self.made)]
            raise ValueError(
                f"{name}: got {samples.dtype} of shape {shapes[0]}, expected {self.dtype} of shape {shapes[1]}, as the "
                f"generator makes{f': {name}.to({self.dtype})' if same else ''}"
            )
        self.kinds.add(kind)

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.passes, enabled=self.passes is not None, cache_enabled=False)


def choose_passes(config: TrainerConfig, seen: Look) -> bool:
    """Whether D sees both sides in one pass. Raises ValueError if a one-stage step would not be exact."""
    never = bool(config.r1) != bool(config.r2) and config.r1_every == 1  # no step would take a single pass
    if not config.one_stage:
        if config.concatenate is not None or never:
            return bool(config.concatenate)
        return not seen.mixes
    if config.weight == 0:
        raise ValueError("weight: got 0, expected another number: one-stage steps take G's gradients from D's")
    if constant_ratio(config.objective, config.weight) is None:
        got = f"step: got 'one-stage' with {config.objective!r}"
        if seen.mixes:
            raise ValueError(
                f"{got} and a discriminator whose logits depend on other samples of the batch (batch normalisation?), "
                "expected 'alternating', objective 'minimax', or another discriminator"
            )
        if seen.logits > 1:
            raise ValueError(
                f"{got} and {seen.logits} logits a sample, whose gradients have different ratios, expected "
                "'alternating', objective 'minimax', or one logit a sample"
            )
        if config.precision == "float16":
            raise ValueError(
                f"{got} in float16, whose range is too small for the ratio of the gradients, expected 'bfloat16' or "
                "'float32'"
            )
    return not seen.mixes and config.concatenate is not False


def constant_ratio(objective: str, weight: float) -> float | None:
    """G's gradient over D's at every generated sample's logit, where that is one number: -1 for the minimax game with
    weight 1, which one-stage training leaves to D's own pass. None if it depends on the logit."""
    found = find(objective)
    same = found.relation is None and (found.generator_criterion or found.criterion) == found.criterion
    if not same or not weight:
        return None
    ratio = found.generator_weight / (weight * found.weight)
    if found.generator_target == "fake":
        return ratio
    return -ratio if found.criterion == "wasserstein" else None


@contextlib.contextmanager
def _run(message: str) -> Iterator[None]:
    """Whatever a network raises inside becomes a ValueError in one line. A full memory is not the network's fault."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{message} gives {said(error)!r}") from error


def _look_at_generator(generator: nn.Module, z: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
    """The samples that a copy makes of z (N, latent_dim)."""
    other, message = copied("generator", generator), f"latent_dim: got {z.shape[1]}, expected what the generator takes"
    told = " and labels of shape (4,)" if labels else ""
    with torch.no_grad(), _undrawn(z), _run(f"{message}; z of shape {tuple(z.shape)}{told}"):
        samples = other(z, *labels)
    _check_rows("generator", "samples", samples, z)
    return samples


def _look_at_discriminator(discriminator: nn.Module, samples: Tensor, labels: tuple[Tensor, ...]) -> Look:
    other, message = copied("discriminator", discriminator), f"discriminator: got {samples.dtype} samples of shape"
    with torch.enable_grad(), _undrawn(samples):
        samples = samples.detach().requires_grad_()
        told = " and labels of shape (4,)" if labels else ""
        made = f"{tuple(samples.shape)}{told} as the generator makes them"
        with _run(f"{message} {made}, expected one that takes them; it"):
            logits = other(samples.clone(), *labels)  # which may begin in place
        check_logits(logits, samples)
        if not logits.requires_grad:
            raise ValueError("discriminator: got logits without a graph, expected ones that depend on its weights")
        (slope,) = torch.autograd.grad(logits[0].sum(), samples, allow_unused=True)
    mixes = slope is not None and bool((slope[1:] != 0).any())
    return Look(logits.numel() // len(samples), mixes)


def check_logits(logits: object, samples: Tensor) -> None:
    """Raises TypeError or ValueError if what D gave for the samples are no logits of theirs. Reads shapes alone."""
    _check_rows("discriminator", "logits", logits, samples)


def _check_rows(network: str, what: str, given: object, of: Tensor) -> None:
    if not isinstance(given, Tensor) or not given.is_floating_point():
        got = f"{given.dtype} {what}" if isinstance(given, Tensor) else type(given).__name__
        raise TypeError(f"{network}: got {got}, expected one floating tensor of {what} (N, ...)")
    if not given.dim() or len(given) != len(of):
        inputs = "rows of z" if what == "samples" else "samples"
        raise ValueError(
            f"{network}: got {what} of shape {tuple(given.shape)} for {len(of)} {inputs}, expected {len(of)} rows"
        )


@torch.no_grad()
def _gives_probabilities(discriminator: nn.Module, samples: Tensor, labels: tuple[Tensor, ...]) -> bool:
    """Whether D's outputs lie in [0, 1] whatever its weights, as those of a last Sigmoid do, and depend on them. Logits
    may happen to lie there with the weights that D has, and do not with `LOOKS` others: each draw of the last layer
    changes their sign with probability 1/2."""
    random = torch.Generator("cpu").manual_seed(0)
    with _undrawn(samples):
        other, first, varies = copied("discriminator", discriminator), None, False
        for i in range(LOOKS + 1):
            out = other(samples.clone(), *labels)
            if not ((out >= 0) & (out <= 1)).all():
                return False
            first = out if first is None else first
            varies = varies or not torch.equal(out, first)
            for p in other.parameters() if i < LOOKS else ():
                scale = p[0].numel() ** -0.5 if p.dim() else 1.0
                p.copy_(torch.randn(p.shape, generator=random, dtype=torch.float32, device="cpu") * scale)
    return varies


def copied(name: str, network: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the network. Tensors that the network has computed and kept (the `weight` of
    `torch.nn.utils.weight_norm`, features of the last batch) are copied as numbers: their graph is not theirs to keep,
    and `copy.deepcopy` refuses them."""
    try:
        with _Numbers():
            return copy.deepcopy(network)
    except Exception as error:
        raise ValueError(f"{name}: got a network that cannot be copied: {said(error)}") from error


class _Numbers(TorchFunctionMode):
    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            x, memo = args
            return memo.setdefault(id(x), x.detach().clone())
        return function(*args, **(kwargs or {}))


def _fit(*networks: nn.Module, rows: Tensor, labels: tuple[Tensor, ...]) -> bool:
    """Whether copies of the networks, one after the other, make logits of the rows."""
    try:
        with torch.no_grad(), _undrawn(rows), _run("it"):
            out = rows.clone()
            for network in networks:
                out = copied("network", network)(out, *labels)
            check_logits(out, rows)
    except ValueError:
        return False
    return True


def _undrawn(like: Tensor) -> contextlib.AbstractContextManager:
    """Random numbers drawn inside are not drawn for those outside."""
    return torch.random.fork_rng([like.device] if like.is_cuda else [])
