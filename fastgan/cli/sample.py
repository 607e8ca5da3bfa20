"""`fastgan sample`: draw samples from the averaged generator of a run."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgan import data as datasets
from fastgan.cli import pictures
from fastgan.cli.checks import check_memory, check_packages
from fastgan.cli.errors import OK, failing, printable, refusing
from fastgan.cli.folder import check_own_files
from fastgan.training import trainer
from fastgan.training.runs import read_config

PNG_LIMIT = 10_000  # samples in one PNG


def sample(args: argparse.Namespace) -> int:
    from fastgan.training.generator import read_generator  # it brings huggingface_hub, which no other command needs

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
        if not out.parent.is_dir():
            raise ValueError(f"--out: the folder {out.parent} does not exist")
        if out.is_dir():
            raise ValueError(f"--out: got {out}, which is a folder, expected a file")
        if out.suffix == ".png":
            check_packages(("PIL", "pillow"), ("matplotlib", "matplotlib"))
        shape = tuple(config["data"]["sample_shape"])
        # z, and each sample as bytes or float32, once in parts and once joined
        of_one = 4 * config["settings"]["latent_dim"] + 2 * int(np.prod(shape)) * (1 if len(shape) == 3 else 4)
        check_memory("--count", args.count, args.count * of_one)
        generator = read_generator(path, config)
    with failing():
        is_images = len(shape) == 3
        parts = trainer.generate(generator, generator.latent_dim, args.count, args.seed)
        samples = torch.cat([datasets.to_uint8(part) if is_images else part for part in parts])
        if out.suffix == ".png":
            content = pictures.image_grid(samples) if is_images else pictures.scatter(samples)
        else:
            file = io.BytesIO()
            np.savez_compressed(file, **_arrays(samples))
            content = file.getvalue()
        trainer.write_atomically(out, lambda file: file.write(content))
    print(printable(f"{out}: {args.count} samples of step {generator.step:,}, seed {args.seed}"))
    return OK


def _arrays(samples: Tensor) -> dict[str, np.ndarray]:
    if samples.ndim == 4:
        return {"images": samples.permute(0, 2, 3, 1).contiguous().numpy()}
    return {"points": samples.numpy()}
