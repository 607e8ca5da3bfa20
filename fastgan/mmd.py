"""Maximum mean discrepancy: how far apart two samples are, and the gradient that brings one to the other.

Training without a discriminator (generative moment matching networks), domain adaptation, kernel inception distance:
all are a mean of a kernel over all pairs of rows. No matrix of the pairs is ever made: on a GPU one launch walks over
tiles of it (`kernels/mmd.py`), on a CPU blocks of it that stay in cache. Memory is O(N + M).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.closed_form import widen
from fastgan.functional import _check_choice, _number, _scale
from fastgan.operators import _kernels, _traced, applied, backend_for

KERNELS = ("gaussian", "rational_quadratic", "energy")
PRECISIONS = ("fp32", "tf32", "exact")
BANDWIDTHS = (4.0, 2.0, 1.0, 0.5)  # for samples of zero mean and unit scale
DIFFERENCES_UP_TO = 4  # dimensions: there, differences cost no more than products
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ROWS, _COLUMNS = 256, 512  # a block of the closed form: its few buffers stay in cache
_CUBE = 1 << 20  # numbers of a block of the second derivative: rows x columns x dimensions


def mmd_loss(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | float | None = None,
    *,
    kernel: str = "gaussian",
    alpha: float = 1.0,
    unbiased: bool = False,
    include_target_term: bool = True,
    weight: float = 1.0,
    precision: str = "fp32",
) -> Tensor:
    """MMD^2 of two samples; one launch forward, one backward, nothing saved but the samples.

        L = weight ( mean_ij k(x_i, x_j) + mean_ij k(y_i, y_j) - 2 mean_ij k(x_i, y_j) )

    biased, with the pairs of a point and itself in the first two means (Gretton et al. 2012, eq. 5: a V-statistic,
    never negative); with `unbiased` without them, over N (N - 1) pairs (eq. 3: a U-statistic, 0 in the mean where the
    distributions agree). k is summed over the bandwidths s:

        gaussian            exp(-|x - y|^2 / 2 s^2)
        rational_quadratic  (1 + |x - y|^2 / 2 alpha s^2)^-alpha
        energy              -|x - y|: L is the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Székely and Rizzo
                            2013); it has no bandwidth. Its gradient at two points that coincide is 0

    As a generator's loss it trains without a discriminator (Li et al. 2015, eq. 3, and Dziugaite et al. 2015,
    generative moment matching networks); of features it is the loss of domain adaptation (Long et al. 2015) and, in
    Inception's features and with a cubic kernel, KID (Bińkowski et al. 2018).

    Args:
        x, y: (N, d) and (M, d), one dtype of float16, bfloat16, float32 and float64, one device. Rows are points:
            `images.flatten(1)`. Float32 arithmetic (float64 for float64), sums in float64.
        bandwidths: s, in units of the data, a number or several. By default 0.5, 1, 2, 4, for data of unit scale.
        alpha: of the rational quadratic kernel.
        include_target_term: False leaves mean k(y, y') out, which no gradient at x depends on, and its time.
        weight: multiplies the loss.
        precision: how points are compared. eps is 2^-24, |x| and |y| are distances from the samples' middle.
            "fp32": up to 4 dimensions by differences, (x_k - y_k)^2, right to a few eps however close two points are;
            beyond, |x|^2 + |y|^2 - 2 x.y on matrix units in float32 accuracy (three passes of tf32 on NVIDIA), where a
            squared distance is off by up to 8 eps (|x| + |y|)^2, and exp(-D / 2 s^2) by 2^-22 (|x| + |y|)^2 / s^2 of
            itself: 1e-3 for bandwidths of 1/30 of the spread. Where that would pass 2^-7 (samples far apart, a point
            far from all others) and pairs are close enough to count, differences take over, block by block. "tf32": one
            pass, off by up to 2^-10 (|x| + |y|)^2. "exact": differences in any dimension, at several times the cost.
            Float64 samples are always compared by differences on a GPU.

    Returns:
        0-d tensor, float32 (float64 for float64 samples); differentiable in x and y, and more than once. Near 0 it is a
        difference of means: right to 2e-6 of (mean k(x, x') + mean k(y, y') + 2 mean k(x, y)), not of itself.

    Raises:
        TypeError: not floating tensors, bandwidths that are not numbers.
        ValueError: not two dimensions, dimensions that differ, an empty sample, two dtypes or devices, a bandwidth or
            alpha that is not above 0, bandwidths for the energy distance, `unbiased` with a sample of one point.
    """
    settings = _settings(x, y, bandwidths, kernel, alpha, unbiased, include_target_term, weight, precision)
    return applied(_Value, (tuple(settings),), (x, y))[0]


class MMDValueAndGrad(NamedTuple):
    """loss: 0-d. grad: the gradient at x, of its shape and dtype. grad_target: that at y, where it was asked for.
    means: (3,), mean k(x, x'), mean k(x, y), mean k(y, y') (0 where it was left out). No graph is attached."""

    loss: Tensor
    grad: Tensor
    grad_target: Tensor | None
    means: Tensor


def mmd_value_and_grad(
    x: Tensor,
    y: Tensor,
    bandwidths: Sequence[float] | float | None = None,
    *,
    kernel: str = "gaussian",
    alpha: float = 1.0,
    unbiased: bool = False,
    include_target_term: bool = True,
    weight: float = 1.0,
    precision: str = "fp32",
    grad_scale: Tensor | float | None = None,
    target_gradient: bool = False,
) -> MMDValueAndGrad:
    """`mmd_loss` and its gradient at the generated samples x in one launch, without an autograd graph. Continue with

        fake.backward(out.grad.view_as(fake))

    `grad_scale`, a number or a floating tensor of one element on the device, multiplies the gradients in float32 before
    they are rounded. `target_gradient` asks for the gradient at y too. Other arguments and errors are those of
    `mmd_loss`."""
    settings = _settings(x, y, bandwidths, kernel, alpha, unbiased, include_target_term, weight, precision)
    if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
        raise RuntimeError(
            "mmd_value_and_grad: its result carries no derivative, and a torch.func transform or forward-mode AD is "
            "active; use mmd_loss there"
        )
    scale, factor = _scale(grad_scale, x)
    x, y = x.detach(), y.detach()
    call = torch.ops.fastgan.mmd_value_and_gradient if _traced((x, y)) else _value_and_gradient
    loss, means, grad, grad_target = call(x, y, *settings, scale, factor, target_gradient)
    return MMDValueAndGrad(loss, grad, grad_target if target_gradient else None, means)


class Settings(NamedTuple):
    """All of a loss but its samples. bandwidths: falling; none for the energy distance."""

    kernel: str
    bandwidths: tuple[float, ...]
    alpha: float
    unbiased: bool
    target: bool
    weight: float
    precision: str

    def differences(self, d: int) -> bool:
        return self.precision == "exact" or (self.precision == "fp32" and d <= DIFFERENCES_UP_TO)

    def pairs(self, n: int) -> int:
        """Of a sample of n with itself."""
        return n * (n - self.unbiased)


def _settings(x, y, bandwidths, kernel, alpha, unbiased, target, weight, precision) -> Settings:
    for name, sample in (("x", x), ("y", y)):
        if not isinstance(sample, Tensor):
            raise TypeError(f"{name}: got {type(sample).__name__}, expected a torch.Tensor")
        if sample.dtype not in _DTYPES:
            raise TypeError(f"{name}: got {sample.dtype}, expected float16, bfloat16, float32 or float64")
        if sample.layout is not torch.strided:
            raise ValueError(f"{name}: got a {sample.layout} tensor, expected a dense one")
        if sample.dim() != 2:
            hint = ": `[:, None]` for points on a line" if sample.dim() == 1 else ": `flatten(1)`"
            raise ValueError(f"{name}: got shape {tuple(sample.shape)}, expected (points, dimensions){hint}")
        if not sample.numel():
            raise ValueError(f"{name}: got shape {tuple(sample.shape)}, expected at least one point and one dimension")
    if x.dtype != y.dtype:
        raise ValueError(f"y: got {y.dtype}, expected {x.dtype}, the dtype of x")
    if x.device != y.device:
        raise ValueError(f"y: got a tensor on {y.device}, expected {x.device}, the device of x")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"y: got points of {y.shape[1]} dimensions, expected {x.shape[1]}, as x has")
    _check_choice("kernel", kernel, KERNELS)
    _check_choice("precision", precision, PRECISIONS)
    weight = _number("weight", weight)
    alpha = _number("alpha", alpha)
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha: got {alpha}, expected a number above 0")
    for name, sample, counts in (("x", x, True), ("y", y, target)):
        if unbiased and counts and len(sample) < 2:
            raise ValueError(f"{name}: got 1 point, expected at least 2: unbiased pairs are of two points")
    bandwidths = _bandwidths(kernel, bandwidths)
    return Settings(kernel, bandwidths, alpha, bool(unbiased), bool(target), weight, precision)


def _bandwidths(kernel: str, given) -> tuple[float, ...]:
    if kernel == "energy":
        if given is not None:
            raise ValueError(f"bandwidths: got {given!r}, expected None: the energy distance has no bandwidth")
        return ()
    if given is None:
        return BANDWIDTHS
    single = isinstance(given, Real)
    if not single and (isinstance(given, (str, Tensor)) or not hasattr(given, "__len__")):
        raise TypeError(f"bandwidths: got {type(given).__name__}, expected numbers")
    given = [given] if single else list(given)
    if not given:
        raise ValueError("bandwidths: got none, expected at least one")
    for i, s in enumerate(given):
        name = "bandwidths" if single else f"bandwidths[{i}]"
        _number(name, s)
        if not 0 < s < math.inf:
            raise ValueError(f"{name}: got {s}, expected a number above 0")
    falling: list[float] = []
    for s in given:  # `sorted` is not for `torch.compile` with numbers that may change
        falling.insert(sum([other >= s for other in falling]), float(s))
    return tuple(falling)


def _powers(settings: Settings) -> tuple[bool, ...]:
    """Which Gaussians are a fourth power of the one before, of twice the bandwidth: two in a row at most, since each
    power multiplies the relative error by four."""
    powers: list[bool] = []
    if settings.kernel == "gaussian":
        for b, s in enumerate(settings.bandwidths):
            powers.append(b > 0 and 2 * s == settings.bandwidths[b - 1] and powers[-2:] != [True, True])
    return tuple(powers)


# The operators: opaque, without autograd.

_SETTINGS = "str kernel, float[] bandwidths, float alpha, bool unbiased, bool target, float weight, str precision"
_library = torch.library.Library("fastgan", "FRAGMENT")
_library.define(f"mmd_value(Tensor x, Tensor y, {_SETTINGS}) -> (Tensor, Tensor)")
_library.define(
    f"mmd_gradient(Tensor x, Tensor y, {_SETTINGS}, Tensor scale, bool of_x, bool of_y) -> (Tensor, Tensor)"
)
_library.define(
    f"mmd_value_and_gradient(Tensor x, Tensor y, {_SETTINGS}, Tensor? scale, float factor, bool of_y) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def _run(x: Tensor, y: Tensor, settings: Settings, *, value: bool, of_x: bool, of_y: bool, scale=None, factor=1.0):
    """(loss, means, gradient at x, gradient at y), an empty tensor for a gradient that is not asked for."""
    if backend_for(x.device) == "triton":
        found = _kernels().mmd(
            *(x, y, settings.bandwidths, settings.kernel),
            alpha=settings.alpha,
            powers=_powers(settings),
            unbiased=settings.unbiased,
            target=settings.target,
            weight=settings.weight,
            precision="exact" if settings.differences(x.shape[1]) else settings.precision,
            **dict(value=value, of_x=of_x, of_y=of_y, scale=scale, factor=factor),
        )
    else:
        found = _closed_form(x, y, settings, value, of_x, of_y, scale, factor)
    loss, means, *grads = found
    return loss, means, *[x.new_empty(0) if g is None else g for g in grads]


def _value(x, y, *settings):
    return _run(x, y, Settings(*settings), value=True, of_x=False, of_y=False)[:2]


def _gradient(x, y, *rest):
    *settings, scale, of_x, of_y = rest
    return _run(x, y, Settings(*settings), value=False, of_x=of_x, of_y=of_y, scale=scale)[2:]


def _value_and_gradient(x, y, *rest):
    *settings, scale, factor, of_y = rest
    return _run(x, y, Settings(*settings), value=True, of_x=True, of_y=of_y, scale=scale, factor=factor)


def _fake_value(x, y, *settings):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((), dtype=dtype), x.new_empty(3, dtype=dtype)


def _fake_gradient(x, y, *rest):
    *_, of_x, of_y = rest
    return tuple(s.new_empty(s.shape if asked else 0) for s, asked in ((x, of_x), (y, of_y)))


def _fake_value_and_gradient(x, y, *rest):
    return *_fake_value(x, y), *_fake_gradient(x, y, True, rest[-1])


for _name, _implementation, _fake in (
    ("mmd_value", _value, _fake_value),
    ("mmd_gradient", _gradient, _fake_gradient),
    ("mmd_value_and_gradient", _value_and_gradient, _fake_value_and_gradient),
):
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastgan::{_name}", _fake, lib=_library)


class _Value(Function):
    """(L, means); L is differentiable. Forward-mode differentiation raises: there is no jvp."""

    @staticmethod
    def forward(settings, x, y):
        call = torch.ops.fastgan.mmd_value if _traced((x, y)) else _value
        return call(x, y, *settings)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings, x, y = inputs
        ctx.save_for_backward(x, y)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, scale, _):
        _, of_x, of_y = ctx.needs_input_grad
        if scale is None or not (of_x or of_y):
            return None, None, None
        x, y = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            grads = _Gradient.apply(ctx.settings, of_x, of_y, scale, x, y)
        else:
            call = torch.ops.fastgan.mmd_gradient if _traced((x, y, scale)) else _gradient
            grads = call(x, y, *ctx.settings, scale, of_x, of_y)
        return None, *[grad if asked else None for grad, asked in zip(grads, (of_x, of_y))]

    @staticmethod
    def vmap(info, in_dims, settings, x, y):
        samples = _samples(info, in_dims[1:], (x, y))
        losses, means = zip(*[_Value.apply(settings, *sample) for sample in samples])  # a launch a sample
        return (torch.stack(losses), torch.stack(means)), (0, 0)


class _Gradient(Function):
    """The gradients of L at x and y, times scale; differentiable by a formula in blocks of rows."""

    @staticmethod
    def forward(settings, of_x, of_y, scale, x, y):
        call = torch.ops.fastgan.mmd_gradient if _traced((x, y, scale)) else _gradient
        return tuple(call(x, y, *settings, scale, of_x, of_y))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.settings, ctx.of_x, ctx.of_y, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, v, u):
        scale, x, y = ctx.saved_tensors
        v = v if ctx.of_x else torch.zeros_like(x)
        u = u if ctx.of_y else torch.zeros_like(y)
        along, grad_x, grad_y = _second_order(*[widen(t) for t in (x, y, v, u)], Settings(*ctx.settings))
        return None, None, None, along.to(scale.dtype), (scale * grad_x).to(x.dtype), (scale * grad_y).to(y.dtype)

    @staticmethod
    def vmap(info, in_dims, settings, of_x, of_y, scale, x, y):
        samples = _samples(info, in_dims[3:], (scale, x, y))
        grads = [_Gradient.apply(settings, of_x, of_y, *sample) for sample in samples]
        return tuple(torch.stack(g) for g in zip(*grads)), (0, 0)


def _samples(info, dims, tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    for i in range(info.batch_size):
        yield [t if dim is None else t.select(dim, i) for t, dim in zip(tensors, dims)]


def _second_order(x: Tensor, y: Tensor, v: Tensor, u: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """(P, dP/dx, dP/dy) of P = v . dL/dx + u . dL/dy, by operators that autograd follows.

    P = sum_ij c_ij K'(D_ij) (a_i - b_j) . (v_i - u_j), so that dP/da_i is the sum over j of
    c_ij ( 2 K'' (a_i - b_j) . (v_i - u_j) (a_i - b_j) + K' (v_i - u_j) ), and that at b_j its negative over i.
    """
    (n, d), m = x.shape, len(y)
    terms = [(2 / settings.pairs(n), (x, v), (x, v)), (-4 / (n * m), (x, v), (y, u))]
    if settings.target:
        terms.append((2 / settings.pairs(m), (y, u), (y, u)))
    along, grads = 0.0, {id(x): torch.zeros_like(x), id(y): torch.zeros_like(y)}
    for share, (a, va), (b, vb) in terms:
        rows, parts = max(1, _CUBE // (len(b) * d)), []
        for begin in range(0, len(a), rows):
            apart = a[begin : begin + rows, None] - b
            moving = va[begin : begin + rows, None] - vb
            first, second = _derivatives(apart.square().sum(-1), settings)
            dots = (apart * moving).sum(-1)
            along = along + settings.weight * share * (first * dots).sum()
            pull = (2 * second * dots)[..., None] * apart + first[..., None] * moving
            parts.append(settings.weight * share * pull.sum(1))
            grads[id(b)] = grads[id(b)] - settings.weight * share * pull.sum(0)
        grads[id(a)] = grads[id(a)] + torch.cat(parts)
    return along, grads[id(x)], grads[id(y)]


def _derivatives(D: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(K', K'') at squared distances."""
    if settings.kernel == "energy":
        apart = D > 0
        inverse = torch.where(apart, torch.where(apart, D, 1.0).rsqrt(), torch.where(D == 0, 0.0, D * torch.nan))
        return -0.5 * inverse, 0.25 * inverse**3
    first, second = 0.0, 0.0
    for s in settings.bandwidths:
        rate, a = 1 / (2 * s * s), settings.alpha
        if settings.kernel == "gaussian":
            k = torch.exp(-rate * D)
            first, second = first - rate * k, second + rate * rate * k
        else:
            base = 1 + (rate / a) * D
            first = first - rate * base ** (-a - 1)
            second = second + (rate * rate * (a + 1) / a) * base ** (-a - 2)
    return first, second


# The closed form: blocks of _ROWS x _COLUMNS pairs, in place, by operators that work in cache.


def _closed_form(x, y, settings: Settings, value: bool, of_x: bool, of_y: bool, scale, factor: float):
    """The contract of `kernels.mmd`."""
    a, b = (widen(s.detach()).contiguous() for s in (x, y))
    (n, d), m = a.shape, len(b)
    blocks = _Blocks(settings, d, a, value, of_x or of_y)
    middle = torch.cat((a.mean(0, keepdim=True), b.mean(0, keepdim=True))).mean(0)
    if not blocks.differences:
        blocks.look_at(max((s - middle).square().sum(1).max().item() for s in (a, b)))
    a, b = _Sample(a, middle, blocks), _Sample(b, middle, blocks)
    zero = a.points.new_zeros((), dtype=torch.float64)
    xx = xy = yy = zero
    with torch.no_grad():
        if value or of_x:
            xx = blocks.within(a, m / (n - settings.unbiased), of_x)
        xy = blocks.across(a, b, of_x, of_y)
        if settings.target and (value or of_y):
            yy = blocks.within(b, n / (m - settings.unbiased), of_y)
    grads = []
    for sample, given, asked in ((a, x, of_x), (b, y, of_y)):
        share = 4 * settings.weight * factor / (n * m)
        share = share if scale is None else share * scale.to(a.points.dtype)
        grads.append(sample.gradient().mul_(share).to(given.dtype) if asked else None)
    if not value:
        return None, None, *grads
    xx, xy, yy = xx / settings.pairs(n), xy / (n * m), yy / settings.pairs(m) if settings.target else zero
    loss = settings.weight * (xx - 2 * xy + yy)
    means = torch.stack((xx, xy, yy))
    return loss.to(a.points.dtype), means.to(a.points.dtype), *grads


class _Sample:
    """Points, and what is added up at each: with differences the gradient, with products sum_j w_ij (b_j, 1)."""

    def __init__(self, points: Tensor, middle: Tensor, blocks: _Blocks):
        self.differences = blocks.differences
        self.columns = points.T.contiguous()  # (d, n): a coordinate lies in one stretch
        if self.differences:
            self.points = points
            self.sums = torch.zeros_like(self.columns)
        else:  # left @ right.T is `blocks.rate` times a squared distance
            centred, ones, d = points - middle, points.new_ones((len(points), 1)), points.shape[1]
            squares = centred.square().sum(1, keepdim=True)
            self.right = torch.cat((centred, ones, squares), 1)
            self.left = torch.cat((centred, squares, ones), 1).mul_(blocks.rate)
            self.left[:, :d].mul_(-2.0)
            self.points, self.with_one = self.right[:, :d], self.right[:, : d + 1]
            self.sums = torch.zeros_like(self.with_one, memory_format=torch.contiguous_format)

    def gradient(self) -> Tensor:
        if self.differences:
            return self.sums.T.contiguous()
        return (self.sums[:, -1:] * self.points).sub_(self.sums[:, :-1])

    def add_difference(self, k: int, rows: slice, sums: Tensor, ratio: float) -> None:
        """Adds ratio * sums to coordinate k of the gradient of some points."""
        if self.differences:
            self.sums[k, rows].add_(sums, alpha=ratio)
        else:
            self.sums[rows, k].sub_(sums, alpha=ratio)


class _Blocks:
    """Walks over the pairs of two samples, adds up kernel values, and weights at the samples."""

    def __init__(self, settings: Settings, d: int, like: Tensor, value: bool, slope: bool):
        self.settings, self.value, self.slope = settings, value, slope
        self.differences, self.powers = settings.differences(d), _powers(settings)
        self.kernel = {"gaussian": self._gaussian, "rational_quadratic": self._rational, "energy": self._energy}
        self.kernel = self.kernel[settings.kernel]
        a = 1.0 if settings.kernel == "gaussian" else settings.alpha
        self.rates = [1 / (2 * a * s * s) for s in settings.bandwidths]
        self.rate = -self.rates[0] if settings.kernel == "gaussian" else 1.0  # what `distances` multiplies by
        kept = d if self.differences and d <= DIFFERENCES_UP_TO else 1
        self.scratch = [like.new_empty(_ROWS * _COLUMNS) for _ in range(4 + kept)]
        self.floor = 0.0

    def look_at(self, largest: float) -> None:
        """Chooses by the largest squared distance R^2 from the middle. By products a squared distance D is off by up
        to 8 eps (2 R)^2 = 2^-19 R^2, and a kernel of bandwidth s by that over 2 s^2 + D: 2^-7 where D is not below
        `floor`. A block with a smaller one is taken by differences."""
        narrowest = min(self.settings.bandwidths, default=0.0)
        self.floor = max(0.0, largest * 2**-12 - 2 * narrowest**2)
        self.differences = not largest < 1e36  # or NaN

    def within(self, a: _Sample, ratio: float, gradient: bool) -> Tensor:
        """Sum of k over pairs of a sample with itself: each pair of blocks once."""
        squares, others = [], []
        n = len(a.points)
        for begin in range(0, n, _ROWS):
            rows = slice(begin, min(begin + _ROWS, n))
            squares.append(self._block(a, rows, a, rows, ratio, gradient, False, diagonal=True))
            for column in range(rows.stop, n, _COLUMNS):
                columns = slice(column, min(column + _COLUMNS, n))
                others.append(self._block(a, rows, a, columns, ratio, gradient, gradient))
        return self._total(squares) + 2 * self._total(others)

    def across(self, a: _Sample, b: _Sample, of_a: bool, of_b: bool) -> Tensor:
        sums = []
        for begin in range(0, len(a.points), _ROWS):
            rows = slice(begin, min(begin + _ROWS, len(a.points)))
            for column in range(0, len(b.points), _COLUMNS):
                columns = slice(column, min(column + _COLUMNS, len(b.points)))
                sums.append(self._block(a, rows, b, columns, -1.0, of_a, of_b))
        return self._total(sums)

    def _total(self, sums: list) -> Tensor | float:
        return torch.stack(sums).sum(dtype=torch.float64) if self.value and sums else 0.0

    def _block(self, a, rows: slice, b, columns: slice, ratio: float, of_a: bool, of_b: bool, diagonal: bool = False):
        """Sum of k over the block; adds ratio times the weights at its rows, its columns, or both."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        D, E, F, W, *apart = [buffer[: shape[0] * shape[1]].view(shape) for buffer in self.scratch]
        differences = self._distances(a, rows, b, columns, D, E, apart, diagonal)
        slope = of_a or of_b
        total = self.kernel(D, E, F, W, slope, diagonal and self.settings.unbiased)
        if slope and differences:
            self._differences(a, rows, b, columns, W, E, apart, ratio, of_a, of_b)
        elif slope:
            if of_a:
                a.sums[rows].addmm_(W, b.with_one[columns], alpha=ratio)
            if of_b:
                b.sums[columns].addmm_(W.T, a.with_one[rows], alpha=ratio)
        return total

    def _distances(self, a, rows, b, columns, D, E, apart, diagonal: bool) -> bool:
        """D = rate |a_i - b_j|^2; whether by differences, which up to 4 dimensions stay in `apart`."""
        if not self.differences:
            torch.mm(a.left[rows], b.right[columns].T, out=D)
            if diagonal and self.floor:  # a point's distance to itself is known
                D.fill_diagonal_(self.rate * math.inf)
            nearest = (D.max() if self.rate < 0 else D.min()) / self.rate if self.floor else 0.0
            if nearest >= self.floor:
                D.clamp_(max=0.0) if self.rate < 0 else D.clamp_(min=0.0)
                if diagonal:
                    D.fill_diagonal_(0.0)
                return False
        for k, (p, q) in enumerate(zip(a.columns, b.columns)):
            t = apart[k] if len(apart) > k else apart[0]
            torch.sub(p[rows, None], q[columns], out=t)
            if k == 0:
                torch.mul(t, t, out=D)
            else:
                D.addcmul_(t, t)
        if self.rate != 1.0:
            D.mul_(self.rate)
        return True

    def _differences(self, a, rows, b, columns, W, E, apart, ratio, of_a, of_b) -> None:
        for k, (p, q) in enumerate(zip(a.columns, b.columns)):
            kept = len(apart) == len(a.columns)
            t = apart[k] if kept else torch.sub(p[rows, None], q[columns], out=apart[0])
            torch.mul(W, t, out=E)
            if of_a:
                a.add_difference(k, rows, E.sum(1), ratio)
            if of_b:
                b.add_difference(k, columns, E.sum(0), -ratio)

    # (D, two buffers, W, whether W is wanted, whether the diagonal counts for nothing) -> sum of k; fills W with K'

    def _gaussian(self, D, E, F, W, slope, hollow):
        if hollow:
            D.fill_diagonal_(-math.inf)
        total = 0.0
        for b, rate in enumerate(self.rates):
            if self.powers[b]:
                E.square_().square_()
            else:
                torch.exp(D if b == 0 else torch.mul(D, rate / self.rates[0], out=E), out=E)
            if self.value:
                total = total + E.sum()
            if slope:
                torch.mul(E, -rate, out=W) if b == 0 else W.add_(E, alpha=-rate)
        return total

    def _rational(self, D, E, F, W, slope, hollow):
        total, a = 0.0, self.settings.alpha
        for b, rate in enumerate(self.rates):
            torch.mul(D, rate, out=E).add_(1.0)
            torch.reciprocal(E, out=F) if a == 1.0 else torch.pow(E, -a, out=F)
            if hollow:
                F.fill_diagonal_(0.0)
            if self.value:
                total = total + F.sum()
            if slope:
                E = torch.div(F, E, out=E)
                torch.mul(E, -a * rate, out=W) if b == 0 else W.add_(E, alpha=-a * rate)
        return total

    def _energy(self, D, E, F, W, slope, hollow):
        torch.sqrt(D, out=E)
        total = -E.sum() if self.value else 0.0
        if slope:
            torch.reciprocal(E, out=W).mul_(-0.5).masked_fill_(D == 0, 0.0)
        return total
