"""The judge of generated samples that suits the data."""

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
    """Scores generated samples against real ones, as numbers ready for a log. count: how many real ones it compares
    with, and as many it should be given."""

    def __init__(self, count: int, score: Callable[[Tensor], dict[str, float]]):
        self.count, self.score = count, score

    def __call__(self, generated: Tensor) -> dict[str, float]:
        """generated: (N, ...) as the generator gives them. Raises ValueError if they are not finite."""
        return {**self.score(generated.float()), "samples": len(generated)}


def judge(
    data: Dataset | Stream,
    count: int = 2_000,
    *,
    inception: str | os.PathLike | None = None,
    features: str | os.PathLike | None = None,
    device: torch.device | str = "cpu",
) -> Judge:
    """The judge for `data`, comparing `count` samples, or all there are if they are fewer.

    Of points: the points themselves, and their modes if these are known. Of digits: `digits_report` against those
    held out, at 8x8, whatever their size. Of other images: features of the TorchScript network in the file `features`,
    or else of `RandomFeatures`. Of any images, if `inception` names its weights: `inception_scores`. device: where
    the network of the features runs.
    Raises ValueError or ImportError, in one line, if a file cannot be used."""
    for name, path in (("inception", inception), ("features", features)):
        if path is not None and not data.is_images:
            raise ValueError(f"--{name}: got {path}, but the data are points, whose features they are themselves")
    if not data.is_images:
        real = data.some(count)

        def of_points(generated: Tensor) -> dict[str, float]:
            generated = generated.cpu()
            known = {} if data.modes is None else mode_scores(data.modes, data.mode_std, generated)
            return {**feature_scores("points", real, generated), **known}

        return Judge(len(real), of_points)
    if data.held_out is not None and inception is None and features is None:
        small, held_out = (F.adaptive_avg_pool2d(to_unit(x), 8) for x in (data.samples, data.held_out))
        classifier = train_digits_classifier(small, data.labels)
        return Judge(
            len(held_out),
            lambda generated: digits_report(classifier, held_out, F.adaptive_avg_pool2d(generated.cpu(), 8)),
        )
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
    except Exception as error:  # of code in a file, which may raise anything
        for option, path in given.items():
            if path is not None:
                said = (str(error).strip() or type(error).__name__).splitlines()[-1]
                raise ValueError(f"{option}: {path} does not take the images, or gives no features: {said}") from error
        raise
    if inception is not None:
        return Judge(len(real), lambda generated: inception_scores(real, extract(generated)))
    return Judge(len(real), lambda generated: feature_scores(network.name, real, extract(generated)))


@torch.no_grad()
def digits_report(classifier: DigitsClassifier, held_out: Tensor, generated: Tensor, k: int = 5) -> dict[str, float]:
    """How good generated digits are, against digits that neither the generator nor the classifier was trained on.

    held_out, generated: (N, 1, 8, 8) float in [-1, 1], on the CPU. Returns, ready for a log:
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
