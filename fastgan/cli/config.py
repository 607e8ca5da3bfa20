"""config.json of a run: what it may hold. A run's folder may come from anyone, so nothing in it is used unchecked.

No file that it names is opened: the data, and the networks of --inception and --features, which run code of their own,
come from the command line alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fastgan.data import SIZES
from fastgan.models import NETWORKS
from fastgan.objectives import OBJECTIVES
from fastgan.training import recipes
from fastgan.training.idle import MMD
from fastgan.training.step import PRECISIONS
from fastgan.training.trainer import STEPS

MOST = 2**63 - 1
LARGEST_FILE = 1 << 26  # bytes; a config names the files that could not be read, and is seldom a kilobyte
LARGEST_NUMBER = 1e300
WHOLE = {  # whole numbers: the least and the most, here and on the command line
    "steps": (1, MOST),
    "batch": (1, 2**31),
    "seed": (0, MOST),
    "save_every": (1, MOST),
    "metrics_every": (0, MOST),
    "metrics_samples": (16, MOST),
    "r1_every": (1, 2**31),
    "latent_dim": (1, 2**20),
    "width": (1, 2**16),
    "accumulate": (1, 2**31),
    "threads": (1, 1024),
    "workers": (0, 256),
    "processes": (1, 2**20),
}


class Kind(NamedTuple):
    fits: Callable[[Any], bool]
    expected: str

    def or_null(self) -> Kind:
        return Kind(lambda value: value is None or self.fits(value), f"{self.expected}, or null")


def whole(low: int, high: int) -> Kind:
    return Kind(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def number(fits: Callable[[float], bool], expected: str) -> Kind:
    return Kind(lambda value: is_number(value) and fits(value), expected)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def one_of(*choices) -> Kind:
    fits = lambda value: any(type(value) is type(choice) and value == choice for choice in choices)  # noqa: E731
    return Kind(fits, f"one of {', '.join(map(str, choices))}")


def list_of(one: Kind, of: str) -> Kind:
    return Kind(lambda value: isinstance(value, list) and all(map(one.fits, value)), f"a list of {of}")


FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(lambda value: isinstance(value, str), "a text")
SHARE = number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
NOT_NEGATIVE = number(lambda value: value >= 0, "a finite number >= 0")
SETTINGS: dict[str, Kind] = {
    **{name: whole(*limits) for name, limits in WHOLE.items()},
    "recipe": one_of(*recipes.RECIPES),
    "networks": one_of(*NETWORKS),
    "objective": one_of(*OBJECTIVES, MMD),
    "weight": NOT_NEGATIVE,
    "betas": Kind(
        lambda value: isinstance(value, list) and len(value) == 2 and all(SHARE.fits(x) and x < 1 for x in value),
        "two numbers from 0 to 1, 1 excluded",
    ),
    "lr": number(lambda value: value > 0, "a finite number > 0"),
    "r1": NOT_NEGATIVE,
    "r2": NOT_NEGATIVE,
    "ema_decay": SHARE,
    "size": one_of(*SIZES).or_null(),
    "step": one_of(*STEPS),
    "precision": one_of(*PRECISIONS).or_null(),
    "compile": FLAG,
    "capture": FLAG.or_null(),
    "flip": FLAG,
    "stream": FLAG,
    "device": one_of("cpu", "cuda"),
    "inception": TEXT.or_null(),
    "features": TEXT.or_null(),
}
POINTS, IMAGES = whole(1, 2**31), one_of(*SIZES)
DATA: dict[str, Kind] = {
    "source": TEXT,
    "name": TEXT,
    "sample_shape": Kind(
        lambda value: (
            isinstance(value, list)
            and (
                (len(value) == 1 and POINTS.fits(value[0]))
                or (len(value) == 3 and one_of(1, 3).fits(value[0]) and IMAGES.fits(value[1]) and value[1] == value[2])
            )
        ),
        "[d] of points or [channels, size, size] of images",
    ),
    "count": whole(1, MOST),
    "fingerprint": TEXT,
    "mean": list_of(number(lambda value: True, ""), "finite numbers").or_null(),
    "scale": number(lambda value: value > 0, "a finite number > 0").or_null(),
    "skipped": list_of(TEXT, "texts"),
}
NEEDED = {"settings": ("latent_dim", "width"), "data": ("source", "sample_shape", "count", "fingerprint")}


def read_config(path: Path) -> dict:
    """The settings and the data of the run in `path`, of which nothing else is kept.

    Raises ValueError where there is no run, or its config.json is not one that fastgan could have written."""
    file = path / "config.json"
    if path.is_file():
        raise ValueError(f"{path} is a file, expected the run's folder: {path.parent}")
    if not file.is_file():
        raise ValueError(f"{path} holds no run, expected a folder with a config.json")
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE:,} bytes")
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
        return {
            "settings": _checked(config.get("settings"), SETTINGS, "settings"),
            "data": _checked_data(config.get("data")),
        }
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split("\n")[0]
        raise ValueError(f"{file} is damaged or no config of a run ({said})") from error


def _checked(part: Any, kinds: dict[str, Kind], name: str) -> dict:
    """What of a part of the config is known, checked; the rest was written by another version and is left out."""
    if not isinstance(part, dict):
        raise ValueError(f"it has no {name}")
    for key in NEEDED[name]:
        if key not in part:
            raise ValueError(f"its {name} lack {key}")
    known = {key: value for key, value in part.items() if key in kinds}
    for key, value in known.items():
        if not kinds[key].fits(value):
            raise ValueError(f"{key}: got {_short(value)}, expected {kinds[key].expected}")
    return known


def _checked_data(part: Any) -> dict:
    data = _checked(part, DATA, "data")
    (*_, d) = shape = data["sample_shape"]
    if len(shape) == 1 and (data.get("scale") is None or len(data.get("mean") or []) != d):
        raise ValueError(f"points of {d} numbers need a scale and a mean of as many")
    return data


def _short(value: Any) -> str:
    """At most some 60 characters of a value."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if type(value) is int and abs(value) > MOST:
        return "a whole number of more than 63 bits"
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
