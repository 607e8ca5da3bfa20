"""Measurements of fastgan against eager PyTorch and torch.compile. Start with `python -m bench --help`."""
