"""One training step on the device: from a batch of data and fresh random numbers to updated weights.

Nothing in here synchronises with the host, and no branch depends on a value on the device. So the same function runs
eagerly or is captured in a CUDA graph (`fastgan/training/capture.py`). The cost of each kind of step, in passes through
D and G; a backward pass counts once for the input's gradient and once for the weights':

                           D: forward   backward      G: forward   backward
    loop of the examples        3          6              1           2      1 of them: D's weight gradients, never used
    alternating                 3          5              2           2      new samples for G
    alternating, redraw=False   3          5              1           2
    one-stage                   2          4              1           2      simultaneous updates (Shen et al. 2021)
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.formulas.objectives import find
from fastgan.formulas.results import ValueAndGrad
from fastgan.layers.augment import ada_step, augment, draw_augmentation
from fastgan.losses.adversarial import (
    concatenated_discriminator_value_and_grad,
    discriminator_value_and_grad,
    generator_value_and_grad,
)
from fastgan.training import distributed
from fastgan.training.config import MMD, PRECISIONS, TrainerConfig
from fastgan.training.network_checks import check_logits, constant_ratio

__all__ = ["PRECISIONS", "Step", "constant_ratio", "generator_backward"]

# One-stage steps divide by D's gradient at a generated sample's logit. If that gradient is 0, as the hinge's is beyond
# its knee, or nearly 0, they divide by this number over the batch size instead. It is too small to change the sum that
# D's weights get, and far enough from the dtype's smallest number to survive the backward pass through D.
FLOOR = {torch.float64: 2.0**-300, torch.float32: 2.0**-60, torch.bfloat16: 2.0**-60, torch.float16: 2.0**-14}


def generator_backward(
    losses: Tensor | tuple | list, generator: nn.Module | Iterable[Tensor], *, retain_graph: bool = False
) -> None:
    """`loss.backward()` that computes gradients for the generator alone. It computes no gradient of D's weights, and
    skips branches that do not lead to the generator, such as D(real) in a feature-matching loss.

        fastgan.generator_backward(loss, generator)
        fastgan.generator_backward((fake_logits, out.grads), generator)                          # no node for the loss
        fastgan.generator_backward([(fake_logits, adv.grads), (fake_maps, fm.grads), mel], generator)    # in one pass

    The generator's gradients are those of `loss.backward()`; D's `.grad` does not change. Without this function:
    `torch.autograd.backward(loss, inputs=list(generator.parameters()))`. `python -m bench integrations` measures the
    time that it saves in training steps of public codebases.

    Under `DistributedDataParallel`, put D's forward pass of the G step inside `with discriminator.no_sync():`, because
    D's weights get no gradient there. For autograd, a compiled D (`torch.compile`) is one node, which computes all
    gradients or none: call `discriminator.requires_grad_(False)` before its forward pass instead.

    Args:
        losses: a loss; a pair (outputs, grads), such as logits or feature maps and the `grads` of `*_value_and_grad`;
            or a list of losses and pairs. Outputs are a tensor, a list, or a list of lists. If there is one gradient
            for each inner list, it belongs to the list's last tensor, the logits.
        generator: a module, or the parameters to train.

    Raises:
        TypeError: losses of another kind.
        ValueError: no loss at all, a generator without parameters that require grad, a number of gradients that does
            not match the outputs, or gradients that require grad, such as two losses in a tuple.
    """
    parameters = generator.parameters() if isinstance(generator, nn.Module) else generator
    inputs = [p for p in parameters if p.requires_grad]
    if not inputs:
        raise ValueError("generator: got no parameter that requires a gradient, expected one to learn")
    outputs, seeds = [], []
    for item in losses if isinstance(losses, list) else [losses]:
        if not isinstance(item, Tensor) and not (isinstance(item, tuple) and len(item) == 2):
            got = f"a tuple of {len(item)}" if isinstance(item, tuple) else type(item).__name__
            raise TypeError(f"losses: got {got}, expected a loss, a pair (outputs, grads), or a list of those")
        tensors, grads = item if isinstance(item, tuple) else (item, [None])
        grads = [grads] if isinstance(grads, Tensor) else list(grads)
        if any(grad.requires_grad for grad in grads if grad is not None):
            raise ValueError("losses: got grads that require a gradient, expected [loss, other] of two losses")
        outputs += _matched(tensors, grads)
        seeds += grads
    if not outputs:
        raise ValueError("losses: got an empty list, expected at least one loss")
    torch.autograd.backward(outputs, seeds, retain_graph=retain_graph, inputs=inputs)


def _matched(tensors: Tensor | Sequence, grads: Sequence) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        tensors = [tensors]
    lists = [x if isinstance(x, (list, tuple)) else [x] for x in tensors]
    everything = list(itertools.chain.from_iterable(lists))
    if len(everything) == len(grads):
        return everything
    if len(lists) == len(grads):
        return [x[-1] for x in lists]
    raise ValueError(f"losses: got {len(grads)} gradients for {len(everything)} tensors, expected one for each")


class Step:
    """`play(real, penalised)` or `play(real, labels, penalised)` runs one step.

    latent(n, counts) returns this rank's next z, (n, latent_dim). random() returns the `torch.Generator` of the
    augmentations. Generated sample i has the label of real sample i, so that both sides have the same classes."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None,
        optimizers: Sequence[torch.optim.Optimizer],
        latent: Callable[[int, Sequence[int] | None], Tensor],
        config: TrainerConfig,
        random: Callable[[], torch.Generator],
    ):
        self.config, self.latent, self.optimizers = config, latent, optimizers
        self.discriminator = discriminator
        self.trained = [[p for p in m.parameters() if p.requires_grad] for m in (generator, discriminator) if m]
        self.device = self.trained[0][0].device
        compiled = torch.compile if config.compile else lambda network: network
        self.generate = compiled(generator)
        # Double backward does not work through a compiled network: steps with a penalty call the uncompiled D.
        self.discriminate = compiled(discriminator) if discriminator else None
        self.scaler = torch.amp.GradScaler(self.device.type) if config.precision == "float16" else None
        self.augmentation = None if config.augment is None else Augmentation(config, random).to(self.device)
        self.one = torch.ones((), device=self.device, dtype=torch.float32)
        self.zero = torch.zeros((), device=self.device, dtype=torch.float32)
        self.ratio = None
        self.relation = None
        if config.objective != MMD:
            self.relation = find(config.objective).relation
            self.ratio = constant_ratio(config.objective, config.weight)

    def play(self, real: Tensor, *rest, counts: Sequence[int] | None = None) -> dict[str, Tensor]:
        """rest: the labels of the samples, if the networks are conditional, and whether the step has a penalty.
        counts: the number of samples of each rank, if the ranks differ."""
        labels, penalised = rest if len(rest) == 2 else (None, *rest)
        if self.config.channels_last and real.dim() == 4:
            real = real.contiguous(memory_format=torch.channels_last)
        with self._scaler_updated():
            if self.config.objective == MMD:
                return self._mmd(real, counts)
            if self.config.one_stage:
                return self._one_stage(real, labels, penalised, counts)
            return self._alternating(real, labels, penalised, counts)

    @contextlib.contextmanager
    def _scaler_updated(self) -> Iterator[None]:
        """Update the loss scale at the end of a step, also if the step fails after an optimizer has stepped: otherwise
        GradScaler would refuse that optimizer's next step."""
        try:
            yield
        except BaseException:
            if self.scaler is not None:
                with contextlib.suppress(Exception):  # no optimizer has stepped, or the device has failed
                    self.scaler.update()
            raise
        if self.scaler is not None:
            self.scaler.update()

    # ---- the three kinds of step -----------------------------------------------------------------------------------

    def _alternating(self, real: Tensor, labels: Tensor | None, penalised: bool, counts) -> dict[str, Tensor]:
        """One step of D, then one of G against the new D."""
        n, (generator, discriminator) = len(real), self.trained
        parts = self._parts(real, labels, counts)
        values, fakes = [], []
        self.optimizers[1].zero_grad()
        for x, y, z in parts:
            with torch.set_grad_enabled(not self.config.redraw):
                fake = self._forward(self.generate, z, y)
            d = self._backward_d(
                self._augmented(x, counts), self._augmented(fake.detach(), counts), y, penalised, n, counts
            )
            values.append(d.values)
            fakes.append(fake)
        self._update(1, discriminator)

        with _frozen(discriminator):  # its weights need no gradient here
            if self.config.redraw:
                parts = self._parts(real, labels, counts)
            self.optimizers[0].zero_grad()
            for (x, y, z), fake, values_d in zip(parts, fakes, values):
                if self.config.redraw:
                    fake = self._forward(self.generate, z, y)
                logits = self._discriminate(self._augmented(fake, counts), y)
                real_logits = None
                if self.relation:  # a relativistic G's loss compares with the real logits
                    with torch.no_grad():
                        real_logits = self._discriminate(self._augmented(x, counts), y)
                g, grad = self._generator_loss(logits.detach(), real_logits, self._scale(len(x), n, counts), counts)
                torch.autograd.backward([logits], [grad])
                values_d["loss_g"] = g
            self._update(0, generator)
        return self._mean_of_parts(values, [len(x) for x, _, _ in parts])

    def _one_stage(self, real: Tensor, labels: Tensor | None, penalised: bool, counts) -> dict[str, Tensor]:
        """Both steps at the same weights, from one forward and backward pass through D (Shen et al. 2021, sections 3.2
        and 3.3). Backpropagation is linear in the gradient at a sample's logit. So the gradient of G's loss at a
        generated sample is that of D's loss, times the ratio of the two losses' gradients at the sample's logit."""
        n, (generator, discriminator) = len(real), self.trained
        values = []
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        for x, y, z in self._parts(real, labels, counts):
            fake = self._augmented(self._forward(self.generate, z, y), counts)
            d = self._backward_d(self._augmented(x, counts), fake, y, penalised, n, counts, nonzero=self.ratio is None)
            if self.ratio is not None:
                loss_g, ratio = d.loss_fake * self.ratio, self.ratio
            else:
                wide = d.fake_logits.to(torch.promote_types(d.fake_logits.dtype, torch.float32))
                real_logits = d.real_logits.to(wide.dtype) if self.relation else None
                loss_g, grad = self._generator_loss(wide, real_logits, self._scale(len(x), n, counts), counts)
                ratio = (grad / d.grad_fake_logits).reshape(-1, *[1] * (fake.dim() - 1))
            torch.autograd.backward([fake], [(d.grad_fake_samples * ratio).to(fake.dtype)])
            values.append({**d.values, "loss_g": loss_g})
        self._update(1, discriminator)
        self._update(0, generator)
        return self._mean_of_parts(values, [len(x) for x in real.tensor_split(self.config.accumulate)])

    def _mmd(self, real: Tensor, counts) -> dict[str, Tensor]:
        """Maximum mean discrepancy: no discriminator, the loss compares the samples themselves."""
        from fastgan.losses.mmd import mmd_value_and_grad

        self.optimizers[0].zero_grad()
        fake = self._forward(self.generate, self.latent(len(real), counts), None)
        fakes, reals = (self._gathered(x.detach().flatten(1), counts) for x in (fake, real))
        out = mmd_value_and_grad(fakes, reals.to(fakes.dtype), self.config.bandwidths)
        grad = self._own_rows(out.grad, len(fake), counts) * (1.0 if self.scaler is None else self._loss_scale())
        torch.autograd.backward([fake], [grad.view_as(fake)])
        self._update(0, self.trained[0])
        return {"loss_g": out.loss}

    # ---- the parts of a step ---------------------------------------------------------------------------------------

    def _backward_d(
        self, real: Tensor, fake: Tensor, labels, penalised: bool, whole: int, counts, nonzero: bool = False
    ) -> DiscriminatorPass:
        """D's forward pass over real and generated samples, and the backward pass of its loss and penalties. The loss
        has no node in the graph: one call returns its value and its gradients at the logits, where autograd starts.

        whole: the size of the batch that these samples are a part of. nonzero: replace gradients of 0 at generated
            samples' logits (see `FLOOR`)."""
        s, n = self.config, len(real)
        r1, r2 = (s.r1 if penalised else 0.0), (s.r2 if penalised else 0.0)
        scale = self._scale(n, whole, counts)
        fake = fake.detach().to(real.dtype) if r1 or r2 else fake.detach()  # autocast may have made it half precision
        # With a penalty on one side only, a joint pass would cost a double backward of both sides.
        together = s.concatenate and bool(r1) == bool(r2)
        if together:
            leaf = torch.cat((real, fake)).requires_grad_(bool(r1) or s.one_stage)
            logits = self._discriminate(leaf, None if labels is None else labels.repeat(2), r1 or r2)
            real_logits, fake_logits = logits[:n], logits[n:]
            input_gradients = self._input_gradient(logits, leaf).split(n) if r1 else ()
        else:
            real, leaf = real.detach().requires_grad_(bool(r1)), fake.requires_grad_(bool(r2) or s.one_stage)
            real_logits, fake_logits = (self._discriminate(x, labels, r1 or r2) for x in (real, leaf))
            sides = (r1, real_logits, real), (r2, fake_logits, leaf)
            input_gradients = [self._input_gradient(logits, x) if r else None for r, logits, x in sides]
        out, grads = self._discriminator_loss(logits if together else None, real_logits, fake_logits, scale, counts)
        if nonzero:
            floor = FLOOR[grads[1].dtype] / whole
            grads[1] = torch.where(grads[1].abs() < floor, floor, grads[1])
        roots, seeds = (
            ([logits], [self._joint_gradient(out, grads, nonzero)]) if together else ([real_logits, fake_logits], grads)
        )
        penalties = [
            gamma / 2 * s.r1_every * grad.square().sum() / n for gamma, grad in zip((r1, r2), input_gradients) if gamma
        ]
        weighted = [penalty if scale is None else penalty * scale for penalty in penalties]
        inputs = self.trained[1]  # and not the samples, whose gradients only one-stage steps use
        if s.one_stage and r2:  # the generated samples must get the gradient of the loss without the penalty
            torch.autograd.backward(roots, seeds, inputs=[*inputs, leaf], retain_graph=True)
            torch.autograd.backward(weighted, inputs=inputs)
        else:
            inputs = [*inputs, leaf] if s.one_stage else inputs
            torch.autograd.backward([*roots, *weighted], [*seeds, *[None] * len(weighted)], inputs=inputs)
        penalty_values = iter([penalty.detach() for penalty in penalties])
        stats = out.stats
        values = {
            "loss_d": out.loss, "error": stats.error, "real_logit": stats.real_mean,
            "fake_logit": -stats.real_mean if stats.fake_mean is None else stats.fake_mean,  # of pairs: r - f, f - r
            "r1": next(penalty_values) if r1 else self.zero,
        }  # fmt: skip
        if s.r2:
            values["r2"] = next(penalty_values) if r2 else self.zero
        if self.augmentation is not None and s.augment_target is not None:
            sign, total = stats.real_sign, distributed.of_all(n, counts)[0] / (s.accumulate if counts else 1)
            if distributed.ranks() > 1:
                sign = distributed.mean_over_ranks(sign * (n * distributed.ranks() / total))
            values["augment_p"] = self.augmentation.adapt(sign, round(total))
        at_samples = (leaf.grad[n:] if together else leaf.grad) if s.one_stage else None
        both_logits = real_logits.detach(), fake_logits.detach()
        return DiscriminatorPass(values, *both_logits, grads[1], out.loss_fake, at_samples)

    def _discriminator_loss(self, logits, real_logits, fake_logits, scale, counts) -> tuple[ValueAndGrad, list[Tensor]]:
        """D's loss, and its gradients at the logits of real and of generated samples.

        logits: the real and generated ones as one tensor, if they come from one pass."""
        s, n = self.config, len(real_logits)
        if self.relation == "average" and distributed.ranks() > 1:  # each logit's loss depends on those of all ranks
            both = [self._gathered(x, counts) for x in (real_logits, fake_logits)]
            out = discriminator_value_and_grad(*both, s.objective, weight=s.weight, grad_scale=self._loss_scale())
            return out, [self._own_rows(grad, n, counts) for grad in out.grads]
        if logits is not None and self.relation is None:
            out = concatenated_discriminator_value_and_grad(
                logits, s.objective, fake_first=False, split=n, weight=s.weight, grad_scale=scale
            )
            return out, list(out.grads[0].tensor_split((n,)))
        out = discriminator_value_and_grad(real_logits, fake_logits, s.objective, weight=s.weight, grad_scale=scale)
        return out, list(out.grads)

    @staticmethod
    def _joint_gradient(out: ValueAndGrad, grads: list[Tensor], changed: bool) -> Tensor:
        """The gradient at the logits of a joint pass: the loss's own tensor if it is one and unchanged, else a copy."""
        return out.grads[0] if len(out.grads) == 1 and not changed else torch.cat(grads)

    def _generator_loss(self, fake_logits: Tensor, real_logits: Tensor | None, scale, counts) -> tuple[Tensor, Tensor]:
        """G's loss, and its gradient at the logits."""
        n = len(fake_logits)
        gathers = self.relation == "average" and distributed.ranks() > 1
        if gathers:
            scale = self._loss_scale()
            fake_logits, real_logits = (self._gathered(x, counts) for x in (fake_logits, real_logits))
        reference = {"real_logits": real_logits} if self.relation else {}
        out = generator_value_and_grad(fake_logits, self.config.objective, **reference, grad_scale=scale)
        return out.loss, self._own_rows(out.grads[0], n, counts) if gathers else out.grads[0]

    def _input_gradient(self, logits: Tensor, samples: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
        return gradient

    def _forward(self, network: Callable[..., Tensor], x: Tensor, labels: Tensor | None, autocast=True) -> Tensor:
        inputs, dtype = (x,) if labels is None else (x, labels), PRECISIONS[self.config.precision]
        if dtype is None or not autocast:
            return network(*inputs)
        # No cache of cast weights: it outlives `no_grad`, it is not allowed in a graph capture, and the gradients of
        # two uses of one cast weight would be summed in half precision.
        with torch.autocast(self.device.type, dtype, cache_enabled=False):
            return network(*inputs)

    def _discriminate(self, x: Tensor, labels: Tensor | None, penalised: float = 0.0) -> Tensor:
        """D's logits. With a penalty: of the uncompiled D, as double backward does not work through a compiled one; and
        without float16 autocast, as double backward would leave float16's range."""
        if penalised:
            logits = self._forward(self.discriminator, x, labels, autocast=self.config.precision != "float16")
        else:
            logits = self._forward(self.discriminate, x, labels)
        check_logits(logits, x)
        return logits

    def _augmented(self, samples: Tensor, counts) -> Tensor:
        """The samples as D sees them."""
        return samples if self.augmentation is None else self.augmentation(samples, counts)

    def _parts(self, real: Tensor, labels: Tensor | None, counts) -> list[tuple[Tensor, Tensor | None, Tensor]]:
        """(samples, labels, new z) of each part of a batch."""
        k = self.config.accumulate
        split = [None] * k if labels is None else labels.tensor_split(k)
        return list(zip(real.tensor_split(k), split, self.latent(len(real), counts).tensor_split(k)))

    def _scale(self, n: int, whole: int, counts) -> Tensor | float | None:
        """The weight of a mean over n samples in the mean over all ranks' samples, times the loss scale. None: 1."""
        share = n / (sum(counts) if counts else whole * distributed.ranks())
        if self.scaler is not None:
            return self.scaler.scale(self.one) * share
        return None if share == 1 else share

    def _loss_scale(self) -> Tensor | None:
        return None if self.scaler is None else self.scaler.scale(self.one)

    def _update(self, player: int, parameters: Sequence[Tensor]) -> None:
        if distributed.ranks() > 1:
            distributed.sum_gradients(parameters)
        if self.scaler is not None:
            self.scaler.step(self.optimizers[player])
        else:
            self.optimizers[player].step()

    @staticmethod
    def _gathered(rows: Tensor, counts) -> Tensor:
        ranks = distributed.ranks()
        return distributed.gather_rows(rows, counts or [len(rows)] * ranks) if ranks > 1 else rows

    @staticmethod
    def _own_rows(rows: Tensor, n: int, counts) -> Tensor:
        _, first = distributed.of_all(n, counts)
        return rows[first : first + n]

    @staticmethod
    def _mean_of_parts(values: Sequence[dict[str, Tensor]], sizes: Sequence[int]) -> dict[str, Tensor]:
        """The mean over the parts of a batch, each weighted by its number of samples."""
        if len(values) == 1:
            return values[0]
        return {k: sum(v[k] * (n / sum(sizes)) for v, n in zip(values, sizes)) for k in values[0]}


@contextlib.contextmanager
def _frozen(parameters: Sequence[Tensor]) -> Iterator[None]:
    """The parameters require no grad inside. They do again afterwards, also after an exception: a loop may continue
    after Ctrl-C or an out-of-memory error."""
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


class Augmentation(nn.Module):
    """Augments the samples that D sees with probability `p`, a tensor on the device that may adapt."""

    p: Tensor

    def __init__(self, config: TrainerConfig, random: Callable[[], torch.Generator]):
        super().__init__()
        self.policy, self.target, self.random = config.augment, config.augment_target, random
        self.register_buffer("p", torch.tensor(0.0 if config.augment_target is not None else config.augment_p))

    def forward(self, samples: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """counts: samples of each rank, if they differ. Every rank draws for the whole batch and uses its own rows."""
        total, first = distributed.of_all(len(samples), counts)
        drawn = draw_augmentation(total, samples.shape, self.policy, self.p, generator=self.random())
        return augment(samples, drawn._make(each[first : first + len(samples)] for each in drawn))

    def adapt(self, sign: Tensor, batch: int) -> Tensor:
        """Update p after a batch of real samples whose logits have this mean sign, and return a copy."""
        return ada_step(self.p, sign, batch, self.target).clone()


class DiscriminatorPass(NamedTuple):
    """What `Step._backward_d` returns. grad_fake_logits, grad_fake_samples: the gradients of D's loss at the generated
    samples' logits, and at the samples themselves (one-stage steps only)."""

    values: dict[str, Tensor]
    real_logits: Tensor
    fake_logits: Tensor
    grad_fake_logits: Tensor
    loss_fake: Tensor | None
    grad_fake_samples: Tensor | None
