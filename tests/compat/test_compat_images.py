# ruff: noqa: B023 - `check` calls what it is given before the loop goes on
"""CycleGAN, CUT, pix2pixHD, SPADE, BasicSR, mmagic, MONAI, DCGAN and torchgan: each loss against that codebase's
formula, restated in eager PyTorch."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from oracle import DTYPES, assert_close
from parity import check, shaped
from torch import nn

from fastgan import kernels
from fastgan.compat import basicsr, cyclegan, dcgan, mmagic, monai, pix2pixhd, spade, torchgan

PATCH = (2, 1, 15, 15)
ONE = (1, 1, 30, 30)  # CycleGAN at 256, batch 1
SIDES = (True, False)
HARD, SOFT = (1.0, 0.0), (0.75, 0.25)  # labels that half precision holds: x - y is then exact where it is near 0
ALL = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def bce(x, y):
    return softplus(x) - y * x


def bce_of_probability(p, y):
    return -(y * p.log().clamp(min=-100.0) + (1 - y) * (-p).log1p().clamp(min=-100.0))


def near(labels, dtype):
    """Tolerance of sigmoid(x) - y for a soft label, which cancels where a logit is near the label's own."""
    return dict(grad_rtol=2e-4) if labels == SOFT and dtype != torch.float64 else {}


def mean_of(losses):
    return torch.stack(list(losses)).mean()


def last(scale):
    return scale[-1] if isinstance(scale, list) else scale


# CycleGAN, pix2pix, CUT


def cyclegan_loss(mode, real, y, x):
    if mode == "lsgan":
        return ((x - y) ** 2).mean()
    if mode == "vanilla":
        return bce(x, y).mean()
    s = -1.0 if real else 1.0
    return (s * x).mean() if mode == "wgangp" else softplus(s * x).flatten(1).mean(1)


@ALL
@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "wgangp", "nonsaturating"])
def test_cyclegan(mode, dtype):
    for shape in (ONE, PATCH, (3, 1)):
        for real in SIDES:
            for labels in (HARD, SOFT):
                loss = cyclegan.GANLoss(mode, *labels)
                y = labels[0] if real else labels[1]
                tolerance = near(labels, dtype) if mode == "vanilla" else {}
                x = shaped(shape, dtype)
                check(
                    lambda x: loss(x, real),
                    lambda x: cyclegan_loss(mode, real, y, x),
                    x,
                    float32=mode == "vanilla",
                    **tolerance,
                )


def test_cyclegan_shapes():
    loss = cyclegan.GANLoss("nonsaturating")
    for shape in ((1, 1, 4, 4), (3, 1, 4, 4), (3,), (1,)):
        assert loss(torch.zeros(shape), True).shape == (shape[0],)
    assert loss(torch.zeros(3, 1, dtype=torch.bfloat16), True).dtype == torch.float32
    assert cyclegan.GANLoss("lsgan")(prediction=torch.zeros(3, 1), target_is_real=True).shape == ()


def test_cyclegan_dtype_of_the_labels():
    x = torch.zeros(3, 1, dtype=torch.float64)
    for mode in ("lsgan", "vanilla"):
        assert cyclegan.GANLoss(mode).double()(x, True).dtype == torch.float64


