"""`fastgan sample`: draw samples from the averaged generator of a run."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgan import data as datasets
from fastgan import networks, pictures, trainer
from fastgan.cli.errors import OK, failing, refusing
from fastgan.cli.folder import read_config

PNG_LIMIT = 10_000  # samples in one PNG


def sample(args: argparse.Namespace) -> int:
    with refusing():
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
        shape = {name: settings.get(name) for name in ("latent_dim", "width", "networks")}
        generator, _ = networks.build(tuple(data["sample_shape"]), **shape)
        checkpoint = trainer.read_checkpoint(path / "checkpoint.pt")
        trainer.check_same_network(path / "checkpoint.pt", "generator", generator, checkpoint["ema"])
        generator.load_state_dict(checkpoint["ema"])
        generator.eval()
    with failing():
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
