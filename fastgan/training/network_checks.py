"""Checks of both networks before training, on copies: what they accept and what they return. Each error is one line."""

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

WEIGHT_DRAWS = 12  # random weights of D to try before its outputs count as probabilities


class DiscriminatorTraits(NamedTuple):
    """logits: how many D returns for each sample. mixes_samples: whether a sample's logits depend on the other samples
    of its batch."""

    logits: int
    mixes_samples: bool


class NetworkChecks:
    """Runs a pair of networks once, and checks later samples against what D accepts.

    example: one generated sample. traits: D's, None if there is no D. accepted: (shape, dtype) of samples that passed.
    passes: autocast's dtype or None. classes: the number of classes, if both networks get labels.
    Raises TypeError or ValueError if G does not accept z, or D does not accept G's samples or returns no logits."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module | None, latent_dim: int, passes=None, classes=None
    ):
        self.discriminator, self.passes = discriminator, passes
        like = next(p for p in generator.parameters() if p.is_floating_point())
        self.dtype = like.dtype
        random = torch.Generator("cpu").manual_seed(0)
        z = torch.randn(4, latent_dim, generator=random, dtype=torch.float32, device="cpu").to(like.device, like.dtype)
        self.labels = () if classes is None else (torch.arange(4, device=like.device) % classes,)
        self.traits: DiscriminatorTraits | None = None
        try:
            with self._autocast(like.device):
                self.example = _try_generator(generator, z, self.labels)[:1].clone()
                if discriminator is not None:
                    self.traits = _try_discriminator(discriminator, self._noise(), self.labels)
        except (TypeError, ValueError) as error:
            if discriminator is None or not _accepts(discriminator, generator, rows=z, labels=self.labels):
                raise
            raise ValueError(
                "generator: got a network that accepts the discriminator's output for z, expected "
                "GANTrainer(generator, discriminator), in this order"
            ) from error
        self.accepted = {(self.example.shape[1:], self.example.dtype)}
        if passes is not None:
            self.accepted.add((self.example.shape[1:], like.dtype))

    def gives_probabilities(self) -> bool:
        """Whether there is a D whose outputs are probabilities."""
        if self.discriminator is None:
            return False
        with self._autocast(self.example.device):
            return _gives_probabilities(self.discriminator, self._noise(), self.labels)

    def _noise(self) -> Tensor:
        """Four independent random samples: generated ones might have values in common."""
        random = torch.Generator("cpu").manual_seed(1)
        shape = (4, *self.example.shape[1:])
        return torch.randn(shape, generator=random, dtype=torch.float32, device="cpu").to(self.example)

    def check(self, name: str, samples: Tensor, together: bool | None) -> None:
        """Raises TypeError or ValueError unless the networks accept such samples. Reads only shape, dtype and device,
        and runs a copy of D if shape or dtype are new. together: D sees them in one batch with generated samples."""
        checks.samples(name, samples)
        kind = samples.shape[1:], samples.dtype
        if kind in self.accepted and samples.device == self.example.device:
            return
        if not samples.is_floating_point():
            raise TypeError(f"{name}: got {samples.dtype}, expected floats; images of 0..255 go through `trainer.draw`")
        if samples.device != self.example.device:
            got, expected = samples.device, self.example.device
            raise ValueError(f"{name}: got a tensor on {got}, expected {expected}, as the networks")
        same = samples.shape[1:] == self.example.shape[1:]
        if self.discriminator is None:
            fits = samples[0].numel() == self.example[0].numel()
        else:
            with self._autocast(samples.device):
                rows = samples[:4].detach()
                labels = tuple(y[: len(rows)] for y in self.labels)
                fits = (same or not together) and _accepts(self.discriminator, rows=rows, labels=labels)
        if not fits:
            shapes = [", ".join(["(N", *map(str, x.shape[1:])]) + ")" for x in (samples, self.example)]
            raise ValueError(
                f"{name}: got {samples.dtype} of shape {shapes[0]}, expected {self.dtype} of shape {shapes[1]}, as the "
                f"generator makes{f': {name}.to({self.dtype})' if same else ''}"
            )
        self.accepted.add(kind)

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.passes, enabled=self.passes is not None, cache_enabled=False)


def choose_single_pass(config: TrainerConfig, traits: DiscriminatorTraits | None) -> bool:
    """Whether D sees both sides in one pass; traits: D's. False if there is no D.

    Raises ValueError if a one-stage step would not be exact."""
    if traits is None:
        return False
    never = bool(config.r1) != bool(config.r2) and config.r1_every == 1  # every step penalises one side only
    if not config.one_stage:
        if config.concatenate is not None or never:
            return bool(config.concatenate)
        return not traits.mixes_samples
    if config.weight == 0:
        raise ValueError("weight: got 0, expected another number: one-stage steps take G's gradients from D's")
    if constant_ratio(config.objective, config.weight) is None:
        got = f"step: got 'one-stage' with {config.objective!r}"
        if traits.mixes_samples:
            raise ValueError(
                f"{got} and a discriminator whose logits depend on other samples of the batch (batch normalisation?), "
                "expected 'alternating', objective 'minimax', or another discriminator"
            )
        if traits.logits > 1:
            raise ValueError(
                f"{got} and {traits.logits} logits a sample, whose gradients have different ratios, expected "
                "'alternating', objective 'minimax', or one logit a sample"
            )
        if config.precision == "float16":
            raise ValueError(
                f"{got} in float16, whose range is too small for the ratio of the gradients, expected 'bfloat16' or "
                "'float32'"
            )
    return not traits.mixes_samples and config.concatenate is not False


def constant_ratio(objective: str, weight: float) -> float | None:
    """The ratio of G's gradient to D's at a generated sample's logit, if it is the same for every logit: -1 for the
    minimax game with weight 1. None if it depends on the logit."""
    found = find(objective)
    same = found.relation is None and (found.generator_criterion or found.criterion) == found.criterion
    if not same or not weight:
        return None
    ratio = found.generator_weight / (weight * found.weight)
    if found.generator_target == "fake":
        return ratio
    return -ratio if found.criterion == "wasserstein" else None


@contextlib.contextmanager
def _as_value_error(message: str) -> Iterator[None]:
    """Turn any exception of a network into a ValueError of one line, except CUDA's out-of-memory error."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{message} gives {said(error)!r}") from error


