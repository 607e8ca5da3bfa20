"""How close generated data is to real data, without downloading anything.

All distances are taken between *features*: for points the points themselves, for digits the last hidden layer of a
small network trained on real digits, for other images a fixed random network, a network of yours, or Inception where
its weights are there. Feature arrays are float tensors of shape (N, d).

A number carries the name of its features: `fd_digits_cnn` is the Fréchet distance FD(digits-cnn). `fid` and `kid` are
said only of Inception's features, and are what torchmetrics computes.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan.data import Dataset, Stream, needs, to_uint8, to_unit

LARGEST = 1e50  # feature: its sixth power, which `kernel_distance` takes, is a float64 number
MANIFOLD_LIMIT = 5_000  # samples a side whose distances to each other are taken; of more, the first


class ManifoldScores(NamedTuple):
    """precision, recall, coverage: shares in [0, 1]. density: >= 0, about 1 for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(real: Tensor, fake: Tensor, k: int = 5) -> ManifoldScores:
    """Precision, recall, density and coverage from nearest neighbours.

    Around each point lies a ball that reaches to its k-th nearest neighbour of its own kind (itself not counted).

    precision: share of generated points in at least one real ball.
    recall: share of real points in at least one generated ball.
    density: (1 / k M) * number of (generated point, real ball) pairs where the point lies in the ball.
    coverage: share of real balls that hold at least one generated point. With N = M and equal distributions its
        expectation is 1 - (N-1)...(N-k) / (2N-1)...(2N-k), about 1 - 2^-k: 0.969 for k = 5, and not 1.

    real: (N, d), fake: (M, d), both with more than k rows; k = 5 is the value both papers' coverage figures use here.
    Precision and recall: Kynkäänniemi et al. 2019, eq. 2-3. Density and coverage: Naeem et al. 2020, eq. 2-3.
    Raises ValueError where the shapes do not fit or a value is not finite or too large.
    """
    _check_features(real, fake, more_than=k)
    real, fake = real.double(), fake.double()
    real_radius, fake_radius = _kth_neighbour_distance(real, k), _kth_neighbour_distance(fake, k)
    distance = torch.cdist(real, fake)  # (N, M)
    in_real_ball = distance <= real_radius[:, None]
    in_fake_ball = distance <= fake_radius[None, :]
    return ManifoldScores(
        precision=in_real_ball.any(0).double().mean().item(),
        recall=in_fake_ball.any(1).double().mean().item(),
        density=in_real_ball.sum().item() / (k * len(fake)),
        coverage=in_real_ball.any(1).double().mean().item(),
    )


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """|m_r - m_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2)): the squared 2-Wasserstein distance of two Gaussians with the
    features' means m and covariances C (Dowson & Landau 1982). In units of the features squared.

    It is a "FID" only with the Inception features that name stands for: name the features beside the number.
    Raises ValueError where the shapes do not fit or a value is not finite or too large.
    """
    _check_features(real, fake, more_than=1)
    real, fake = real.double(), fake.double()
    cov_real, cov_fake = torch.cov(real.T).reshape(real.shape[1], -1), torch.cov(fake.T).reshape(real.shape[1], -1)
    # tr (C_r C_f)^(1/2) through the symmetric C_r^(1/2) C_f C_r^(1/2), which has the same eigenvalues.
    root = _symmetric_sqrt(cov_real)
    cross = torch.linalg.eigvalsh(root @ cov_fake @ root).clamp(min=0).sqrt().sum()
    distance = (real.mean(0) - fake.mean(0)).square().sum() + cov_real.trace() + cov_fake.trace() - 2 * cross
    return max(distance.item(), 0.0)


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy under the kernel (x·y / d + 1)^3 (Bińkowski et al.
    2018, eq. 4 and section 4): mean k(r, r') + mean k(f, f') - 2 mean k(r, f), over pairs of different samples. It may
    be negative. With Inception's features, averaged over subsets, it is the "KID".

    real: (N, d), fake: (M, d). Raises ValueError where the shapes do not fit or a value is not finite or too large.
    """
    _check_features(real, fake, more_than=1)
    real, fake = real.double(), fake.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def among(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return (among(real) + among(fake) - 2 * kernel(real, fake).mean()).item()


def feature_scores(name: str, real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    """`manifold_scores`, fd_NAME (`frechet_distance`) and kd_NAME (`kernel_distance`), ready for a log. The distances
    are of features in units of their mean deviation over the real samples; of their size (the root of the mean square)
    where real samples do not differ."""
    unit = _unit(real.double())
    return {
        **manifold_scores(real[:MANIFOLD_LIMIT], fake[:MANIFOLD_LIMIT], k)._asdict(),
        f"fd_{name}": frechet_distance(real.double() / unit, fake.double() / unit),
        f"kd_{name}": kernel_distance(real[:MANIFOLD_LIMIT].double() / unit, fake[:MANIFOLD_LIMIT].double() / unit),
    }


def _unit(features: Tensor) -> float:
    """What differs by less than a millionth of the size is float32's rounding of the same features."""
    deviation, size = features.var(0).mean().sqrt().item(), features.square().mean().sqrt().item()
    return deviation if deviation > 1e-6 * size else size or 1.0


