"""`fastgan.patch`: replace a codebase's losses by its drop-ins in one line.

`UPSTREAM` of a drop-in module lists the names that it replaces, as {"module": names}, or as
{"module:path.of.attributes": names} for a dictionary in the module, such as a registry.
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

Arguments = dict[str, list[str]]  # names of arguments by method of a class; the key is "" for a function


class Patch:
    """What `fastgan.patch` has replaced. `undo()` restores it; so does the end of a `with` block.

    replaced: the replaced names, such as "models.discriminator_loss". kept: names that were not replaced, and why."""

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
        """Restore the originals where the drop-ins are still in place. Modules imported later keep the drop-ins."""
        for owner, name, original, ours in reversed(self._changes):
            if owner.get(name) is ours:
                owner[name] = original
        self._changes.clear()

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        kept = "".join(f"; kept {name}: {why}" for name, why in self.kept.items())
        return f"fastgan.patch({self.codebase!r}): replaced {', '.join(self.replaced) or 'nothing'}{kept}"


def patch(codebase: str) -> Patch:
    """Replace a codebase's losses by the drop-ins in all imported modules. Call it after the codebase is imported.

        import models                              # HiFi-GAN's
        print(fastgan.patch("hifigan"))            # replaced models.discriminator_loss, train.discriminator_loss, ...

    codebase: a name of `fastgan.compat.modules()`. Names that other modules import from it (`from models import
    discriminator_loss`) and entries of registries are replaced too. Existing objects do not change: call it before
    losses and models are created. A function is replaced only if its arguments are those of the drop-in.

    Returns what was replaced: print it, `.undo()` it, or use it in a `with` block. The logger "fastgan" logs it at
    level INFO.

    Raises ValueError for an unknown codebase, one whose losses are inline, or modules of another codebase; ImportError
    if the codebase is not imported."""
    names = compat.modules()
    if codebase not in names:
        close = difflib.get_close_matches(str(codebase).lower().replace("-", "_"), names, 1, 0.65)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"codebase: got {codebase!r}, {hint}expected one of {', '.join(map(repr, names))}")
    ours = importlib.import_module(f"fastgan.compat.{codebase}")
    if not upstream_of(ours):
        raise ValueError(
            f"codebase: {codebase!r} has its losses inline, without names; fastgan.compat.{codebase}.__doc__ says what "
            "to change by hand"
        )
    patched, imported, already_patched = Patch(codebase), [], False
    originals: dict[int, tuple[Any, Any]] = {}
    for place, upstream_names in upstream_of(ours).items():
        owner = _loaded(place)
        if owner is None:
            continue
        imported.append(place)
        for name in upstream_names:
            original, drop_in = owner.get(name), getattr(owner_of(ours, place), name)
            if original is drop_in:
                already_patched = True
            elif name in owner:
                why = differs(arguments_of(original), arguments_of(drop_in))
                if why:
                    patched.kept[f"{place}.{name}"] = why
                else:
                    originals[id(original)] = (original, drop_in)
                    if ":" in place:
                        patched.replace(owner, name, drop_in, f"{place}[{name!r}]")
    if not imported:
        places = ", ".join(place for place in upstream_of(ours) if ":" not in place)
        raise ImportError(f"codebase: {codebase!r} is not imported ({places}); import it before fastgan.patch")
    if not originals and not already_patched:
        why = "; ".join(f"{name} {why}" for name, why in patched.kept.items()) or "none of its losses is there"
        raise ValueError(f"codebase: {', '.join(imported)} is not that of {codebase!r} ({why})")
    for where, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and not where.startswith("fastgan."):
            content = object.__getattribute__(module, "__dict__")  # does not trigger lazy imports
            for name, value in list(content.items()):
                original, drop_in = originals.get(id(value), (None, None))
                if value is original and drop_in is not None:
                    patched.replace(content, name, drop_in, f"{where}.{name}")
    logging.getLogger("fastgan").info("%r", patched)
    return patched


def upstream_of(drop_in: ModuleType) -> Mapping[str, Sequence[str]]:
    return getattr(drop_in, "UPSTREAM", {})


def owner_of(drop_in: ModuleType, place: str) -> ModuleType:
    """The module with the drop-ins for a place: `drop_in`, or its submodule that is named after the place."""
    return getattr(drop_in, place.rpartition(".")[2]) if hasattr(drop_in, "__path__") else drop_in


def _loaded(place: str) -> MutableMapping[str, Any] | None:
    """The names and values of a place; None if its module is not imported. A running script is `__main__`."""
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
    """The names of the arguments of a function, or of a class's public methods."""
    if isinstance(value, FunctionType):
        return {"": _names(value)}
    if not isinstance(value, type):
        return {}
    classes = [c for c in reversed(value.__mro__) if not c.__module__.startswith(("torch.", "builtins"))]
    functions = {name: f for c in classes for name, f in vars(c).items() if isinstance(f, FunctionType)}
    return {name: _names(f)[1:] for name, f in functions.items() if _is_public(name)}


def _is_public(name: str) -> bool:
    return name == "__init__" or not name.startswith("_")


def _names(function: FunctionType) -> list[str]:
    marks: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [marks.get(p.kind, "") + p.name for p in inspect.signature(function).parameters.values()]


def differs(theirs: Arguments, ours: Arguments) -> str:
    """Why ours cannot replace theirs; empty if it can."""
    if not theirs:
        return "is neither a Python function nor a class"
    if ("" in theirs) != ("" in ours):
        return "is a class" if "" in ours else "is a function"
    for name, arguments in theirs.items():
        if name in ours and arguments != ours[name]:
            called = f"{name} " if name else ""
            return f"has {called}({', '.join(arguments)}), expected ({', '.join(ours[name])})"
    return ""


def importable(path: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(codebase, module) of those that could be imported from the folders in `path`. The source is parsed, not run:
    many codebases have modules named `models` or `losses`."""
    for codebase in compat.modules():
        ours = importlib.import_module(f"fastgan.compat.{codebase}")
        for place, names in upstream_of(ours).items():
            source = None if ":" in place else _source_of(place, path)
            theirs = _arguments_in(source) if source else {}
            known = [name for name in names if name in theirs]
            owner = owner_of(ours, place) if known else ours
            if known and not any(differs(theirs[name], arguments_of(getattr(owner, name))) for name in known):
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