def test_cyclegan_state():
    loss = cyclegan.GANLoss("lsgan", 0.9, 0.1)
    assert {k: v.item() for k, v in loss.state_dict().items()} == pytest.approx({"real_label": 0.9, "fake_label": 0.1})
    assert not list(loss.parameters())
    x = torch.randn(4, 1)
    assert loss.get_target_tensor(x, True).shape == x.shape and loss.get_target_tensor(x, False)[0] == 0.1
    other = nn.ModuleDict({"gan": cyclegan.GANLoss("lsgan")})  # as a part of something, the labels are read too
    for copied in (other, copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert copied["gan"](x, True) != loss(x, True)
        copied.load_state_dict({f"gan.{k}": v for k, v in loss.state_dict().items()})
        for real in SIDES:
            torch.testing.assert_close(copied["gan"](x, real), loss(x, real))


def test_cyclegan_bad_arguments():
    with pytest.raises(NotImplementedError, match="gan_mode: got 'hinge', expected 'lsgan' or"):
        cyclegan.GANLoss("hinge")
    loss = cyclegan.GANLoss("vanilla", target_real_label=1.2)
    with pytest.raises(ValueError, match=r"got 1\.2, expected a probability"):
        loss(torch.zeros(3), True)
    loss = cyclegan.GANLoss("vanilla")
    with pytest.raises(TypeError, match=r"prediction: got list, expected a torch\.Tensor"):
        loss([torch.zeros(3)], True)
    with pytest.raises(ValueError, match=r"prediction: got shape \(0, 1\)"):
        loss(torch.zeros(0, 1), True)
    with pytest.raises(TypeError, match="int64"):
        loss(torch.zeros(3, dtype=torch.int64), True)


# pix2pixHD

HD = [[(1, 4, 7, 7), (1, 1, 17, 33)], [(1, 4, 5, 5), (1, 1, 9, 17)], [(1, 1, 5, 9)]]


def probabilities(scales):
    return [[x.detach().sigmoid().requires_grad_() for x in scale] for scale in scales]


@ALL
@pytest.mark.parametrize("lsgan", [True, False])
def test_pix2pixhd(lsgan, dtype):
    phi = (lambda x, y: (x - y) ** 2) if lsgan else bce_of_probability
    for labels in (HARD, SOFT):
        loss = pix2pixhd.GANLoss(lsgan, *labels)
        for real in SIDES:
            y = labels[0] if real else labels[1]
            x = shaped([*HD, [(3, 1, 5, 5)]], dtype, spread=1.0)
            *x, [batch] = x if lsgan else probabilities(x)
            check(lambda x: loss(x, real), lambda x: sum([phi(scale[-1], y).mean() for scale in x]), x)
            check(lambda x: loss(x, real), lambda x: phi(x[-1], y).mean(), x[0])  # one D's features
            check(lambda x: loss(x, real), lambda x: phi(x[-1], y).mean(), batch)  # its last sample


def test_pix2pixhd_members():
    loss = pix2pixhd.GANLoss(use_lsgan=True, tensor=torch.DoubleTensor)
    assert not loss.state_dict() and not list(loss.parameters())
    target = loss.get_target_tensor(torch.zeros(2, 3), True)
    assert target.shape == (2, 3) and (target == 1).all()
    with pytest.raises(ValueError, match="input: got an empty list"):
        loss([], True)
    with pytest.raises(ValueError, match=r"input\[1\]: got an empty list"):
        loss([[torch.zeros(3)], []], True)
    with pytest.raises(ValueError, match=r"input\[0\]: got shape \(0,\)"):
        loss([[torch.zeros(0)]], True)
    with pytest.raises(TypeError, match="input: got dict"):
        loss({}, True)


# SPADE

SCALES = [[(4, 2, 5, 5), (4, 1, 9, 9)], [(4, 2, 3, 3), (4, 1, 5, 5)]]


def spade_tensor(mode, y, real, for_discriminator, x):
    if mode == "original":
        return bce(x, y).mean()
    if mode == "ls":
        return ((x - y) ** 2).mean()
    s = 1.0 if real else -1.0
    if mode == "hinge" and for_discriminator:
        return -torch.min(s * x - 1, torch.zeros_like(x)).mean()
    return -(s * x).mean()


def spade_loss(mode, labels, real, for_discriminator, x):
    y = labels[0] if real else labels[1]
    if isinstance(x, torch.Tensor):
        return spade_tensor(mode, y, real, for_discriminator, x)
    return mean_of(spade_tensor(mode, y, real, for_discriminator, last(scale)) for scale in x).reshape(1)


@ALL
@pytest.mark.parametrize("mode", ["ls", "original", "w", "hinge"])
def test_spade(mode, dtype):
    for labels in (HARD, SOFT):
        loss = spade.GANLoss(mode, *labels)
        for real in SIDES:
            for for_discriminator in SIDES:
                if mode == "hinge" and not real and not for_discriminator:
                    continue
                for shapes in (PATCH, SCALES, [PATCH, (2, 1, 7, 7)], [PATCH]):
                    check(
                        lambda x: loss(x, real, for_discriminator),
                        lambda x: spade_loss(mode, labels, real, for_discriminator, x),
                        shaped(shapes, dtype),
                        float32=mode == "original",
                        **(near(labels, dtype) if mode == "original" else {}),
                    )


def halves(x):
    """What SPADE's `divide_pred` gives: (of generated data, of real data)."""
    if isinstance(x, torch.Tensor):
        return x[: len(x) // 2], x[len(x) // 2 :]
    parts = [halves(scale) for scale in x]
    return [fake for fake, _ in parts], [real for _, real in parts]


def knees(of):
    """Some logits at the knees of the hinge."""
    with torch.no_grad():
        for x in of if isinstance(of, list) else [of]:
            if isinstance(x, list):
                knees(x)
            else:
                x.view(-1)[::3], x.view(-1)[1::3] = 1.0, -1.0
    return of


@ALL
@pytest.mark.parametrize("mode", ["ls", "original", "w", "hinge"])
def test_spade_concatenated(mode, dtype):
    for labels in (HARD, SOFT):
        for shapes in (PATCH, SCALES, [PATCH]):

            def theirs(x):
                fake, real = halves(x)
                return spade_loss(mode, labels, False, True, fake) + spade_loss(mode, labels, True, True, real)

            tolerance = near(labels, dtype) if mode == "original" else {}
            x = knees(shaped(shapes, dtype))
            float32 = mode == "original"
            check(lambda x: spade.discriminator_loss(x, mode, *labels), theirs, x, float32=float32, **tolerance)


def test_spade_knee():
    x = torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    loss = spade.GANLoss("hinge")
    assert torch.autograd.grad(3 * loss(x, True), x)[0].tolist() == [-0.5, -1.0, -1.0]
    assert torch.autograd.grad(3 * loss(x, False), x)[0].tolist() == [1.0, 0.5, 1.0]
    both = torch.tensor([-1.0, 1.0], requires_grad=True)  # generated, real
    assert torch.autograd.grad(spade.discriminator_loss(both), both)[0].tolist() == [0.5, -0.5]


def test_spade_members():
    loss = spade.GANLoss("hinge", tensor=torch.FloatTensor, opt=object())
    assert not loss.state_dict()
    x = torch.zeros(2, 3)
    assert (loss.get_target_tensor(x, True) == torch.ones(2, 3)).all()
    assert (loss.get_zero_tensor(x) == x).all() and loss.get_zero_tensor(x).shape == x.shape
    assert loss.loss([x, x], True).shape == ()
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match="target_is_real: got False, expected True"):
            loss(x, False, for_discriminator=False)
    with pytest.raises(ValueError, match="gan_mode: got 'lsgan', expected 'ls' or"):
        spade.GANLoss("lsgan")
    with pytest.raises(ValueError, match="gan_mode: got 'lsgan', expected 'ls' or"):
        spade.discriminator_loss(x, "lsgan")
    with pytest.raises(ValueError, match="3 rows, expected an even number"):
        spade.discriminator_loss(torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"pred\[0\]: got shape"):
        spade.discriminator_loss([torch.zeros(0, 1)])


# BasicSR, mmagic


def typed_loss(kind, labels, weight, real, is_disc, x):
    y = labels[0] if real else labels[1]
    s = 1.0 if real else -1.0
    if kind == "vanilla":
        loss = bce(x, y).mean()
    elif kind in ("lsgan", "smgan"):
        loss = ((x - y) ** 2).mean()
    elif kind == "wgan":
        loss = -(s * x).mean()
    elif kind in ("wgan_softplus", "wgan-logistic-ns"):
        loss = softplus(-s * x).mean()
    else:
        loss = F.relu(1 - s * x).mean() if is_disc else -x.mean()
    return loss if is_disc else loss * weight


SETTINGS = [(labels, weight) for labels in (HARD, SOFT) for weight in (1.0, 0.1)]
BASICSR = ["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]


@ALL
@pytest.mark.parametrize("kind", BASICSR)
def test_basicsr(kind, dtype):
    for labels, weight in SETTINGS:
        loss = basicsr.GANLoss(kind, *labels, loss_weight=weight)
        many = basicsr.MultiScaleGANLoss(kind, *labels, loss_weight=weight)
        for real in SIDES:
            for is_disc in SIDES:
                settings = (kind, labels, weight, real, is_disc)
                tolerance = near(labels, dtype) if kind == "vanilla" else {}
                x = knees(shaped((3, 1, 16, 16), dtype))
                check(lambda x: loss(x, real, is_disc), lambda x: typed_loss(*settings, x), x, **tolerance)
                check(lambda x: many(x, real, is_disc), lambda x: typed_loss(*settings, x), x, **tolerance)
                for shapes in (SCALES, [(3, 1), PATCH]):
                    check(
                        lambda x: many(x, real, is_disc=is_disc),
                        lambda x: mean_of(typed_loss(*settings, last(scale)) for scale in x),
                        shaped(shapes, dtype),
                        **tolerance,
                    )


def test_basicsr_relativistic():
    """ESRGAN's generator builds the relativistic average outside of the loss: one side detached."""
    loss = basicsr.GANLoss("vanilla", loss_weight=0.005)

    def ours(real, fake):
        a = loss(real.detach() - fake.mean(), False, is_disc=False)
        return (a + loss(fake - real.detach().mean(), True, is_disc=False)) / 2

    def theirs(real, fake):
        a = bce(real.detach() - fake.mean(), 0.0).mean()
        return 0.005 * (a + bce(fake - real.detach().mean(), 1.0).mean()) / 2

    check(ours, theirs, shaped((16, 1), torch.float64, 1), shaped((16, 1), torch.float64, 2))


def test_basicsr_weight_is_read_at_each_call():
    loss, x = basicsr.GANLoss("lsgan", loss_weight=0.5), torch.zeros(4)
    assert loss(x, True) == 0.5 and loss(x, True, is_disc=True) == 1.0
    loss.loss_weight = 2.0
    assert loss(x, True) == 2.0


@pytest.mark.parametrize("module", [basicsr, mmagic])
def test_typed_members(module):
    loss = module.GANLoss("lsgan", 0.9, 0.1)
    assert not loss.state_dict() and "lsgan" in repr(loss)
    x = torch.zeros(2, 3)
    assert loss.get_target_label(x, True).tolist() == x.add(0.9).tolist()
    assert module.GANLoss("wgan").get_target_label(x, False) is False
    with pytest.raises(NotImplementedError, match="gan_type: got 'ls', expected 'vanilla' or"):
        module.GANLoss("ls")
    with pytest.raises(TypeError, match=r"input: got list, expected a torch\.Tensor"):
        loss([x], True)
    with pytest.raises(ValueError, match=r"input: got shape \(0, 3\)"):
        loss(x[:0], True)
    with pytest.raises(ValueError, match="probability"):
        module.GANLoss("vanilla", 1.1)(x, True)


def test_basicsr_hinge_knee():
    x = torch.tensor([1.0, -1.0], requires_grad=True)
    loss = basicsr.GANLoss("hinge")
    assert torch.autograd.grad(2 * loss(x, True, is_disc=True), x)[0].tolist() == [0.0, -1.0]
    assert torch.autograd.grad(2 * loss(x, False, is_disc=True), x)[0].tolist() == [1.0, 0.0]


@ALL
@pytest.mark.parametrize("kind", ["vanilla", "lsgan", "wgan", "wgan-logistic-ns", "hinge"])
def test_mmagic(kind, dtype):
    for labels, weight in SETTINGS:
        loss = mmagic.GANLoss(kind, *labels, loss_weight=weight)
        for real in SIDES:
            for is_disc in SIDES:
                settings = (kind, labels, weight, real, is_disc)
                tolerance = near(labels, dtype) if kind == "vanilla" else {}
                x = shaped(PATCH, dtype)
                check(lambda x: loss(x, real, is_disc), lambda x: typed_loss(*settings, x), x, **tolerance)


def blurred(mask):
    """A Gaussian of 71 x 71 taps and sigma 10 in float64."""
    d = torch.arange(71.0, dtype=torch.float64) - 35
    taps = torch.exp(-(d**2) / 200)
    taps = taps / taps.sum()
    return F.conv2d(mask.double(), torch.outer(taps, taps)[None, None], padding=35)


def smgan_loss(size, labels, weight, mask, real, is_disc, x):
    if size is not None:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    if is_disc and not real:
        return ((x - blurred(mask)) ** 2).mean()
    square = ((x - labels[0 if real else 1]) ** 2).mean()
    return square if is_disc else weight * (square * mask.double() / mask.double().mean()).mean()


def masks(size):
    mask = torch.zeros(2, 1, *size)
    mask[0, :, 4:14, 5:12] = 1.0
    mask[1, :, 2:, 9:20] = 1.0
    assert 0.0 < blurred(mask).max() < 1.0
    return mask


@ALL
def test_smgan(dtype):
    mask, x = masks((24, 24)), shaped((2, 1, 24, 24), dtype)
    with torch.no_grad():  # away from the blurred labels, which are float32: x - y near 0 has no relative accuracy
        x.copy_(torch.where(x > 0, 1.2 + x, x - 0.2))
    loss = mmagic.GANLoss("smgan", *SOFT, loss_weight=0.3)
    for real in SIDES:
        for is_disc in SIDES:
            soft = dict(rtol=3e-6, grad_rtol=5e-6) if is_disc and not real else {}
            settings = (None, SOFT, 0.3, mask, real, is_disc)
            check(lambda x: loss(x, real, is_disc, mask), lambda x: smgan_loss(*settings, x), x, **soft)


@pytest.mark.parametrize("size", [(17, 30), (24, 12)])
def test_smgan_resizes_the_logits(size):
    mask, x = masks(size), shaped((2, 1, 12, 14))
    loss = mmagic.GANLoss("smgan", loss_weight=0.3)
    for real in SIDES:
        for is_disc in SIDES:
            settings = (size, HARD, 0.3, mask, real, is_disc)
            ours = lambda x: loss(x, real, is_disc, mask)  # noqa: E731
            check(ours, lambda x: smgan_loss(*settings, x), x, rtol=5e-6, grad_rtol=2e-3)


def test_smgan_arguments():
    loss = mmagic.GANLoss("smgan")
    assert not loss.state_dict() and isinstance(loss.gaussian_blur, mmagic.GaussianBlur)
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(TypeError, match="mask: got NoneType"):
        loss(x, True)
    with pytest.raises(ValueError, match=r"mask: got shape \(4, 4\)"):
        loss(x, True, mask=x[0, 0])
    with pytest.raises(ValueError, match=r"input: got shape \(1, 4\)"):
        loss(x[0, 0, :1], True, mask=x)
    assert loss(x, True, mask=x) == 1.0  # an empty mask
    assert mmagic.GANLoss("lsgan")(x, True, mask=x) == 1.0


def test_gaussian_blur():
    x = torch.randn(2, 3, 9, 8)
    got = mmagic.GaussianBlur((5, 3), (1.5, 0.7))(x)
    taps = [torch.exp(-((torch.arange(n) - n // 2.0) ** 2) / (2 * s * s)) for n, s in ((5, 1.5), (3, 0.7))]
    kernel = torch.outer(*[t / t.sum() for t in taps])
    want = F.conv2d(x, kernel.expand(3, 1, 5, 3), padding=(2, 1), groups=3)
    torch.testing.assert_close(got, want)
    assert mmagic.GaussianBlur()(x.double()).dtype == torch.float64
    with pytest.raises(TypeError, match="kernel_size: got 4, expected an odd positive integer"):
        mmagic.GaussianBlur((4, 3))
    with pytest.raises(TypeError, match=r"sigma: got 1\.0, expected a tuple"):
        mmagic.GaussianBlur((3, 3), 1.0)


@ALL
def test_disc_shift(dtype):
    for weight in (0.1, 0.001):
        loss = mmagic.DiscShiftLoss(weight)
        check(loss, lambda x: weight * (x**2).mean(), shaped((4, 1), dtype))
    assert mmagic.DiscShiftLoss().loss_weight == 0.1
    with pytest.raises(ValueError, match=r"x: got shape \(0,\)"):
        loss(torch.zeros(0))


def run_apart(tmp_path, files, code):
    """Runs code in a process of its own, with packages of these files on the path."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n" + textwrap.dedent(code)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


REGISTRY = """
    class Registry:
        def __init__(self):
            self.entries = {}

        def register(self, obj):
            assert obj.__name__ not in self.entries
            self.entries[obj.__name__] = obj

        def register_module(self, name=None, force=False, module=None):
            assert force or name not in self.entries
            self.entries[name] = module

        def __contains__(self, name):
            return name in self.entries

        def build(self, options):
            return self.entries[options.pop("type")](**options)


"""


def test_registries(tmp_path):
    run_apart(
        tmp_path,
        {
            "basicsr/__init__.py": "",
            "basicsr/utils/__init__.py": "",
            "basicsr/utils/registry.py": REGISTRY + "    LOSS_REGISTRY = Registry()\n",
            "mmagic/__init__.py": "",
            "mmagic/registry.py": REGISTRY + "    MODELS = Registry()\n",
        },
        """
        import importlib, torch
        import fastgan.compat.basicsr, fastgan.compat.mmagic
        from basicsr.utils.registry import LOSS_REGISTRY
        from mmagic.registry import MODELS

        for again in (fastgan.compat.basicsr, fastgan.compat.mmagic):
            importlib.reload(again)  # registering twice is no error
        assert set(LOSS_REGISTRY.entries) == {"FusedGANLoss", "FusedMultiScaleGANLoss"}, LOSS_REGISTRY.entries
        assert set(MODELS.entries) == {"FusedGANLoss", "FusedDiscShiftLoss"}, MODELS.entries
        x = torch.zeros(4, 1)
        loss = LOSS_REGISTRY.build(dict(type="FusedGANLoss", gan_type="lsgan", loss_weight=0.1))
        assert abs(loss(x, True).item() - 0.1) < 1e-7
        loss = LOSS_REGISTRY.build(dict(type="FusedMultiScaleGANLoss", gan_type="lsgan"))
        assert loss([x, x + 1], True, is_disc=True).item() == 0.5
        loss = MODELS.build(dict(type="FusedGANLoss", gan_type="lsgan", loss_weight=0.1))
        assert abs(loss(x, True).item() - 0.1) < 1e-7
        loss = MODELS.build(dict(type="FusedDiscShiftLoss", loss_weight=2.0))
        assert loss(x + 1).item() == 2.0
        """,
    )


# MONAI


def monai_tensor(criterion, activation, real, x, reduction):
    y = 1.0 if real else 0.0
    if criterion == "hinge":
        s = 1.0 if real else -1.0
        return -torch.min(s * torch.tanh(x) - 1, torch.zeros_like(x)).mean()
    if criterion == "bce":
        loss = bce_of_probability(torch.sigmoid(x), y)
    else:
        loss = ((F.leaky_relu(x, 0.05) if activation else x) - y) ** 2
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def monai_loss(criterion, activation, real, reduction, x):
    losses = [monai_tensor(criterion, activation, real, t, reduction) for t in (x if isinstance(x, list) else [x])]
    return losses if reduction == "none" else getattr(torch.stack(losses), reduction)()


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("criterion", ["least_squares", "no activation", "bce", "hinge"])
def test_monai(criterion, reduction, dtype):
    activation = criterion != "no activation"
    criterion = criterion if activation else "least_squares"
    loss = monai.PatchAdversarialLoss(reduction, criterion, no_activation_leastsq=not activation)
    assert not loss.state_dict()
    for shapes in ((2, 1, 3, 4, 2), [(2, 1, 3, 4, 2), (2, 1, 2, 2, 2), (2, 1)]):
        for real in SIDES:
            check(
                lambda x: loss(x, real, True),
                lambda x: monai_loss(criterion, activation, real, reduction, x),
                shaped(shapes, dtype, spread=1.2),
            )
        for real in SIDES:  # the generator's target is always real

            def ours(x):
                if real:
                    return loss(x, real, False)
                with pytest.warns(UserWarning, match="target_is_real: got False with for_discriminator=False"):
                    return loss(x, real, False)

            x = shaped(shapes, dtype, 1, spread=1.2)  # 1 - tanh^2 cancels, in their formula, far out
            check(ours, lambda x: monai_loss(criterion, activation, True, reduction, x), x)


def test_monai_members():
    loss = monai.PatchAdversarialLoss(criterion="HINGE")
    x = torch.zeros(2, 1)
    assert loss.criterion == "hinge" and loss.get_target_tensor(x, False).tolist() == [[-1.0], [-1.0]]
    assert loss.get_zero_tensor(x).shape == x.shape
    assert monai.PatchAdversarialLoss().get_target_tensor(x, False).tolist() == [[0.0], [0.0]]
    smoothed = monai.PatchAdversarialLoss(no_activation_leastsq=True)
    smoothed.real_label = 0.5
    assert smoothed(x, True, True) == 0.25
    with pytest.raises(ValueError, match="criterion: got 'lsgan', expected 'bce' or"):
        monai.PatchAdversarialLoss(criterion="lsgan")
    with pytest.raises(ValueError, match="reduction: got 'sample', expected 'none' or"):
        monai.PatchAdversarialLoss(reduction="sample")
    with pytest.raises(ValueError, match=r"input\[1\]: got shape \(0, 1\)"):
        loss([x, x[:0]], True, True)
    with pytest.raises(TypeError, match="input: got float"):
        loss(1.0, True, True)


def test_monai_takes_enumerations():
    import enum

    class Of(str, enum.Enum):
        MEAN, HINGE = "mean", "hinge"

    loss = monai.PatchAdversarialLoss(Of.MEAN, Of.HINGE)
    assert loss(torch.zeros(3), True, True) == 1.0 and loss.reduction == "mean"


def test_monai_bce_keeps_its_gradient():
    x = torch.tensor([20.0], requires_grad=True)
    eager = F.binary_cross_entropy(torch.sigmoid(x), torch.zeros(1))
    assert eager == 100.0 and torch.autograd.grad(eager, x)[0] == 0.0
    ours = monai.PatchAdversarialLoss(criterion="bce")(x, False, True)
    assert ours == 20.0 and torch.autograd.grad(ours, x)[0] == 1.0


# DCGAN


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dcgan(reduction, dtype):
    generator = torch.Generator().manual_seed(1)
    rough = {} if dtype == torch.float64 else dict(rtol=2e-4, grad_rtol=2e-4)
    for shape in ((64,), (5, 1, 2)):
        noisy = torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
        for y in (torch.ones_like(noisy), torch.zeros_like(noisy), noisy):
            x = shaped(shape, dtype)
            check(
                dcgan.BCEWithLogitsLoss(reduction=reduction),
                lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction=reduction),
                *(x, y),
                **(rough if y is noisy or reduction == "none" else {}),  # where sigmoid(x) - y cancels
            )
            check(
                dcgan.BCELoss(reduction=reduction),
                lambda p, y: F.binary_cross_entropy(p, y, reduction=reduction),
                *(x.detach().sigmoid().requires_grad_(), y),
            )


def test_dcgan_probabilities_of_0_and_1():
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0])
    check(dcgan.BCELoss(), F.binary_cross_entropy, p, y)


def test_dcgan_sigmoid_loses_the_gradient():
    y = torch.zeros(1)
    for logit, dies in ((17.0, True), (16.0, False), (30.0, True)):
        x = torch.tensor([logit], requires_grad=True)
        for loss in (nn.BCELoss(), dcgan.BCELoss()):
            (grad,) = torch.autograd.grad(loss(torch.sigmoid(x), y), x)
            assert (grad == 0.0) == dies
        (grad,) = torch.autograd.grad(dcgan.BCEWithLogitsLoss()(x, y), x)
        assert_close(grad, torch.sigmoid(x.detach().double()), torch.float32)
    assert dcgan.BCELoss()(torch.sigmoid(x), y) == 100.0 and dcgan.BCEWithLogitsLoss()(x, y) == 30.0


def test_dcgan_step():
    """The example's step: one label tensor, filled anew between the backward passes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid(), nn.Flatten(0))
    real, fake = torch.randn(2, 8, 3)
    grads = []
    for criterion in (nn.BCELoss(), dcgan.BCELoss()):
        net.zero_grad()
        label = torch.full((8,), 1.0)
        criterion(net(real), label).backward()
        label.fill_(0.0)
        criterion(net(fake), label).backward()
        grads.append(net[0].weight.grad.clone())
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", [dcgan.BCELoss, dcgan.BCEWithLogitsLoss])
def test_dcgan_bad_arguments(kind):
    p = torch.full((4,), 0.5)
    assert not kind().state_dict()
    for name in ("weight", "size_average", "reduce"):
        with pytest.raises(ValueError, match=f"{name}: got True, expected None"):
            kind(**{name: True})
    with pytest.raises(ValueError, match="reduction: got 'batch'"):
        kind(reduction="batch")
    with pytest.raises(ValueError, match=r"target: got shape \(4, 1\), expected \(4,\)"):
        kind()(p, p[:, None])
    with pytest.raises(ValueError, match=r"target: got shape \(1,\), expected \(4,\)"):
        kind()(p, p[:1])
    with pytest.raises(TypeError, match="input, target: got Tensor and float"):
        kind()(p, 1.0)
    with pytest.raises(ValueError, match=r"input: got shape \(0,\)"):
        kind()(p[:0], p[:0])


def test_dcgan_pos_weight():
    with pytest.raises(ValueError, match="pos_weight: got 2, expected None"):
        dcgan.BCEWithLogitsLoss(pos_weight=2)


# torchgan


def reduced(x, reduction):
    return x if reduction == "none" else getattr(x, reduction)()


TORCHGAN_G = [
    ("minimax_generator_loss", {}, lambda f: softplus(-f)),
    ("minimax_generator_loss", dict(nonsaturating=False), lambda f: -softplus(f)),
    ("least_squares_generator_loss", {}, lambda f: 0.5 * (f - 1.0) ** 2),
    ("least_squares_generator_loss", dict(c=0.7), lambda f: 0.5 * (f - 0.7) ** 2),
    ("wasserstein_generator_loss", {}, lambda f: -f),
]
TORCHGAN_D = [
    ("minimax_discriminator_loss", {}, lambda r: softplus(-r), softplus),
    ("minimax_discriminator_loss", dict(label_smoothing=0.2), lambda r: bce(r, 0.8), softplus),
    ("least_squares_discriminator_loss", {}, lambda r: 0.5 * (r - 1.0) ** 2, lambda f: 0.5 * f**2),
    (
        "least_squares_discriminator_loss",
        dict(a=-1.0, b=0.9),
        lambda r: 0.5 * (r - 0.9) ** 2,
        lambda f: 0.5 * (f + 1.0) ** 2,
    ),
    ("wasserstein_discriminator_loss", {}, lambda r: -r, lambda f: f),
]


def torchgan_module(name, settings, reduction):
    return getattr(torchgan, "".join(part.title() for part in name.split("_")))(reduction=reduction, **settings)


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "settings", "phi"), TORCHGAN_G)
def test_torchgan_generator(name, settings, phi, reduction, dtype):
    module = torchgan_module(name, settings, reduction)
    assert not module.state_dict() and module.override_train_ops is None
    for shape in ((16, 1), (7,), (3, 1, 4, 4)):
        for loss in (lambda f: getattr(torchgan, name)(f, reduction=reduction, **settings), module):
            check(loss, lambda f: reduced(phi(f), reduction), shaped(shape, dtype))


@ALL
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "settings", "phi_real", "phi_fake"), TORCHGAN_D)
def test_torchgan_discriminator(name, settings, phi_real, phi_fake, reduction, dtype):
    module = torchgan_module(name, settings, reduction)
    assert not module.state_dict()

    def theirs(r, f):
        return reduced(phi_real(r), reduction) + reduced(phi_fake(f), reduction)

    # A mean difference near 0 has no relative accuracy of its own: the logits differ by more than that.
    for shapes in (((16, 1), (16, 1)), ((3, 1, 4, 4), (3, 1, 4, 4)), ((7,), (4,))):
        if shapes[0] != shapes[1] and reduction == "none":
            continue
        r, f = shaped(shapes[0], dtype, 1), shaped(shapes[1], dtype, 2)
        with torch.no_grad():
            r.add_(3.0)
        for loss in (lambda r, f: getattr(torchgan, name)(r, f, reduction=reduction, **settings), module):
            check(loss, theirs, r, f)
        check(module, theirs, r.detach(), f)  # from one side alone
        check(module, theirs, r, f.detach())


def test_torchgan_signatures():
    x, y = torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 0.3])
    positional = [
        (torchgan.minimax_generator_loss(x, False, "sum"), -softplus(x).sum()),
        (torchgan.minimax_discriminator_loss(x, y, 0.1, "sum"), bce(x, 0.9).sum() + softplus(y).sum()),
        (torchgan.least_squares_generator_loss(x, 0.5, "sum"), 0.5 * ((x - 0.5) ** 2).sum()),
        (
            torchgan.least_squares_discriminator_loss(x, y, 0.2, 0.8, "sum"),
            0.5 * (((x - 0.8) ** 2).sum() + ((y - 0.2) ** 2).sum()),
        ),
        (torchgan.wasserstein_generator_loss(x, "sum"), -x.sum()),
        (torchgan.wasserstein_discriminator_loss(x, y, "sum"), (y - x).sum()),
        (torchgan.MinimaxGeneratorLoss("sum", False)(x), -softplus(x).sum()),
        (torchgan.MinimaxDiscriminatorLoss(0.1, "sum")(x, y), bce(x, 0.9).sum() + softplus(y).sum()),
        (torchgan.LeastSquaresGeneratorLoss("sum", 0.5)(x), 0.5 * ((x - 0.5) ** 2).sum()),
        (
            torchgan.LeastSquaresDiscriminatorLoss("sum", 0.2, 0.8)(x, y),
            0.5 * (((x - 0.8) ** 2).sum() + ((y - 0.2) ** 2).sum()),
        ),
    ]
    for got, want in positional:
        torch.testing.assert_close(got, want)
    assert torchgan.WassersteinDiscriminatorLoss("mean", (-0.01, 0.01)).clip == (-0.01, 0.01)
    assert torchgan.WassersteinDiscriminatorLoss(clip=[1.0]).clip is None


