"""How close generated data is to real data, without downloading anything.

All distances are taken between *features*: for points the points themselves, for digits the last hidden layer of a
small network trained on real digits, for other images a fixed random network, a network of yours, or Inception if
its weights are there. Feature arrays are float tensors of shape (N, d).

A number carries the name of its features: `fd_digits_cnn` is the Fréchet distance FD(digits-cnn). `fid` and `kid` are
said only of Inception's features, and are what torchmetrics computes.
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
