"""The trainer of a GAN: the loop, the step, the averaged generator, and checkpoints to go on from exactly.

    trainer = GANTrainer(generator, discriminator, latent_dim=64)
    trainer.fit(data, steps=10_000, batch=256)      # or call trainer.step(real) in a loop of your own
    images = trainer.sample(16, seed=0)

The step does not synchronise with the host: no `.item()`, no copy. Reading a number that `step` returns does.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from fastgan.checks import not_negative, whole
from fastgan.data import draw_rows, progress_bar
from fastgan.formulas.objectives import find
from fastgan.training import checks, feed
from fastgan.training import distributed as ranks
from fastgan.training.average import Average
from fastgan.training.capture import REHEARSALS, REHEARSALS_OF_RANKS, Graphs, reason, undone
from fastgan.training.captured import made_capturable, unfit
from fastgan.training.checkpoints import CHECKPOINT_FORMAT, check_same_network, plain, read_checkpoint, write_atomically
from fastgan.training.config import PRECISIONS, TrainerConfig, check_objective, with_settings
from fastgan.training.distributed import World, distributed
from fastgan.training.look import FirstLook, choose_passes
from fastgan.training.numbers import TrainingDiverged, check_finite, describe, to_numbers
from fastgan.training.resume import check_checkpoint
from fastgan.training.sampling import generate
from fastgan.training.step import Step, generator_backward

__all__ = [
    "CROSS_ENTROPY", "GANTrainer", "TrainingDiverged", "World", "check_finite", "check_objective", "check_same_network",
    "describe", "distributed", "generate", "generator_backward", "read_checkpoint", "to_numbers", "write_atomically",
]  # fmt: skip

CROSS_ENTROPY = ("minimax", "nonsaturating")  # objectives whose losses are ln 2 where D cannot tell
ORDER = 0x9E3779B97F4A7C15  # beside the seed: rows and z must not come from the same numbers
OF_LOGITS = ("sigmoid_cross_entropy", "absolute_error", "hinge")  # criteria that make no sense of probabilities


class GANTrainer:
    """Trains a generator against a discriminator.

    generator: z (N, latent_dim), drawn from N(0, I), -> samples (N, ...).
    discriminator: samples -> logits of any shape that starts with N. None with objective "mmd".
    device: where to train; None leaves the networks on the device of the generator's parameters.
    optimizers: your own, (G's, D's), in place of Adam; lr and betas are theirs then.
    schedulers: of `torch.optim.lr_scheduler`, for them; each takes a step after each step of the trainer.

    And the settings, fields of `fastgan.training.config.TrainerConfig`, where their defaults stand:

    latent_dim: how many numbers z has.
    objective: the loss, by the name that `fastgan.discriminator_value_and_grad` and `generator_value_and_grad` know, or
        "mmd": the maximum mean discrepancy of generated and real samples (`fastgan.mmd_value_and_grad`), with no D.
    weight: factor on both sides of D's loss. With 1/2 real and generated data count in equal parts and D's
        cross-entropy is ln 2 at the equilibrium.
    r1: gamma of the penalty gamma/2 * E |grad_x D(x)|^2 on real data (Mescheder et al. 2018, eq. 9), where D(x) is the
        sum of a sample's logits. 0: no penalty; training then does not converge in general (same paper). None: 0.5, or
        0 if there is no D.
    r2: the same on generated data (eq. 10), of which only D learns.
    r1_every: compute the penalties at every r1_every-th step only, weighed r1_every times (Karras et al. 2020, B).
    lr, betas: of Adam, for both networks. Constant until `set_learning_rate` changes it, so that a run can be made
        longer at any time; the average over steps does what a schedule would (measured on digits: coverage 0.96 with
        it, 0.93 with a cosine to zero).
    lr_d, betas_d: D's own; None: as G's. Two time-scales: Heusel et al. 2017.
    classes: None, or how many there are: then both networks are told labels, G(z, y) and D(x, y) with y int64 (N,) in
        [0, classes). Generated samples get the labels of the real ones beside them.
    ema_decay: the generator's weights are averaged with this decay, warmed up as min(ema_decay, (t + 1) / (t + 10)).
        Sampling uses the average. Statistics of batch normalisation are averaged alike, other buffers copied.
    seed: of z and of the random choice of data. It does not touch the networks' weights, which are yours.
    step: "alternating", a step of D, then one of G against the new D; or "one-stage", both at the same weights, from
        one pass through D (Shen et al. 2021): the gradients of simultaneous training, for less work. Exact if D's
        logits do not depend on other samples and are one a sample, or if the two losses are opposites ("minimax",
        "wasserstein", "absolute_error"); refused otherwise.
    redraw: G's step learns from new samples. False: from those that D's step has just seen, as in pytorch/examples,
        which saves a pass through G. One-stage steps always do.
    precision: of the passes: "float32" (whatever dtype the weights have), "bfloat16" or "float16" by autocast, float16
        with a loss scale. None: bfloat16 on GPUs that have it. Weights, losses and penalties' sums stay float32; with
        float16 a step with a penalty passes D in float32.
    compile: `torch.compile` both networks. A step with a penalty passes D uncompiled, as double backward goes through
        no compiled network.
    capture: None or True: the whole step in one CUDA graph (one more if r1_every > 1), with the numbers of the
        uncaptured step. If that is not possible, `capture_reason` says why, and a warning on a GPU, or on a CPU with
        True. False: never. Batches of another shape than the first run uncaptured.
    accumulate: split a batch into so many parts and add up their gradients: the memory of a part for the step of the
        whole. Batch statistics are those of a part.
    augment, augment_p, augment_target: images, real and generated, are changed at random before D sees them, so that it
        cannot learn a small data set by heart: by some of "color", "translation", "cutout" and "flip"
        (`fastgan.layers.augment`; Zhao et al. 2020), each with probability augment_p. Or that adapts, from 0, until the
        mean sign of D's logits of real images is augment_target (Karras et al. 2020, NeurIPS: 0.6).
    concatenate: D sees real and generated samples in one pass. None: if D's logits do not depend on other samples,
        which is tried out. Steps with only one of r1 and r2 use two passes: a double backward of both would cost more.
    channels_last: memory format of images and networks; None: on GPUs.
    bandwidths: of the kernel of objective "mmd".

    On several ranks (`fastgan.distributed`) each has a part of the batch. The step is that of one process on the whole
    batch, to rounding, whatever the number of ranks: all draw the whole batch's random numbers and use their own rows.
    Weights are the first rank's at the start. Statistics of batch normalisation are each rank's own.

    Both networks run once, on copies, when the trainer is made, so that networks that do not fit together are refused
    then. Warns if D's outputs are probabilities, as those of a last Sigmoid are, and the objective expects logits.

    Raises TypeError or ValueError if an argument is of the wrong kind or out of range or has no part in the training,
    the objective is unknown, or a network has no parameters, has weights that are not finite, cannot be copied, or does
    not fit what the other one makes; `step` and `fit` if the networks cannot read the samples. Nothing is trained then.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None,
        *,
        device: torch.device | str | None = None,
        optimizers: Sequence[torch.optim.Optimizer] | None = None,
        schedulers: Sequence[LRScheduler] = (),
        **settings: Any,
    ):
        config = TrainerConfig(**settings)
        networks = checks.pair(generator, discriminator, config.objective)
        device = next(generator.parameters()).device if device is None else device
        self.device, self.random = checks.device_and_random(device, config.seed)
        # which rows are drawn: apart from z, so that the same rows from a DataLoader give the same training
        self.order = torch.Generator(self.device).manual_seed((config.seed + ORDER) % 2**64)
        cuda = self.device.type == "cuda"
        # what was not given
        if config.precision is None:
            with_bfloat16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
            config = replace(config, precision="bfloat16" if with_bfloat16 else "float32")
        if config.channels_last is None:
            config = replace(config, channels_last=cuda)

        # the networks, their average, and whether they fit together
        for network in networks:
            network.to(self.device)
            if config.channels_last:  # of 4-dimensional weights
                network.to(memory_format=torch.channels_last)
            if ranks.ranks() > 1:
                ranks.broadcast([t.detach() for t in (*network.parameters(), *network.buffers())])
        self.generator, self.discriminator = generator, discriminator
        self._average = Average(generator)
        self.ema = self._average.network
        self.step_number = 0  # steps done
        self._resumed = 0  # of them, by a run before this one

        passes = PRECISIONS[config.precision]
        self._look = FirstLook(generator, discriminator, config.latent_dim, passes, config.classes)
        if discriminator is None:
            config = replace(config, concatenate=False)
        else:
            config = replace(config, concatenate=choose_passes(config, self._look.seen))
            if find(config.objective).criterion in OF_LOGITS and self._look.gives_probabilities():
                warnings.warn(
                    "discriminator: its outputs are probabilities, in [0, 1] whatever its weights, and objective "
                    f"{config.objective!r} expects logits: remove the sigmoid at its end",
                    stacklevel=2,
                )
        if config.augment is not None and self._look.made.dim() != 4:
            raise ValueError(f"augment: got {config.augment}, but the samples are no images (N, C, H, W)")
        self.config = config  # with what was chosen for None
        self.latent_dim, self.objective, self.weight = config.latent_dim, config.objective, config.weight
        self.lr, self.r1, self.r2, self.r1_every = config.lr, config.r1, config.r2, config.r1_every
        self.ema_decay = config.ema_decay

        # what learns, and how
        self.own_optimizers = optimizers is not None
        if optimizers is None:
            optimizers = [self._adam(network, of_d) for of_d, network in enumerate(networks)]
        else:
            checks.optimizers(optimizers, networks, config)
        checks.schedulers(schedulers, optimizers)
        self.schedulers = list(schedulers)
        self.optimizer_g, self.optimizer_d = (*optimizers, None)[:2]
        self._step = Step(generator, discriminator, optimizers, self.latent, config, lambda: self.random)
        self._graphs: Graphs | None = None
        self.capture_reason = self._why_not_captured(config.capture)

    @property
    def settings(self) -> dict:
        """What a checkpoint must agree with for the training to go on exactly."""
        own = [type(optimizer).__name__ for optimizer in self._step.optimizers] if self.own_optimizers else None
        return {**self.config.exact(), "device": self.device.type, "optimizers": own}

    @property
    def dtype(self) -> torch.dtype:
        """Of z."""
        return next(p.dtype for p in self.generator.parameters() if p.is_floating_point())

    def fit(self, data: Any, *, steps: int, batch: int = 64, log_every: int = 100) -> list[dict]:
        """Train on `data`, for `steps` more steps.

        data: a tensor or NumPy array of samples, uint8 images (N, C, H, W) of 0..255, which become -1..1, or floats
        (N, ...) of the networks' dtype; a pair (samples, labels); a map-style Dataset of samples, or of tuples that
        begin with a sample and a label; a DataLoader, or any iterable of batches, each a tensor or a tuple that begins
        with samples and labels, asked again when it ends. Labels are used if there are `classes`.

        Of a tensor, an array and a Dataset `batch` rows are drawn at each step, uniformly and with replacement, the
        same ones of each, and a checkpoint goes on exactly. Iterables have an order and a batch of their own; if
        training goes on from a checkpoint, a warning says that their order begins anew.

        Returns a record of numbers every `log_every` steps, which are the only points where the host waits for the
        device. With a progress bar if stderr is a terminal. On several ranks `batch` is each one's, iterables give each
        rank its own samples, and the numbers are means over ranks.

        Raises TrainingDiverged if a number is NaN or infinite, at the next such point; TypeError or ValueError if there
        are no samples in `data`, or none that the networks accept.
        """
        steps, batch = whole("steps", steps), whole("batch", batch)
        log_every = whole("log_every", log_every)

        def prepare(name: str, samples: Tensor) -> Tensor:
            seen = self._as_seen(samples)
            self._look.check(name, seen, self.config.concatenate)
            return seen

        batches = feed.batches(
            data, self.config.classes, lambda count: self._rows(count, batch), prepare, self._resumed
        )
        history, last = [], self.step_number + steps
        with progress_bar(total=steps, unit=" step", unit_scale=False, hidden=ranks.rank() > 0) as bar:
            while self.step_number < last:
                values = self.step(*next(batches))
                bar.update(1)
                if self.step_number % log_every == 0 or self.step_number == last:
                    record = self.numbers(values)  # here the host waits for the device
                    check_finite(self.step_number, record)
                    history.append({"step": self.step_number, **record})
                    bar.set_postfix_str(describe(history[-1]), refresh=False)
        return history

    def draw(self, data: Tensor, batch: int) -> Tensor:
        """`batch` random rows of `data`, with replacement, as the networks see them. `data` lies on the device, and is
        the same on all ranks, which draw different rows."""
        return self._as_seen(data[self._rows(len(data), batch)])

    def latent(self, n: int, counts: Sequence[int] | None = None) -> Tensor:
        """(n, latent_dim) from N(0, I), the trainer's next. On several ranks: this one's rows of what one process would
        draw for all samples, of which each rank has n, or as many as `counts` says."""
        total, first = ranks.of_all(n, counts)
        z = torch.randn(total, self.latent_dim, generator=self.random, device=self.device, dtype=self.dtype)
        return z[first : first + n]

    def step(self, real: Tensor, labels: Tensor | None = None, *, uneven: bool = False) -> dict[str, Tensor]:
        """One step of D on `real` (N, ...), floating, and N generated samples, and one of G on N.

        labels: int64 (N,) on the device, if there are `classes`, else None.
        uneven: the ranks' batches may differ in size; they are asked, and the mean is over all samples. Else nothing is
            asked: all have N.

        Returns 0-d tensors on the device: loss_d and loss_g (without penalties), error (D's expected error: the share
        it judges wrongly, 1/2 at the equilibrium), real_logit and fake_logit (means), r1 and, if there is
        one, r2 (the weighted penalties; 0 in a step without a penalty); of "mmd" loss_g alone. They are those of this
        rank's samples. Captured, they are the same tensors at every step: read or clone them before the next.
        """
        asked = uneven and ranks.ranks() > 1
        try:
            self._look.check("real", real, self.config.concatenate)
            if (labels is None) != (self.config.classes is None):
                got, asked_for = ("None", "a tensor") if labels is None else ("a tensor", "None")
                raise ValueError(f"labels: got {got}, expected {asked_for} with classes={self.config.classes}")
            if labels is not None:
                feed.check_labels("labels", labels, len(real))
        except (TypeError, ValueError):
            if asked:
                ranks.counts_of_all(0, self.device)  # so that all ranks raise, and none waits for the others
            raise
        penalised = self.config.penalised and self.step_number % self.config.r1_every == 0
        counts = ranks.counts_of_all(len(real), self.device) if asked else None
        least = min(counts or [len(real)])
        if self.config.accumulate > least:
            raise ValueError(f"accumulate: got {self.config.accumulate} parts for {least} samples")
        seen = [real.detach(), *([] if labels is None else [labels])]
        if self._graphs is None and self.capture_reason is None and counts is None:
            self._capture(seen)
        if self._graphs is not None and counts is None and self._graphs.fits(seen):
            values = self._graphs.replay(seen, penalised)
        else:
            values = self._step.play(*seen, penalised, counts=counts)
        for scheduler in self.schedulers:
            scheduler.step()
        self._average.update(self.step_number, self.config.ema_decay)
        self.step_number += 1
        return values

    def numbers(self, values: dict[str, Tensor]) -> dict[str, float]:
        """`to_numbers`; on several ranks the mean over them, which all must ask for."""
        if ranks.ranks() > 1:
            mean = ranks.mean_over_ranks(torch.stack([value.float() for value in values.values()]))
            return dict(zip(values, mean.tolist()))
        return to_numbers(values)

    def set_learning_rate(self, lr: float, generator: float | None = None) -> None:
        """Of both networks, from the next step on: called between steps, a schedule. A checkpoint keeps it.

        generator: G's own rate, for two time-scales (Heusel et al. 2017). Raises ValueError if one is negative or not
        finite."""
        of_d = not_negative("lr", lr)
        of_g = of_d if generator is None else not_negative("generator", generator)
        for optimizer in self._step.optimizers:
            lr = of_g if optimizer is self.optimizer_g else of_d
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)  # in place: a captured step reads it there
                else:
                    group["lr"] = lr
                    self._graphs = None  # they hold the old one; the next step captures anew

    def sample(self, count: int, seed: int = 0, batch: int = 256, labels: Tensor | None = None) -> Tensor:
        """(count, ...) samples of the averaged generator, on its device. The same seed gives the same samples, whatever
        was trained or sampled before; training is not affected.

        labels: int64 (count,), if there are `classes`; None: 0, 1, ..., classes - 1, 0, 1, ..."""
        return torch.cat(list(generate(self.ema, self.latent_dim, count, seed, batch, self.config.classes, labels)))

    def save(self, path: str | os.PathLike) -> None:
        """Write a checkpoint, atomically: whenever this stops, `path` is either the old file or the new one, whole. On
        several ranks the first one writes, and the others do nothing.

        Raises OSError if it cannot be written, TypeError if it would not be read; the old file then still stands."""
        if ranks.rank() > 0:
            return
        checkpoint = {
            "format": CHECKPOINT_FORMAT,
            "step": self.step_number,
            "settings": self.settings,
            "random": self.random.get_state(),
            "order": self.order.get_state(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "torch_random": torch.get_rng_state(),  # for networks that draw from it, as dropout does
            "scaler": self._step.scaler.state_dict() if self._step.scaler else {},
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        write_atomically(path, lambda file: torch.save(plain(checkpoint), file))

    def load(self, path: str | os.PathLike) -> None:
        """Go on from a checkpoint: from here on every number is the one that an uninterrupted run would have had.

        Restores torch's global random state too: the first rank's; the others' is set apart from it, so that networks
        that draw from it, as dropout does, do not go on exactly there. The file is read with `weights_only=True`, so
        it can run no code, and is checked whole before anything is changed: after an error all is as it was before.
        Raises FileNotFoundError, or ValueError for a file that is damaged, of another network or of other settings."""
        checkpoint = read_checkpoint(path, self.device)
        before = checkpoint["settings"]
        changed = {name: now for name, now in self.settings.items() if before.get(name) != now}
        if changed:
            differences = ", ".join(f"{name} {before.get(name)} and not {now}" for name, now in changed.items())
            raise ValueError(f"{path}: was trained with {differences}; going on would not be exact")
        check_checkpoint(path, checkpoint, self._parts(), self.device, self._step.scaler, self.schedulers)
        for name, part in self._parts().items():
            part.load_state_dict(checkpoint[name])
        for optimizer in [] if self.own_optimizers else self._step.optimizers:
            for group in optimizer.param_groups:  # of a checkpoint from before there were graphs
                group["capturable"], group["lr"] = self.device.type == "cuda", self._on_device(float(group["lr"]))
        for scheduler, state in zip(self.schedulers, checkpoint.get("schedulers", ())):
            scheduler.load_state_dict(state)
        self.random.set_state(checkpoint["random"].cpu())
        if "order" in checkpoint:  # it is not in those of fastgan 0.1
            self.order.set_state(checkpoint["order"].cpu())
        torch.set_rng_state(checkpoint["torch_random"].cpu())
        if checkpoint["cuda_random"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_random"].cpu(), self.device)
        if ranks.rank() > 0:
            torch.manual_seed(int(torch.randint(2**62, ())) + ranks.rank())
        if self._step.scaler:
            self._step.scaler.load_state_dict(checkpoint["scaler"])
        self._graphs = None  # they know the optimizers' old state; the next step captures anew
        self.step_number = self._resumed = checkpoint["step"]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All that have weights, by the names that a checkpoint has for them."""
        found = {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}
        return {name: network for name, network in found.items() if network is not None}

    def _parts(self) -> dict:
        parts = self.networks | dict(zip(("optimizer_g", "optimizer_d"), self._step.optimizers))
        more = {"augmentation": self._step.augmentation, "average": self._average.wide}
        return parts | {name: part for name, part in more.items() if part is not None}

    def _as_seen(self, samples: Tensor) -> Tensor:
        return feed.as_seen(samples, self.device, self.dtype)

    def _rows(self, count: int, batch: int) -> Tensor:
        return draw_rows(count, batch, self.order, ranks.rank(), ranks.ranks())

    def _adam(self, network: nn.Module, of_d: int) -> torch.optim.Adam:
        s, cuda = self.config, self.device.type == "cuda"
        lr, betas = (s.lr_d or s.lr, s.betas_d or s.betas) if of_d else (s.lr, s.betas)
        options = {"betas": betas, "capturable": cuda, "fused": self.device.type in ("cpu", "cuda")}
        return torch.optim.Adam(network.parameters(), lr=self._on_device(lr), **options)

    def _on_device(self, lr: float) -> Tensor | float:
        """On a GPU Adam's learning rate is a tensor: a number would be captured as what it was at the first step."""
        return torch.tensor(lr, dtype=torch.float32, device=self.device) if self.device.type == "cuda" else lr

    def _why_not_captured(self, capture: bool | None) -> str | None:
        if capture is False:
            return "capture=False"
        if self.device.type != "cuda":
            return self._uncaptured(f"CUDA graphs are for GPUs, and the device is {self.device.type}", bool(capture))
        if ranks.ranks() > 1 and torch.distributed.get_backend() != "nccl":
            return self._uncaptured(f"{torch.distributed.get_backend()} cannot be captured, NCCL can", True)
        whys = [unfit(optimizer, self.schedulers) for optimizer in self._step.optimizers]
        return next((self._uncaptured(why, True) for why in whys if why), None)

    @staticmethod
    def _uncaptured(reason: str, said: bool) -> str:
        if said:
            warnings.warn(f"the step runs uncaptured: {reason}", stacklevel=4)
        return reason

    def _capture(self, seen: Sequence[Tensor]) -> None:
        """Tries to capture the step; if that fails, notes why, and everything is as before."""
        penalty = self.config.penalised
        variants = [True, False] if penalty and self.config.r1_every > 1 else [penalty]
        rehearsals = REHEARSALS_OF_RANKS if ranks.ranks() > 1 else REHEARSALS
        state, scaler = self.random.get_state(), self._step.scaler
        scale = scaler.state_dict() if scaler else None
        as_they_were = [made_capturable(optimizer) for optimizer in self._step.optimizers]
        try:
            of = (self._step.play, seen, self.device, variants, [self.random])
            self._graphs = Graphs(*of, self._undone(), rehearsals)
        except RuntimeError as error:  # also what CUDA and the allocator say
            self._graphs = None
            for restore in as_they_were:
                restore()
            self.random = torch.Generator(self.device)  # a failed capture may keep the old one
            self.random.set_state(state)
            if scaler:  # the old one may have been stopped between an optimizer's step and its own update
                self._step.scaler = torch.amp.GradScaler(self.device.type)
                self._step.scaler.load_state_dict(scale)
            self.capture_reason = self._uncaptured(reason(error), True)

    def _undone(self):
        networks = [*filter(None, [self.generator, self.discriminator, self._step.augmentation])]
        return undone(networks, self._step.optimizers, [self.random], self._step.scaler)


GANTrainer.__signature__ = with_settings(GANTrainer)
