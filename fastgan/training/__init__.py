"""Training: the trainer and its step, CUDA graphs, checkpoints, several ranks, recipes."""
