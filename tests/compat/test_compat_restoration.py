# ruff: noqa: B023 - `check` calls what it is given before the loop goes on
"""BasicSR and mmagic: each loss against that codebase's formula, restated in eager PyTorch; the registries."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from image_formulas import (
    ALL,
    BASICSR,
    HARD,
    PATCH,
    SCALES,
    SIDES,
    SOFT,
    bce,
    blurred,
    knees,
    last,
    mean_of,
    near,
    typed_loss,
)
from parity import check, shaped

from fastgan.compat import basicsr, mmagic

SETTINGS = [(labels, weight) for labels in (HARD, SOFT) for weight in (1.0, 0.1)]


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
    """ESRGAN's generator computes the relativistic average outside of the loss, with one side detached."""
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
    with torch.no_grad():  # away from the blurred labels, which are float32: x - y loses its digits near 0
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


def run_in_a_process(tmp_path, files, code):
    """Run the code in another process, with packages of these files on the path."""
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
    run_in_a_process(
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


def test_mmagic_has_the_absolute_difference():
    check(lambda x: mmagic.GANLoss("l1", 0.9)(x, True), lambda x: (x - 0.9).abs().mean(), *shaped([(4, 6)]))
