"""`python -m bench.checks.hub_export OUT`: the losses and their kernels as a source for the Hugging Face kernels hub.

The hub loads a kernel under its own name, with several versions side by side. A kernel may import only PyTorch, the
standard library and itself (Triton comes with PyTorch). So imports become relative, operators get a namespace that is
unique to the code, and two calls of NumPy become calls of PyTorch. `kernel-builder` builds from OUT.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("formulas", "kernels", "cpu", "operators", "losses")  # each imports only others of these
FILES = ("gradients.py", "checks.py")
REPLACED = {
    "import numpy as np\n": "",
    "torch.from_numpy(np.array(found, ": "torch.tensor(found, dtype=(",
    "np.float64 if dtype": "torch.float64 if dtype",
    "else np.float32))": "else torch.float32))",
    "int(np.count_nonzero(z.numpy() < 0))": "int((z < 0).sum())",
}
BUILD = """\
[general]
name = "fastgan"
version = 0
edition = 6
license = "Apache-2.0"
backends = ["cuda"]

[torch-noarch]
"""
FLAKE = """\
{ inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs = { self, kernel-builder }: kernel-builder.lib.genKernelFlakeOutputs { inherit self; path = ./.; }; }
"""


def relative(source: str, depth: int) -> str:
    """A module's source with relative imports of fastgan; depth: the number of packages between it and fastgan."""
    dots = "." * (depth + 1)
    source = re.sub(r"^(\s*)from fastgan import ", rf"\1from {dots} import ", source, flags=re.M)
    source = re.sub(r"^(\s*)from fastgan\.", rf"\1from {dots}", source, flags=re.M)
    return functools.reduce(lambda text, pair: text.replace(*pair), REPLACED.items(), source)


def public() -> str:
    """The source of `__init__.py`: what fastgan's `__init__.py` imports from these rooms."""
    tree = ast.parse((ROOT / "fastgan" / "__init__.py").read_text(encoding="utf-8"))
    rooms = re.compile(rf"fastgan\.({'|'.join(ROOMS)}|gradients)\b")
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom) and rooms.match(node.module)]
    lines = [
        f"from {node.module.removeprefix('fastgan')} import {', '.join(a.name for a in node.names)}" for node in found
    ]
    names = sorted(["objectives", *(alias.name for node in found for alias in node.names)])
    text = "\n".join(["from .formulas.objectives import objectives", *lines])
    return f'"""Fused adversarial losses for PyTorch."""\n\n{text}\n\n__all__ = {names!r}\n'


def export(out: Path) -> Path:
    """Write the source tree to `out`; returns the folder of the package in it."""
    paths = [path for room in ROOMS for path in sorted((ROOT / "fastgan" / room).glob("*.py"))]
    paths += [ROOT / "fastgan" / name for name in FILES]
    names = [path.relative_to(ROOT / "fastgan") for path in paths]
    files = {name: relative(path.read_text(encoding="utf-8"), len(name.parts) - 1) for name, path in zip(names, paths)}
    files[Path("__init__.py")] = public()
    space = "fastgan_" + hashlib.sha256("".join(files.values()).encode()).hexdigest()[:8]
    package = out / "torch-ext" / "fastgan"
    for name, source in files.items():
        source = source.replace('Library("fastgan"', f'Library("{space}"').replace('"fastgan::', f'"{space}::')
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.replace("torch.ops.fastgan.", f"torch.ops.{space}."), encoding="utf-8")
    (out / "build.toml").write_text(BUILD), (out / "flake.nix").write_text(FLAKE)
    return package


if __name__ == "__main__":
    print(export(Path(sys.argv[1])))
