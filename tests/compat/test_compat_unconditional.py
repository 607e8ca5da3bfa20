"""stylegan, r3gan, biggan, studiogan, mimicry, rosinality and lucidrains against their formulas in eager PyTorch."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from parity import adaptive_weight, check, shaped
from unconditional_formulas import DTYPES, TWO, TWO_ROUNDINGS, bce, dual, hinge, sp

from fastgan import kernels
from fastgan.compat import biggan, lightweight_gan, lucidrains, mimicry, r3gan, rosinality, studiogan, stylegan

# name: (ours, theirs, shapes of the arguments)
CASES = {
    "stylegan.generator_term": (stylegan.generator_term, lambda f: sp(-f), [(8, 1)]),
    "stylegan.discriminator_fake_term": (stylegan.discriminator_fake_term, lambda f: sp(f), [(8, 1)]),
    "stylegan.discriminator_real_term": (stylegan.discriminator_real_term, lambda r: sp(-r), [(8, 1)]),
    "stylegan.generator_loss": (stylegan.generator_loss, lambda f: sp(-f).mean(), [(8, 1)]),
    "stylegan.discriminator_loss": (stylegan.discriminator_loss, lambda r, f: sp(-r).mean() + sp(f).mean(), TWO),
    "r3gan.generator_loss": (r3gan.generator_loss, lambda r, f: sp(-(f - r)).mean(), [(64,), (64,)]),
    "r3gan.discriminator_loss": (r3gan.discriminator_loss, lambda r, f: sp(-(r - f)).mean(), [(64,), (64,)]),
    "biggan.loss_dcgan_dis": (biggan.loss_dcgan_dis, lambda f, r: (sp(-r).mean(), sp(f).mean()), [(256, 1), (128, 1)]),
    "biggan.loss_dcgan_gen": (biggan.loss_dcgan_gen, lambda f: sp(-f).mean(), [(256, 1)]),
    "biggan.loss_hinge_dis": (biggan.loss_hinge_dis, lambda f, r: (hinge(r), hinge(-f)), [(256, 1), (128, 1)]),
    "biggan.loss_hinge_gen": (biggan.loss_hinge_gen, lambda f: -f.mean(), [(256, 1)]),
    "studiogan.d_vanilla": (studiogan.d_vanilla, lambda r, f: sp(-r).mean() + sp(f).mean(), [(64,), (64,)]),
    "studiogan.g_vanilla": (studiogan.g_vanilla, lambda f: sp(-f).mean(), [(64,)]),
    "studiogan.d_logistic": (studiogan.d_logistic, lambda r, f: (sp(-r) + sp(f)).mean(), [(64,), (64,)]),
    "studiogan.g_logistic": (studiogan.g_logistic, lambda f: sp(-f).mean(), [(64,)]),
    "studiogan.d_ls": (studiogan.d_ls, lambda r, f: (0.5 * (r - 1) ** 2 + 0.5 * f**2).mean(), [(64,), (64,)]),
    "studiogan.g_ls": (studiogan.g_ls, lambda f: (0.5 * (f - 1) ** 2).mean(), [(64,)]),
    "studiogan.d_hinge": (studiogan.d_hinge, lambda r, f: hinge(r) + hinge(-f), [(64,), (64,)]),
    "studiogan.g_hinge": (studiogan.g_hinge, lambda f: -f.mean(), [(64,)]),
    "studiogan.d_wasserstein": (studiogan.d_wasserstein, lambda r, f: (f - r).mean(), [(64,), (64,)]),
    "studiogan.g_wasserstein": (studiogan.g_wasserstein, lambda f: -f.mean(), [(64,)]),
    "mimicry.minimax_loss_gen": (mimicry.minimax_loss_gen, lambda f: bce(f, 1.0).mean(), [(64, 1)]),
    "mimicry.minimax_loss_dis": (
        mimicry.minimax_loss_dis,
        lambda f, r: bce(r, 1.0).mean() + bce(f, 0.0).mean(),
        [(64, 1), (32, 1)],
    ),
    "mimicry.ns_loss_gen": (
        mimicry.ns_loss_gen,
        lambda f: -torch.log(torch.sigmoid(f) + 1e-8).mean(),
        [(64, 1)],
    ),
    "mimicry.wasserstein_loss_dis": (mimicry.wasserstein_loss_dis, lambda r, f: -r.mean() + f.mean(), [(64, 1)] * 2),
    "mimicry.wasserstein_loss_gen": (mimicry.wasserstein_loss_gen, lambda f: -f.mean(), [(64, 1)]),
    "mimicry.hinge_loss_dis": (mimicry.hinge_loss_dis, lambda f, r: hinge(r) + hinge(-f), [(64, 1), (32, 1)]),
    "mimicry.hinge_loss_gen": (mimicry.hinge_loss_gen, lambda f: -f.mean(), [(64, 1)]),
    "rosinality.d_logistic_loss": (rosinality.d_logistic_loss, lambda r, f: sp(-r).mean() + sp(f).mean(), TWO),
    "rosinality.g_nonsaturating_loss": (rosinality.g_nonsaturating_loss, lambda f: sp(-f).mean(), [(16, 1)]),
    "lucidrains.hinge_loss": (lucidrains.hinge_loss, lambda f, r: (F.relu(1 + r) + F.relu(1 - f)).mean(), [(32,)] * 2),
    "lucidrains.gen_hinge_loss": (lambda fake: lucidrains.gen_hinge_loss(fake, None), lambda f: f.mean(), [(32,)]),
    "lucidrains.dual_contrastive_loss": (lucidrains.dual_contrastive_loss, lambda f, r: dual(r, f), [(32,), (24,)]),
    "lightweight_gan.hinge_loss": (
        lightweight_gan.hinge_loss,
        lambda r, f: (F.relu(1 + r) + F.relu(1 - f)).mean(),
        [(32,)] * 2,
    ),
    "lightweight_gan.dual_contrastive_loss": (lightweight_gan.dual_contrastive_loss, dual, [(32,), (24,)]),
    "lucidrains.discriminator_hinge_loss": (
        lucidrains.discriminator_hinge_loss,
        lambda r, f: (F.relu(1 + r) + F.relu(1 - f)).mean(),
        [(32,)] * 2,
    ),
    "lucidrains.generator_hinge_loss": (lucidrains.generator_hinge_loss, lambda f: f.mean(), [(32,)]),
}
LOSSES_RETURNED = {"biggan.loss_dcgan_dis": 2, "biggan.loss_hinge_dis": 2}  # default: 1
SIGNATURES = {
    r3gan.AdversarialTraining: ["Generator", "Discriminator"],
    r3gan.AdversarialTraining.AccumulateGeneratorGradients: [
        *("self", "Noise", "RealSamples", "Conditions", "Scale=1", "Preprocessor"),
    ],
    r3gan.AdversarialTraining.AccumulateDiscriminatorGradients: [
        *("self", "Noise", "RealSamples", "Conditions", "Gamma", "Scale=1", "Preprocessor"),
    ],
    biggan.loss_dcgan_dis: ["dis_fake", "dis_real"],
    biggan.loss_dcgan_gen: ["dis_fake"],
    biggan.loss_hinge_dis: ["dis_fake", "dis_real"],
    biggan.loss_hinge_gen: ["dis_fake"],
    studiogan.d_vanilla: ["d_logit_real", "d_logit_fake", "DDP=None"],
    studiogan.g_vanilla: ["d_logit_fake", "DDP=None"],
    studiogan.lecam_reg: ["d_logit_real", "d_logit_fake", "ema"],
    studiogan.LeCamEMA: ["init=7777", "decay=0.9", "start_iter=0"],
    studiogan.LeCamEMA.update: ["self", "cur", "mode", "itr"],
    mimicry.minimax_loss_gen: ["output_fake", "real_label_val=1.0", "kwargs"],
    mimicry.minimax_loss_dis: ["output_fake", "output_real", "real_label_val=1.0", "fake_label_val=0.0", "kwargs"],
    mimicry.ns_loss_gen: ["output_fake"],
    mimicry.wasserstein_loss_dis: ["output_real", "output_fake"],
    mimicry.wasserstein_loss_gen: ["output_fake"],
    mimicry.hinge_loss_dis: ["output_fake", "output_real"],
    mimicry.hinge_loss_gen: ["output_fake"],
    rosinality.d_logistic_loss: ["real_pred", "fake_pred"],
    rosinality.g_nonsaturating_loss: ["fake_pred"],
    rosinality.d_r1_loss: ["real_pred", "real_img"],
    lucidrains.hinge_loss: ["fake", "real"],
    lucidrains.gen_hinge_loss: ["fake", "real"],
    lucidrains.dual_contrastive_loss: ["fake_logits", "real_logits"],
    lightweight_gan.hinge_loss: ["real", "fake"],
    lightweight_gan.dual_contrastive_loss: ["real_logits", "fake_logits"],
    lightweight_gan.gen_hinge_loss: ["fake", "real"],
    lucidrains.discriminator_hinge_loss: ["real", "fake"],
    lucidrains.generator_hinge_loss: ["fake"],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parity(name, dtype):
    ours, theirs, shapes = CASES[name]
    rtol = TWO_ROUNDINGS.get(dtype) if "dual" in name else None
    check(ours, theirs, *shaped(shapes, dtype, seed=1), grad_rtol=rtol, float32="minimax" in name)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case[2]) == 2])
@pytest.mark.parametrize("side", [0, 1])
def test_one_side_requires_grad(name, side):
    ours, theirs, shapes = CASES[name]
    logits = shaped(shapes, seed=2)
    logits[side] = logits[side].detach()
    check(ours, theirs, *logits)


@pytest.mark.parametrize(
    "name", ["biggan.loss_hinge_dis", "studiogan.d_hinge", "mimicry.hinge_loss_dis", "lucidrains.hinge_loss"]
)
def test_slope_at_the_knee_is_that_of_relu(name):
    ours, theirs, _ = CASES[name]
    knee = torch.tensor([1.0, -1.0, 1.0 - 2**-24, -1.0 + 2**-24])
    check(ours, theirs, knee.clone().requires_grad_(), knee.clone().requires_grad_())


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("_term")])
def test_one_launch_forward_and_one_backward(kernel_device, name):
    ours, theirs, shapes = CASES[name]
    logits = [x.detach().to(kernel_device).requires_grad_() for x in shaped(shapes, seed=3)]
    before = kernels.launch_count()
    result = ours(*logits)
    assert kernels.launch_count() - before == 1
    returned = result if isinstance(result, tuple) else (result,)
    assert len(returned) == LOSSES_RETURNED.get(name, 1)
    sum(returned).backward()
    assert kernels.launch_count() - before == 1 + len(returned)  # each loss has its own graph, as upstream
    check(ours, theirs, *logits)


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("_term")])
def test_adaptive_weight(name):
    """Two gradients and a backward pass through one graph, with a weight far from 1."""
    ours, theirs, shapes = CASES[name]
    found = []
    for loss, dtype in ((ours, torch.float32), (theirs, torch.float64)):

        def adversarial(output, loss=loss):
            halves = output.flatten()[: output.numel() // 2], output.flatten()[output.numel() // 2 :]
            result = loss(*halves[: len(shapes)])
            return sum(result) if isinstance(result, tuple) else result

        generator = torch.Generator().manual_seed(4)
        x = torch.randn(6, 4, generator=generator, dtype=torch.float64).to(dtype)
        layer = torch.randn(4, 3, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        weight = adaptive_weight(adversarial, lambda output: 50 * output.square().mean(), layer, x)
        found.append((weight.double(), layer.grad.double()))
    torch.testing.assert_close(found[0], found[1], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_signatures(function):
    parameters = inspect.signature(function).parameters.values()
    plain = [p.name if p.default is p.empty or callable(p.default) else f"{p.name}={p.default!r}" for p in parameters]
    assert plain == SIGNATURES[function]


def test_aliases_and_arguments_of_the_codebases():
    assert biggan.generator_loss is biggan.loss_hinge_gen and biggan.discriminator_loss is biggan.loss_hinge_dis
    for name in ("vanilla", "logistic", "ls", "hinge", "wasserstein"):
        r, f = shaped([(8,), (8,)])
        assert getattr(studiogan, f"d_{name}")(r, f, False).requires_grad  # DDP is a positional argument
        assert getattr(studiogan, f"g_{name}")(f, DDP=True).requires_grad
    assert lucidrains.gen_hinge_loss(f, None).shape == ()


@pytest.mark.parametrize("function", [case[0] for case in CASES.values()], ids=CASES)
def test_errors_name_the_arguments_as_upstream(function):
    names = [p.name for p in inspect.signature(function).parameters.values() if p.name not in ("DDP", "kwargs")]
    optional = ("gain", "reduction", "real_label_val", "fake_label_val")
    names = [name for name in names if name not in optional]
    good = [torch.randn(6) for _ in names]
    function(*good)
    for i, name in enumerate(names):
        for bad, error, message in (
            (None, TypeError, "NoneType, expected a torch.Tensor"),
            (torch.ones(6, dtype=torch.long), TypeError, "torch.int64, expected float16"),
            (torch.ones(0, 1), ValueError, r"an empty tensor of shape \(0, 1\)"),
        ):
            with pytest.raises(error, match=f"^{name}.*: got {message}"):
                function(*good[:i], bad, *good[i + 1 :])
    if len(names) == 2:
        with pytest.raises(ValueError, match=f"^{names[1]}: got torch.float64, expected torch.float32"):
            function(good[0], good[1].double())


# mimicry


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mimicry_options(dtype, reduction):
    """Smoothed labels, reductions, and the options that are passed on to PyTorch."""
    r, f = shaped([(12, 1), (12, 1)], dtype, seed=11)
    reduce = {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}[reduction]
    labels, kwargs = dict(real_label_val=0.9, fake_label_val=0.1), dict(reduction=reduction)
    check(
        lambda f, r: mimicry.minimax_loss_dis(f, r, **labels, **kwargs),
        lambda f, r: reduce(bce(r, 0.9)) + reduce(bce(f, 0.1)),
        f,
        r,
        grad_rtol=2e-5 if dtype == torch.float32 else None,
        float32=True,
    )
    check(
        lambda f: mimicry.minimax_loss_gen(f, 0.9, **kwargs),
        lambda f: reduce(bce(f, 0.9)),
        f,
        grad_rtol=2e-5,
        float32=True,
    )
    assert mimicry.minimax_loss_gen(f, 0.9, **kwargs, pos_weight=torch.ones(1)).dtype == torch.float32
    if dtype in (torch.float32, torch.float64):
        weight = torch.linspace(0.5, 2.0, 12, dtype=dtype)[:, None]

        def ours(f, r):
            return mimicry.minimax_loss_dis(f, r, **labels, **kwargs, weight=weight)

        def theirs(f, r):
            return reduce(weight * bce(r, 0.9)) + reduce(weight * bce(f, 0.1))

        rtol = 1e-5 if dtype == torch.float32 else 1e-11
        check(ours, theirs, f, r, rtol=rtol, grad_rtol=rtol, float32=True)
        check(
            lambda f: mimicry.minimax_loss_gen(f, 0.9, **kwargs, weight=weight),
            lambda f: reduce(weight * bce(f, 0.9)),
            f,
            rtol=rtol,
            grad_rtol=rtol,
            float32=True,
        )


def test_mimicry_minimax_has_the_default_dtype():
    """Upstream's labels have that dtype."""
    logits = torch.zeros(4, 1, dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        assert mimicry.minimax_loss_gen(logits).dtype == mimicry.minimax_loss_dis(logits, logits).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_mimicry_epsilon():
    """Its gradient vanishes if D is sure, unlike that of the loss without epsilon."""
    f = torch.tensor([[-30.0], [-20.0], [0.0], [20.0]], requires_grad=True)
    check(*CASES["mimicry.ns_loss_gen"][:2], f)
    slopes = 4 * torch.autograd.grad(mimicry.ns_loss_gen(f), f)[0].flatten()
    assert -1e-4 < slopes[0] < 0 and slopes[1] == pytest.approx(-0.1709, rel=1e-3)
    assert mimicry.ns_loss_gen(torch.full((1, 1), -1e4)) == pytest.approx(18.42, rel=1e-3)


def test_mimicry_refuses():
    f, r = shaped([(4, 1), (3, 1)])
    with pytest.raises(ValueError, match=r"^real_label_val: got 1.5, expected a probability in \[0, 1\]"):
        mimicry.minimax_loss_gen(f, 1.5)
    with pytest.raises(TypeError, match=r"^fake_label_val: got str, expected a number"):
        mimicry.minimax_loss_dis(f, r, 1.0, "0")
    with pytest.raises(ValueError, match=r"^reduction: got 'batchmean', expected 'mean' or 'sum' or 'none'"):
        mimicry.minimax_loss_gen(f, reduction="batchmean")
    with pytest.raises(ValueError, match=r"^reduction: got 'none' for losses of shapes"):
        mimicry.minimax_loss_dis(f, r, reduction="none")
    with pytest.raises(TypeError, match="label_smoothing"):
        mimicry.minimax_loss_gen(f, label_smoothing=0.1)
