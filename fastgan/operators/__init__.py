"""The losses as `torch.library` operators: opaque to `torch.compile`, differentiable, usable under `torch.func`.

`dispatch` is the only place that picks a backend; one file an operation above it.
"""
