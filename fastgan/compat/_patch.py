"""`fastgan.patch`: the drop-ins of a codebase in the place of its own losses, in one line.

A drop-in module says in `UPSTREAM` which names of which modules of its codebase it has, as
{"module": names} or {"module:attribute.of.it": names} for a dictionary there, a registry say.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from fastgan import compat

Arguments = dict[str, list[str]]  # of each function of a class, or of "" for a function


class Patch:
    """What `fastgan.patch` has replaced. `undo()` puts it back; so does the end of a `with` block.

    replaced: the places, as "models.discriminator_loss". kept: names that stay as they are, and why."""

    def __init__(self, codebase: str):
        self.codebase = codebase
        self.replaced: list[str] = []
        self.kept: dict[str, str] = {}
        self._changes: list[tuple[MutableMapping[str, Any], str, Any, Any]] = []

    def replace(self, owner: MutableMapping[str, Any], name: str, value: Any, place: str) -> None:
        self._changes.append((owner, name, owner[name], value))
        owner[name] = value
        self.replaced.append(place)

    def undo(self) -> None:
        """Put the codebase's own back, wherever ours still stand. What was imported in between keeps ours."""
        for owner, name, before, ours in reversed(self._changes):
            if owner.get(name) is ours:
                owner[name] = before
        self._changes.clear()

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        kept = "".join(f"; kept {name}: {why}" for name, why in self.kept.items())
        return f"fastgan.patch({self.codebase!r}): replaced {', '.join(self.replaced) or 'nothing'}{kept}"


def patch(codebase: str) -> Patch:
    """Replace a codebase's losses by ours, in every module that is imported: one line after its import.

        import models                              # HiFi-GAN's
        print(fastgan.patch("hifigan"))            # replaced models.discriminator_loss, train.discriminator_loss, ...

    codebase: a name of `fastgan.compat.modules()`. Names that other modules have from there (`from models import
    discriminator_loss`) are replaced as well, and the entries of registries. Objects that exist already stay as they
    are: call it before losses and models are made. A function is replaced if it has the arguments that ours has.

    Returns what was replaced: print it, `.undo()` it, or use it in a `with` block. It is logged, too, by the logger
    "fastgan" at level INFO.

    Raises ValueError for an unknown codebase, one whose losses have no names of their own, or modules that are another
    codebase's; ImportError if it is not imported."""
    names = compat.modules()
    if codebase not in names:
        close = difflib.get_close_matches(str(codebase).lower().replace("-", "_"), names, 1, 0.65)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"codebase: got {codebase!r}, {hint}expected one of {', '.join(map(repr, names))}")
    ours = importlib.import_module(f"fastgan.compat.{codebase}")
    if not upstream_of(ours):
        raise ValueError(
            f"codebase: {codebase!r} has its losses inline, under no name; fastgan.compat.{codebase}.__doc__ says what "
            "to change by hand"
        )
    done, found, already = Patch(codebase), [], False
    originals: dict[int, tuple[Any, Any]] = {}
    for place, there in upstream_of(ours).items():
        owner = _loaded(place)
        if owner is None:
            continue
        found.append(place)
        for name in there:
            theirs, own = owner.get(name), getattr(owner_of(ours, place), name)
            if theirs is own:
                already = True
            elif name in owner:
                why = differs(arguments_of(theirs), arguments_of(own))
                if why:
                    done.kept[f"{place}.{name}"] = why
                else:
                    originals[id(theirs)] = (theirs, own)
                    if ":" in place:
                        done.replace(owner, name, own, f"{place}[{name!r}]")
    if not found:
        places = ", ".join(place for place in upstream_of(ours) if ":" not in place)
        raise ImportError(f"codebase: {codebase!r} is not imported ({places}); import it before fastgan.patch")
    if not originals and not already:
        why = "; ".join(f"{name} {why}" for name, why in done.kept.items()) or "none of its losses is there"
        raise ValueError(f"codebase: {', '.join(found)} is not that of {codebase!r} ({why})")
    for where, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and not where.startswith("fastgan."):
            content = object.__getattribute__(module, "__dict__")  # which loads no lazy module
            for name, value in list(content.items()):
                theirs, own = originals.get(id(value), (None, None))
                if value is theirs and own is not None:
                    done.replace(content, name, own, f"{where}.{name}")
    logging.getLogger("fastgan").info("%r", done)
    return done


