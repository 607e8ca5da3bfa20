"""Every module of `fastgan.compat` is there, is documented, and does not synchronise with the GPU."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastgan
from fastgan import compat

PROMISED = [
    *("audiocraft", "basicsr", "bigvgan", "biggan", "cyclegan", "dac", "dcgan", "espnet", "hifigan", "lucidrains"),
    *("mimicry", "mmagic", "monai", "pix2pixhd", "r3gan", "rosinality", "spade", "studiogan", "stylegan", "taming"),
    *("lightweight_gan", "torchgan", "vits", "torch_utils_ops", "rosinality_op", "basicsr_ops"),
]
SOURCES = sorted(Path(compat.__file__).parent.rglob("*.py"))
SYNCS = ("item", "tolist", "cpu", "numpy")


def drop_in(name):
    try:
        return importlib.import_module(f"fastgan.compat.{name}")
    except ModuleNotFoundError as missing:
        if missing.name != f"fastgan.compat.{name}":
            raise
        pytest.fail(f"fastgan.compat.{name} was promised and is not there")


def public_members(module):
    """(name, object) of the public functions, classes and methods of a module, or of a package's modules."""
    for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
        yield from public_members(importlib.import_module(f"{module.__name__}.{part.name}"))
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        if not value.__module__.startswith("fastgan.compat."):
            continue
        yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            for method, function in vars(value).items():
                function = getattr(function, "__func__", function)
                if not method.startswith("_") and inspect.isfunction(function):
                    yield f"{module.__name__}.{name}.{method}", function


@pytest.mark.parametrize("name", PROMISED)
def test_promised_modules(name):
    assert drop_in(name).__name__ == f"fastgan.compat.{name}"
    assert name in compat.modules()
    assert getattr(fastgan.compat, name) is drop_in(name)


def test_modules_lists_what_is_there():
    names = [module.name for module in pkgutil.iter_modules(compat.__path__)]
    assert compat.modules() == sorted(name for name in names if not name.startswith("_"))
    assert "biggan" in compat.modules() and not any(name.startswith("_") for name in compat.modules())
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_that_name'"):
        _ = compat.nothing_of_that_name


@pytest.mark.parametrize("name", compat.modules())
def test_docstrings(name):
    module = drop_in(name)
    text = module.__doc__ or ""
    assert len(text.split()) > 10 and re.search("->|import|instead of", text), "it should say what to change"
    members = dict(public_members(module))
    assert members, "no public function or class"
    bare = []
    for member, value in members.items():
        doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__  # a class inherits none
        told_elsewhere = member.rsplit(".", 1)[1] in ("forward", "extra_repr") or "._" in value.__module__
        if not (doc or "").strip() and not told_elsewhere:
            bare.append(member)
    assert not bare, f"without a docstring: {', '.join(bare)}"


def test_importing_fastgan_imports_no_drop_in_and_no_triton():
    code = "\n".join(
        [
            "import sys, fastgan",
            "loaded = [m for m in sys.modules if m.startswith('fastgan.compat') or m.split('.')[0] == 'triton']",
            "assert not loaded, loaded",
            "assert 'biggan' in fastgan.compat.modules()",
            "loaded = [m for m in sys.modules if m.startswith('fastgan.compat.')]",
            "assert not loaded, loaded",
            "fastgan.compat.biggan",
            "loaded = [m for m in sys.modules if m.startswith('fastgan.compat.') and '._' not in m]",
            "assert loaded == ['fastgan.compat.biggan'], loaded",
            "assert 'triton' not in sys.modules",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def forbidden(source: str) -> list[str]:
    """List the calls that read a number back to the host or concatenate tensors."""
    calls = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            calls += [f"{node.lineno}: import of cat" for alias in node.names if alias.name in ("cat", "concat")]
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, name = node.func.value, node.func.attr
        joins = name in ("cat", "concat", "concatenate") and isinstance(owner, ast.Name) and owner.id == "torch"
        if name in SYNCS or joins:
            calls.append(f"{node.lineno}: .{name}(")
    return calls


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_host_sync_and_no_concatenation(path):
    assert not forbidden(path.read_text()), f"{path.name}: {', '.join(forbidden(path.read_text()))}"


def test_the_search_finds_syncs_and_concatenations():
    assert forbidden('def f(x):\n    """x.item()"""\n    # x.cpu()\n    return x.items') == []
    for line in ("x.item()", "x.mean().tolist()", "x.cpu()", "torch.cat([x])", "from torch import cat"):
        assert len(forbidden(line)) == 1, line
