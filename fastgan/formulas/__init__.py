"""The mathematics in plain PyTorch: criteria, objectives, the terms of a loss, and what the functions return."""
