"""Measurements of what fastgan does, against eager PyTorch and torch.compile. Start with `python -m bench --help`."""
