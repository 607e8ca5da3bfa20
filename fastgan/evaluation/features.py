"""Networks that turn images into features, and FID and KID of Inception's."""

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
    """Images (N, C, H, W) in [-1, 1], of 8 pixels or more -> (N, 64), by convolutions of fixed random weights. Crude,
    but the same for everyone and for every kind of image (Naeem et al. 2020, section 4: a random embedding tells as
    well where images are far from ImageNet's)."""

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
    """A network of a TorchScript file: uint8 images (N, 3, H, W) -> (N, d) features. Takes images (N, C, H, W) in
    [-1, 1], C 1 or 3.

    If the network has an argument `return_features`, as StyleGAN's inception-2015-12-05.pt has, it is set.
    Raises ValueError, naming the option that the file was given by, if it holds no such network."""

    def __init__(self, path: str | os.PathLike, option: str = "--features"):
        super().__init__()
        if not Path(path).is_file():
            raise ValueError(f"{option}: {path} does not exist, expected a network in a TorchScript file")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, in which such files are published
                self.network = torch.jit.load(str(path), map_location="cpu").eval()
            arguments = [argument.name for argument in self.network.forward.schema.arguments]
        except Exception as error:  # whatever depends on where a file is cut or what it is instead
            raise ValueError(f"{option}: {path} is no network in a TorchScript file") from error
        self.options = {"return_features": True} if "return_features" in arguments else {}
        self.name = re.sub(r"\W+", "_", Path(path).stem.lower())

    def forward(self, images: Tensor) -> Tensor:
        return self.network(to_uint8(images).expand(-1, 3, -1, -1), **self.options)


class Inception(nn.Module):
    """Inception's 2,048 features of images (N, C, H, W) in [-1, 1], for FID and KID.

    path: its weights, either as TorchScript (StyleGAN's inception-2015-12-05.pt), which needs no other package, or as
    torch-fidelity's pt_inception-2015-12-05-6726825d.pth, which needs torch-fidelity, and that torchvision.
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
            except (ImportError, RuntimeError) as error:  # RuntimeError: of a torchvision that does not match torch
                raise ImportError(
                    f"--inception: a .pth takes torch-fidelity and a torchvision made for torch {torch.__version__}, "
                    "which are not there; StyleGAN's inception-2015-12-05.pt takes neither"
                ) from error
            self.network = lambda images: network(to_uint8(images).expand(-1, 3, -1, -1))
            self.add_module("weights", network)
        else:
            self.network = NetworkFile(path, "--inception")

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def inception_scores(real: Tensor, fake: Tensor, seed: int = 0) -> dict[str, float]:
    """fid, kid and kid_std (over 100 subsets of 1,000, or of all if there are fewer) by torchmetrics, and
    `manifold_scores`, of Inception's features (N, d). The global random state is left as it was."""
    frechet, kernel = torchmetrics_distances()
    given = Given(real.shape[1])
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the memory that it takes
        torch.manual_seed(seed)  # of the subsets
        fid = frechet(feature=given)
        kid = kernel(feature=given, subset_size=min(1000, len(real), len(fake)))
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


class Given(nn.Module):
    """What torchmetrics is given for a network if features are there already: each sample passes one once."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def torchmetrics_distances() -> tuple[type, type]:
    """Its Fréchet and kernel distance. Imported here and not above: if torch-fidelity is there and torchvision is
    not, or does not match torch, it is this import that fails."""
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

    About four CPU seconds on 1,297 digits; 97 % of the held-out ones are then classified rightly. The global random
    state is left as it was.
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
