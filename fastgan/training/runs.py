"""config.json of a run: what it may contain. A run's folder may come from anyone, so every value is checked before use.

fastgan opens no file that config.json names: the data, and the networks of --inception and --features, which can run
code, come from the command line only.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

import fastgan
from fastgan.checks import Check, Whole, finite, list_of, positive, text
from fastgan.data import SIZES, Dataset, Stream
from fastgan.training.config import RunConfig, check_settings

LARGEST_FILE = 1 << 26  # bytes; usually a kilobyte, but more if it lists many files that could not be read


def data_record(source: str, data: Dataset | Stream) -> dict[str, Any]:
    """The entry of the data in config.json."""
    return {
        "source": source,
        "name": data.name,
        "sample_shape": list(data.sample_shape),
        "count": data.count,
        "mean": None if data.mean is None else data.mean.tolist(),
        "scale": data.scale,
        "classes": list(data.classes),
        "skipped": list(data.skipped),
        "fingerprint": data.fingerprint(),
    }


def whole_record(config: RunConfig, data: dict[str, Any]) -> bytes:
    versions = {"fastgan": fastgan.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return json.dumps({"settings": config.record(), "data": data, "versions": versions}, indent=2).encode() + b"\n"


def check_sample_shape(name: str, value: object) -> list[int]:
    shape = list_of(Whole(1, 2**31))(name, value)
    image = len(shape) == 3 and shape[0] in (1, 3) and shape[1] in SIZES and shape[1] == shape[2]
    if not (len(shape) == 1 or image):
        raise ValueError(f"{name}: got {shape}, expected [d] of points or [channels, size, size] of images")
    return shape


DATA: dict[str, Check] = {
    "source": text,
    "name": text,
    "sample_shape": check_sample_shape,
    "count": Whole(),
    "fingerprint": text,
    "mean": list_of(finite),
    "scale": positive,
    "classes": list_of(text),
    "skipped": list_of(text),
}
NEEDED = {"settings": ("latent_dim", "width"), "data": ("source", "sample_shape", "count", "fingerprint")}


def read_config(path: Path) -> dict:
    """The settings and the data of the run in `path`, without entries that this version does not know.

    Raises ValueError if there is no run, or fastgan could not have written its config.json."""
    file = path / "config.json"
    if path.is_file():
        raise ValueError(f"{path} is a file, expected the run's folder: {path.parent}")
    if not file.is_file():
        raise ValueError(f"{path} holds no run, expected a folder with a config.json")
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
        config = json.loads(file.read_bytes())
        settings, data = (_part(config, name) for name in ("settings", "data"))
        return {"settings": check_settings(settings), "data": _checked_data(data)}
    except (ValueError, TypeError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        raise ValueError(f"{file} is damaged or no config of a run ({said})") from error


def _part(config: object, name: str) -> dict:
    part = config.get(name) if isinstance(config, dict) else None
    if not isinstance(part, dict):
        raise ValueError(f"it has no {name}")
    for key in NEEDED[name]:
        if key not in part:
            raise ValueError(f"its {name} lack {key}")
    return part


def _checked_data(part: dict) -> dict:
    # images have null as mean and scale
    given = {key: part[key] for key in DATA if key in part and (key not in ("mean", "scale") or part[key] is not None)}
    data = {key: DATA[key](key, value) for key, value in given.items()}
    (*_, d) = shape = data["sample_shape"]
    if len(shape) == 1 and ("scale" not in data or len(data.get("mean", ())) != d):
        raise ValueError(f"points of {d} numbers need a scale and a mean of as many")
    return data