def mode_scores(modes: Tensor, std: float, fake: Tensor) -> dict[str, float]:
    """Of generated points (N, d), where the truth is equal parts of Gaussians around `modes` (K, d) of deviation `std`:

    modes: how many get at least a fifth of their share within 3 std. high_quality: share of points within 3 std of any.
    tv: total variation, 1/2 sum_k |share of points nearest to mode k - 1/K|.

    Raises ValueError if a number is not finite or too large.
    """
    for name, points in (("fake", fake), ("modes", modes)):
        _check_size(name, points)
    distance, nearest = torch.cdist(fake.double(), modes.to(fake).double()).min(1)
    near, count = distance < 3 * std, len(modes)
    close = torch.bincount(nearest[near], minlength=count) / len(fake)
    share = torch.bincount(nearest, minlength=count) / len(fake)
    return {
        "modes": int((close >= 0.2 / count).sum()),
        "high_quality": near.double().mean().item(),
        "tv": ((share - 1 / count).abs().sum() / 2).item(),
    }


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

    A network that takes `return_features`, as StyleGAN's inception-2015-12-05.pt does, is asked for them.
    Raises ValueError where the file holds no such network."""

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, in which such files are published
                self.network = torch.jit.load(str(path), map_location="cpu").eval()
            arguments = [argument.name for argument in self.network.forward.schema.arguments]
        except Exception as error:  # whatever depends on where a file is cut or what it is instead
            raise ValueError(f"{path}: is no network in a TorchScript file") from error
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
        _torchmetrics()
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
            self.network = NetworkFile(path)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def inception_scores(real: Tensor, fake: Tensor, seed: int = 0) -> dict[str, float]:
    """fid, kid and kid_std (over 100 subsets of 1,000, or of all where there are fewer) by torchmetrics, and
    `manifold_scores`, of Inception's features (N, d). The global random state is left as it was."""
    frechet, kernel = _torchmetrics()
    given = _Given(real.shape[1])
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
            **manifold_scores(real[:MANIFOLD_LIMIT], fake[:MANIFOLD_LIMIT])._asdict(),
            "fid": fid.compute().item(),
            "kid": kid_mean.item(),
            "kid_std": kid_std.item(),
        }


class _Given(nn.Module):
    """What torchmetrics is given for a network where features are there already: each sample passes one once."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _torchmetrics() -> tuple[type, type]:
    """Its Fréchet and kernel distance. Imported here and not above: where torch-fidelity is there and torchvision is
    not, or does not match torch, it is this import that fails."""
    if importlib.util.find_spec("torchmetrics") is None:
        raise ImportError(needs("torchmetrics", "metrics"))
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImportError(
            f"torchmetrics cannot be used ({said}); where torch-fidelity is installed it takes a torchvision made for "
            f"torch {torch.__version__}, otherwise uninstall torch-fidelity"
        ) from error
    return FrechetInceptionDistance, KernelInceptionDistance


class Judge:
    """Scores generated samples against real ones, as numbers ready for a log. count: how many real ones it compares
    with, and as many it should be given."""

    def __init__(self, count: int, score: Callable[[Tensor], dict[str, float]]):
        self.count, self.score = count, score

    def __call__(self, generated: Tensor) -> dict[str, float]:
        """generated: (N, ...) as the generator gives them. Raises ValueError where they are not finite."""
        return {**self.score(generated.float()), "samples": len(generated)}


def judge(
    data: Dataset | Stream,
    count: int = 2_000,
    *,
    inception: str | os.PathLike | None = None,
    features: str | os.PathLike | None = None,
    device: torch.device | str = "cpu",
) -> Judge:
    """The judge for `data`, comparing `count` samples, or all there are where they are fewer.

    Of points: the points themselves, and their modes where these are known. Of digits: `digits_report` against those
    held out, at 8x8, whatever their size. Of other images: features of the TorchScript network in the file `features`,
    or else of `RandomFeatures`. Of any images, if `inception` names its weights: `inception_scores`. device: where
    the network of the features runs.
    Raises ValueError or ImportError, in one line, where a file cannot be used."""
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

    real = extract(data.some(count))
    if inception is not None:
        return Judge(len(real), lambda generated: inception_scores(real, extract(generated)))
    return Judge(len(real), lambda generated: feature_scores(network.name, real, extract(generated)))


def described(scores: dict[str, float]) -> str:
    """Scores as one line, each distance with the name of its features: FD(digits-cnn) 0.171."""
    parts = [f"coverage {scores['coverage']:.3f}"]
    if "classes" in scores:
        parts.append(f"{scores['classes']} of 10 classes")
    if "modes" in scores:
        parts += [f"{scores['modes']} modes", f"{scores['high_quality']:.1%} near one"]
    parts += [f"{label_of(name)} {value:.3g}" for name, value in scores.items() if name.startswith(("fd_", "fid"))]
    return f"{', '.join(parts)} ({scores['samples']:,} generated against as many real, k = 5)"


def label_of(name: str) -> str:
    """What a picture or a line calls a score: fd_digits_cnn -> FD(digits-cnn), fid -> FID."""
    if name.startswith(("fd_", "kd_")):
        return f"{name[:2].upper()}({name[3:].replace('_', '-')})"
    return name.upper() if name in ("fid", "kid", "tv") else name.replace("_", " ")


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


def _kth_neighbour_distance(points: Tensor, k: int) -> Tensor:
    return torch.cdist(points, points).kthvalue(k + 1, dim=1).values  # the nearest of all is the point itself


def _symmetric_sqrt(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _check_size(name: str, features: Tensor) -> None:
    if not features.isfinite().all():
        raise ValueError(f"{name}: holds NaN or infinity, expected finite features")
    largest = features.abs().max().item()
    if largest > LARGEST:
        raise ValueError(f"{name}: got numbers of size {largest:.3g}, expected at most {LARGEST:g}")


def _check_features(real: Tensor, fake: Tensor, more_than: int) -> None:
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or len(features) <= more_than or features.shape[1] == 0:
            raise ValueError(f"{name}: got shape {tuple(features.shape)}, expected (N, d) with N > {more_than}")
        _check_size(name, features)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"fake: got {fake.shape[1]} features a row, expected {real.shape[1]} as in real")
