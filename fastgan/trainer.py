"""The training step of a GAN, and what it takes to stop and go on exactly where it stopped.

    trainer = GANTrainer(generator, discriminator, latent_dim=64)
    trainer.fit(data, steps=10_000, batch=256)      # or call trainer.step(real) in a loop of your own
    images = trainer.sample(16, seed=0)

The step itself never waits for the device: no `.item()`, no copy to the host. Whoever reads a number from what `step`
returns is the one who waits.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fastgan.data import progress_bar, to_unit
from fastgan.functional import discriminator_value_and_grad, generator_value_and_grad
from fastgan.objectives import find

CHECKPOINT_FORMAT = 1
CROSS_ENTROPY = ("minimax", "nonsaturating")  # objectives whose losses are ln 2 where D cannot tell


class GANTrainer:
    """Alternates one discriminator and one generator step.

    generator: z (N, latent_dim), drawn from N(0, I), -> samples (N, ...).
    discriminator: samples -> logits of any shape that starts with N.
    objective: the loss, by the name that `fastgan.discriminator_value_and_grad` and `generator_value_and_grad` know.
    weight: factor on both sides of D's loss. With 1/2 real and generated data count in equal parts and D's
        cross-entropy is ln 2 at the equilibrium.
    r1: gamma of the penalty gamma/2 * E |grad_x D(x)|^2 on real data (Mescheder et al. 2018, eq. 9), where D(x) is the
        sum of a sample's logits. 0 takes none; without one the training does not converge in general (same paper).
    r1_every: compute the penalty at every r1_every-th step only, and weigh it r1_every times (Karras et al. 2020, B).
    lr, betas: of Adam, for both networks. Constant, so that a run can be made longer at any time; the average over
        steps below does what a schedule would (measured on digits: coverage 0.96 so, 0.93 with a cosine to zero).
    ema_decay: the generator's weights are averaged with this decay, warmed up as min(ema_decay, (t + 1) / (t + 10)).
        Sampling uses the average.
    seed: of z and of the random choice of data. It does not touch the networks' weights, which are yours.
    device: where to train; None leaves the networks where the generator's parameters are.

    Raises ValueError where an argument is out of range, the objective is unknown, or a network has no parameters.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        latent_dim: int = 64,
        objective: str = "nonsaturating",
        weight: float = 0.5,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.0, 0.99),
        r1: float = 0.5,
        r1_every: int = 1,
        ema_decay: float = 0.999,
        seed: int = 0,
        device: torch.device | str | None = None,
    ):
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            if next(network.parameters(), None) is None:
                raise ValueError(f"{name}: got a module without parameters, expected one to train")
        for name, value, low in (("latent_dim", latent_dim, 1), ("r1_every", r1_every, 1)):
            if value < low:
                raise ValueError(f"{name}: got {value}, expected at least {low}")
        for name, value, fits in (("lr", lr, 0 < lr < math.inf), ("r1", r1, 0 <= r1 < math.inf)):
            if not fits:
                raise ValueError(f"{name}: got {value}, expected a finite number {'> 0' if name == 'lr' else '>= 0'}")
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay: got {ema_decay}, expected a number from 0 to 1")
        check_objective(objective)

        self.device = torch.device(device) if device is not None else next(generator.parameters()).device
        self.generator, self.discriminator = generator.to(self.device), discriminator.to(self.device)
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.latent_dim, self.lr, self.r1, self.r1_every = latent_dim, lr, r1, r1_every
        self.objective, self.weight, self.ema_decay = objective, weight, ema_decay
        self.relativistic = find(objective).relation is not None
        adam = {"lr": lr, "betas": tuple(map(float, betas)), "fused": self.device.type in ("cpu", "cuda")}
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), **adam)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.random = torch.Generator(self.device).manual_seed(seed)
        self.step_number = 0  # steps done
        # What a checkpoint must agree with for the training to go on exactly.
        self.settings = {
            "latent_dim": latent_dim, "objective": objective, "weight": weight, "lr": lr, "betas": list(adam["betas"]),
            "r1": r1, "r1_every": r1_every, "ema_decay": ema_decay, "device": self.device.type,
        }  # fmt: skip

    def step(self, real: Tensor) -> dict[str, Tensor]:
        """One step of D on `real` (N, ...) and N generated samples, then one of G on N new ones.

        Returns 0-d tensors on the device: loss_d and loss_g (without the penalty), error (D's expected error: the share
        it takes for what it is not, 1/2 at the equilibrium), real_logit and fake_logit (means), and r1 (the weighted
        penalty; 0 in a step that takes none).
        """
        n = len(real)

        # Discriminator. The loss has no node in the graph: its value and its gradients at the logits come from one
        # call, and autograd takes over from there.
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = self.generator(self.latent(n))
        penalised = self.r1 > 0 and self.step_number % self.r1_every == 0
        real = real.detach().requires_grad_(penalised)
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        d = discriminator_value_and_grad(real_logits, fake_logits, self.objective, weight=self.weight)
        roots, grads = [real_logits, fake_logits], [*d.grads]
        penalty = torch.zeros((), device=self.device)
        if penalised:
            (slope,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
            penalty = self.r1 / 2 * self.r1_every * slope.square().sum() / n
            roots, grads = [*roots, penalty], [*grads, None]
        self.optimizer_d.zero_grad()
        torch.autograd.backward(roots, grads)
        self.optimizer_d.step()

        # Generator. D only passes the gradient on, and gets none itself.
        self.discriminator.requires_grad_(False)
        fake_logits = self.discriminator(self.generator(self.latent(n)))
        with torch.no_grad():  # what a relativistic generator compares with
            seen = {"real_logits": self.discriminator(real)} if self.relativistic else {}
        g = generator_value_and_grad(fake_logits, self.objective, **seen)
        self.optimizer_g.zero_grad()
        torch.autograd.backward([fake_logits], [*g.grads])
        self.optimizer_g.step()

        self._update_ema()
        self.step_number += 1
        stats = d.stats
        return {
            "loss_d": d.loss, "loss_g": g.loss, "error": stats.error, "real_logit": stats.real_mean,
            "fake_logit": -stats.real_mean if stats.fake_mean is None else stats.fake_mean,  # of pairs: r - f, f - r
            "r1": penalty.detach(),
        }  # fmt: skip

    def fit(self, data: Tensor, *, steps: int, batch: int = 64, log_every: int = 100) -> list[dict]:
        """Train on `data`, uint8 (N, C, H, W) or float32 (N, ...), for `steps` more steps.

        Rows are drawn uniformly and with replacement. Returns a record of numbers every `log_every` steps, which are
        the only points where the host waits for the device. With a progress bar where stderr is a terminal.
        """
        for name, value in (("steps", steps), ("batch", batch), ("log_every", log_every), ("data", len(data))):
            if value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1")
        data, history, last = data.to(self.device), [], self.step_number + steps
        with progress_bar(total=steps * batch) as bar:
            while self.step_number < last:
                values = self.step(self.draw(data, batch))
                bar.update(batch)
                if self.step_number % log_every == 0 or self.step_number == last:
                    history.append({"step": self.step_number, **to_numbers(values)})
                    bar.set_postfix_str(describe(history[-1]), refresh=False)
        return history

    def draw(self, data: Tensor, batch: int) -> Tensor:
        """`batch` random rows of `data`, with replacement, as the networks see them. `data` lies on the device."""
        return to_unit(data[torch.randint(len(data), (batch,), generator=self.random, device=self.device)])

    def latent(self, n: int) -> Tensor:
        """(n, latent_dim) from N(0, I), the trainer's next."""
        return torch.randn(n, self.latent_dim, generator=self.random, device=self.device)

    def sample(self, count: int, seed: int = 0, batch: int = 256) -> Tensor:
        """(count, ...) samples of the averaged generator, on its device. The same seed gives the same samples, whatever
        was trained or sampled before; training is not affected."""
        return torch.cat(list(generate(self.ema, self.latent_dim, count, seed, batch)))

    def save(self, path: str | os.PathLike) -> None:
        """Write a checkpoint, atomically: whenever this stops, `path` is either the old file or the new one, whole.

        Raises OSError where it cannot be written; the old file then still stands."""
        checkpoint = {
            "format": CHECKPOINT_FORMAT,
            "step": self.step_number,
            "settings": self.settings,
            "random": self.random.get_state(),
            "torch_random": torch.get_rng_state(),  # for networks that draw from it, as dropout does
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }
        write_atomically(path, lambda file: torch.save(checkpoint, file))

    def load(self, path: str | os.PathLike) -> None:
        """Go on from a checkpoint: from here on every number is the one that an uninterrupted run would have had.

        Restores torch's global random state too. The file is read with `weights_only=True`, so it can run no code, and
        is checked whole before anything is changed.
        Raises FileNotFoundError, or ValueError for a file that is damaged, of another network or of other settings."""
        checkpoint = read_checkpoint(path, self.device)
        changed = [k for k in self.settings if checkpoint["settings"].get(k) != self.settings[k]]
        if changed:
            differences = ", ".join(f"{k} {checkpoint['settings'].get(k)} and not {self.settings[k]}" for k in changed)
            raise ValueError(f"{path}: was trained with {differences}; going on would not be exact")
        for name in ("generator", "discriminator", "ema"):
            check_same_network(path, name, getattr(self, name), checkpoint[name])
        for name, part in self._parts().items():
            part.load_state_dict(checkpoint[name])
        self.random.set_state(checkpoint["random"].cpu())
        torch.set_rng_state(checkpoint["torch_random"].cpu())
        if checkpoint["cuda_random"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_random"].cpu(), self.device)
        self.step_number = checkpoint["step"]

    def _parts(self) -> dict:
        return {
            "generator": self.generator, "discriminator": self.discriminator, "ema": self.ema,
            "optimizer_g": self.optimizer_g, "optimizer_d": self.optimizer_d,
        }  # fmt: skip

    @torch.no_grad()
    def _update_ema(self) -> None:
        t = self.step_number
        update = get_ema_multi_avg_fn(min(self.ema_decay, (t + 1) / (t + 10)))
        # AveragedModel itself counts its updates in a tensor and asks it for its value: one host sync a step.
        update(list(self.ema.parameters()), list(self.generator.parameters()), None)
        for average, buffer in zip(self.ema.buffers(), self.generator.buffers()):
            if buffer.is_floating_point():  # a batch norm's statistics belong to the weights: averaged alike
                update([average], [buffer], None)
            else:
                average.copy_(buffer)


@torch.no_grad()
def generate(generator: nn.Module, latent_dim: int, count: int, seed: int, batch: int = 256) -> Iterator[Tensor]:
    """`count` samples in parts of `batch`. z is drawn on the CPU, so that it is the same on every device."""
    if count < 1:
        raise ValueError(f"count: got {count}, expected at least 1")
    device = next(generator.parameters()).device
    z = torch.randn(count, latent_dim, generator=torch.Generator().manual_seed(seed))
    for part in z.split(batch):
        yield generator(part.to(device))


def check_objective(objective: str) -> None:
    """Raises ValueError, naming the objectives there are, unless both networks have a loss of that name."""
    find(objective)


def read_checkpoint(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict:
    """The content of a checkpoint, its tensors on `device`.

    Raises FileNotFoundError, OSError, or ValueError for a file that is cut short, damaged or no checkpoint of ours."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to before the beginning of what is left
            raise
        raise ValueError(f"{path}: is cut short or damaged, expected a checkpoint of fastgan") from error
    except Exception as error:  # RuntimeError, EOFError, UnpicklingError, KeyError: it depends on where the file is cut
        raise ValueError(f"{path}: is cut short or damaged, expected a checkpoint of fastgan") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != CHECKPOINT_FORMAT:
        raise ValueError(f"{path}: is no checkpoint of fastgan (format {CHECKPOINT_FORMAT})")
    return checkpoint


def check_same_network(path: str | os.PathLike, name: str, network: nn.Module, state: dict) -> None:
    """Raises ValueError, naming the first difference, where `state` is not a state of `network`."""
    expected = network.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        here = tuple(expected[key].shape) if key in expected else "not there"
        there = tuple(state[key].shape) if key in state else "not there"
        if here != there:
            raise ValueError(f"{path}: is of another {name}: {key} is {there} in the file, expected {here}")


def write_atomically(path: str | os.PathLike, write: Callable) -> None:
    """Call `write(file)` on a new binary file beside `path`, bring it to the disk, then put it in `path`'s place.

    Raises OSError, naming `path`, where that fails; the new file is removed and the old one stands."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch.save reports a full disk as a RuntimeError, with the cause underneath.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, (OSError, RuntimeError)) and isinstance(cause, OSError):
            raise OSError(cause.errno, f"cannot write {path}: {cause.strerror or cause}") from error
        raise


def to_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """The same as Python numbers: one copy to the host, and the one place where a step's values are waited for."""
    return dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist()))


def describe(record: dict) -> str:
    """What a progress bar says beside the rate."""
    return f"D {record['loss_d']:.3f}  G {record['loss_g']:.3f}  error of D {record['error']:.3f}"