def upstream_of(drop_in: ModuleType) -> Mapping[str, Sequence[str]]:
    return getattr(drop_in, "UPSTREAM", {})


def owner_of(drop_in: ModuleType, place: str) -> ModuleType:
    """What has our names for those of a place: a drop-in, or the module of it that is named after the place."""
    return getattr(drop_in, place.rpartition(".")[2]) if hasattr(drop_in, "__path__") else drop_in


def _loaded(place: str) -> MutableMapping[str, Any] | None:
    """What a place holds by name, if its module is imported. A script that runs is `__main__`."""
    name, _, path = place.partition(":")
    module = sys.modules.get(name)
    main = sys.modules.get("__main__")
    if module is None and Path(getattr(main, "__file__", None) or "").stem == name:
        module = main
    if module is None or not path:
        return None if module is None else vars(module)
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, MutableMapping) else None


def arguments_of(value: Any) -> Arguments:
    """The names of the arguments of a function, or of a class's functions."""
    if isinstance(value, FunctionType):
        return {"": _names(value)}
    if not isinstance(value, type):
        return {}
    own = [c for c in reversed(value.__mro__) if not c.__module__.startswith(("torch.", "builtins"))]
    functions = {name: f for c in own for name, f in vars(c).items() if isinstance(f, FunctionType)}
    return {name: _names(f)[1:] for name, f in functions.items() if _is_public(name)}


def _is_public(name: str) -> bool:
    return name == "__init__" or not name.startswith("_")


def _names(function: FunctionType) -> list[str]:
    marks: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [marks.get(p.kind, "") + p.name for p in inspect.signature(function).parameters.values()]


def differs(theirs: Arguments, ours: Arguments) -> str:
    """Why theirs is not what ours takes the place of; empty if it is."""
    if not theirs:
        return "is neither a function nor a class of Python"
    if ("" in theirs) != ("" in ours):
        return "is a class" if "" in ours else "is a function"
    for name, arguments in theirs.items():
        if name in ours and arguments != ours[name]:
            called = f"{name} " if name else ""
            return f"has {called}({', '.join(arguments)}), expected ({', '.join(ours[name])})"
    return ""


def importable(path: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(codebase, module) of those that could be imported from the folders in `path`. Their source is looked at, since
    `models` and `losses` are many codebases' names, and nothing in it runs."""
    for codebase in compat.modules():
        ours = importlib.import_module(f"fastgan.compat.{codebase}")
        for place, names in upstream_of(ours).items():
            source = None if ":" in place else _source_of(place, path)
            theirs = _arguments_in(source) if source else {}
            known = [name for name in names if name in theirs]
            own = owner_of(ours, place) if known else ours
            if known and not any(differs(theirs[name], arguments_of(getattr(own, name))) for name in known):
                yield codebase, place


def _source_of(place: str, path: Sequence[str]) -> Path | None:
    folders: Sequence[str] | None = path
    spec = None
    for part in place.split("."):
        if folders is None:
            return None
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        folders = spec.submodule_search_locations
    source = Path(spec.origin) if spec is not None and spec.origin else None
    return source if source is not None and source.suffix == ".py" else None


def _arguments_in(source: Path) -> dict[str, Arguments]:
    """`arguments_of` every function and class at the top of a file."""
    try:
        body = ast.parse(source.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, Arguments] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = {"": _names_in(node)}
        elif isinstance(node, ast.ClassDef):
            functions = [f for f in node.body if isinstance(f, ast.FunctionDef) and _is_public(f.name)]
            found[node.name] = {f.name: _names_in(f)[1:] for f in functions}
    return found


def _names_in(node: ast.FunctionDef) -> list[str]:
    a = node.args
    names = [x.arg for x in (*a.posonlyargs, *a.args)]
    names += [f"*{a.vararg.arg}"] if a.vararg else []
    return [*names, *(x.arg for x in a.kwonlyargs), *([f"**{a.kwarg.arg}"] if a.kwarg else [])]
