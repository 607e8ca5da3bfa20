"""The command line: `fastgan train`, `fastgan sample`, `fastgan doctor`.

Exit codes: 0 done, 1 failed while running (no space left, training diverged, self-test failed), 2 bad arguments or
input, 130 stopped by Ctrl-C. What goes wrong is said in one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import io
import json
import math
import platform
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan
from fastgan import data as datasets
from fastgan import metrics, networks, pictures, trainer

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
LOG_EVERY = 20  # steps
SAVES = 12  # checkpoints in a run, where --save-every does not say otherwise
GRID = 64  # images in a picture of the run
SCATTER = 2_000  # points in one
PNG_LIMIT = 10_000  # samples in one PNG

# What is trained where the command line does not say otherwise, by the images' side in pixels; None is for points.
# Those for points and 8 pixels were measured (digits: coverage 0.96 with seeds 0 and 1); the others are starting
# points, from DCGAN's widths and the penalties and learning rates that Mescheder et al. 2018 and their followers use.
RECIPES = {
    None: {"steps": 10_000, "batch": 256, "lr": 2e-3, "r1": 0.1, "latent_dim": 8, "width": 128},
    8: {"steps": 5_000, "batch": 64, "lr": 2e-3, "r1": 0.5, "latent_dim": 32, "width": 16},
    16: {"steps": 20_000, "batch": 64, "lr": 5e-4, "r1": 0.5, "latent_dim": 64, "width": 32},
    32: {"steps": 50_000, "batch": 64, "lr": 5e-4, "r1": 0.5, "latent_dim": 128, "width": 64},
    64: {"steps": 100_000, "batch": 64, "lr": 2e-4, "r1": 1.0, "latent_dim": 128, "width": 64},
    128: {"steps": 200_000, "batch": 32, "lr": 2e-4, "r1": 2.0, "latent_dim": 128, "width": 64},
}

TRAIN_HELP = """\
examples:
  fastgan train digits                                 handwritten digits in about two minutes on two CPU cores
  fastgan train photos/ --size 32 --out runs/photos    a folder of images, cropped and resized to 32x32
  fastgan train points.npy --objective minimax         float points (N, d); .npz with one array as well
  fastgan train digits --out runs/digits-1 --resume    go on where the run stopped

The run's folder then holds config.json, metrics.jsonl, checkpoint.pt, curves.png, samples/ and TensorBoard events.
Ctrl-C saves a checkpoint and stops. A resumed run goes on exactly: it takes its settings from the run, and those given
again must be the same; only --steps may grow. On the CPU that holds to the last bit."""

SAMPLE_HELP = """\
examples:
  fastgan sample runs/digits-1                                    64 samples in runs/digits-1/samples/seed_0.png
  fastgan sample runs/digits-1 --count 16 --seed 3 --out some.png
  fastgan sample runs/digits-1 --count 50000 --out digits.npz     array `images`, uint8 (N, H, W, C)

A run on points gives a scatter plot, or the array `points`, float32 (N, d)."""

DOCTOR_HELP = """\
Says what this machine has and which backend will compute the losses, and checks loss and gradients against the
reference in float64. Exit code 1 where they differ. On a machine without a GPU the Triton kernel itself can be checked
so:
  TRITON_INTERPRET=1 FASTGAN_BACKEND=triton fastgan doctor"""


class Refused(Exception):
    """Bad arguments or input: one line for the user, exit code 2."""


class Failed(Exception):
    """Something that was fine at the start went wrong: one line for the user, exit code 1."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        args = _parser().parse_args(argv)
        return args.command(args)
    except SystemExit as stop:  # argparse: --help, or an argument it refuses
        return stop.code or OK
    except (Refused, Failed) as error:
        _say(str(error))
        return BAD_INPUT if isinstance(error, Refused) else FAILED
    except KeyboardInterrupt:
        _say("interrupted; what was saved stands")
        return INTERRUPTED


