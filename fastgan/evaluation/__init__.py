"""How close generated data is to real data, without downloading anything.

All distances are between *features*: for points the points themselves; for digits the last hidden layer of a small
network trained on real digits; for other images the output of a fixed random network, of your own network, or of
Inception if you have its weights. Feature arrays are float tensors of shape (N, d).

A score carries the name of its features: `fd_digits_cnn` is the Fréchet distance FD(digits-cnn). Only distances between
Inception's features are called `fid` and `kid`; torchmetrics computes them.
"""

from fastgan.evaluation.features import (
    DigitsClassifier,
    Inception,
    NetworkFile,
    RandomFeatures,
    inception_scores,
    train_digits_classifier,
)
from fastgan.evaluation.judge import Judge, digits_report, judge
from fastgan.evaluation.scores import (
    MANIFOLD_LIMIT,
    ManifoldScores,
    described,
    feature_scores,
    frechet_distance,
    kernel_distance,
    label_of,
    manifold_scores,
    mode_scores,
)

__all__ = [
    "MANIFOLD_LIMIT", "DigitsClassifier", "Inception", "Judge", "ManifoldScores", "NetworkFile", "RandomFeatures",
    "described", "digits_report", "feature_scores", "frechet_distance", "inception_scores", "judge", "kernel_distance",
    "label_of", "manifold_scores", "mode_scores", "train_digits_classifier",
]  # fmt: skip