def test_torchgan_bad_arguments():
    x = torch.zeros(4)
    with pytest.raises(ValueError, match="reduction: got 'elementwise_mean', expected 'none' or"):
        torchgan.minimax_generator_loss(x, reduction="elementwise_mean")
    with pytest.raises(ValueError, match="reduction: got None"):
        torchgan.minimax_generator_loss(x, reduction=None)
    with pytest.raises(ValueError, match=r"dgz: got shape \(0,\)"):
        torchgan.minimax_discriminator_loss(x, x[:0])
    with pytest.raises(TypeError, match="fx: got list"):
        torchgan.wasserstein_discriminator_loss([x], x)
    with pytest.raises(ValueError, match="one shape"):
        torchgan.minimax_discriminator_loss(x, x[:2], reduction="none")
    with pytest.raises(ValueError, match="probability"):
        torchgan.minimax_discriminator_loss(x, x, label_smoothing=1.5)


@pytest.mark.parametrize("half", [slice(0, 3), slice(3, None)])
def test_slices_and_layouts(half):
    """The halves of a batch, channels_last, and a transposed view, with the gradient of the whole."""
    multiscale, hd = basicsr.MultiScaleGANLoss("vanilla"), pix2pixhd.GANLoss()

    def ours(x, y):
        return multiscale([x[half], y.mT], True, is_disc=True) + hd([[x[half]], [y.mT]], False)

    def theirs(x, y):
        x = x[half]
        return (softplus(-x).mean() + softplus(-y).mean()) / 2 + (x**2).mean() + (y**2).mean()

    x, y = shaped((6, 2, 5, 4)), shaped((2, 1, 3, 7), seed=1)
    x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    check(ours, theirs, x, y, grad_rtol=1e-4)  # a sum of two gradients, which can cancel


