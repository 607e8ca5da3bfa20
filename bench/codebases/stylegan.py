"""The operators of StyleGAN's layers in plain PyTorch, and the calls of its networks.

stylegan2-ada-pytorch (Karras et al. 2020, arXiv:2006.06676) and StyleGAN3-T (Karras et al. 2021, arXiv:2106.12423), at
256 x 256, with the channels, batch a GPU and half-precision layers of their own training settings on eight GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]

RESOLUTION, SMOOTH = 256, (1.0, 3.0, 3.0, 1.0)  # the taps of StyleGAN2's filter along an axis
BATCH2, BATCH3 = 8, 4  # images a GPU
MOST_CHANNELS, CHANNEL_BASE = 512, 16384  # channels at a resolution r: CHANNEL_BASE / r, at most MOST_CHANNELS


# The operators, in plain PyTorch.


def bias_act(
    x: Tensor, b: Tensor | None, act: str = "lrelu", gain: float = math.sqrt(2), clamp: float | None = None
) -> Tensor:
    """clamp(gain act(x + b)). act: "linear" or "lrelu", whose slope is 0.2."""
    if b is not None:
        x = x + b.reshape(1, -1, *[1] * (x.dim() - 2))
    x = F.leaky_relu(x, 0.2) if act == "lrelu" else x
    x = x * gain if gain != 1 else x
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: Pair = (1, 1),
    down: Pair = (1, 1),
    padding: tuple[int, ...] = (0, 0, 0, 0),
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Insert zeros between pixels, pad or crop, convolve each channel, keep every down-th pixel."""
    n, c, h, w = x.shape
    if up != (1, 1):
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up[0] - 1, 0, 0, 0, up[1] - 1)).reshape(n, c, h * up[1], w * up[0])
    x = F.pad(x, padding)
    f = f.to(x.dtype) * gain ** (f.dim() / 2)
    f = f if flip else f.flip(tuple(range(f.dim())))
    if f.dim() == 1:
        x = F.conv2d(x, f.expand(c, 1, 1, -1), groups=c)
        x = F.conv2d(x, f[:, None].expand(c, 1, -1, 1), groups=c)
    else:
        x = F.conv2d(x, f.expand(c, 1, *f.shape), groups=c)
    return x[:, :, :: down[1], :: down[0]]


def filtered_lrelu(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, ...] = (0, 0, 0, 0),
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
) -> Tensor:
    """Add the bias, upsample by `up`, apply leaky ReLU, gain and clamp, filter, keep every down-th pixel."""
    x = x if b is None else x + b[:, None, None]
    x = F.leaky_relu(upfirdn2d(x, fu, (up, up), padding=padding, gain=float(up * up)), slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return upfirdn2d(x, fd, down=(down, down))


def smooth() -> Tensor:
    """StyleGAN2's resampling filter of 4 x 4 taps, whose sum is 1."""
    f = torch.tensor(SMOOTH)
    return torch.outer(f, f) / f.sum() ** 2


def lowpass(taps: int, cutoff: float, width: float, rate: float) -> Tensor:
    """A Kaiser-windowed sinc whose sum is 1, for both axes: StyleGAN3's filters (Karras et al. 2021, appendix C.1).

    cutoff, width of the transition and sampling rate in cycles an image. One tap of 1 if taps is 1."""
    if taps == 1:
        return torch.ones(1)
    attenuation = 2.285 * (taps - 1) * math.pi * width / (rate / 2) + 7.95  # dB, by Kaiser's formulas
    beta = 0.1102 * (attenuation - 8.7) if attenuation > 50 else 0.0
    if 21 < attenuation <= 50:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    at = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)
    f = torch.sinc(2 * cutoff / rate * at) * window
    return (f / f.sum()).float()


