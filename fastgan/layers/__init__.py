"""Operators of networks and of their inputs, each one launch, with a plain PyTorch form."""
