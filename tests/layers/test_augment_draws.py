"""The parameters that augmentation draws, their probability, the adaptive probability, and bad input."""

import pytest
import torch
from augment_float64 import seeded

from fastgan import cpu, kernels
from fastgan.layers.augment import POLICIES, ada_step, augment, draw_augmentation

pytestmark = pytest.mark.usefixtures("poisoned")
NAN, INF = float("nan"), float("inf")


def test_the_distributions_of_the_parameters():
    n, height, width = 40_000, 32, 21
    b, s, c, translation, centre, size, flip = draw_augmentation(n, (3, height, width), POLICIES, generator=seeded())
    for values, low, high in ((b, -0.5, 0.5), (s, 0.0, 2.0), (c, 0.5, 1.5)):
        assert values.dtype == torch.float32 and low <= values.min() and values.max() <= high
        in_order = ((values.double() - low) / (high - low)).sort().values
        # The Kolmogorov-Smirnov distance exceeds 1.95 / sqrt(n) for one seed in a thousand.
        assert (in_order - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / n**0.5
    for values, count, least in (
        *((translation[:, 0], 2 * 4 + 1, -4), (translation[:, 1], 2 * 3 + 1, -3)),
        *((centre[:, 0], height + 1, 0), (centre[:, 1], width, 0)),  # half of 21, rounded, is 11, an odd size
    ):
        assert values.dtype == torch.int32 and values.min() == least and values.max() == least + count - 1
        seen, expected = torch.bincount(values - least, minlength=count), n / count
        assert ((seen - expected).square() / expected).sum() < count + 6 * (2 * count) ** 0.5  # chi-squared
    assert (size == torch.tensor([16, 11])).all() and abs(flip.double().mean() - 0.5) < 4 * 0.5 / n**0.5


@pytest.mark.parametrize("as_tensor", [False, True])
def test_the_share_of_samples_with_each_entry_is_p(as_tensor):
    n, p = 20_000, 0.3
    given = torch.tensor(p) if as_tensor else p
    b, s, c, translation, _, size, flip = draw_augmentation(n, (32, 32), POLICIES, given, generator=seeded(seed=3))
    coloured = (b != 0) | (s != 1) | (c != 1)
    for what, share in (
        (coloured, p),
        (size[:, 0] > 0, p),
        (translation.ne(0).any(1), p * (1 - 1 / 81)),
        (flip, p / 2),
    ):
        assert abs(what.double().mean() - share) < 4 * (share * (1 - share) / n) ** 0.5
    both = (coloured & (size[:, 0] > 0)).double().mean()
    assert abs(both - p * p) < 4 * (p * p / n) ** 0.5, "entries are independent"


@pytest.mark.parametrize("n", [0, 1, 300])
def test_every_backend_draws_the_same_in_one_launch(kernel_device, n):
    u, extents = torch.rand(n, 12, generator=seeded(seed=4)), [2, 4, 6, 15, 13, 30]
    for policy, chance, p in ((15, 1.0, None), (5, 0.3, None), (8, 1.0, 0.6), (2, 0.0, 0.5), (0, 1.0, None)):
        p = None if p is None else torch.tensor(p, dtype=torch.float64)
        want, launches = cpu.draw_augmentation(u, p, chance, policy, extents), kernels.launch_count()
        there = None if p is None else p.to(kernel_device)
        got = kernels.draw_augmentation(u.to(kernel_device), there, chance, policy, extents)
        assert kernels.launch_count() == launches + (n > 0)
        for a, b in zip(got, want):
            assert torch.equal(a.cpu(), b) and a.dtype == b.dtype and a.is_contiguous() and b.is_contiguous()


def test_draws_use_as_many_random_numbers_for_every_policy():
    states = []
    for policy, p in ((POLICIES, 1.0), ((), 0.0), ("flip", 0.5), (["cutout", "color"], torch.tensor(0.7))):
        generator = seeded()
        draw_augmentation(7, (8, 8), policy, p, generator=generator)
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)
    whole, part = (draw_augmentation(7, (8, 8), policy, generator=seeded()) for policy in (POLICIES, "color"))
    assert all(torch.equal(a, b) for a, b in zip(whole[:3], part[:3]))
    torch.manual_seed(0)
    assert torch.equal(draw_augmentation(7, (8, 8)).brightness, whole.brightness)


def test_draws_are_on_the_device_of_p():
    p = torch.ones((), device="meta")
    found = draw_augmentation(3, (8, 8), POLICIES, p)
    assert {t.device.type for t in found} == {"meta"}
    real = draw_augmentation(3, (8, 8), POLICIES)
    assert [(t.shape, t.dtype, t.stride()) for t in found] == [(t.shape, t.dtype, t.stride()) for t in real]
    with torch.device("meta"):
        assert {t.device.type for t in draw_augmentation(3, (8, 8), POLICIES)} == {"cpu"}


def test_ada_step():
    p = torch.tensor(0.5, dtype=torch.float64)
    assert ada_step(p, torch.tensor(0.9), 64) is p and p == 0.5 + 64 / 500_000
    ada_step(p, torch.tensor(0.1), 100, images=1000)
    assert p == 0.5 + 64 / 500_000 - 0.1
    ada_step(p, torch.tensor(0.25), 500, target=0.25)
    ada_step(p, torch.tensor(NAN), 500)
    assert p == 0.5 + 64 / 500_000 - 0.1
    for sign, end in ((1.0, 1.0), (-1.0, 0.0)):
        for _ in range(3):
            ada_step(p, torch.tensor(sign, dtype=torch.bfloat16), 500_000)
        assert p == end


