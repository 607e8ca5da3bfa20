"""`fastgan sample`: draw samples from the averaged generator of a run."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan import data as datasets
from fastgan.cli import pictures, user_networks
from fastgan.cli.checks import check_memory, check_packages
from fastgan.cli.errors import OK, failing, printable, refusing
from fastgan.cli.folder import check_own_files
from fastgan.training import trainer
from fastgan.training.runs import read_config

PNG_LIMIT = 10_000  # samples in one PNG


def sample(args: argparse.Namespace) -> int:
    from fastgan.training.generator import read_generator  # here, as it imports huggingface_hub

    with refusing():
        path = Path(args.run)
        config = read_config(path)
        out = Path(args.out) if args.out is not None else path / "samples" / f"seed_{args.seed}.png"
        if out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out: got {out}, expected a name that ends in .png or .npz")
        if out.suffix == ".png" and args.count > PNG_LIMIT:
            raise ValueError(f"--count: got {args.count}, expected at most {PNG_LIMIT} for a .png; a .npz takes more")
        if args.out is None:
            check_own_files(path, ())
        elif not out.parent.is_dir():
            raise ValueError(f"--out: the folder {out.parent} does not exist")
        if out.is_dir():
            raise ValueError(f"--out: got {out}, which is a folder, expected a file")
        if out.suffix == ".png":
            check_packages(("PIL", "pillow"), ("matplotlib", "matplotlib"))
        shape = tuple(config["data"]["sample_shape"])
        classes, latent_dim = config["settings"].get("classes"), config["settings"]["latent_dim"]
        labels = _labels(args.label, args.count, classes, config["data"].get("classes", ()))
        network = None
        if args.generator:
            arguments = {name: config["settings"].get(name) for name in ("latent_dim", "width", "networks", "classes")}
            network = user_networks.make_network("--generator", args.generator, {"sample_shape": shape, **arguments})
        # of one: z, and the sample as bytes or float32, in parts and once more when these are joined
        needed = 4 * latent_dim + 2 * int(np.prod(shape)) * (1 if len(shape) == 3 else 4)
        check_memory("--count", args.count, args.count * needed)
        generator = read_generator(path, config, network)
    with failing():
        is_images = len(shape) == 3
        parts = trainer.generate(generator, latent_dim, args.count, args.seed, classes=classes, labels=labels)
        samples = torch.cat([datasets.to_uint8(part) if is_images else part for part in parts])
        if network is not None and not is_images:  # fastgan's own networks return points in the units of the data
            samples = datasets.to_points(samples, torch.tensor(config["data"]["mean"]), config["data"]["scale"])
        if out.suffix == ".png" and is_images:
            columns = classes if labels is None and classes and classes <= args.count else None  # one a class
            content = pictures.image_grid(samples, columns=columns)
        elif out.suffix == ".png":
            content = pictures.scatter(samples)
        else:
            file = io.BytesIO()
            arrays: dict[str, Any] = _arrays(samples)  # Any: NumPy's stubs expect a bool for one of the names
            drawn = torch.arange(args.count) % classes if labels is None and classes else labels
            if drawn is not None:
                arrays["labels"] = drawn.numpy()
            np.savez_compressed(file, **arrays)
            content = file.getvalue()
        if args.out is None:
            out.parent.mkdir(exist_ok=True)
        trainer.write_atomically(out, lambda file: file.write(content))
    of_step = f" of step {generator.step:,}" if network is None else ""
    print(printable(f"{out}: {args.count} samples{of_step}, seed {args.seed}"))
    return OK


def _labels(label: str | None, count: int, classes: int | None, names: Sequence[str]) -> Tensor | None:
    """`count` times the class of --label; None, all classes in turn, without it. Raises ValueError for other labels."""
    if label is None:
        return None
    if classes is None:
        raise ValueError(f"--label: got {label}, but the run was trained without --conditional")
    if label in names:
        number = names.index(label)
    elif label.isdecimal() and int(label) < classes:
        number = int(label)
    else:
        some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(f"--label: got {label}, expected a number from 0 to {classes - 1}, or one of {some}")
    return torch.full((count,), number)


def _arrays(samples: Tensor) -> dict[str, np.ndarray]:
    if samples.ndim == 4:
        return {"images": samples.permute(0, 2, 3, 1).contiguous().numpy()}
    return {"points": samples.numpy()}