# ---- train ----------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        with _refusing():  # everything is checked before anything is trained, and what is cheap first
            _check_packages()
            run = stack.enter_context(RunFolder.open(args))
            args.objective = args.objective or "nonsaturating"
            trainer.check_objective(args.objective)
            device = _device(args.device)
            data = datasets.load(args.data, args.size)
            config = _config(args, data, device)
            run.check_data(config)
            torch.set_num_threads(config["settings"]["threads"])
            model = _trainer(config["settings"], data.sample_shape, device)
            if run.resumed and run.checkpoint.exists():
                model.load(run.checkpoint)
            if model.step_number > config["settings"]["steps"]:
                raise ValueError(f"--steps: got {args.steps}, but {run.path} is at step {model.step_number} already")
        for name in data.skipped[:5]:
            _say(f"left out, as it cannot be read: {name}")
        if len(data.skipped) > 5:
            _say(f"left out, as they cannot be read: {len(data.skipped) - 5} more")
        with _failing():
            run.start(config, model.step_number)
            _say(
                f"{run.path}: {len(data.samples):,} samples of shape {data.sample_shape} on {device}, "
                f"{config['settings']['objective']}, step {model.step_number:,} of {config['settings']['steps']:,}"
            )
            stopped = _train(model, data, config["settings"], run)
            if stopped:
                again = f"fastgan train {shlex.quote(args.data)} --out {shlex.quote(str(run.path))} --resume"
                _say(f"stopped and saved at step {model.step_number:,}; to go on: {again}")
                return 128 + stopped
            print(f"{run.path}: {_quality(model, data, run)}")
    return OK


def _train(model: trainer.GANTrainer, data: datasets.Dataset, settings: dict, run: RunFolder) -> int:
    """The loop. Returns 0, or the number of the signal that stopped it."""
    samples, batch, steps = data.samples.to(model.device), settings["batch"], settings["steps"]
    first, started = model.step_number, time.monotonic()
    spoke = started
    with _catching_signals() as signals, datasets.progress_bar(total=steps * batch, initial=first * batch) as bar:
        while model.step_number < steps and not signals:
            values = model.step(model.draw(samples, batch))
            step = model.step_number
            bar.update(batch)
            if step % LOG_EVERY == 0 or step == steps:
                record = trainer.to_numbers(values)  # the one place where the host waits for the device
                if not all(map(math.isfinite, record.values())):
                    raise Failed(f"training diverged at step {step} ({record}); the last checkpoint stands")
                rate = (step - first) * batch / (time.monotonic() - started)
                run.log({"step": step, **record, "images_per_s": round(rate, 1)})
                bar.set_postfix_str(trainer.describe(record), refresh=False)
                if bar.disable and time.monotonic() - spoke > 10:
                    spoke = time.monotonic()
                    _say(f"step {step:,} of {steps:,}  {rate:,.0f} img/s  {trainer.describe(record)}")
            if step % settings["save_every"] == 0 and step < steps:
                _save(model, data, run)
        _save(model, data, run)
    return signals[0] if signals else 0


def _save(model: trainer.GANTrainer, data: datasets.Dataset, run: RunFolder) -> None:
    """Pictures first, the checkpoint last: where it is, everything up to its step is."""
    if data.is_images:
        picture = pictures.image_grid(datasets.to_uint8(model.sample(GRID)))
    else:
        picture = pictures.scatter(
            datasets.to_points(model.sample(SCATTER).cpu(), data.mean, data.scale),
            datasets.to_points(data.samples[:SCATTER], data.mean, data.scale),
        )
    run.write(f"samples/step_{model.step_number:06d}.png", picture)
    if run.records:
        run.write("curves.png", pictures.curves(run.records, cross_entropy=model.objective in trainer.CROSS_ENTROPY))
    model.save(run.checkpoint)


def _quality(model: trainer.GANTrainer, data: datasets.Dataset, run: RunFolder) -> str:
    """How good the trained generator is: logged, and as one line. Of images other than digits nothing is known."""
    if data.held_out is not None:
        # At 8x8, whatever the run's size, so that the numbers of all runs are of one kind.
        real, held_out = (F.adaptive_avg_pool2d(datasets.to_unit(x), 8) for x in (data.samples, data.held_out))
        generated = F.adaptive_avg_pool2d(model.sample(len(held_out), seed=1).cpu(), 8)
        quality = metrics.digits_report(metrics.train_digits_classifier(real, data.labels), held_out, generated)
        line = (
            f"coverage {quality['coverage']:.3f} (k = 5, {len(generated)} generated against as many held-out digits), "
            f"{quality['classes']} of 10 classes, FD(digits-cnn) {quality['fd_digits_cnn']:.3f}"
        )
    elif not data.is_images:
        real = data.samples[:SCATTER]
        quality = metrics.manifold_scores(real, model.sample(len(real), seed=1).cpu())._asdict()
        line = f"coverage {quality['coverage']:.3f} (k = 5, {len(real)} generated against as many real points)"
    else:
        return "done"
    run.log({"step": model.step_number, "quality": quality})
    return line


