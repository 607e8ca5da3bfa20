"""The metrics against closed forms, against one another written out, and against cases whose answer is known."""

import math

import pytest
import torch

from fastgan import metrics

# What the `train` extra brings; a machine that only measures kernels may lack it.
pytest.importorskip("sklearn")


pytestmark = pytest.mark.usefixtures("one_thread")


def normal(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def scores_written_out(real, fake, k):
    """The papers' definitions, point by point."""

    def radius(points, i):
        return sorted(math.dist(points[i], q) for j, q in enumerate(points) if j != i)[k - 1]

    real, fake = real.tolist(), fake.tolist()
    real_radius = [radius(real, i) for i in range(len(real))]
    fake_radius = [radius(fake, j) for j in range(len(fake))]
    inside = [[math.dist(r, f) <= real_radius[i] for f in fake] for i, r in enumerate(real)]
    return (
        sum(any(inside[i][j] for i in range(len(real))) for j in range(len(fake))) / len(fake),
        sum(any(math.dist(r, f) <= fake_radius[j] for j, f in enumerate(fake)) for r in real) / len(real),
        sum(map(sum, inside)) / (k * len(fake)),
        sum(map(any, inside)) / len(real),
    )


@pytest.mark.parametrize(("n", "m", "k"), [(30, 30, 5), (40, 17, 3), (8, 50, 1)])
def test_manifold_scores_are_the_papers_definitions(n, m, k):
    real, fake = normal(n, 3, 0), normal(m, 3, 1, shift=0.7)
    assert metrics.manifold_scores(real, fake, k) == pytest.approx(scores_written_out(real, fake, k), rel=1e-12)


def test_coverage_of_equal_distributions_is_its_expectation():
    n, k = 400, 5
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    coverage = [metrics.manifold_scores(normal(n, 4, s), normal(n, 4, 100 + s), k).coverage for s in range(20)]
    assert sum(coverage) / len(coverage) == pytest.approx(expected, abs=0.01)  # the mean of 20 has a deviation of 0.003


def test_far_apart_and_collapsed():
    real = normal(200, 2, 0)
    assert metrics.manifold_scores(real, normal(200, 2, 1, shift=100)) == (0, 0, 0, 0)
    collapsed = metrics.manifold_scores(real, normal(200, 2, 1) * 0.01)
    assert collapsed.precision == 1
    assert collapsed.coverage < 0.2
    assert collapsed.recall < 0.1


def test_frechet_distance_closed_forms():
    x = normal(5000, 4, 0)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    shift = torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=torch.float64)
    assert metrics.frechet_distance(x, x + shift) == pytest.approx(25, rel=1e-9)
    # y = s x about its mean: tr(C + s^2 C - 2 s C) = (s - 1)^2 tr C
    centred = x - x.mean(0)
    assert metrics.frechet_distance(centred, 3 * centred) == pytest.approx(4 * x.T.cov().trace().item(), rel=1e-9)
    # covariances that do not commute, against the eigenvalues of their product
    y = normal(5000, 4, 1) @ normal(4, 4, 2)
    cross = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).real.sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace() - 2 * cross
    assert metrics.frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.zeros(5, 2), torch.zeros(9, 2), r"real: got shape \(5, 2\), expected \(N, d\) with N > 5"),
        (torch.zeros(9, 2), torch.zeros(9, 3), "fake: got 3 features a row, expected 2"),
        (torch.zeros(9), torch.zeros(9, 3), r"real: got shape \(9,\)"),
        (torch.zeros(9, 2), torch.full((9, 2), math.nan), "fake: holds NaN"),
    ],
)
def test_bad_features(real, fake, message):
    with pytest.raises(ValueError, match=message):
        metrics.manifold_scores(real, fake)


def test_digits_report_tells_good_from_bad():
    """Real digits score as well as can be; digits of three classes, and noise, are found out."""
    from fastgan import data

    digits = data.load("digits")
    images, held_out = data.to_unit(digits.samples), data.to_unit(digits.held_out)
    before = torch.get_rng_state()
    classifier = metrics.train_digits_classifier(images, digits.labels)
    assert torch.equal(before, torch.get_rng_state())
    assert (classifier(held_out).argmax(1) == digits.held_out_labels).double().mean() > 0.95

    good = metrics.digits_report(classifier, held_out, images[:500])
    assert good["coverage"] > 0.93
    assert good["classes"] == 10
    three = metrics.digits_report(classifier, held_out, images[digits.labels < 3])
    assert three["classes"] == 3
    assert three["coverage"] < 0.5
    noise = metrics.digits_report(classifier, held_out, torch.rand(500, 1, 8, 8) * 2 - 1)
    assert noise["coverage"] < 0.3
    assert good["fd_digits_cnn"] < min(three["fd_digits_cnn"], noise["fd_digits_cnn"]) / 10
