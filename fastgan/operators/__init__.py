"""The losses as `torch.library` operators: opaque to `torch.compile`, differentiable, usable under `torch.func`.

`dispatch` is the only file that picks a backend. Each other file has one operation.
"""
