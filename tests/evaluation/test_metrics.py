"""The metrics against closed forms, plain formulas, torchmetrics, and cases with a known answer."""

import math
import os
import subprocess
import sys
import warnings

import pytest
import torch

from fastgan import metrics
from fastgan.evaluation import features, scores

# Packages of the extra `train`; a machine that only measures kernels may lack them.
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


def test_scores_of_distant_and_of_collapsed_samples():
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
    """Real digits have high scores; digits of three classes, and noise, have low ones."""
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
    assert set(good) == {
        *("precision", "recall", "density", "coverage", "fd_digits_cnn", "kd_digits_cnn", "confident", "classes")
    }
    noise = metrics.digits_report(classifier, held_out, torch.rand(500, 1, 8, 8) * 2 - 1)
    assert noise["coverage"] < 0.3
    assert good["fd_digits_cnn"] < min(three["fd_digits_cnn"], noise["fd_digits_cnn"]) / 10
    assert good["kd_digits_cnn"] < min(three["kd_digits_cnn"], noise["kd_digits_cnn"]) / 10


def test_kernel_distance_written_out():
    """Against a sum over every pair, and against its expectation."""
    real, fake = normal(30, 4, 0), normal(23, 4, 1, shift=0.5)

    def mean(a, b, same):
        rows = [(x, y) for i, x in enumerate(a) for j, y in enumerate(b) if not same or i != j]
        return sum((torch.dot(x, y).item() / 4 + 1) ** 3 for x, y in rows) / len(rows)

    expected = mean(real, real, True) + mean(fake, fake, True) - 2 * mean(real, fake, False)
    assert metrics.kernel_distance(real, fake) == pytest.approx(expected, rel=1e-10)
    equal = [metrics.kernel_distance(normal(200, 4, s), normal(200, 4, 50 + s)) for s in range(20)]
    mean_of_equal = sum(equal) / 20
    spread = math.sqrt(sum((e - mean_of_equal) ** 2 for e in equal) / 19 / 20)
    assert abs(mean_of_equal) < 4 * spread  # unbiased: about 0, and negative at times
    assert min(equal) < 0


def test_distances_are_those_of_torchmetrics():
    """Fréchet and kernel distance of the same features. torchmetrics has no precision, recall or coverage."""
    pytest.importorskip("torchmetrics", reason="needs the extra `metrics`")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = normal(400, 12, 0), normal(300, 12, 1, shift=0.3) @ normal(12, 12, 2)
    given = features.FeatureIdentity(12)
    fid, kid = FrechetInceptionDistance(feature=given), KernelInceptionDistance(feature=given, subset_size=300)
    for metric in (fid, kid):
        metric.update(real[:300], real=True)
        metric.update(fake, real=False)
    assert metrics.frechet_distance(real[:300], fake) == pytest.approx(fid.compute().item(), rel=1e-9)
    assert metrics.kernel_distance(real[:300], fake) == pytest.approx(kid.compute()[0].item(), rel=1e-5)
    before = torch.get_rng_state()
    scores = metrics.inception_scores(real[:300], fake)
    assert torch.equal(before, torch.get_rng_state())
    assert scores == metrics.inception_scores(real[:300], fake)
    assert scores["fid"] == pytest.approx(metrics.frechet_distance(real[:300], fake), rel=1e-9)
    assert scores["kid"] == pytest.approx(metrics.kernel_distance(real[:300], fake), rel=1e-5)
    assert scores["coverage"] == metrics.manifold_scores(real[:300], fake).coverage


def test_mode_scores():
    modes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    fake = modes.repeat_interleave(100, 0)
    perfect = metrics.mode_scores(modes, 0.1, fake)
    assert perfect == {"modes": 4, "high_quality": 1.0, "tv": 0.0}
    one = metrics.mode_scores(modes, 0.1, modes[:1].repeat(100, 1))
    assert (one["modes"], one["tv"]) == (1, pytest.approx(0.75))  # k of K modes: 1 - k/K
    near = modes + torch.tensor([0.29, 0.0])
    assert metrics.mode_scores(modes, 0.1, near)["high_quality"] == 1
    far = metrics.mode_scores(modes, 0.1, modes + torch.tensor([0.31, 0.0]))
    assert far == {"modes": 0, "high_quality": 0.0, "tv": 0.0}
    few = torch.cat([modes[:3].repeat_interleave(100, 0), modes[3:].repeat(14, 1)])  # 14 of 314 is below 1/5 of 1/4
    assert metrics.mode_scores(modes, 0.1, few)["modes"] == 3
    few = torch.cat([few, modes[3:].repeat(2, 1)])
    assert metrics.mode_scores(modes, 0.1, few)["modes"] == 4


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30, 1e38])
def test_scores_of_tiny_and_huge_points(size):
    """float32 squares of these are 0 or infinite."""
    modes = size * torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    points = modes.repeat(20, 1)
    assert metrics.mode_scores(modes, 0.1 * size, points) == {"modes": 2, "high_quality": 1.0, "tv": 0.0}
    far = metrics.mode_scores(modes, 0.1 * size, points + 0.5 * size)
    assert far == {"modes": 0, "high_quality": 0.0, "tv": 0.0}
    near = torch.full_like(points, 0.5 * size)
    assert metrics.frechet_distance(points, near) == pytest.approx(size**2 * (0.25 + 20 / 39 / 2), rel=1e-5)