P = draw_augmentation(2, (4, 4))
X = torch.zeros(2, 3, 4, 4)
Z = torch.zeros(())
BAD = {
    "no tensor": (TypeError, "x: got list", lambda: augment([1.0], P)),
    "whole numbers": (TypeError, "x: got torch.int64", lambda: augment(X.long(), P)),
    "three dimensions": (ValueError, r"x: got shape \(3, 4, 4\)", lambda: augment(X[0], P)),
    "sparse": (ValueError, "x: got a torch.sparse", lambda: augment(X.to_sparse(), P)),
    "too large": (ValueError, "x: got shape .*2.30", lambda: augment(X[:, :1, :1, :1].expand(2, 3, 2**15, 2**15), P)),
    "a tuple": (TypeError, "parameters: got tuple", lambda: augment(X, tuple(P))),
    "another batch": (ValueError, r"brightness: got shape \(2,\), expected \(1,\)", lambda: augment(X[:1], P)),
    "long": (
        TypeError,
        "translation: got torch.int64",
        lambda: augment(X, P._replace(translation=P.translation.long())),
    ),
    "a number": (TypeError, "contrast: got float", lambda: augment(X, P._replace(contrast=1.0))),
    "a shape": (ValueError, "cutout_size: got shape", lambda: augment(X, P._replace(cutout_size=P.cutout_size[:, :1]))),
    "a device": (ValueError, "flip: got a tensor on meta", lambda: augment(X, P._replace(flip=P.flip.to("meta")))),
    "a gradient": (
        *(ValueError, "saturation: .*requires a gradient"),
        lambda: augment(X, P._replace(saturation=P.saturation.clone().requires_grad_())),
    ),
    "a policy": (
        ValueError,
        "policy: got 'cutuot'; did you mean 'cutout'",
        lambda: draw_augmentation(2, (4, 4), ("cutuot",)),
    ),
    "colour": (
        ValueError,
        "policy: got 'colour'; did you mean 'color'",
        lambda: draw_augmentation(2, (4, 4), "colour"),
    ),
    "an unknown policy": (ValueError, "policy: got 'x'; expected some of", lambda: draw_augmentation(2, (4, 4), "x")),
    "a policy of numbers": (TypeError, r"policy\[0\]: got int", lambda: draw_augmentation(2, (4, 4), [1])),
    "n": (ValueError, "n: got -1", lambda: draw_augmentation(-1, (4, 4))),
    "a side": (ValueError, "shape: got 4", lambda: draw_augmentation(2, 4)),
    "one side": (ValueError, r"shape: got \(4,\)", lambda: draw_augmentation(2, (4,))),
    "p": (ValueError, "p: got 1.5", lambda: draw_augmentation(2, (4, 4), p=1.5)),
    "p of the batch": (ValueError, r"p: .*shape \(2,\)", lambda: draw_augmentation(2, (4, 4), p=torch.ones(2))),
    "a whole p": (ValueError, "p: got a torch.int64", lambda: draw_augmentation(2, (4, 4), p=torch.tensor(1))),
    "p elsewhere": (
        ValueError,
        "p: got one on meta",
        lambda: draw_augmentation(2, (4, 4), p=Z.to("meta"), device="cpu"),
    ),
    "a generator": (TypeError, "generator: got int", lambda: draw_augmentation(2, (4, 4), generator=0)),
    "a generator elsewhere": (
        *(ValueError, "generator: got one on cpu, expected cuda"),
        lambda: draw_augmentation(2, (4, 4), generator=seeded(), device="cuda"),
    ),
    "p as a number": (TypeError, "p: got float", lambda: ada_step(0.5, Z, 4)),
    "p of half precision": (TypeError, "p: got torch.bfloat16", lambda: ada_step(Z.bfloat16(), Z, 4)),
    "p of several": (ValueError, r"p: got shape \(2,\)", lambda: ada_step(torch.zeros(2), Z, 4)),
    "logits as sign": (ValueError, r"sign: got shape \(8,\)", lambda: ada_step(Z, torch.zeros(8), 4)),
    "sign elsewhere": (ValueError, "sign: got a tensor on meta", lambda: ada_step(Z, Z.to("meta"), 4)),
    "a trained p": (ValueError, "p: .*requires a gradient", lambda: ada_step(Z.clone().requires_grad_(), Z, 4)),
    "no batch": (ValueError, "batch: got 0", lambda: ada_step(Z, Z, 0)),
    "no images": (ValueError, "images: got 0", lambda: ada_step(Z, Z, 4, images=0)),
    "a target": (ValueError, "target: got 1.5", lambda: ada_step(Z, Z, 4, target=1.5)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_anything_runs(case):
    error, said, call = BAD[case]
    launches = kernels.launch_count()
    with pytest.raises(error, match=said) as raised:
        call()
    assert "\n" not in str(raised.value) and kernels.launch_count() == launches and Z == 0


# ---- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(16, 3, 256, 256), (600, 3, 32, 32), (2, 3, 512, 512)], ids=str)
def test_on_a_gpu_nothing_synchronises_and_a_graph_draws_what_a_loop_draws(shape):
    x = torch.randn(shape, device="cuda", requires_grad=True)
    p, generator = torch.full((), 0.7, device="cuda"), torch.Generator("cuda")

    def step():
        parameters = draw_augmentation(shape[0], shape, POLICIES, p, generator=generator)
        out = augment(x, parameters)
        (grad,) = torch.autograd.grad(out, x, x)
        return out, grad, ada_step(p, x.detach().sign().mean(), shape[0])

    generator.manual_seed(5)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        generator.manual_seed(5)
        p.fill_(0.7)
        want = [[v.clone() for v in step()] for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    generator.manual_seed(5)
    with torch.cuda.graph(graph):
        got = step()
    generator.manual_seed(5)
    p.fill_(0.7)
    for expected in want:
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(got, expected))
