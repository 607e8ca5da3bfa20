"""What is asked of this machine before a command starts."""

from __future__ import annotations

import importlib.util

import torch

from fastgan import data as datasets


def check_packages() -> None:
    for module, package in (("PIL", "pillow"), ("matplotlib",) * 2, ("tensorboard",) * 2, ("tqdm",) * 2):
        if importlib.util.find_spec(module) is None:
            raise ImportError(datasets.needs(package))


def device_named(name: str | None) -> torch.device:
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
