"""Drop-ins for other codebases' adversarial losses and operators, with the same names, arguments, results and quirks.

    from fastgan.compat.hifigan import discriminator_loss, generator_loss    # instead of: from models import ...

Each codebase has one module, named after it; its docstring says what to change and what differs from upstream, if
anything. `fastgan.patch("hifigan")` makes the change in one line, after the import of the codebase.
The modules call the fused losses of `fastgan.losses` and the operators of `fastgan.layers`.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers; see __getattr__
    from fastgan.compat import (  # fmt: skip
        audiocraft,
        basicsr,
        basicsr_ops,
        biggan,
        bigvgan,
        coqui,
        cyclegan,
        dac,
        dcgan,
        espnet,
        hifigan,
        lightweight_gan,
        lucidrains,
        mimicry,
        mmagic,
        monai,
        pix2pixhd,
        r3gan,
        rosinality,
        rosinality_op,
        spade,
        studiogan,
        stylegan,
        taming,
        torch_utils_ops,
        torchgan,
        vits,
        vocos,
    )
    from fastgan.compat._patch import Patch, importable, patch

# fmt: off
__all__ = [
    "Patch", "audiocraft", "basicsr", "basicsr_ops", "biggan", "bigvgan", "coqui", "cyclegan", "dac", "dcgan", "espnet",
    "hifigan", "importable", "lightweight_gan", "lucidrains", "mimicry", "mmagic", "modules", "monai", "patch",
    "pix2pixhd", "r3gan", "rosinality", "rosinality_op", "spade", "studiogan", "stylegan", "taming", "torch_utils_ops",
    "torchgan", "vits", "vocos",
]
# fmt: on


def modules() -> list[str]:
    """The names of the codebases that have a drop-in."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str):
        if name in ("Patch", "importable", "patch"):
            return getattr(importlib.import_module("fastgan.compat._patch"), name)
        if name.startswith("_") or name not in modules():
            raise AttributeError(f"module 'fastgan.compat' has no attribute {name!r}")
        return importlib.import_module(f"fastgan.compat.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