# The kernels


def launched_once(loss):
    """The same loss; asserts that its forward is a single launch."""

    def of(*arguments):
        before = kernels.launch_count()
        out = loss(*arguments)
        assert kernels.launch_count() == before + 1
        return out

    return of


@pytest.mark.parametrize("mode", ["lsgan", "vanilla", "wgangp", "nonsaturating"])
def test_kernels_cyclegan(mode, kernel_device):
    loss = cyclegan.GANLoss(mode)
    for real, y in zip(SIDES, HARD):
        ours = launched_once(lambda x: loss(x, real))
        check(ours, lambda x: cyclegan_loss(mode, real, y, x), shaped((1, 1, 5, 5), device=kernel_device))


TWO = [[(2, 1, 3, 3), (2, 1, 5, 4)], [(2, 1, 3, 2)]]


@pytest.mark.parametrize("mode", ["ls", "original", "w", "hinge"])
def test_kernels_spade(mode, kernel_device):
    loss = spade.GANLoss(mode)
    x = knees(shaped(TWO, device=kernel_device))
    for real in SIDES:
        ours = launched_once(lambda x: loss(x, real))
        check(ours, lambda x: spade_loss(mode, (1.0, 0.0), real, True, x), x)

    def theirs(x):
        fake, real = halves(x)
        return spade_loss(mode, (1.0, 0.0), False, True, fake) + spade_loss(mode, (1.0, 0.0), True, True, real)

    check(launched_once(lambda x: spade.discriminator_loss(x, mode)), theirs, x)


