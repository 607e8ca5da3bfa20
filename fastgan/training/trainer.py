"""The training step of a GAN, and what it takes to stop and go on exactly where it stopped.

    trainer = GANTrainer(generator, discriminator, latent_dim=64)
    trainer.fit(data, steps=10_000, batch=256)      # or call trainer.step(real) in a loop of your own
    images = trainer.sample(16, seed=0)

The step itself never waits for the device: no `.item()`, no copy to the host. Whoever reads a number from what `step`
returns is the one who waits.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fastgan.checks import not_negative, number, whole
from fastgan.data import draw, progress_bar, to_unit
from fastgan.objectives import find
from fastgan.training import checks
from fastgan.training import distributed as ranks
from fastgan.training.capture import REHEARSALS, REHEARSALS_OF_RANKS, Graphs, reason, undone
from fastgan.training.checkpoints import CHECKPOINT_FORMAT, check_same_network, read_checkpoint, write_atomically
from fastgan.training.distributed import World, distributed
from fastgan.training.idle import MMD, refuse_idle
from fastgan.training.look import FirstLook, copied
from fastgan.training.resume import check_checkpoint
from fastgan.training.step import PRECISIONS, Settings, Step, constant_ratio, generator_backward

__all__ = [
    "CROSS_ENTROPY", "GANTrainer", "TrainingDiverged", "World", "check_finite", "check_objective", "check_same_network",
    "describe", "distributed", "generate", "generator_backward", "read_checkpoint", "to_numbers", "write_atomically",
]  # fmt: skip

CROSS_ENTROPY = ("minimax", "nonsaturating")  # objectives whose losses are ln 2 where D cannot tell
STATISTICS = ("mean", "var", "std")  # how the names of buffers end that are averaged as weights are
STEPS = ("alternating", "one-stage")
OF_LOGITS = ("sigmoid_cross_entropy", "absolute_error", "hinge")  # criteria that make no sense of probabilities


class TrainingDiverged(RuntimeError):
    """A loss is no finite number any more. step: where that was seen; values: the numbers there."""

    def __init__(self, step: int, values: dict[str, float]):
        self.step, self.values = step, values
        broken = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
        super().__init__(f"training diverged: at step {step}, {broken}")


class GANTrainer:
    """Trains a generator against a discriminator.

    generator: z (N, latent_dim), drawn from N(0, I), -> samples (N, ...).
    discriminator: samples -> logits of any shape that starts with N. None with objective "mmd".
    objective: the loss, by the name that `fastgan.discriminator_value_and_grad` and `generator_value_and_grad` know, or
        "mmd": the maximum mean discrepancy of generated and real samples (`fastgan.mmd_value_and_grad`), with no D.
    weight: factor on both sides of D's loss. With 1/2 real and generated data count in equal parts and D's
        cross-entropy is ln 2 at the equilibrium.
    r1: gamma of the penalty gamma/2 * E |grad_x D(x)|^2 on real data (Mescheder et al. 2018, eq. 9), where D(x) is the
        sum of a sample's logits. 0 takes none; without one the training does not converge in general (same paper).
        None: 0.5, or 0 where there is no D.
    r2: the same on generated data (eq. 10), of which only D learns.
    r1_every: compute the penalties at every r1_every-th step only, weighed r1_every times (Karras et al. 2020, B).
    lr, betas: of Adam, for both networks. Constant until `set_learning_rate` says otherwise, so that a run can be made
        longer at any time; the average over steps below does what a schedule would (measured on digits: coverage 0.96
        so, 0.93 with a cosine to zero).
    ema_decay: the generator's weights are averaged with this decay, warmed up as min(ema_decay, (t + 1) / (t + 10)).
        Sampling uses the average. Statistics of batch normalisation are averaged alike, other buffers copied.
    seed: of z and of the random choice of data. It does not touch the networks' weights, which are yours.
    device: where to train; None leaves the networks where the generator's parameters are.
    step: "alternating", a step of D, then one of G against the new D; or "one-stage", both at the same weights, from
        one pass through D (Shen et al. 2021): the gradients of simultaneous training, for less work. Exact
        where D's logits do not depend on other samples and are one a sample, or where the two losses are opposites
        ("minimax", "wasserstein", "absolute_error"); refused elsewhere.
    redraw: G's step learns from new samples; False: from those that D's step has just seen, as in pytorch/examples,
        which saves a pass through G. One-stage steps always do.
    precision: of the passes: "float32" (whatever dtype the weights have), "bfloat16" or "float16" by autocast, float16
        with a loss scale. None: bfloat16 on GPUs that have it. Weights, losses and penalties' sums stay float32; with
        float16 a step that takes a penalty passes D in float32.
    compile: `torch.compile` both networks. A step that takes a penalty passes D uncompiled, as double backward goes
        through no compiled network.
    capture: None or True: the whole step in one CUDA graph (one more where r1_every > 1), with the numbers of the
        uncaptured step. Where that cannot be, `capture_reason` says why, and a warning on a GPU, or on a CPU with True.
        False: never. Batches of another shape than the first run uncaptured.
    accumulate: go through a batch in so many parts and add up their gradients: the memory of a part for the step of
        the whole. Batch statistics are those of a part.
    concatenate: D sees real and generated samples in one pass. None: where D's logits do not depend on other samples,
        which is tried out. Steps with one of r1 and r2 take two passes: a double backward of both would cost more.
    channels_last: memory format of images and networks; None: on GPUs.
    bandwidths: of the kernel of objective "mmd".

    On several ranks (`fastgan.distributed`), each has a part of the batch; the step is that of one process on the whole
    batch, to rounding, whatever the number of ranks: all draw the whole batch's random numbers and use their own rows.
    Weights are the first rank's at the start. Statistics of batch normalisation are each rank's own.

    Both networks run once, on copies, when the trainer is made: where they do not fit together, it says so then. Warns
    where D's outputs are probabilities, as those of a last Sigmoid are, and the objective expects logits.

    Raises TypeError or ValueError where an argument is of the wrong kind or out of range or has no part in the
    training, the objective is unknown, or a network has no parameters, has weights that are not finite, cannot be
    copied, or does not take what the other one makes; `step` and `fit` where the samples are none that the networks
    take. Nothing is trained then.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None,
        *,
        latent_dim: int = 64,
        objective: str = "nonsaturating",
        weight: float = 0.5,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.0, 0.99),
        r1: float | None = None,
        r2: float = 0.0,
        r1_every: int = 1,
        ema_decay: float = 0.999,
        seed: int = 0,
        device: torch.device | str | None = None,
        step: str = "alternating",
        redraw: bool = True,
        precision: str | None = None,
        compile: bool = False,
        capture: bool | None = None,
        accumulate: int = 1,
        concatenate: bool | None = None,
        channels_last: bool | None = None,
        bandwidths: Sequence[float] | None = None,
    ):
        check_objective(objective)
        if (discriminator is None) != (objective == MMD):
            expected = "None: mmd compares samples" if objective == MMD else f"one, for objective {objective!r}"
            got = "None" if discriminator is None else type(discriminator).__name__
            raise ValueError(f"discriminator: got {got}, expected {expected}")
        networks = [("generator", generator), ("discriminator", discriminator)][: 1 if objective == MMD else 2]
        for name, network in networks:
            checks.network(name, network)
        if generator is discriminator:
            raise ValueError("discriminator: got the generator itself, expected another network")
        if r1 is None:
            r1 = 0.0 if objective == MMD else 0.5
        latent_dim, r1_every = whole("latent_dim", latent_dim), whole("r1_every", r1_every)
        accumulate, bandwidths = whole("accumulate", accumulate), checks.widths(bandwidths)
        lr, betas = checks.learning_rate(lr), checks.betas_of_adam(betas)
        r1, r2 = not_negative("r1", r1), not_negative("r2", r2)
        weight, ema_decay = number("weight", weight), number("ema_decay", ema_decay)
        if not math.isfinite(weight):
            raise ValueError(f"weight: got {weight}, expected a finite number")
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay: got {ema_decay}, expected a number from 0 to 1")
        for name, value, choices in (("step", step, STEPS), ("precision", precision, (None, *PRECISIONS))):
            if value not in choices:
                raise ValueError(f"{name}: got {value!r}, expected {' or '.join(map(repr, choices))}")
        refuse_idle(
            objective, weight=weight, r1=r1, r2=r2, r1_every=r1_every, step=step, redraw=redraw,
            concatenate=concatenate, bandwidths=bandwidths,
        )  # fmt: skip
        if objective == MMD:
            concatenate = False
        if accumulate > 1 and (objective == MMD or find(objective).relation == "average"):
            raise ValueError(
                f"accumulate: got {accumulate}, expected 1 for {objective!r}: its loss looks at the whole batch"
            )

        device = next(generator.parameters()).device if device is None else device
        self.device, self.random = checks.device_and_random(device, seed)
        cuda = self.device.type == "cuda"
        if precision is None:
            with_bfloat16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
            precision = "bfloat16" if with_bfloat16 else "float32"
        if channels_last is None:
            channels_last = cuda
        self.generator = generator.to(self.device)
        self.discriminator = discriminator and discriminator.to(self.device)
        if channels_last:  # of 4-dimensional weights
            for _, network in networks:
                network.to(memory_format=torch.channels_last)
        if ranks.ranks() > 1:
            for network in filter(None, (generator, discriminator)):
                ranks.broadcast([t.detach() for t in (*network.parameters(), *network.buffers())])
        self.ema = copied("generator", self.generator).eval().requires_grad_(False)
        self.latent_dim, self.lr, self.r1, self.r2, self.r1_every = latent_dim, lr, r1, r2, r1_every
        self.objective, self.weight, self.ema_decay = objective, weight, ema_decay
        self.step_number = 0  # steps done

        self._look = FirstLook(self.generator, self.discriminator, self.latent_dim, PRECISIONS[precision])
        if self.discriminator is not None:
            concatenate = self._choose_passes(step, concatenate, precision)
            if find(objective).criterion in OF_LOGITS and self._look.gives_probabilities():
                warnings.warn(
                    "discriminator: its outputs are probabilities, in [0, 1] whatever its weights, and objective "
                    f"{objective!r} expects logits: remove the sigmoid at its end",
                    stacklevel=2,
                )
        adam = {"lr": self._on_device(lr), "betas": betas, "capturable": cuda}
        adam["fused"] = self.device.type in ("cpu", "cuda")
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), **adam)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), **adam) if self.discriminator else None
        chosen = Settings(
            objective, weight, r1, r2, r1_every, step == "one-stage", redraw, precision, accumulate, concatenate,
            channels_last, compile, bandwidths,
        )  # fmt: skip
        optimizers = [self.optimizer_g, self.optimizer_d][: 1 if objective == MMD else 2]
        self._step = Step(self.generator, self.discriminator, optimizers, self.latent, chosen)
        self._graphs: Graphs | None = None
        self.capture_reason = self._why_not_captured(capture)
        # What a checkpoint must agree with for the training to go on exactly.
        self.settings = {
            "latent_dim": latent_dim, "objective": objective, "weight": weight, "lr": lr, "betas": list(adam["betas"]),
            "r1": r1, "r2": r2, "r1_every": r1_every, "ema_decay": ema_decay, "device": self.device.type, "step": step,
            "redraw": redraw, "precision": precision, "compile": compile, "accumulate": accumulate,
            "concatenate": concatenate, "channels_last": channels_last, "bandwidths": bandwidths,
        }  # fmt: skip
        self._averaged, self._copied = [], []  # (average, its source), by what becomes of them
        for average, source in zip(self.ema.parameters(), self.generator.parameters()):
            (self._averaged if average.is_floating_point() else self._copied).append((average, source))
        for (name, average), source in zip(self.ema.named_buffers(), self.generator.buffers()):
            # A batch norm's statistics belong to the weights: averaged alike. Of what other buffers hold, such as a
            # singular vector of spectral normalisation, which has length 1, an average would be no such thing.
            statistic = average.is_floating_point() and name.endswith(STATISTICS)
            (self._averaged if statistic else self._copied).append((average, source))

    def _choose_passes(self, step: str, concatenate: bool | None, precision: str) -> bool:
        """Whether D sees both sides in one pass. Raises ValueError where a one-stage step would not be exact."""
        one_stage = step == "one-stage"
        never = bool(self.r1) != bool(self.r2) and self.r1_every == 1  # no step would take a single pass
        if not one_stage and (concatenate is not None or never):
            return bool(concatenate)
        seen = self._look.seen
        if one_stage:
            if self.weight == 0:
                raise ValueError("weight: got 0, expected another number: one-stage steps take G's gradients from D's")
            ratio = constant_ratio(self.objective, self.weight)
            if ratio is None and seen.mixes:
                raise ValueError(
                    f"step: got 'one-stage' with {self.objective!r} and a discriminator whose logits depend on other "
                    "samples of the batch (batch normalisation?), expected 'alternating', objective 'minimax', or "
                    "another discriminator"
                )
            if ratio is None and seen.logits > 1:
                raise ValueError(
                    f"step: got 'one-stage' with {self.objective!r} and {seen.logits} logits a sample, whose gradients "
                    "have different ratios, expected 'alternating', objective 'minimax', or one logit a sample"
                )
            if ratio is None and precision == "float16":
                raise ValueError(
                    f"step: got 'one-stage' with {self.objective!r} in float16, whose range is too small for the "
                    "ratio of the gradients, expected 'bfloat16' or 'float32'"
                )
            if seen.mixes:
                return False
        return not seen.mixes if concatenate is None else concatenate

    def _why_not_captured(self, capture: bool | None) -> str | None:
        if capture is False:
            return "capture=False"
        if self.device.type != "cuda":
            return self._uncaptured(f"CUDA graphs are for GPUs, and the device is {self.device.type}", bool(capture))
        if ranks.ranks() > 1 and torch.distributed.get_backend() != "nccl":
            return self._uncaptured(f"{torch.distributed.get_backend()} cannot be captured, NCCL can", True)
        return None

    @staticmethod
    def _uncaptured(reason: str, said: bool) -> str:
        if said:
            warnings.warn(f"the step runs uncaptured: {reason}", stacklevel=4)
        return reason

    @property
    def dtype(self) -> torch.dtype:
        """Of z."""
        return next(p.dtype for p in self.generator.parameters() if p.is_floating_point())

    def step(self, real: Tensor, *, uneven: bool = False) -> dict[str, Tensor]:
        """One step of D on `real` (N, ...), floating, and N generated samples, and one of G on N.

        uneven: the ranks' batches may differ in size; they are asked, and the mean is over all samples. Else nothing is
            asked: all have N.

        Returns 0-d tensors on the device: loss_d and loss_g (without penalties), error (D's expected error: the share
        it takes for what it is not, 1/2 at the equilibrium), real_logit and fake_logit (means), r1 and, where there is
        one, r2 (the weighted penalties; 0 in a step that takes none); of "mmd" loss_g alone. They are those of this
        rank's samples. Captured, they are the same tensors at every step: read or clone them before the next.
        """
        asked = uneven and ranks.ranks() > 1
        try:
            self._look.check("real", real, self._step.settings.concatenate)
        except (TypeError, ValueError):
            if asked:
                ranks.counts_of_all(0, self.device)  # so that all ranks raise, and none waits for the others
            raise
        penalised = (self.r1 > 0 or self.r2 > 0) and self.step_number % self.r1_every == 0
        counts = ranks.counts_of_all(len(real), self.device) if asked else None
        least = min(counts or [len(real)])
        if self._step.settings.accumulate > least:
            raise ValueError(f"accumulate: got {self._step.settings.accumulate} parts for {least} samples")
        real = real.detach()
        if self._graphs is None and self.capture_reason is None and counts is None:
            self._capture(real)
        if self._graphs is not None and counts is None and self._graphs.fits(real):
            values = self._graphs.replay(real, penalised)
        else:
            values = self._step.play(real, penalised, counts)
        self._update_ema()
        self.step_number += 1
        return values

    def _undone(self):
        networks = [self.generator, *filter(None, [self.discriminator])]
        return undone(networks, self._step.optimizers, [self.random], self._step.scaler)

    def _capture(self, real: Tensor) -> None:
        """Tries to capture the step; where that fails, notes why, and everything is as before."""
        penalty = self.r1 > 0 or self.r2 > 0
        variants = [True, False] if penalty and self.r1_every > 1 else [penalty]
        rehearsals = REHEARSALS_OF_RANKS if ranks.ranks() > 1 else REHEARSALS
        state, scaler = self.random.get_state(), self._step.scaler
        scale = scaler.state_dict() if scaler else None
        try:
            self._graphs = Graphs(self._step.play, real, variants, self.random, self._undone(), rehearsals)
        except RuntimeError as error:  # also what CUDA and the allocator say
            self._graphs = None
            self.random = torch.Generator(self.device)  # a failed capture may keep the old one
            self.random.set_state(state)
            if scaler:  # the old one may have been stopped between an optimizer's step and its own update
                self._step.scaler = torch.amp.GradScaler(self.device.type)
                self._step.scaler.load_state_dict(scale)
            self.capture_reason = self._uncaptured(reason(error), True)

    def set_learning_rate(self, lr: float) -> None:
        """Of both networks, from the next step on: called between steps, a schedule. A checkpoint keeps it.

        Raises ValueError where it is negative or not finite."""
        lr = checks.learning_rate(lr, zero=True)
        for optimizer in self._step.optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)  # in place: a captured step reads it there
                else:
                    group["lr"] = lr

    def _on_device(self, lr: float) -> Tensor | float:
        """On a GPU Adam's learning rate is a tensor: a number would be captured as what it was at the first step."""
        return torch.tensor(lr, dtype=torch.float32, device=self.device) if self.device.type == "cuda" else lr

    def fit(self, data: Tensor, *, steps: int, batch: int = 64, log_every: int = 100) -> list[dict]:
        """Train on `data`, for `steps` more steps: images, uint8 (N, C, H, W) of 0..255, which become -1..1, or samples
        (N, ...) of the networks' dtype. Other sources: `torch.from_numpy(array)`, `TensorDataset.tensors[0]`; over a
        DataLoader call `trainer.step(real)` for each batch.

        Rows are drawn uniformly and with replacement. Returns a record of numbers every `log_every` steps, which are
        the only points where the host waits for the device. With a progress bar where stderr is a terminal. On several
        ranks `batch` is each one's, and the numbers are means over ranks.

        Raises TrainingDiverged where a number is NaN or infinite, at the next such point.
        """
        steps, batch = whole("steps", steps), whole("batch", batch)
        log_every = whole("log_every", log_every)
        checks.samples("data", data)
        checks.pixels_or_floats("data", data)
        self._look.check("data", self._as_seen(data[:4].to(self.device)), self._step.settings.concatenate)
        checks.finite("data", data)
        data, history, last = data.to(self.device), [], self.step_number + steps
        with progress_bar(total=steps * batch) as bar:
            while self.step_number < last:
                values = self.step(self.draw(data, batch))
                bar.update(batch)
                if self.step_number % log_every == 0 or self.step_number == last:
                    record = self.numbers(values)
                    check_finite(self.step_number, record)
                    history.append({"step": self.step_number, **record})
                    bar.set_postfix_str(describe(history[-1]), refresh=False)
        return history

    def draw(self, data: Tensor, batch: int) -> Tensor:
        """`batch` random rows of `data`, with replacement, as the networks see them. `data` lies on the device, and is
        the same on all ranks, which draw different rows."""
        drawn = draw(data, batch, self.random, rank=ranks.rank(), ranks=ranks.ranks())
        return drawn if data.is_floating_point() else drawn.to(self.dtype)

    def _as_seen(self, data: Tensor) -> Tensor:
        return data if data.is_floating_point() else to_unit(data).to(self.dtype)

    def latent(self, n: int, counts: Sequence[int] | None = None) -> Tensor:
        """(n, latent_dim) from N(0, I), the trainer's next. On several ranks: this one's rows of what one process would
        draw for all samples, of which each rank has n, or as many as `counts` says."""
        total, first = n * ranks.ranks(), n * ranks.rank()
        if counts is not None:
            total, first = sum(counts), sum(counts[: ranks.rank()])
        z = torch.randn(total, self.latent_dim, generator=self.random, device=self.device, dtype=self.dtype)
        return z[first : first + n]

    def numbers(self, values: dict[str, Tensor]) -> dict[str, float]:
        """`to_numbers`; on several ranks the mean over them, which all must ask for."""
        if ranks.ranks() > 1:
            mean = ranks.mean_over_ranks(torch.stack([value.float() for value in values.values()]))
            return dict(zip(values, mean.tolist()))
        return to_numbers(values)

    def sample(self, count: int, seed: int = 0, batch: int = 256) -> Tensor:
        """(count, ...) samples of the averaged generator, on its device. The same seed gives the same samples, whatever
        was trained or sampled before; training is not affected."""
        return torch.cat(list(generate(self.ema, self.latent_dim, count, seed, batch)))

    def save(self, path: str | os.PathLike) -> None:
        """Write a checkpoint, atomically: whenever this stops, `path` is either the old file or the new one, whole. On
        several ranks the first one writes, and the others do nothing.

        Raises OSError where it cannot be written; the old file then still stands."""
        if ranks.rank() > 0:
            return
        checkpoint = {
            "format": CHECKPOINT_FORMAT,
            "step": self.step_number,
            "settings": self.settings,
            "random": self.random.get_state(),
            "torch_random": torch.get_rng_state(),  # for networks that draw from it, as dropout does
            "scaler": self._step.scaler.state_dict() if self._step.scaler else {},
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        write_atomically(path, lambda file: torch.save(checkpoint, file))

    def load(self, path: str | os.PathLike) -> None:
        """Go on from a checkpoint: from here on every number is the one that an uninterrupted run would have had.

        Restores torch's global random state too: the first rank's; the others' is set apart from it, so that networks
        that draw from it, as dropout does, do not go on exactly there. The file is read with `weights_only=True`, so
        it can run no code, and is checked whole before anything is changed: after an error all is as it was before.
        Raises FileNotFoundError, or ValueError for a file that is damaged, of another network or of other settings."""
        checkpoint = read_checkpoint(path, self.device)
        if not isinstance(checkpoint.get("settings"), dict):
            raise ValueError(f"{path}: is damaged: it has no settings")
        changed = [k for k in self.settings if checkpoint["settings"].get(k) != self.settings[k]]
        if changed:
            differences = ", ".join(f"{k} {checkpoint['settings'].get(k)} and not {self.settings[k]}" for k in changed)
            raise ValueError(f"{path}: was trained with {differences}; going on would not be exact")
        check_checkpoint(path, checkpoint, self._parts(), self.device, self._step.scaler)
        for name, part in self._parts().items():
            part.load_state_dict(checkpoint[name])
        for optimizer in self._step.optimizers:
            for group in optimizer.param_groups:  # of a checkpoint from before there were graphs
                group["capturable"], group["lr"] = self.device.type == "cuda", self._on_device(float(group["lr"]))
        self.random.set_state(checkpoint["random"].cpu())
        torch.set_rng_state(checkpoint["torch_random"].cpu())
        if checkpoint["cuda_random"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_random"].cpu(), self.device)
        if ranks.rank() > 0:
            torch.manual_seed(int(torch.randint(2**62, ())) + ranks.rank())
        if self._step.scaler:
            self._step.scaler.load_state_dict(checkpoint["scaler"])
        self._graphs = None  # they know the optimizers' old state; the next step captures anew
        self.step_number = checkpoint["step"]

    def _parts(self) -> dict:
        parts = {
            "generator": self.generator, "discriminator": self.discriminator, "ema": self.ema,
            "optimizer_g": self.optimizer_g, "optimizer_d": self.optimizer_d,
        }  # fmt: skip
        return {name: part for name, part in parts.items() if part is not None}

    @torch.no_grad()
    def _update_ema(self) -> None:
        t = self.step_number
        update = get_ema_multi_avg_fn(min(self.ema_decay, (t + 1) / (t + 10)))
        # AveragedModel itself counts its updates in a tensor and asks it for its value: one host sync a step.
        update(*map(list, zip(*self._averaged)), None)
        for average, source in self._copied:
            average.copy_(source)


@torch.no_grad()
def generate(generator: nn.Module, latent_dim: int, count: int, seed: int, batch: int = 256) -> Iterator[Tensor]:
    """`count` samples in parts of `batch`. z is drawn on the CPU, so that it is the same on every device."""
    count, batch = whole("count", count), whole("batch", batch)
    like = next(generator.parameters())
    random = torch.Generator("cpu").manual_seed(seed)
    z = torch.randn(count, latent_dim, generator=random, dtype=torch.float32, device="cpu")
    for part in z.split(batch):
        yield generator(part.to(like.device, like.dtype))


def check_objective(objective: str) -> None:
    """Raises ValueError, naming the objectives there are, unless both networks have a loss of that name."""
    if objective != MMD:
        find(objective)


def check_finite(step: int, record: dict[str, float]) -> None:
    """Raises TrainingDiverged, naming the step, where a number of the record is NaN or infinite."""
    if not all(map(math.isfinite, record.values())):
        raise TrainingDiverged(step, record)


def to_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """The same as Python numbers: one copy to the host, and the one place where a step's values are waited for."""
    return dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist()))


def describe(record: dict) -> str:
    """What a progress bar says beside the rate."""
    said = {"loss_d": "D {:.3f}", "loss_g": "G {:.3f}", "error": "error of D {:.3f}"}
    return "  ".join(form.format(record[name]) for name, form in said.items() if name in record)