def _config(args: argparse.Namespace, data: datasets.Dataset, device: torch.device) -> dict:
    """All that makes the run what it is. Arguments that were not given come from the recipe for this kind of data."""
    recipe = RECIPES[data.sample_shape[-1] if data.is_images else None]
    settings = {name: value if getattr(args, name) is None else getattr(args, name) for name, value in recipe.items()}
    count = len(data.samples)
    if args.batch is None:
        settings["batch"] = min(settings["batch"], count)
    elif args.batch > count:
        raise ValueError(f"--batch: got {args.batch}, but {args.data} has {count} samples to train on")
    # Networks this small gain a fifth from a second thread where the cores are free, and become many times slower where
    # they are not, as threads wait for each other at every operation.
    small = not data.is_images or data.sample_shape[-1] == 8
    settings |= {
        "objective": args.objective,
        "size": data.sample_shape[-1] if data.is_images else None,
        "seed": args.seed or 0,
        "device": device.type,
        "threads": args.threads or (1 if small else torch.get_num_threads()),
        "save_every": args.save_every or max(100, settings["steps"] // SAVES),
    }
    return {
        "settings": settings,
        "data": {
            "source": args.data,
            "name": data.name,
            "sample_shape": list(data.sample_shape),
            "count": count,
            "mean": None if data.mean is None else data.mean.tolist(),
            "scale": data.scale,
            "skipped": list(data.skipped),
            "fingerprint": data.fingerprint(),
        },
        "versions": {"fastgan": fastgan.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _trainer(settings: dict, sample_shape: tuple[int, ...], device: torch.device) -> trainer.GANTrainer:
    torch.manual_seed(settings["seed"])  # of the networks' first weights
    generator, discriminator = networks.build(sample_shape, settings["latent_dim"], settings["width"])
    names = ("latent_dim", "objective", "lr", "r1", "seed")
    return trainer.GANTrainer(generator, discriminator, device=device, **{name: settings[name] for name in names})


class RunFolder:
    """The folder of one run: config.json, metrics.jsonl, TensorBoard events, samples/, curves.png and checkpoint.pt.

    One process at a time may have it open; that is what the lock on `.lock` says, which the system lifts when the
    process ends, however it ends. Files are replaced whole, except metrics.jsonl and the events, which grow line by
    line."""

    def __init__(self, path: Path, config: dict | None):
        self.path, self.config = path, config  # the config of the run to go on with, or None
        self.checkpoint = path / "checkpoint.pt"
        self.records: list[dict] = []  # what was logged of the training, for the curves

    @property
    def resumed(self) -> bool:
        return self.config is not None

    @classmethod
    @contextlib.contextmanager
    def open(cls, args: argparse.Namespace) -> Iterator[RunFolder]:
        """The folder that --out and --resume name, locked. With --resume its settings are put into `args`.

        Raises ValueError or OSError where it cannot be used. Leaves nothing behind if the run does not start."""
        if args.resume and args.out is None:
            raise ValueError("--resume: needs --out, the folder of the run to go on with")
        path = Path(args.out) if args.out else _next_free(Path("runs"), args.data)
        if args.resume and not (path / "config.json").is_file():
            raise ValueError(f"--out: {path} holds no run to resume, expected a folder with a config.json")
        created = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = open(path / ".lock", "ab")  # noqa: SIM115 (the lock is held until the run ends)
        except OSError as error:
            raise ValueError(f"--out: cannot write to {path}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"--out: {path} is in use by another process") from error
            run = cls(path, None)
            if args.resume:
                run._resume(args)
            elif any(item.name != ".lock" for item in path.iterdir()):
                hint = "add --resume to go on with its run, or name" if (path / "config.json").exists() else "name"
                raise ValueError(f"--out: {path} is not empty; {hint} another folder")
            try:
                yield run
            finally:
                if not (path / "config.json").exists():  # never started
                    with contextlib.suppress(OSError):
                        (path / ".lock").unlink()
                        for folder in created:
                            folder.rmdir()

    def _resume(self, args: argparse.Namespace) -> None:
        for leftover in (*self.path.glob(".*.tmp"), *self.path.glob("samples/.*.tmp")):  # of a process that was killed
            leftover.unlink()
        self.config = read_config(self.path)
        for name, value in self.config["settings"].items():
            given = getattr(args, name)
            if given is None:
                setattr(args, name, value)
            elif given != value and not (name == "steps" or (name == "device" and given.split(":")[0] == value)):
                option = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{option}: got {given}, but {self.path} was started with {value} and goes on with that"
                )

    def check_data(self, config: dict) -> None:
        """Raises ValueError where the run to go on with was trained on other data."""
        if self.resumed and self.config["data"]["fingerprint"] != config["data"]["fingerprint"]:
            before, now = self.config["data"], config["data"]
            raise ValueError(
                f"DATA: {now['source']} ({now['count']} samples) is not the data that {self.path} was started with "
                f"({before['source']}, {before['count']} samples), or has changed since"
            )

    def start(self, config: dict, step: int) -> None:
        """Write the config, and bring the log back to `step`, from where training goes on."""
        (self.path / "samples").mkdir(exist_ok=True)
        self.write("config.json", json.dumps(config, indent=2).encode() + b"\n")
        log = self.path / "metrics.jsonl"
        records = []
        if log.exists():
            for line in log.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # a last line cut short
                    record = json.loads(line)
                    # The quality of a finished run is logged after its last checkpoint, and will be measured again.
                    again = "quality" in record and step == config["settings"]["steps"]
                    if record["step"] < step or (record["step"] == step and not again):
                        records.append(record)
        self.records = [record for record in records if "quality" not in record]
        self.write("metrics.jsonl", b"".join(map(_line, records)))
        self.write("events.out.tfevents.fastgan", _event(None) + b"".join(map(_event, records)))

    def log(self, record: dict) -> None:
        """Append to metrics.jsonl and the TensorBoard events."""
        record = {**record, "time": round(time.time(), 3)}
        if "quality" not in record:
            self.records.append(record)
        for name, content in (("metrics.jsonl", _line(record)), ("events.out.tfevents.fastgan", _event(record))):
            try:
                with open(self.path / name, "ab") as file:
                    file.write(content)
            except OSError as error:
                raise OSError(error.errno, f"cannot write {self.path / name}: {error.strerror}") from error

    def write(self, name: str, content: bytes) -> None:
        trainer.write_atomically(self.path / name, lambda file: file.write(content))


def read_config(path: Path) -> dict:
    """The config.json of the run in `path`. Raises ValueError where there is none, or it is no such file."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config["settings"]["latent_dim"], config["data"]["fingerprint"]
    except FileNotFoundError as error:
        raise ValueError(f"{path} holds no run, expected a folder with a config.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged or no config of a run") from error
    return config


def _next_free(parent: Path, source: str) -> Path:
    data = Path(source).resolve()
    name = (data.name if data.is_dir() else data.stem) or "data"
    taken = {item.name for item in parent.iterdir()} if parent.is_dir() else set()
    return next(parent / f"{name}-{n}" for n in range(1, len(taken) + 2) if f"{name}-{n}" not in taken)


def _line(record: dict) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _event(record: dict | None) -> bytes:
    """A record as TensorBoard keeps it, or the head of its file. Written here because torch's SummaryWriter writes in a
    thread, where nobody learns that the disk is full."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    if record is None:
        event = Event(wall_time=time.time(), file_version="brain.Event:2")
    else:
        values = record.get("quality", {k: v for k, v in record.items() if k not in ("step", "time")})
        prefix = "quality" if "quality" in record else "train"
        scalars = [Summary.Value(tag=f"{prefix}/{name}", simple_value=value) for name, value in values.items()]
        event = Event(wall_time=record["time"], step=record["step"], summary=Summary(value=scalars))
    out = io.BytesIO()
    RecordWriter(out).write(event.SerializeToString())
    return out.getvalue()


# ---- sample, doctor -------------------------------------------------------------------------------------------------


def sample(args: argparse.Namespace) -> int:
    with _refusing():
        path = Path(args.run)
        out = Path(args.out) if args.out else path / "samples" / f"seed_{args.seed}.png"
        if out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out: got {out}, expected a name that ends in .png or .npz")
        if out.suffix == ".png" and args.count > PNG_LIMIT:
            raise ValueError(f"--count: got {args.count}, expected at most {PNG_LIMIT} for a .png; a .npz takes more")
        config = read_config(path)
        if not out.parent.is_dir():
            raise ValueError(f"--out: the folder {out.parent} does not exist")
        settings, data = config["settings"], config["data"]
        generator, _ = networks.build(tuple(data["sample_shape"]), settings["latent_dim"], settings["width"])
        checkpoint = trainer.read_checkpoint(path / "checkpoint.pt")
        trainer.check_same_network(path / "checkpoint.pt", "generator", generator, checkpoint["ema"])
        generator.load_state_dict(checkpoint["ema"])
        generator.eval()
    with _failing():
        is_images = len(data["sample_shape"]) == 3
        samples = torch.cat([
            datasets.to_uint8(part)
            if is_images
            else datasets.to_points(part, torch.tensor(data["mean"]), data["scale"])
            for part in trainer.generate(generator, settings["latent_dim"], args.count, args.seed)
        ])  # fmt: skip
        if out.suffix == ".png":
            content = pictures.image_grid(samples) if is_images else pictures.scatter(samples)
        else:
            file = io.BytesIO()
            np.savez_compressed(file, **_arrays(samples))
            content = file.getvalue()
        trainer.write_atomically(out, lambda file: file.write(content))
    print(f"{out}: {args.count} samples of step {checkpoint['step']:,}, seed {args.seed}")
    return OK


def _arrays(samples: Tensor) -> dict[str, np.ndarray]:
    if samples.ndim == 4:
        return {"images": samples.permute(0, 2, 3, 1).contiguous().numpy()}
    return {"points": samples.numpy()}


def doctor(args: argparse.Namespace) -> int:
    from fastgan.doctor import examine

    return OK if examine() else FAILED


# ---- arguments, signals, errors -------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastgan", description="Train a generative adversarial network, and sample from it.")
    parser.add_argument("--version", action="version", version=f"fastgan {fastgan.__version__}")
    commands = parser.add_subparsers(required=True, metavar="train | sample | doctor", parser_class=_Parser)

    def command(name: str, run, what: str, epilog: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=what, description=what, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        one.set_defaults(command=run)
        return one

    one = command("train", train, "Train on DATA and keep everything of it in a run folder.", TRAIN_HELP)
    one.add_argument("data", metavar="DATA", help="digits, a folder of images, or an .npy or .npz file")
    one.add_argument("--steps", type=_whole(1), metavar="N", help="training steps (digits: 5,000)")
    one.add_argument("--batch", type=_whole(1), metavar="B", help="samples a step (digits: 64)")
    one.add_argument("--size", type=_whole(1), metavar="S", help="side of the images: 8, 16, 32, 64 or 128 pixels")
    one.add_argument("--objective", metavar="NAME", help="the loss: nonsaturating (default), minimax, ...")
    one.add_argument("--lr", type=float, metavar="X", help="Adam's learning rate (digits: 0.002)")
    one.add_argument("--r1", type=float, metavar="X", help="weight of the R1 penalty, 0 for none (digits: 0.5)")
    one.add_argument("--latent-dim", type=_whole(1), metavar="N", help="numbers the generator starts from (digits: 32)")
    one.add_argument("--width", type=_whole(1), metavar="N", help="channels of the finest feature map (digits: 16)")
    one.add_argument("--seed", type=_whole(0), metavar="S", help="of weights, data order and noise (default 0)")
    one.add_argument("--out", metavar="DIR", help="the run's folder (default: the next free runs/NAME-N)")
    one.add_argument("--resume", action="store_true", help="go on with the run in --out")
    one.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    one.add_argument(
        "--threads", type=_whole(1), metavar="N", help="CPU threads (default: all; 1 for digits and points)"
    )
    one.add_argument("--save-every", type=_whole(1), metavar="N", help="steps between checkpoints (default: a twelfth)")

    one = command("sample", sample, "Draw samples from the averaged generator of a run.", SAMPLE_HELP)
    one.add_argument("run", metavar="RUN", help="the run's folder")
    one.add_argument("--count", type=_whole(1), default=64, metavar="N", help="how many (default 64)")
    one.add_argument("--seed", type=_whole(0), default=0, metavar="S", help="the same seed gives the same samples")
    one.add_argument("--out", metavar="FILE", help="FILE.png or FILE.npz (default: RUN/samples/seed_S.png)")

    command("doctor", doctor, "Say what this machine has and whether the kernels are right on it.", DOCTOR_HELP)
    return parser


def _whole(low: int):
    """An argument type: a whole number from `low` on that fits 63 bits."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value < 2**63:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least {low}")
        return value

    return parse


def _check_packages() -> None:
    for module, package in (("PIL", "pillow"), ("matplotlib",) * 2, ("tensorboard",) * 2, ("tqdm",) * 2):
        if importlib.util.find_spec(module) is None:
            raise ImportError(datasets.needs(package))


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count()
    there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise ValueError(f"--device: got {name}, expected one that is there: {there}")
    return device


@contextlib.contextmanager
def _catching_signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM is put into, so that a step is never left half done. A second one acts as
    it always does."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, _) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What goes wrong inside is the input's fault."""
    try:
        yield
    except (ValueError, ImportError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise Refused(_one_line(error)) from error


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """What goes wrong inside is the machine's fault. Anything else is a bug, and shows its traceback."""
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError) as error:
        raise Failed(f"{_one_line(error)}; what was saved before stands") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "out of memory; a smaller --batch or --size takes less"
    return str(error).split("\n")[0]


def _say(line: str) -> None:
    print(f"fastgan: {line}", file=sys.stderr, flush=True)