@pytest.mark.parametrize("lsgan", [True, False])
def test_kernels_pix2pixhd(lsgan, kernel_device):
    phi = (lambda x, y: (x - y) ** 2) if lsgan else bce_of_probability
    x = shaped(TWO, device=kernel_device, spread=1.0)
    x = x if lsgan else probabilities(x)
    loss = pix2pixhd.GANLoss(lsgan)
    ours = launched_once(lambda x: loss(x, True))
    check(ours, lambda x: sum([phi(scale[-1], 1.0).mean() for scale in x]), x, rtol=5e-6)


@pytest.mark.parametrize("kind", BASICSR)
def test_kernels_basicsr(kind, kernel_device):
    x = knees(shaped(TWO, device=kernel_device))
    loss = basicsr.MultiScaleGANLoss(kind, loss_weight=0.1)
    single = basicsr.GANLoss(kind, loss_weight=0.1)
    for real, is_disc in ((True, True), (False, True), (True, False)):
        settings = (kind, (1.0, 0.0), 0.1, real, is_disc)
        ours = launched_once(lambda x: loss(x, real, is_disc))
        check(ours, lambda x: mean_of(typed_loss(*settings, last(scale)) for scale in x), x)
        ours = launched_once(lambda x: single(x, real, is_disc))
        check(ours, lambda x: typed_loss(*settings, x), x[0][1])


