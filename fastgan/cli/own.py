"""Networks and weights from elsewhere: --generator, --discriminator and --init. All three come from the command line
alone, as do files that run code: nothing that a run's folder names is imported or opened."""

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


def network(option: str, named: str, about: Mapping[str, Any]) -> nn.Module:
    """The network that `named`, MODULE:CLASS, makes, called with what it takes of `about`, by keyword.

    Raises Refused, naming the option, if there is none."""
    make = find(option, named, CLASS)
    taken = takes(option, named, about)
    with refusing_errors_of(option, named):
        made = make(**{key: about[key] for key in taken})
    if not isinstance(made, nn.Module):
        raise Refused(f"{option}: {named} made a {type(made).__name__}, expected a torch.nn.Module")
    return made


def takes(option: str, named: str, names: Iterable[str]) -> list[str]:
    """Which of the names the network takes by keyword.

    Raises Refused, naming the option, if there is none."""
    make = find(option, named, CLASS)
    with refusing_errors_of(option, named):
        parameters = inspect.signature(make).parameters
    every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return [name for name in names if every or name in parameters]


def begin_with(run: str, parts: Mapping[str, nn.Module]) -> int:
    """Loads the weights of another run's checkpoint into the networks, all or none; the step it was written at.

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
