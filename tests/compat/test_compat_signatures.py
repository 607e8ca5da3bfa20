"""Names, order and defaults of every argument, as in the repository and at the commit that `signatures.json` names.

A method is listed as `Class.function`, without `self`. An argument without a default there may have one here. A default
that is no literal there (a class, a call) is not compared."""

import ast
import importlib
import inspect
import json
from pathlib import Path

import pytest

UPSTREAM = json.loads((Path(__file__).parent / "signatures.json").read_text(encoding="utf-8"))
CASES = [
    pytest.param(module, file["file"], name, arguments, id=f"{module}-{file['repository'].split('/')[1]}-{name}")
    for module, files in UPSTREAM.items()
    for file in files
    for name, arguments in file["functions"].items()
]


def parameters(module, file, name):
    """The parameters of a drop-in's function, without `self`."""
    owner = importlib.import_module(f"fastgan.compat.{module}")
    owner = getattr(owner, Path(file).stem) if hasattr(owner, "__path__") else owner
    *classes, function = name.split(".")
    for one in classes:
        owner = getattr(owner, one)
    bound = isinstance(owner, type) and not isinstance(inspect.getattr_static(owner, function), staticmethod)
    return list(inspect.signature(getattr(owner, function)).parameters.values())[1 if bound else 0 :]


def literal(text):
    try:
        return True, ast.literal_eval(text)
    except ValueError:
        return False, None


@pytest.mark.parametrize("module, file, name, arguments", CASES)
def test_arguments_are_upstreams(module, file, name, arguments):
    ours = parameters(module, file, name)
    marks = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    assert [marks.get(p.kind, "") + p.name for p in ours] == [a.partition("=")[0] for a in arguments]
    for p, argument in zip(ours, arguments):
        _, has_default, default = argument.partition("=")
        known, value = literal(default) if has_default else (False, None)
        if has_default:
            assert p.default is not p.empty, f"{p.name} has the default {default} there"
        if known:
            assert p.default == value and type(p.default) is type(value), f"{p.name}={default} there"


def test_every_module_with_names_of_upstream_is_in_the_list():
    """The others have new names for formulas that are inline in upstream's code."""
    folder = Path(importlib.import_module("fastgan.compat").__file__).parent
    modules = {path.stem for path in folder.glob("[a-z]*")}
    assert modules - UPSTREAM.keys() == {"dcgan", "stylegan"}


@pytest.mark.parametrize("module", UPSTREAM)
def test_the_docstring_names_the_commit(module):
    text = importlib.import_module(f"fastgan.compat.{module}").__doc__
    assert not [file["commit"] for file in UPSTREAM[module] if file["commit"] not in text]