@pytest.mark.parametrize("kind", ["vanilla", "lsgan", "wgan", "wgan-logistic-ns", "hinge", "smgan"])
def test_kernels_mmagic(kind, kernel_device):
    loss = mmagic.GANLoss(kind, loss_weight=0.1)
    mask = torch.zeros(2, 1, 5, 5, device=kernel_device)
    mask[:, :, 1:3, 1:4] = 1.0
    for real, is_disc in ((True, True), (False, True), (True, False)):

        def theirs(x):
            if kind == "smgan" and is_disc and not real:
                return ((x - blurred(mask)) ** 2).mean()
            return typed_loss(kind, (1.0, 0.0), 0.1, real, is_disc, x)

        x = shaped((2, 1, 5, 5), device=kernel_device)
        check(launched_once(lambda x: loss(x, real, is_disc, mask)), theirs, x, grad_rtol=1e-5)
    shift = mmagic.DiscShiftLoss()
    check(launched_once(shift), lambda x: 0.1 * (x**2).mean(), x)


@pytest.mark.parametrize("criterion", ["least_squares", "no activation", "bce", "hinge"])
def test_kernels_monai(criterion, kernel_device):
    activation = criterion != "no activation"
    criterion = criterion if activation else "least_squares"
    for reduction in ("mean", "sum", "none"):
        loss = monai.PatchAdversarialLoss(reduction, criterion, not activation)
        x = shaped([(2, 1, 3, 2, 2), (2, 1)], device=kernel_device, spread=1.0)
        for real in SIDES:
            ours = lambda x: loss(x, real, True)  # noqa: E731
            if reduction != "none" or criterion == "hinge":  # a list of means is one launch as well
                ours = launched_once(ours)
            check(ours, lambda x: monai_loss(criterion, activation, real, reduction, x), x)