@pytest.mark.parametrize("size", [1e51, 1e300, float("inf"), float("nan")])
def test_points_too_large_for_any_score(size):
    points = torch.zeros(8, 2, dtype=torch.float64)
    far = points.clone()
    far[3, 1] = size
    for score in (
        lambda x: metrics.frechet_distance(points, x),
        lambda x: metrics.kernel_distance(points, x),
        lambda x: metrics.manifold_scores(points, x),
        lambda x: metrics.mode_scores(points[:2], 1.0, x),
    ):
        score(points)
        with pytest.raises(ValueError, match=r"fake: (got numbers of size|holds NaN or infinity)"):
            score(far)
    with pytest.raises(ValueError, match=r"modes: (got numbers of size|holds NaN or infinity)"):
        metrics.mode_scores(far, 1.0, points)


def image_set(count, seed, kind="faces"):
    """Smooth pictures, uint8 (N, 3, 16, 16), or noise of that shape."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear") * 255
    return smooth.round().to(torch.uint8) if kind == "faces" else torch.randint(0, 256, smooth.shape, generator=random)


def test_random_features_tell_good_from_bad():
    from fastgan import data

    judge = metrics.judge(data.Dataset("faces", image_set(300, 0)), count=200)
    assert judge.count == 200
    good = judge(data.to_unit(image_set(200, 1)))
    noise = judge(data.to_unit(image_set(200, 2, "noise").to(torch.uint8)))
    assert good["fd_random_cnn"] < noise["fd_random_cnn"] / 4
    assert good["coverage"] > 0.9 and noise["coverage"] < 0.1
    assert good["samples"] == 200
    assert judge(data.to_unit(image_set(200, 1))) == good
    assert metrics.described(good).startswith("coverage 0.9") and "FD(random-cnn)" in metrics.described(good)


@pytest.fixture
def network_file(tmp_path):
    """A network in a TorchScript file, with the interface of StyleGAN's inception-2015-12-05.pt."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 24, 3, stride=2)

        def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            found = self.conv(images.float() / 255).relu().mean((2, 3))
            return found if return_features else found.softmax(1)

    torch.manual_seed(0)
    torch.jit.script(Network()).save(tmp_path / "Tiny-net v2.pt")
    return tmp_path / "Tiny-net v2.pt"


def test_features_of_a_users_network(network_file):
    from fastgan import data

    faces = data.Dataset("faces", image_set(100, 0))
    scores = metrics.judge(faces, 80, features=network_file)(data.to_unit(image_set(80, 1)))
    network = torch.jit.load(network_file)
    with torch.no_grad():
        real, fake = (network(x, return_features=True).double() for x in (faces.some(80), image_set(80, 1)))
    unit = real.var(0).mean().sqrt()
    assert scores["fd_tiny_net_v2"] == pytest.approx(metrics.frechet_distance(real / unit, fake / unit), rel=1e-4)
    grey = data.Dataset("grey", image_set(100, 0)[:, :1].contiguous())
    assert metrics.judge(grey, 80, features=network_file)(torch.zeros(80, 1, 16, 16))["coverage"] < 0.2


def test_fid_and_kid_are_those_of_torchmetrics_on_the_images(network_file):
    pytest.importorskip("torchmetrics", reason="needs the extra `metrics`")
    from torchmetrics.image.fid import FrechetInceptionDistance

    from fastgan import data

    class Features(torch.nn.Module):
        num_features = 24
        network = torch.jit.load(network_file)

        def forward(self, images):
            return self.network(images, return_features=True).double()

    faces, generated = data.Dataset("faces", image_set(100, 0)), image_set(100, 1)
    scores = metrics.judge(faces, inception=network_file)(data.to_unit(generated))
    fid = FrechetInceptionDistance(feature=Features())
    fid.update(faces.samples, real=True)
    fid.update(generated, real=False)
    assert scores["fid"] == pytest.approx(fid.compute().item(), rel=1e-6)
    assert set(scores) == {"precision", "recall", "density", "coverage", "fid", "kid", "kid_std", "samples"}
    assert "FID" in metrics.described(scores)


