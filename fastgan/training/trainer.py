"""The trainer of a GAN: the loop, the step, the averaged generator, and checkpoints for an exact resume.

    trainer = GANTrainer(generator, discriminator, latent_dim=64)
    trainer.fit(data, steps=10_000, batch=256)      # or call trainer.step(real) in your own loop
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
from fastgan.training import checkpoints, checks, feed
from fastgan.training import distributed as ranks
from fastgan.training.average import Average
from fastgan.training.capture import REHEARSALS, REHEARSALS_OF_RANKS, Graphs, reason, state_restored
from fastgan.training.captured import make_capturable, why_not_capturable
from fastgan.training.checkpoints import CHECKPOINT_FORMAT, check_same_network, read_checkpoint, write_atomically
from fastgan.training.config import PRECISIONS, TrainerConfig, check_objective, with_settings
from fastgan.training.distributed import World, distributed
from fastgan.training.network_checks import NetworkChecks, choose_single_pass
from fastgan.training.numbers import TrainingDiverged, check_finite, describe, to_numbers
from fastgan.training.resume import check_checkpoint
from fastgan.training.sampling import generate
from fastgan.training.step import Step, generator_backward

__all__ = [
    "CROSS_ENTROPY", "GANTrainer", "TrainingDiverged", "World", "check_finite", "check_objective", "check_same_network",
    "describe", "distributed", "generate", "generator_backward", "read_checkpoint", "to_numbers", "write_atomically",
]  # fmt: skip

CROSS_ENTROPY = ("minimax", "nonsaturating")  # objectives whose losses are ln 2 if D cannot tell real from generated
ORDER = 0x9E3779B97F4A7C15  # added to the seed of the row order, so that rows and z use different random numbers
LOGIT_CRITERIA = ("sigmoid_cross_entropy", "absolute_error", "hinge")  # criteria that do not work with probabilities


class GANTrainer:
    """Trains a generator against a discriminator.

    generator: z (N, latent_dim), drawn from N(0, I), -> samples (N, ...).
    discriminator: samples -> logits of any shape that starts with N. None with objective "mmd".
    device: where to train; None: the device of the generator's parameters.
    optimizers: your own, (G's, D's), instead of Adam. Set their lr and betas yourself.
    schedulers: of `torch.optim.lr_scheduler`, for the optimizers. Each steps once per step of the trainer.

    The settings are the fields of `fastgan.training.config.TrainerConfig`, which defines their defaults:

    latent_dim: how many numbers z has.
    objective: the loss, a name that `fastgan.discriminator_value_and_grad` and `generator_value_and_grad` accept, or
        "mmd": the maximum mean discrepancy of generated and real samples (`fastgan.mmd_value_and_grad`), with no D.
    weight: factor on both sides of D's loss. With 1/2, D's loss is the mean over its real and its generated side, and
        D's cross-entropy is ln 2 at the equilibrium.
    r1: gamma of the penalty gamma/2 * E |grad_x D(x)|^2 on real data (Mescheder et al. 2018, eq. 9), where D(x) is the
        sum of a sample's logits. 0: no penalty; training then does not converge in general (same paper). None: 0.5, or
        0 if there is no D.
    r2: the same penalty on generated data (eq. 10). Only D learns from it.
    r1_every: compute the penalties only every r1_every-th step, r1_every times as heavy (Karras et al. 2020, B).
    lr, betas: of Adam, for both networks. lr is constant until `set_learning_rate` changes it, so that a run can be
        extended at any time. The average over steps replaces a schedule (measured on digits: coverage 0.96 with the
        average, 0.93 with a cosine schedule to zero).
    lr_d, betas_d: D's own; None: as G's. Two time-scales: Heusel et al. 2017.
    classes: None, or the number of classes: then both networks get labels, G(z, y) and D(x, y), with y int64 (N,) in
        [0, classes). Generated sample i gets the label of real sample i.
    ema_decay: the generator's weights are averaged with this decay, warmed up as min(ema_decay, (t + 1) / (t + 10)).
        `sample` uses the average. Statistics of batch normalisation are averaged too, other buffers are copied.
    seed: of z and of the random choice of data. It does not change the weights of your networks.
    step: "alternating", a step of D, then one of G against the new D; or "one-stage", both at the same weights, from
        one pass through D (Shen et al. 2021): the gradients of simultaneous training, for less work. Exact if D returns
        one logit per sample that does not depend on other samples, or if the two losses are opposites ("minimax",
        "wasserstein", "absolute_error"); refused otherwise.
    redraw: G's step generates new samples. False: it uses those of D's step again, as pytorch/examples does, which
        saves a pass through G. One-stage steps always use one set of samples.
    precision: of the passes: "float32" (any dtype of weights, no autocast), or "bfloat16" or "float16" by autocast;
        float16 with a loss scale. None: bfloat16 on GPUs that support it, else float32. Weights, losses and sums of
        penalties stay float32. With float16, D runs in float32 in a step with a penalty.
    compile: `torch.compile` both networks. In a step with a penalty D runs uncompiled, as double backward does not work
        through a compiled network.
    capture: None or True: capture the whole step in one CUDA graph (one more if r1_every > 1), with the numbers of the
        uncaptured step. If that is not possible, `capture_reason` says why; so does a warning on a GPU, or with True on
        a CPU. False: never capture. Batches of another shape than the first one run uncaptured.
    accumulate: split a batch into this many parts and sum their gradients: the step of the whole batch in the memory of
        a part. Batch statistics are those of a part.
    augment, augment_p, augment_target: change real and generated images at random before D sees them, so that D cannot
        memorise a small data set: by some of "color", "translation", "cutout" and "flip" (`fastgan.layers.augment`;
        Zhao et al. 2020), each with probability augment_p. With augment_target the probability adapts, from 0, until
        the mean sign of D's logits of real images is augment_target (Karras et al. 2020, NeurIPS: 0.6).
    concatenate: D sees real and generated samples in one pass. None: if D's logits do not depend on other samples,
        which the trainer checks. Steps with only one of r1 and r2 use two passes: double backward of both costs more.
    channels_last: memory format of images and networks; None: channels_last on GPUs.
    bandwidths: of the kernel of objective "mmd".

    On several ranks (`fastgan.distributed`) each has a part of the batch. The step is that of one process on the whole
    batch, to rounding, whatever the number of ranks: all draw the whole batch's random numbers and use their own rows.
    All ranks start with the first one's weights. Each rank has its own statistics of batch normalisation.

    The constructor runs copies of both networks once, and refuses networks that do not fit together. It warns if D's
    outputs are probabilities, such as those of a final Sigmoid, and the objective expects logits.

    Raises TypeError or ValueError if an argument has the wrong type, is out of range or has no effect on the training;
    if the objective is unknown; if a network has no parameters, has weights that are not finite, cannot be copied, or
    does not fit the other one. `step` and `fit` raise it, before training, if the networks cannot read the samples.
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
        # Rows and z have separate generators, so that the same rows from a DataLoader give the same training.
        self.order = torch.Generator(self.device).manual_seed((config.seed + ORDER) % 2**64)
        cuda = self.device.type == "cuda"
        if config.precision is None:
            with_bfloat16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
            config = replace(config, precision="bfloat16" if with_bfloat16 else "float32")
        if config.channels_last is None:
            config = replace(config, channels_last=cuda)

        # the networks, G's average, and whether the networks fit together
        for network in networks:
            network.to(self.device)
            if config.channels_last:
                network.to(memory_format=torch.channels_last)  # changes 4-dimensional weights only
            if ranks.ranks() > 1:
                ranks.broadcast([t.detach() for t in (*network.parameters(), *network.buffers())])
        self.generator, self.discriminator = generator, discriminator
        self._average = Average(generator)
        self.ema = self._average.network
        self.step_number = 0  # steps done
        self._resumed = 0  # the step of the checkpoint that was loaded

        passes = PRECISIONS[config.precision]
        self._network_checks = NetworkChecks(generator, discriminator, config.latent_dim, passes, config.classes)
        if discriminator is None:
            config = replace(config, concatenate=False)
        else:
            config = replace(config, concatenate=choose_single_pass(config, self._network_checks.traits))
            if find(config.objective).criterion in LOGIT_CRITERIA and self._network_checks.gives_probabilities():
                warnings.warn(
                    "discriminator: its outputs are probabilities, in [0, 1] whatever its weights, and objective "
                    f"{config.objective!r} expects logits: remove the final sigmoid",
                    stacklevel=2,
                )
        if config.augment is not None and self._network_checks.example.dim() != 4:
            raise ValueError(f"augment: got {config.augment}, but the samples are not images (N, C, H, W)")
        self.config = config  # without None: every choice is made
        self.latent_dim, self.objective, self.weight = config.latent_dim, config.objective, config.weight
        self.lr, self.r1, self.r2, self.r1_every = config.lr, config.r1, config.r2, config.r1_every
        self.ema_decay = config.ema_decay

        # the optimizers and the step
        self.own_optimizers = optimizers is not None
        if optimizers is None:
            optimizers = [self._adam(network, player) for player, network in enumerate(networks)]
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
        """The settings that a checkpoint must have for an exact resume."""
        own = [type(optimizer).__name__ for optimizer in self._step.optimizers] if self.own_optimizers else None
        return {**self.config.exact(), "device": self.device.type, "optimizers": own}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of z."""
        return next(p.dtype for p in self.generator.parameters() if p.is_floating_point())

    def fit(self, data: Any, *, steps: int, batch: int = 64, log_every: int = 100) -> list[dict]:
        """Train on `data`, for `steps` more steps.

        data: a tensor or NumPy array of samples, uint8 images (N, C, H, W) of 0..255, which become -1..1, or floats
        (N, ...) of the networks' dtype; a pair (samples, labels); a map-style Dataset of samples, or of tuples that
        begin with a sample and a label; a DataLoader, or any iterable of batches, each a tensor or a tuple that begins
        with samples and labels, iterated again when it is exhausted. Labels are used if there are `classes`.

        Each step draws `batch` rows of a tensor, array or Dataset, uniformly and with replacement, the same rows of all
        three. Training on these resumes exactly from a checkpoint. Iterables have their own order and batch size; if
        training resumes from a checkpoint, their order starts again, with a warning.

        Returns a record of numbers every `log_every` steps, the only points where the host waits for the device. Shows
        a progress bar if stderr is a terminal. On several ranks, `batch` is the batch size of each rank, iterables must
        give each rank its own samples, and the numbers are means over ranks.

        Raises TrainingDiverged, at the next of these points, if a number is NaN or infinite; TypeError or ValueError if
        `data` has no samples, or none that the networks accept.
        """
        steps, batch = whole("steps", steps), whole("batch", batch)
        log_every = whole("log_every", log_every)

        def prepare(name: str, samples: Tensor) -> Tensor:
            seen = self._to_network_input(samples)
            self._network_checks.check(name, seen, self.config.concatenate)
            return seen

        batches = feed.batches(
            data, self.config.classes, lambda count: self._draw_rows(count, batch), prepare, self._resumed
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
        """`batch` random rows of `data`, with replacement, as the networks see them. `data` must be on the device, and
        the same on all ranks, which draw different rows."""
        return self._to_network_input(data[self._draw_rows(len(data), batch)])

    def latent(self, n: int, counts: Sequence[int] | None = None) -> Tensor:
        """The next z, (n, latent_dim) from N(0, I). On several ranks: this rank's rows of the z of all ranks' samples.
        counts: the number of samples of each rank; None: n on each."""
        total, first = ranks.of_all(n, counts)
        z = torch.randn(total, self.latent_dim, generator=self.random, device=self.device, dtype=self.dtype)
        return z[first : first + n]

    def step(self, real: Tensor, labels: Tensor | None = None, *, uneven: bool = False) -> dict[str, Tensor]:
        """Train D for one step, on `real` (N, ...), floating, and N generated samples; and G, on N generated samples.

        labels: int64 (N,) on the device, if there are `classes`, else None.
        uneven: the ranks' batches may differ in size. The ranks then exchange their sizes, and the mean is over all
            samples. Otherwise every rank must have N.

        Returns 0-d tensors on the device: loss_d and loss_g (without penalties), error (D's expected error: the share
        it judges wrongly, 1/2 at the equilibrium), real_logit and fake_logit (means), r1 and, if there is
        one, r2 (the weighted penalties; 0 in a step without a penalty); with "mmd" loss_g only. They are those of this
        rank's samples. A captured step returns the same tensors every time: read or clone them before the next step.
        """
        gather_counts = uneven and ranks.ranks() > 1
        try:
            self._network_checks.check("real", real, self.config.concatenate)
            if (labels is None) != (self.config.classes is None):
                got, expected = ("None", "a tensor") if labels is None else ("a tensor", "None")
                raise ValueError(f"labels: got {got}, expected {expected} with classes={self.config.classes}")
            if labels is not None:
                feed.check_labels("labels", labels, len(real))
        except (TypeError, ValueError):
            if gather_counts:
                ranks.counts_of_all(0, self.device)  # raises on all ranks: otherwise the others would wait for this one
            raise
        penalised = self.config.penalised and self.step_number % self.config.r1_every == 0
        counts = ranks.counts_of_all(len(real), self.device) if gather_counts else None
        least = min(counts or [len(real)])
        if self.config.accumulate > least:
            raise ValueError(f"accumulate: got {self.config.accumulate} parts for {least} samples")
        inputs = [real.detach(), *([] if labels is None else [labels])]
        if self._graphs is None and self.capture_reason is None and counts is None:
            self._capture(inputs)
        if self._graphs is not None and counts is None and self._graphs.fits(inputs):
            values = self._graphs.replay(inputs, penalised)
        else:
            values = self._step.play(*inputs, penalised, counts=counts)
        for scheduler in self.schedulers:
            scheduler.step()
        self._average.update(self.step_number, self.config.ema_decay)
        self.step_number += 1
        return values

    def numbers(self, values: dict[str, Tensor]) -> dict[str, float]:
        """`to_numbers`. On several ranks: the mean over ranks; every rank must call it."""
        if ranks.ranks() > 1:
            mean = ranks.mean_over_ranks(torch.stack([value.float() for value in values.values()]))
            return dict(zip(values, mean.tolist()))
        return to_numbers(values)

    def set_learning_rate(self, lr: float, generator: float | None = None) -> None:
        """Set the learning rate of both networks from the next step on. Call it between steps to follow a schedule. A
        checkpoint keeps the rate.

        generator: G's own rate, for two time-scales (Heusel et al. 2017). Raises ValueError if a rate is negative or
        not finite."""
        lr_d = not_negative("lr", lr)
        lr_g = lr_d if generator is None else not_negative("generator", generator)
        for optimizer in self._step.optimizers:
            lr = lr_g if optimizer is self.optimizer_g else lr_d
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)  # in place: a captured step reads this tensor
                else:
                    group["lr"] = lr
                    self._graphs = None  # they hold the old rate; the next step captures again

    def sample(self, count: int, seed: int = 0, batch: int = 256, labels: Tensor | None = None) -> Tensor:
        """(count, ...) samples of the averaged generator, on its device. For the same weights, the same seed gives the
        same samples. Sampling does not affect training.

        labels: int64 (count,), if there are `classes`; None: 0, 1, ..., classes - 1, 0, 1, ..."""
        return torch.cat(list(generate(self.ema, self.latent_dim, count, seed, batch, self.config.classes, labels)))

    def save(self, path: str | os.PathLike) -> None:
        """Write a checkpoint atomically: even after a crash, `path` holds the complete old or the complete new file. On
        several ranks only the first one writes.

        Raises OSError if the file cannot be written, TypeError if `load` could not read it; the old file then stays."""
        if ranks.rank() > 0:
            return
        checkpoint = {
            "format": CHECKPOINT_FORMAT,
            "step": self.step_number,
            "settings": self.settings,
            "random": self.random.get_state(),
            "order": self.order.get_state(),
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "torch_random": torch.get_rng_state(),  # for networks that use it, such as dropout
            "scaler": self._step.scaler.state_dict() if self._step.scaler else {},
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        write_atomically(path, lambda file: torch.save(checkpoints.loadable(checkpoint), file))

    def load(self, path: str | os.PathLike) -> None:
        """Resume from a checkpoint: every number from here on is that of an uninterrupted run.

        Also restores torch's global random state, on the first rank. Other ranks get a different state: networks that
        use it, such as dropout, do not resume exactly there. The file is read with `weights_only=True`, so it cannot
        run code. It is checked completely before anything changes: after an error the trainer is unchanged.
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
            for group in optimizer.param_groups:  # the checkpoint may be older than CUDA graph capture
                group["capturable"], group["lr"] = self.device.type == "cuda", self._on_device(float(group["lr"]))
        for scheduler, state in zip(self.schedulers, checkpoint.get("schedulers", ())):
            scheduler.load_state_dict(state)
        self.random.set_state(checkpoint["random"].cpu())
        if "order" in checkpoint:  # checkpoints of fastgan 0.1 have none
            self.order.set_state(checkpoint["order"].cpu())
        torch.set_rng_state(checkpoint["torch_random"].cpu())
        if checkpoint["cuda_random"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_random"].cpu(), self.device)
        if ranks.rank() > 0:
            torch.manual_seed(int(torch.randint(2**62, ())) + ranks.rank())
        if self._step.scaler:
            self._step.scaler.load_state_dict(checkpoint["scaler"])
        self._graphs = None  # they use the optimizers' old state; the next step captures again
        self.step_number = self._resumed = checkpoint["step"]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks, by their names in a checkpoint."""
        named = {"generator": self.generator, "discriminator": self.discriminator, "ema": self.ema}
        return {name: network for name, network in named.items() if network is not None}

    def _parts(self) -> dict:
        parts = self.networks | dict(zip(("optimizer_g", "optimizer_d"), self._step.optimizers))
        more = {"augmentation": self._step.augmentation, "average": self._average.wide}
        return parts | {name: part for name, part in more.items() if part is not None}

    def _to_network_input(self, samples: Tensor) -> Tensor:
        return feed.to_network_input(samples, self.device, self.dtype)

    def _draw_rows(self, count: int, batch: int) -> Tensor:
        return draw_rows(count, batch, self.order, ranks.rank(), ranks.ranks())

    def _adam(self, network: nn.Module, player: int) -> torch.optim.Adam:
        s, cuda = self.config, self.device.type == "cuda"
        lr, betas = (s.lr_d or s.lr, s.betas_d or s.betas) if player == 1 else (s.lr, s.betas)
        options = {"betas": betas, "capturable": cuda, "fused": self.device.type in ("cpu", "cuda")}
        return torch.optim.Adam(network.parameters(), lr=self._on_device(lr), **options)

    def _on_device(self, lr: float) -> Tensor | float:
        """On a GPU Adam's learning rate is a tensor: a CUDA graph would keep a number's value at capture."""
        return torch.tensor(lr, dtype=torch.float32, device=self.device) if self.device.type == "cuda" else lr

    def _why_not_captured(self, capture: bool | None) -> str | None:
        if capture is False:
            return "capture=False"
        if self.device.type != "cuda":
            why = f"CUDA graphs are for GPUs, and the device is {self.device.type}"
            return self._runs_uncaptured(why, bool(capture))
        if ranks.ranks() > 1 and torch.distributed.get_backend() != "nccl":
            return self._runs_uncaptured(f"{torch.distributed.get_backend()} cannot be captured, NCCL can", True)
        reasons = [why_not_capturable(optimizer, self.schedulers) for optimizer in self._step.optimizers]
        return next((self._runs_uncaptured(why, True) for why in reasons if why), None)

    @staticmethod
    def _runs_uncaptured(reason: str, warn: bool) -> str:
        if warn:
            warnings.warn(f"the step runs uncaptured: {reason}", stacklevel=4)
        return reason

    def _capture(self, inputs: Sequence[Tensor]) -> None:
        """Try to capture the step. If that fails, set `capture_reason` and restore everything else."""
        penalty = self.config.penalised
        variants = [True, False] if penalty and self.config.r1_every > 1 else [penalty]
        rehearsals = REHEARSALS_OF_RANKS if ranks.ranks() > 1 else REHEARSALS
        state, scaler = self.random.get_state(), self._step.scaler
        scale = scaler.state_dict() if scaler else None
        restore_optimizers = [make_capturable(optimizer) for optimizer in self._step.optimizers]
        try:
            what = (self._step.play, inputs, self.device, variants, [self.random])
            self._graphs = Graphs(*what, self._state_restored(), rehearsals)
        except RuntimeError as error:  # CUDA and its allocator raise RuntimeError too
            self._graphs = None
            for restore in restore_optimizers:
                restore()
            self.random = torch.Generator(self.device)  # a failed capture may still hold the old generator
            self.random.set_state(state)
            if scaler:  # the failure may have come between an optimizer's step and the scaler's update
                self._step.scaler = torch.amp.GradScaler(self.device.type)
                self._step.scaler.load_state_dict(scale)
            self.capture_reason = self._runs_uncaptured(reason(error), True)

    def _state_restored(self):
        networks = [*filter(None, [self.generator, self.discriminator, self._step.augmentation])]
        return state_restored(networks, self._step.optimizers, [self.random], self._step.scaler)


GANTrainer.__signature__ = with_settings(GANTrainer)
