"""Thirteen classic bugs of GAN losses, and the checks of the mathematics that find each."""

import pytest
import torch
from checks_of_losses import CHECKS, LN2, Losses


class Plain(Losses):
    """The same losses in eager PyTorch, with a method to break for each bug."""

    half = 0.5

    def softplus(self, x):
        return torch.nn.functional.softplus(x)

    def sigmoid(self, x):
        return torch.sigmoid(x)

    def combine(self, a, b):
        return self.half * a.mean() + self.half * b.mean()

    def parts(self, real, fake, kind):
        if kind == "absolute_error":
            return self.sigmoid(-real), self.sigmoid(fake)
        return self.softplus(-real), self.softplus(fake)

    def d(self, real, fake, kind="cross_entropy"):
        return self.combine(*self.parts(real, fake, kind))

    def g(self, fake, kind):
        if kind == "absolute_error":
            return -0.5 * self.sigmoid(fake).mean()
        return -self.softplus(fake).mean() if kind == "saturating" else self.softplus(-fake).mean()


class ConcatenatedMean(Plain):
    def combine(self, a, b):
        return torch.cat([a, b]).mean()


class MissingHalf(Plain):
    half = 1.0


class Swapped(Plain):
    def d(self, real, fake, kind="cross_entropy"):
        return super().d(fake, real, kind)


class SigmoidTwice(Plain):
    def softplus(self, x):  # -log sigmoid(-x), with probabilities in place of logits
        return -torch.log(1 - torch.sigmoid(torch.sigmoid(x)))

    def sigmoid(self, x):
        return torch.sigmoid(torch.sigmoid(x))


class NaiveLog(Plain):
    def softplus(self, x):
        return -torch.log(1 - torch.sigmoid(x))


class ClampedLog(Plain):
    def softplus(self, x):
        return -torch.log((1 - torch.sigmoid(x)).clamp(1e-7, 1 - 1e-7))


class GeneratorSign(Plain):
    def g(self, fake, kind):
        return -super().g(fake, kind)


class GeneratorsSwapped(Plain):
    def g(self, fake, kind):
        return super().g(fake, {"saturating": "nonsaturating", "nonsaturating": "saturating"}[kind])


class BaseTwo(Plain):
    def softplus(self, x):
        return super().softplus(x) / LN2 if not self.of_generator else super().softplus(x)

    of_generator = False

    def g(self, fake, kind):
        self.of_generator = True
        return super().g(fake, kind)


class RaggedTail(Plain):
    def combine(self, a, b):
        def mean(x):
            return x[: len(x) // 64 * 64].sum() / len(x)

        return self.half * mean(a) + self.half * mean(b)


class HalfPrecisionSum(Plain):
    def combine(self, a, b):
        return super().combine(a.bfloat16(), b.bfloat16())


class _Halves(torch.autograd.Function):
    """The mean of both sides' means, with gradients by hand, one of them wrong."""

    @staticmethod
    def forward(ctx, a, b, mutant):
        ctx.sizes, ctx.mutant = (len(a), len(b)), mutant
        return a.mean() / 2 + b.mean() / 2

    @staticmethod
    def backward(ctx, upstream):
        n, m = ctx.sizes
        if ctx.mutant == "upstream":
            upstream = torch.ones_like(upstream)
        else:
            m = n
        return (upstream / (2 * n)).expand(ctx.sizes[0]), (upstream / (2 * m)).expand(ctx.sizes[1]), None


class IgnoresUpstream(Plain):
    def combine(self, a, b):
        return _Halves.apply(a, b, "upstream")


class WrongCount(Plain):
    def combine(self, a, b):
        return _Halves.apply(a, b, "count")


# bug: the checks that must find it
MUTANTS = {
    ConcatenatedMean: {"unequal", "gradients"},
    MissingHalf: {
        "optimal cross-entropy",
        "optimal absolute error",
        "half",
        "ln 2",
        "unequal",
        "gradients",
        "extremes",
    },
    Swapped: {"optimal cross-entropy", "optimal absolute error", "unequal", "gradients"},
    SigmoidTwice: set(CHECKS) - {"half"},
    NaiveLog: {"extremes"},
    ClampedLog: {"extremes"},
    GeneratorSign: {"saturating", "nonsaturating"},
    GeneratorsSwapped: {"saturating", "nonsaturating"},
    BaseTwo: {"optimal cross-entropy", "ln 2", "unequal", "gradients", "extremes"},
    RaggedTail: set(CHECKS) - {"saturating", "nonsaturating"},
    HalfPrecisionSum: {"optimal cross-entropy", "ln 2", "unequal", "gradients", "extremes"},
    IgnoresUpstream: {"gradients"},
    WrongCount: {"gradients"},
}


def failures(losses):
    def fails(check):
        try:
            check(losses, "cpu")
        except AssertionError:
            return True
        return False

    return {name for name, check in CHECKS.items() if fails(check)}


def test_the_plain_losses_pass():
    assert failures(Plain()) == set()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_bug_is_caught(mutant):
    found = failures(mutant())
    assert found >= MUTANTS[mutant], MUTANTS[mutant] - found