class Floats(torch.nn.Module):
    def forward(self, images):
        return images.float()


def test_networks_that_cannot_be_used(tmp_path):
    pytest.importorskip("torchmetrics", reason="needs the extra `metrics`")
    from fastgan import data

    faces = data.Dataset("faces", image_set(20, 0))
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
        for name, network in (("flat", torch.nn.Linear(5, 2)), ("maps", torch.nn.Identity())):
            torch.jit.save(torch.jit.script(torch.nn.Sequential(Floats(), network)), tmp_path / f"{name}.pt")
    points = data.Dataset("points", torch.zeros(20, 2), mean=torch.zeros(2), scale=1.0)
    for options, message in [
        ({"features": tmp_path / "text.pt"}, "--features: .*text.pt is no network in a TorchScript file"),
        ({"inception": tmp_path / "text.pt"}, "--inception: .*text.pt is no network in a TorchScript file"),
        ({"features": tmp_path / "weights.pt"}, "weights.pt is no network in a TorchScript file"),
        ({"features": tmp_path / "nowhere.pt"}, "--features: .*nowhere.pt does not exist"),
        ({"features": tmp_path / "flat.pt"}, "--features: .*flat.pt does not take the images.*shapes cannot"),
        ({"features": tmp_path / "maps.pt"}, r"maps.pt .* returns no features: features of shape \(20, 3, 16, 16\)"),
        ({"inception": tmp_path / "nowhere.pth"}, "--inception: .*nowhere.pth does not exist"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            metrics.judge(faces, **options)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"--features: got .*text.pt, but the data are points"):
        metrics.judge(points, features=tmp_path / "text.pt")


def test_a_torchmetrics_that_cannot_be_imported_gives_one_line(tmp_path):
    """The usual failure: importing torch-fidelity fails because torchvision is missing."""
    pytest.importorskip("torchmetrics", reason="needs the extra `metrics`")
    (tmp_path / "torch_fidelity").mkdir()
    (tmp_path / "torch_fidelity" / "__init__.py").write_text("import torchvision_of_another_torch")
    (tmp_path / "torch_fidelity-0.3.0.dist-info").mkdir()
    described = "Metadata-Version: 2.1\nName: torch-fidelity\nVersion: 0.3.0\n"
    (tmp_path / "torch_fidelity-0.3.0.dist-info" / "METADATA").write_text(described)
    code = "from fastgan.evaluation import features; features.torchmetrics_distances()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    last = result.stderr.strip().splitlines()[-1]
    assert "ImportError: torchmetrics cannot be used (No module named 'torchvision_of_another_torch')" in last
    assert "otherwise uninstall torch-fidelity" in last


def test_a_judge_of_toy_points_knows_the_modes():
    from fastgan import data

    ring = data.load("ring")
    good = metrics.judge(ring, 500)(ring.samples[-500:])
    assert good["modes"] == 8 and good["high_quality"] > 0.97 and good["tv"] < 0.1 and good["coverage"] > 0.9
    collapsed = metrics.judge(ring, 500)(ring.modes[:1] + 0.01 * ring.samples[-500:])
    assert collapsed["modes"] == 1 and collapsed["tv"] == pytest.approx(7 / 8)
    assert collapsed["fd_points"] > 20 * good["fd_points"]
    assert "8 modes" in metrics.described(good)


@pytest.mark.parametrize("value", [0.0, 0.3, -1e20])
def test_real_samples_that_do_not_differ(value):
    """Without a deviation the unit is their size: the distance is 0 for the same samples, else that of the means.
    Rounding is no deviation: the features of a picture depend a little on its place in a batch."""
    real = torch.full((50, 4), value, dtype=torch.float64)
    real[::2] *= 1 + 1e-8
    same, other = (metrics.feature_scores("x", real, fake) for fake in (real, real + 3 * (abs(value) or 1.0)))
    assert same["fd_x"] == pytest.approx(0.0, abs=1e-12)
    assert other["fd_x"] == pytest.approx(4 * 3**2, rel=1e-6)
    assert all(math.isfinite(score) for scores in (same, other) for score in scores.values())


def test_the_compared_samples_are_drawn_from_all_the_data(monkeypatch):
    """Files of a folder may be sorted by class: the first ones would all be of one class."""
    from fastgan.data import Dataset

    points = torch.cat([normal(50, 2, i, shift=20.0 * i) for i in range(6)])
    data, mixed = Dataset("points", points), points[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(data.some(400), points) and len(data.some(60)) == 60
    assert metrics.judge(data, 60)(mixed[:60])["precision"] > 0.8
    monkeypatch.setattr(scores, "MANIFOLD_LIMIT", 60)
    assert metrics.feature_scores("own", points, mixed)["precision"] > 0.8
