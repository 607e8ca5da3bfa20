"""Choose how generated samples are scored, by the kind of data."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.data import Dataset, Stream, to_unit
from fastgan.evaluation.features import (
    DigitsClassifier,
    Inception,
    NetworkFile,
    RandomFeatures,
    inception_scores,
    train_digits_classifier,
)
from fastgan.evaluation.scores import feature_scores, mode_scores


class Judge:
    """Scores generated samples against real ones, as numbers for a log. count: how many real samples it compares with;
    give it as many generated ones."""

    def __init__(self, count: int, score: Callable[[Tensor], dict[str, float]]):
        self.count, self.score = count, score

    def __call__(self, generated: Tensor) -> dict[str, float]:
        """generated: (N, ...), the generator's output. Raises ValueError if it is not finite."""
        return {**self.score(generated.float()), "samples": len(generated)}


def judge(
    data: Dataset | Stream,
    count: int = 2_000,
    *,
    inception: str | os.PathLike | None = None,
    features: str | os.PathLike | None = None,
    device: torch.device | str = "cpu",
) -> Judge:
    """The judge for `data`. It compares `count` samples, or all if there are fewer.

    Points: compares the points themselves, and their modes if these are known. Digits: `digits_report` against all
    held-out digits, at 8x8 whatever their size. Other images: compares features by the TorchScript network in the file
    `features`, else by `RandomFeatures`. Any images, if `inception` names its weights: `inception_scores`.
    device: of the network that computes the features.
    Raises ValueError or ImportError, in one line, if a file cannot be used."""
    for name, path in (("inception", inception), ("features", features)):
        if path is not None and not data.is_images:
            raise ValueError(f"--{name}: got {path}, but the data are points, which are their own features")
    if not data.is_images:
        real = data.some(count)

        def of_points(generated: Tensor) -> dict[str, float]:
            generated = generated.cpu()
            scores = feature_scores("points", real, generated)
            if data.modes is not None and data.mode_std is not None:
                scores |= mode_scores(data.modes, data.mode_std, generated)
            return scores

        return Judge(len(real), of_points)
    no_file = inception is None and features is None
    if no_file and data.held_out is not None and data.labels is not None:
        small, held_out = (F.adaptive_avg_pool2d(to_unit(x), 8) for x in (data.samples, data.held_out))
        classifier = train_digits_classifier(small, data.labels)
        return Judge(
            len(held_out),
            lambda generated: digits_report(classifier, held_out, F.adaptive_avg_pool2d(generated.cpu(), 8)),
        )
    network: Inception | NetworkFile | RandomFeatures
    if inception is not None:
        network = Inception(inception)
    elif features is not None:
        network = NetworkFile(features)
    else:
        network = RandomFeatures(data.sample_shape[0])
    network = network.to(device)

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        shown = [network(to_unit(part).to(device).clamp(-1, 1)).double().cpu() for part in images.split(64)]
        return torch.cat(shown)

    shown, given = data.some(count), {"--inception": inception, "--features": features}
    try:
        real = extract(shown)
        if real.ndim != 2 or not real.isfinite().all():
            raise TypeError(f"features of shape {tuple(real.shape)}, expected finite ones of shape (N, d)")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the code in a file may raise anything
        for option, path in given.items():
            if path is not None:
                said = (str(error).strip() or type(error).__name__).splitlines()[-1]
                raise ValueError(f"{option}: {path} does not take the images or returns no features: {said}") from error
        raise
    if inception is not None:
        return Judge(len(real), lambda generated: inception_scores(real, extract(generated)))
    return Judge(len(real), lambda generated: feature_scores(network.name, real, extract(generated)))


@torch.no_grad()
def digits_report(classifier: DigitsClassifier, held_out: Tensor, generated: Tensor, k: int = 5) -> dict[str, float]:
    """Score generated digits against digits that neither the generator nor the classifier was trained on.

    held_out, generated: (N, 1, 8, 8) float in [-1, 1], on the CPU. Returns, as numbers for a log:
    coverage, density, precision, recall, fd_digits_cnn and kd_digits_cnn (`feature_scores` of the classifier's
    features: FD(digits-cnn), which no published FID compares with), confident (share of generated digits that the
    classifier gives a probability > 0.9) and classes (how many of the ten classes get at least a fifth of an equal
    share of the generated digits).
    """
    real, fake = classifier.features(held_out), classifier.features(generated)
    probability, label = classifier(generated).softmax(1).max(1)
    share = torch.bincount(label, minlength=10) / len(generated)
    return {
        **feature_scores("digits_cnn", real, fake, k),
        "confident": (probability > 0.9).double().mean().item(),
        "classes": int((share >= 0.2 / 10).sum()),
    }
