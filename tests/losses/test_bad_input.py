"""Each wrong argument of a loss gives one clear line that names it, before anything is launched."""

import math

import pytest
import torch

import fastgan
from fastgan import kernels

GOOD = torch.zeros(4)
CASES = {
    "a list": (TypeError, "real_logits", lambda f: f([1.0, 2.0], GOOD)),
    "an array": (TypeError, "fake_logits", lambda f: f(GOOD, GOOD.numpy())),
    "none": (TypeError, "fake_logits", lambda f: f(GOOD, None)),
    "integer logits": (TypeError, "real_logits.*int64", lambda f: f(torch.zeros(4, dtype=torch.long), GOOD)),
    "boolean logits": (TypeError, "real_logits.*bool", lambda f: f(torch.zeros(4, dtype=torch.bool), GOOD)),
    "complex logits": (TypeError, "fake_logits.*complex", lambda f: f(GOOD, torch.zeros(4, dtype=torch.cfloat))),
    "float8 logits": (TypeError, "real_logits.*float8", lambda f: f(GOOD.to(torch.float8_e4m3fn), GOOD)),
    "sparse logits": (ValueError, "real_logits.*sparse", lambda f: f(torch.eye(2).to_sparse(), GOOD)),
    "two dtypes": (ValueError, "fake_logits.*float64.*float32", lambda f: f(GOOD, GOOD.double())),
    "two devices": (ValueError, "fake_logits.*meta.*cpu", lambda f: f(GOOD, GOOD.to("meta"))),
    "an unknown objective": (ValueError, "objective.*'minmax'.*'minimax'", lambda f: f(GOOD, GOOD, "minmax")),
    "no objective": (ValueError, "objective.*None", lambda f: f(GOOD, GOOD, None)),
    "a list as objective": (ValueError, "objective", lambda f: f(GOOD, GOOD, ["minimax"])),
    "a label above 1": (ValueError, r"real_label.*1\.2.*\[0, 1\]", lambda f: f(GOOD, GOOD, real_label=1.2)),
    "a label below 0": (ValueError, r"fake_label.*-0\.1", lambda f: f(GOOD, GOOD, fake_label=-0.1)),
    "a label of NaN": (ValueError, "real_label.*nan", lambda f: f(GOOD, GOOD, real_label=math.nan)),
    "a label as text": (TypeError, "real_label.*str", lambda f: f(GOOD, GOOD, real_label="1")),
    "a label as truth value": (TypeError, "fake_label.*bool", lambda f: f(GOOD, GOOD, fake_label=False)),
    "a tensor as weight": (TypeError, "weight.*Tensor", lambda f: f(GOOD, GOOD, weight=torch.tensor(1.0))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("function", ["discriminator_loss", "discriminator_value_and_grad"])
def test_discriminator(device, function, case):
    error, message, call = CASES[case]
    launches = kernels.launch_count()
    with pytest.raises(error, match=message) as caught:
        call(getattr(fastgan, function))
    assert "\n" not in str(caught.value)
    assert kernels.launch_count() == launches


@pytest.mark.parametrize("function", ["generator_loss", "generator_value_and_grad"])
def test_generator(function):
    function = getattr(fastgan, function)
    for error, message, call in (
        (TypeError, "fake_logits.*float", lambda: function(1.0)),
        (TypeError, "fake_logits.*int32", lambda: function(torch.zeros(3, dtype=torch.int32))),
        (ValueError, "objective.*'wgan'", lambda: function(GOOD, "wgan")),
        (ValueError, "real_label", lambda: function(GOOD, real_label=2)),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (torch.ones(2), ValueError, r"grad_scale.*\(2,\)"),
        (torch.ones((), dtype=torch.long), ValueError, "grad_scale.*int64"),
        (torch.ones((), device="meta"), ValueError, "grad_scale.*meta"),
        ("2", TypeError, "grad_scale.*str"),
    ],
    ids=["two numbers", "an integer tensor", "another device", "text"],
)
def test_grad_scale(scale, error, message):
    with pytest.raises(error, match=message):
        fastgan.generator_value_and_grad(GOOD, grad_scale=scale)


def test_unknown_backend(monkeypatch):
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "cuda")
    with pytest.raises(ValueError, match="FASTGAN_BACKEND: got 'cuda', expected 'triton' or 'torch'"):
        fastgan.generator_loss(GOOD)


def test_numbers_of_other_types_are_accepted():
    """Integers, NumPy scalars and fractions."""
    import fractions

    import numpy

    want = fastgan.discriminator_loss(GOOD, GOOD, weight=0.5)
    for half in (numpy.float32(0.5), numpy.float64(0.5), fractions.Fraction(1, 2)):
        assert torch.equal(fastgan.discriminator_loss(GOOD, GOOD, weight=half), want)
    assert torch.equal(fastgan.discriminator_loss(GOOD, GOOD, real_label=1, fake_label=0, weight=1), want * 2)


def test_wrong_pairs_anchors_and_weights_are_named():
    """Also real logits that a function detaches."""
    for error, message, call in (
        (TypeError, "sides: got Tensor, expected a list of", lambda: fastgan.adversarial_losses(GOOD, "hinge")),
        (ValueError, "sides: got an empty list", lambda: fastgan.adversarial_losses([], "hinge")),
        (TypeError, r"sides\[1\]: got Tensor", lambda: fastgan.adversarial_losses([(GOOD, 1.0), GOOD], "hinge")),
        (TypeError, r"sides\[0\]: got float", lambda: fastgan.adversarial_losses([(1.0, 1.0)], "hinge")),
        (
            ValueError,
            r"real_anchor: got shape \(4,\), expected a number",
            lambda: fastgan.lecam_regularizer(GOOD, GOOD, GOOD, 0.0),
        ),
        (TypeError, "fake_anchor: got str", lambda: fastgan.lecam_regularizer(GOOD, GOOD, 0.0, "0")),
        (
            TypeError,
            "real_logits: got float",
            lambda: fastgan.generator_value_and_grad(GOOD, "relativistic", real_logits=[1.0]),
        ),
        (TypeError, "real_weights: got float", lambda: fastgan.discriminator_loss(GOOD, GOOD, real_weights=2.0)),
        (TypeError, "split: got float", lambda: fastgan.concatenated_discriminator_loss(GOOD, split=2.0)),
    ):
        with pytest.raises(error, match=message):
            call()