def _try_generator(generator: nn.Module, z: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
    """The samples that a copy makes of z (N, latent_dim)."""
    other, message = copied("generator", generator), f"latent_dim: got {z.shape[1]}, expected what the generator takes"
    with_labels = " and labels of shape (4,)" if labels else ""
    with (
        torch.no_grad(),
        _random_state_kept(z),
        _as_value_error(f"{message}; z of shape {tuple(z.shape)}{with_labels}"),
    ):
        samples = other(z, *labels)
    _check_rows("generator", "samples", samples, z)
    return samples


def _try_discriminator(discriminator: nn.Module, samples: Tensor, labels: tuple[Tensor, ...]) -> DiscriminatorTraits:
    other, message = copied("discriminator", discriminator), f"discriminator: got {samples.dtype} samples of shape"
    with torch.enable_grad(), _random_state_kept(samples):
        samples = samples.detach().requires_grad_()
        with_labels = " and labels of shape (4,)" if labels else ""
        made = f"{tuple(samples.shape)}{with_labels} as the generator makes them"
        with _as_value_error(f"{message} {made}, expected one that takes them; it"):
            logits = other(samples.clone(), *labels)  # which may begin in place
        check_logits(logits, samples)
        if not logits.requires_grad:
            raise ValueError("discriminator: got logits without a graph, expected ones that depend on its weights")
        (slope,) = torch.autograd.grad(logits[0].sum(), samples, allow_unused=True)
    if slope is None:
        raise ValueError("discriminator: got logits that do not depend on the samples, expected ones that do")
    return DiscriminatorTraits(logits.numel() // len(samples), bool((slope[1:] != 0).any()))


def check_logits(logits: object, samples: Tensor) -> None:
    """Raises TypeError or ValueError unless D returned logits, (N, ...) for N samples. Reads only shape and dtype."""
    _check_rows("discriminator", "logits", logits, samples)


def _check_rows(network: str, what: str, output: object, batch: Tensor) -> None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = f"{output.dtype} {what}" if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"{network}: got {got}, expected one floating tensor of {what} (N, ...)")
    n = len(batch)
    if not output.dim() or len(output) != n:
        inputs = "rows of z" if what == "samples" else "samples"
        raise ValueError(f"{network}: got {what} of shape {tuple(output.shape)} for {n} {inputs}, expected {n} rows")


@torch.no_grad()
def _gives_probabilities(discriminator: nn.Module, samples: Tensor, labels: tuple[Tensor, ...]) -> bool:
    """Whether D's outputs depend on its weights and always lie in [0, 1], like those of a final Sigmoid. Logits may lie
    there by chance with D's current weights, but not with `WEIGHT_DRAWS` random ones too: each draw of the last layer
    changes their sign with probability 1/2."""
    random = torch.Generator("cpu").manual_seed(0)
    with _random_state_kept(samples):
        other, first, varies = copied("discriminator", discriminator), None, False
        for i in range(WEIGHT_DRAWS + 1):
            out = other(samples.clone(), *labels)
            if not ((out >= 0) & (out <= 1)).all():
                return False
            first = out if first is None else first
            varies = varies or not torch.equal(out, first)
            for p in other.parameters() if i < WEIGHT_DRAWS else ():
                scale = p[0].numel() ** -0.5 if p.dim() else 1.0
                p.copy_(torch.randn(p.shape, generator=random, dtype=torch.float32, device="cpu") * scale)
    return varies


def copied(name: str, network: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the network. Computed tensors that the network keeps (the `weight` of
    `torch.nn.utils.weight_norm`, features of the last batch) are copied without their autograd graph: `copy.deepcopy`
    refuses them."""
    try:
        with _CopyWithoutGraph():
            return copy.deepcopy(network)
    except Exception as error:
        raise ValueError(f"{name}: got a network that cannot be copied: {said(error)}") from error


class _CopyWithoutGraph(TorchFunctionMode):
    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            x, memo = args
            return memo.setdefault(id(x), x.detach().clone())
        return function(*args, **(kwargs or {}))


def _accepts(*networks: nn.Module, rows: Tensor, labels: tuple[Tensor, ...]) -> bool:
    """Whether copies of the networks, applied one after the other, turn the rows into logits."""
    try:
        with torch.no_grad(), _random_state_kept(rows), _as_value_error("it"):
            out = rows.clone()
            for network in networks:
                out = copied("network", network)(out, *labels)
            check_logits(out, rows)
    except ValueError:
        return False
    return True


def _random_state_kept(like: Tensor) -> contextlib.AbstractContextManager:
    """Restore torch's global random states at the end."""
    return torch.random.fork_rng([like.device] if like.is_cuda else [])