# The calls.


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer's operator.

    op: "bias_act", "upfirdn2d" or "filtered_lrelu". shape: of x. filters: f of upfirdn2d; fu and fd of filtered_lrelu.
    settings: the other arguments, by their names in the functions above."""

    name: str
    title: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    settings: dict
    filters: tuple[Tensor, ...] = field(default=(), compare=False)
    biased: bool = False


def stylegan2_calls() -> list[LayerCall]:
    """Generator and discriminator, the largest images first: from 32 x 32 on in float16."""
    found = []
    for r in (256, 128, 64, 32, 16, 8, 4):
        c, dtype = min(CHANNEL_BASE // r, MOST_CHANNELS), "float16" if r >= 32 else "float32"
        shape, f, title = (BATCH2, c, r, r), (smooth(),), f"StyleGAN2, {r} × {r}"
        twice, half = dict(up=(2, 2), padding=(2, 1, 2, 1), gain=4.0), dict(down=(2, 2), padding=(1,) * 4)
        clamped = dict(clamp=256.0)
        rgb = clamped | dict(act="linear", gain=1.0)
        found.append(LayerCall(f"s2-lrelu-{r}", f"{title}: bias, lrelu", "bias_act", shape, dtype, clamped, (), True))
        if r > 4:
            # A transposed convolution leaves one row and column more, which the blur removes.
            blurred = dict(padding=(1,) * 4, gain=4.0)
            wider = (BATCH2, c, r + 1, r + 1)
            found += [
                LayerCall(f"s2-blur-up-{r}", f"{title}: blur after up", "upfirdn2d", wider, dtype, blurred, f),
                LayerCall(
                    *(f"s2-blur-down-{r}", f"{title}: blur before down", "upfirdn2d", shape, dtype),
                    *(dict(padding=(2,) * 4), f),
                ),
                LayerCall(f"s2-skip-down-{r}", f"{title}: skip down", "upfirdn2d", shape, dtype, half, f),
                LayerCall(
                    f"s2-skip-up-{r}", f"{title}: RGB up", "upfirdn2d", (BATCH2, 3, r // 2, r // 2), "float32", twice, f
                ),
            ]
        image = (BATCH2, 3, r, r)
        found.append(LayerCall(f"s2-rgb-{r}", f"{title}: bias of RGB", "bias_act", image, dtype, rgb, (), True))
    mapping = "StyleGAN2, mapping: bias, lrelu"
    return [*found, LayerCall("s2-mapping", mapping, "bias_act", (BATCH2, 512), "float32", {}, (), True)]


@dataclass(frozen=True)
class Layer3:
    """A layer of StyleGAN3-T's synthesis network. sizes: pixels along a side of the input (after the convolution) and
    of the output. rates: samples per image of the input, between the filters, of the output."""

    channels: int
    sizes: Pair
    rates: tuple[int, int, int]
    filters: tuple[Tensor, Tensor]
    padding: tuple[int, int, int, int]
    rgb: bool


def stylegan3_layers(
    resolution: int = RESOLUTION, layers: int = 14, base: int = CHANNEL_BASE, most: int = MOST_CHANNELS
) -> list[Layer3]:
    """Cutoffs, sampling rates and sizes by Karras et al. 2021, section 3.2 and appendix C: the cutoff grows from 2
    cycles an image to half the resolution, geometrically, over all but the last two layers; the stopband likewise; the
    rate is the power of two that holds the stopband; 10 pixels of margin a side."""
    critical, margin, taps, kernel = 2, 10, 6, 3
    first, last = (2.0, 2.0**2.1), (resolution / 2, resolution / 2 * 2.0**0.3)
    steps = [min(i / (layers - critical), 1.0) for i in range(layers + 1)]
    cutoffs, stops = ([a * (z / a) ** e for e in steps] for a, z in zip(first, last))
    rates = [2 ** math.ceil(math.log2(min(2 * s, resolution))) for s in stops]
    widths = [max(s, r / 2) - c for s, r, c in zip(stops, rates, cutoffs)]
    sizes = [r + 2 * margin for r in rates[:-2]] + [resolution] * 2
    found = []
    for i in range(layers + 1):
        before, rgb = max(i - 1, 0), i == layers
        between = max(rates[before], rates[i]) * (1 if rgb else 2)
        up, down = between // rates[before], between // rates[i]
        counts = [1 if rgb or k == 1 else taps * k for k in (up, down)]
        ends = ((counts[0], cutoffs[before], widths[before]), (counts[1], cutoffs[i], widths[i]))
        filters = tuple(lowpass(n, c, 2 * w, between) for n, c, w in ends)
        channels = 3 if rgb else round(min(base / 2 / cutoffs[i], most))
        incoming = sizes[before] + (0 if rgb else kernel - 1)  # the convolution pads by all but one of its taps
        total = (sizes[i] - 1) * down + 1 - incoming * up + counts[0] + counts[1] - 2
        front = (total + up - 1) // 2
        padding = (front, total - front) * 2
        found.append(Layer3(channels, (incoming, sizes[i]), (rates[before], between, rates[i]), filters, padding, rgb))
    return found


def stylegan3_calls() -> list[LayerCall]:
    """The distinct calls of the synthesis network, the largest images first; the last four resolutions are in
    float16."""
    found = []
    for i, layer in enumerate(stylegan3_layers()):
        up, down = layer.rates[1] // layer.rates[0], layer.rates[1] // layer.rates[2]
        settings = dict(up=up, down=down, padding=layer.padding, clamp=256.0)
        settings |= dict(gain=1.0, slope=1.0) if layer.rgb else {}
        dtype = "float16" if 16 * layer.rates[2] > RESOLUTION else "float32"
        shape = (BATCH3, layer.channels, layer.sizes[0], layer.sizes[0])
        title = f"StyleGAN3-T, layer {i}, {layer.sizes[1]} × {layer.sizes[1]}: filtered_lrelu"
        call = LayerCall(f"s3-{i}", title, "filtered_lrelu", shape, dtype, settings, layer.filters, True)
        if not any((c.shape, c.dtype, c.settings) == (shape, dtype, settings) for c in found):
            found.append(call)
    return found[::-1]
