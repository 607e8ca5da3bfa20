"""The user's own networks and initial weights: --generator, --discriminator and --init.

They are read from the command line only: nothing is imported or opened because a run's folder names it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fastgan.cli.errors import Refused
from fastgan.cli.named import find, refusing_errors_of
from fastgan.training.checkpoints import check_same_network, read_checkpoint

CLASS = "MODULE:CLASS, as in mine:Generator"


def make_network(option: str, named: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that `named`, MODULE:CLASS, returns if it is called with those `arguments` that it accepts.

    Raises Refused, naming the option, if there is no such class, it raises an error or returns no network."""
    make = find(option, named, CLASS)
    names = accepted(option, named, arguments)
    with refusing_errors_of(option, named):
        network = make(**{name: arguments[name] for name in names})
    if not isinstance(network, nn.Module):
        raise Refused(f"{option}: {named} made a {type(network).__name__}, expected a torch.nn.Module")
    return network


def accepted(option: str, named: str, names: Iterable[str]) -> list[str]:
    """Those of the names that `named`, MODULE:CLASS, accepts as keyword arguments.

    Raises Refused, naming the option, if there is no such class."""
    make = find(option, named, CLASS)
    with refusing_errors_of(option, named):
        parameters = inspect.signature(make).parameters
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return [name for name in names if any_name or name in parameters]


def load_weights(run: str, parts: Mapping[str, nn.Module]) -> int:
    """Load the weights of another run's checkpoint into the networks, all or none. Returns the checkpoint's step.

    Raises ValueError or OSError if there is no checkpoint, or it is of other networks."""
    path = Path(run) / "checkpoint.pt"
    try:
        checkpoint = read_checkpoint(path)
        for name, part in parts.items():
            if not isinstance(checkpoint.get(name), dict):
                raise ValueError(f"{path} holds no {name}")
            check_same_network(path, name, part, checkpoint[name])
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"--init: {error}") from error
    for name, part in parts.items():
        part.load_state_dict(checkpoint[name])
    return checkpoint["step"]