def test_kernels_dcgan(kernel_device):
    x, y = shaped((9,), device=kernel_device, spread=1.0), torch.rand(9, device=kernel_device)
    ours = launched_once(dcgan.BCEWithLogitsLoss())
    check(ours, F.binary_cross_entropy_with_logits, x, y)
    ours = launched_once(dcgan.BCELoss())
    check(ours, F.binary_cross_entropy, x.detach().sigmoid().requires_grad_(), y)


@pytest.mark.parametrize(("name", "settings", "phi"), TORCHGAN_G)
def test_kernels_torchgan_generator(name, settings, phi, kernel_device):
    for reduction in ("mean", "sum"):
        module = launched_once(torchgan_module(name, settings, reduction))
        check(module, lambda f: reduced(phi(f), reduction), shaped((5, 1), device=kernel_device))


@pytest.mark.parametrize(("name", "settings", "phi_real", "phi_fake"), TORCHGAN_D)
def test_kernels_torchgan_discriminator(name, settings, phi_real, phi_fake, kernel_device):
    for reduction in ("mean", "sum"):
        module = launched_once(torchgan_module(name, settings, reduction))

        def theirs(r, f):
            return reduced(phi_real(r), reduction) + reduced(phi_fake(f), reduction)

        check(module, theirs, shaped((5, 1), device=kernel_device), shaped((4, 1), seed=1, device=kernel_device))


def test_mmagic_has_the_absolute_difference():
    check(lambda x: mmagic.GANLoss("l1", 0.9)(x, True), lambda x: (x - 0.9).abs().mean(), *shaped([(4, 6)]))


def test_torchgan_reduction_of_none():
    """None leaves the losses unreduced, where upstream's own `reduce` does."""
    r, f = shaped([(5, 1), (5, 1)])
    for ours, theirs, logits in (
        (torchgan.least_squares_generator_loss, lambda f: 0.5 * (f - 1) ** 2, [f]),
        (torchgan.least_squares_discriminator_loss, lambda r, f: 0.5 * ((r - 1) ** 2 + f**2), [r, f]),
        (torchgan.wasserstein_generator_loss, lambda f: -f, [f]),
        (torchgan.wasserstein_discriminator_loss, lambda r, f: f - r, [r, f]),
    ):
        check(lambda *x, ours=ours: ours(*x, reduction=None), theirs, *logits)
    check(torchgan.WassersteinGeneratorLoss(reduction=None), lambda f: -f, f)
    for bad in (torchgan.minimax_generator_loss, torchgan.least_squares_generator_loss):
        with pytest.raises(ValueError, match=r"^reduction: got 'batchmean'"):
            bad(f, reduction="batchmean")
