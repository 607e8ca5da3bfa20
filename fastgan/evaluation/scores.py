"""Distances between two sets of features (N, d), and their names for people."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.data import spread

LARGEST = 1e50  # feature allowed: its sixth power, which `kernel_distance` computes, is a float64 number
MANIFOLD_LIMIT = 5_000  # samples a side between which all distances are computed; of more, an evenly spread part


class ManifoldScores(NamedTuple):
    """precision, recall, coverage: shares in [0, 1]. density: >= 0, about 1 for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(real: Tensor, fake: Tensor, k: int = 5) -> ManifoldScores:
    """Precision, recall, density and coverage from nearest neighbours.

    The ball around each point reaches to its k-th nearest neighbour on the same side (the point itself not counted).

    precision: share of generated points in at least one real ball.
    recall: share of real points in at least one generated ball.
    density: (1 / k M) * number of (generated point, real ball) pairs where the point lies in the ball.
    coverage: share of real balls that hold at least one generated point. With N = M and equal distributions its
        expectation is 1 - (N-1)...(N-k) / (2N-1)...(2N-k), about 1 - 2^-k: 0.969 for k = 5, and not 1.

    real: (N, d), fake: (M, d), both with more than k rows; k = 5 is the value both papers' coverage figures use here.
    Precision and recall: Kynkäänniemi et al. 2019, eq. 2-3. Density and coverage: Naeem et al. 2020, eq. 2-3.
    Raises ValueError if the shapes do not fit or a value is not finite or too large.
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

    It is the "FID" only for Inception's features: name the features beside the number.
    Raises ValueError if the shapes do not fit or a value is not finite or too large.
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

    real: (N, d), fake: (M, d). Raises ValueError if the shapes do not fit or a value is not finite or too large.
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
    """`manifold_scores`, fd_NAME (`frechet_distance`) and kd_NAME (`kernel_distance`), as numbers for a log. For the
    distances, features are divided by their mean deviation over the real samples, or by their root mean square if the
    real samples do not differ."""
    unit = _unit(real.double())
    some_real, some_fake = spread(real, MANIFOLD_LIMIT), spread(fake, MANIFOLD_LIMIT)
    return {
        **manifold_scores(some_real, some_fake, k)._asdict(),
        f"fd_{name}": frechet_distance(real.double() / unit, fake.double() / unit),
        f"kd_{name}": kernel_distance(some_real.double() / unit, some_fake.double() / unit),
    }


def _unit(features: Tensor) -> float:
    """The divisor of `feature_scores`. Real samples do not differ if their deviation is below a millionth of their
    size: that is float32's rounding of the same features."""
    deviation, size = features.var(0).mean().sqrt().item(), features.square().mean().sqrt().item()
    return deviation if deviation > 1e-6 * size else size or 1.0


def mode_scores(modes: Tensor, std: float, fake: Tensor) -> dict[str, float]:
    """Scores of generated points (N, d), if the target is a mixture of K Gaussians with equal weights, centres `modes`
    (K, d) and standard deviation `std`:

    modes: the number of modes with at least a fifth of their share of the points within 3 std. high_quality: the share
    of points within 3 std of any mode. tv: total variation, 1/2 sum_k |share of points nearest to mode k - 1/K|.

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


def described(scores: dict[str, float]) -> str:
    """Scores as one line, each distance with the name of its features: FD(digits-cnn) 0.171."""
    parts = [f"coverage {scores['coverage']:.3f}"]
    if "classes" in scores:
        parts.append(f"{scores['classes']} of 10 classes")
    if "modes" in scores:
        parts += [f"{scores['modes']} modes", f"{scores['high_quality']:.1%} within 3 std of one"]
    parts += [f"{label_of(name)} {value:.3g}" for name, value in scores.items() if name.startswith(("fd_", "fid"))]
    return f"{', '.join(parts)} ({scores['samples']:,} generated against as many real, k = 5)"


def label_of(name: str) -> str:
    """The name of a score for people: fd_digits_cnn -> FD(digits-cnn), fid -> FID."""
    if name.startswith(("fd_", "kd_")):
        return f"{name[:2].upper()}({name[3:].replace('_', '-')})"
    return name.upper() if name in ("fid", "kid", "tv") else name.replace("_", " ")


def _kth_neighbour_distance(points: Tensor, k: int) -> Tensor:
    return torch.cdist(points, points).kthvalue(k + 1, dim=1).values  # the nearest is the point itself


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
