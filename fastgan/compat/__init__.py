"""Other codebases' adversarial losses, under the names, arguments, returns and quirks they have there.

    from fastgan.compat.hifigan import discriminator_loss, generator_loss    # instead of: from models import ...

One module a codebase, named after it; its docstring says what to change and what differs from upstream, if anything.
Behind them are the fused losses of `fastgan.losses`.
"""

import importlib
import pkgutil


def modules() -> list[str]:
    """The names of the codebases served."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def __getattr__(name: str):
    if name.startswith("_") or name not in modules():
        raise AttributeError(f"module 'fastgan.compat' has no attribute {name!r}")
    return importlib.import_module(f"fastgan.compat.{name}")
