"""Networks that turn images into features, and FID and KID of Inception's features."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.checks import said
from fastgan.data import needs, spread, to_uint8
from fastgan.evaluation.scores import MANIFOLD_LIMIT, manifold_scores


class RandomFeatures(nn.Module):
    """Images (N, C, H, W) in [-1, 1], H and W at least 8 -> (N, 64), by convolutions with fixed random weights. Crude,
    but the same on every machine and for every kind of image (Naeem et al. 2020, section 4: a random embedding
    judges images unlike ImageNet's as well)."""

    name = "random_cnn"

    def __init__(self, channels: int):
        super().__init__()
        widths = [channels, 32, 64, 128]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [
                layer
                for a, b in itertools.pairwise(widths)
                for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.LeakyReLU(0.2))
            ]
            self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128 * 4, 64))
            for layer in self.body:
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    nn.init.orthogonal_(layer.weight, gain=2**0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


class NetworkFile(nn.Module):
    """Features (N, d) of images (N, C, H, W) in [-1, 1], C 1 or 3, by the network in a TorchScript file, which is
    called with uint8 images (N, 3, H, W).

    If the network has an argument `return_features`, as StyleGAN's inception-2015-12-05.pt has, it is set to True.
    Raises ValueError, naming `option`, if the file holds no such network."""

    def __init__(self, path: str | os.PathLike, option: str = "--features"):
        super().__init__()
        if not Path(path).is_file():
            raise ValueError(f"{option}: {path} does not exist, expected a network in a TorchScript file")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated
                self.network = torch.jit.load(str(path), map_location="cpu").eval()
            arguments = [argument.name for argument in self.network.forward.schema.arguments]
        except Exception as error:  # a damaged file, or one of another kind, may raise anything
            raise ValueError(f"{option}: {path} is no network in a TorchScript file") from error
        self.options = {"return_features": True} if "return_features" in arguments else {}
        self.name = re.sub(r"\W+", "_", Path(path).stem.lower())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(to_uint8(images).expand(-1, 3, -1, -1), **self.options)


class Inception(nn.Module):
    """Inception's 2,048 features of images (N, C, H, W) in [-1, 1], for FID and KID.

    path: its weights, either as TorchScript (StyleGAN's inception-2015-12-05.pt), which needs no other package, or as
    torch-fidelity's pt_inception-2015-12-05-6726825d.pth, which needs torch-fidelity and torchvision.
    Raises ValueError or ImportError, in one line."""

    name = "inception"

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        torchmetrics_distances()
        if not Path(path).is_file():
            raise ValueError(f"--inception: {path} does not exist, expected a file of Inception's weights")
        if Path(path).suffix == ".pth":
            try:
                from torchmetrics.image.fid import NoTrainInceptionV3

                network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
            except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision does not match torch
                raise ImportError(
                    f"--inception: a .pth needs torch-fidelity and a torchvision made for torch {torch.__version__}, "
                    "which are not installed; StyleGAN's inception-2015-12-05.pt needs neither"
                ) from error
            self.network = lambda images: network(to_uint8(images).expand(-1, 3, -1, -1))
            self.add_module("weights", network)
        else:
            self.network = NetworkFile(path, "--inception")

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def inception_scores(real: Tensor, fake: Tensor, seed: int = 0) -> dict[str, float]:
    """fid, kid and kid_std (over 100 subsets of 1,000, or of all if there are fewer) by torchmetrics, and
    `manifold_scores`, of Inception's features (N, d). Does not change the global random state."""
    frechet, kernel = torchmetrics_distances()
    identity = FeatureIdentity(real.shape[1])
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the memory that torchmetrics needs
        torch.manual_seed(seed)  # for the subsets
        fid = frechet(feature=identity)
        kid = kernel(feature=identity, subset_size=min(1000, len(real), len(fake)))
        for metric in (fid, kid):
            metric.update(real.double(), real=True)
            metric.update(fake.double(), real=False)
        kid_mean, kid_std = kid.compute()
        return {
            **manifold_scores(spread(real, MANIFOLD_LIMIT), spread(fake, MANIFOLD_LIMIT))._asdict(),
            "fid": fid.compute().item(),
            "kid": kid_mean.item(),
            "kid_std": kid_std.item(),
        }


class FeatureIdentity(nn.Module):
    """The network for torchmetrics if its input is features already: each sample goes through Inception only once."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def torchmetrics_distances() -> tuple[type, type]:
    """The classes of torchmetrics' Fréchet and kernel distance. Imported here because the import fails if
    torch-fidelity is installed and torchvision is not, or does not match torch."""
    if importlib.util.find_spec("torchmetrics") is None:
        raise ImportError(needs("torchmetrics", "metrics"))
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
    except Exception as error:
        raise ImportError(
            f"torchmetrics cannot be used ({said(error)}); if torch-fidelity is installed it needs a torchvision "
            f"made for torch {torch.__version__}, otherwise uninstall torch-fidelity"
        ) from error
    return FrechetInceptionDistance, KernelInceptionDistance


class DigitsClassifier(nn.Module):
    """Three convolutions on 8x8 digits in [-1, 1]: (N, 1, 8, 8) -> (N, 10) class logits; `features`: (N, 64)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.AvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def train_digits_classifier(images: Tensor, labels: Tensor, epochs: int = 20, seed: int = 0) -> DigitsClassifier:
    """A `DigitsClassifier` fitted to images (N, 1, 8, 8) float in [-1, 1] and labels (N,) int64, on the CPU.

    About four CPU seconds on 1,297 digits; it then classifies 97 % of the held-out ones correctly. Does not change the
    global random state.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = DigitsClassifier()
        optimizer = torch.optim.Adam(classifier.parameters(), lr=4e-3, fused=True)
        for _ in range(epochs):
            for index in torch.randperm(len(images)).split(128):
                optimizer.zero_grad()
                F.cross_entropy(classifier(images[index]), labels[index]).backward()
                optimizer.step()
    return classifier.eval()
