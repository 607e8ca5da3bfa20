"""Differentiable augmentation of the discriminator's input, for training on few images.

D memorises a small data set. Random changes of real and generated images before D prevent that; they are
differentiable, so G still learns unchanged images (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient
GAN Training"). `ada_step` adapts the probability of the changes to how sure D is of real images (Karras et al. 2020,
"Training Generative Adversarial Networks with Limited Data").

Nothing here draws on the host, synchronises or reads a device's number on the host: a CUDA graph can capture all of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan import checks
from fastgan.formulas.augment import MOST, Augmentation
from fastgan.layers.filters import DTYPES
from fastgan.operators import augment as operators

POLICIES = ("color", "translation", "cutout", "flip")
TRANSLATION, CUTOUT = 1 / 8, 1 / 2  # of a side
_FIELDS = {
    **dict.fromkeys(("brightness", "saturation", "contrast"), (torch.float32, ())),
    **dict.fromkeys(("translation", "cutout_centre", "cutout_size"), (torch.int32, (2,))),
    "flip": (torch.bool, ()),
}


def augment(x: Tensor, parameters: Augmentation) -> Tensor:
    """Images after colour changes, flip, translation and cutout: one launch forward, one backward, no map saved.

        x1 = x + b                                          brightness
        x2 = s (x1 - mean_c x1) + mean_c x1                 saturation: the mean over the channels of a pixel
        x3 = c (x2 - mean x2) + mean x2                     contrast: the mean of the sample
        out[i, j] = x4[i + rows, j + columns], 0 outside    x4: x3, or its mirror image; 0 in the cutout

    with one b, s, c, ... a sample. If b = 0 and s = c = 1, colours stay bitwise equal and NaN stays in its place;
    otherwise a mean spreads NaN over its pixel or its sample.

    Args:
        x: (N, C, H, W), float16, bfloat16, float32 or float64; C is any number. Contiguous and channels_last images are
            read in place; others are copied first. Arithmetic in float32 (float64 for float64).
        parameters: the result of `draw_augmentation` for N samples, on the device of x. They get no gradient. Calls
            with the same parameters make the same changes.

    Returns:
        A tensor of the shape, dtype and layout of x, differentiable in x any number of times.

    Raises:
        TypeError: x is not a floating tensor; parameters that are not an `Augmentation`, or of another dtype.
        ValueError: x has not four dimensions or more than 2^30 elements a sample; parameters of another batch or
            device, or that require a gradient.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x: got {type(x).__name__}, expected a torch.Tensor")
    if x.dtype not in DTYPES:
        raise TypeError(f"x: got {x.dtype}, expected float16, bfloat16, float32 or float64")
    if x.layout is not torch.strided:
        raise ValueError(f"x: got a {x.layout} tensor, expected a dense one")
    if x.dim() != 4:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected (samples, channels, height, width)")
    if x.shape[1] * x.shape[2] * x.shape[3] > MOST:
        raise ValueError(f"x: got shape {tuple(x.shape)}, expected at most 2^30 elements a sample")
    if not isinstance(parameters, Augmentation):
        raise TypeError(f"parameters: got {type(parameters).__name__}, expected an Augmentation of draw_augmentation")
    for name, (dtype, rest) in _FIELDS.items():
        p = getattr(parameters, name)
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters.{name}: got {type(p).__name__}, expected a torch.Tensor")
        if p.dtype != dtype:
            raise TypeError(f"parameters.{name}: got {p.dtype}, expected {dtype}")
        expected = (x.shape[0], *rest)
        if p.shape != expected:
            raise ValueError(f"parameters.{name}: got shape {tuple(p.shape)}, expected {expected}, as x has samples")
        if p.device != x.device:
            raise ValueError(f"parameters.{name}: got a tensor on {p.device}, expected {x.device}, the device of x")
        if p.requires_grad:
            raise ValueError(f"parameters.{name}: got a tensor that requires a gradient, expected a constant")
    return operators.value(x, parameters)


def draw_augmentation(
    n: int,
    shape: Sequence[int],
    policy: Sequence[str] | str = ("color", "translation", "cutout"),
    p: float | Tensor = 1.0,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Augmentation:
    """Draw the parameters of `augment` for n images, on their device: one `torch.rand`, one launch.

        color          b ~ U(-0.5, 0.5), s ~ U(0, 2), c ~ U(0.5, 1.5)
        translation    rows and columns up to 1/8 of the side, rounded to whole pixels, in both directions
        cutout         half of each side, its centre anywhere in the image
        flip           left and right exchanged, with probability 1/2

    Each entry of the policy is applied to each sample with probability p. p = 1 without "flip" is DiffAugment (Zhao et
    al. 2020, section 3 and its code); a tensor p on the device is for ADA (Karras et al. 2020, section 3).

    One `torch.rand` draws 12 numbers a sample for every policy and p: a captured graph and a plain loop advance the
    generator equally. The result is not differentiable in p.

    Args:
        n: number of samples.
        shape: of the images; the last two entries are height and width, as in `x.shape`.
        policy: one or several of "color", "translation", "cutout" and "flip".
        p: a number from 0 to 1, or a 0-d floating tensor on the device, which is never read on the host.
        generator: on the device; by default the device's default generator.
        device: by default the device of p, else of the generator, else the CPU.

    Raises:
        TypeError: n, an entry of the policy, p or the generator of another type.
        ValueError: n below 0, a shape without height and width, an unknown policy, p outside [0, 1] or not 0-d, a
            generator or p on another device.
    """
    n = checks.whole("n", n, 0)
    height, width = _sides(shape)
    policy = _policy_names(policy)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: got {type(generator).__name__}, expected a torch.Generator")
    if isinstance(p, Tensor):
        if p.dim() or not p.is_floating_point():
            raise ValueError(
                f"p: got a {p.dtype} tensor of shape {tuple(p.shape)}, expected a floating one of shape ()"
            )
    else:
        p = checks.share("p", p)
    if device is None:
        device = p.device if isinstance(p, Tensor) else "cpu" if generator is None else generator.device
    device = torch.device(device)
    for name, given in (("p", p), ("generator", generator)):
        if isinstance(given, (Tensor, torch.Generator)) and not _same_device(given.device, device):
            raise ValueError(f"{name}: got one on {given.device}, expected {device}, the device of the images")
    u = torch.rand(n, 12, generator=generator, device=device, dtype=torch.float32)
    moves = [int(side * TRANSLATION + 0.5) for side in (height, width)]
    sizes = [int(side * CUTOUT + 0.5) for side in (height, width)]
    # An even size has its centre between two pixels: one more position.
    places = [side + 1 - size % 2 for side, size in zip((height, width), sizes)]
    bits = sum(1 << k for k, name in enumerate(POLICIES) if name in policy)
    given, chance = (p.detach(), 1.0) if isinstance(p, Tensor) else (None, p)
    return operators.drawn(u, given, chance, bits, [*moves, *sizes, *places])


@torch.no_grad()
def ada_step(p: Tensor, sign: Tensor, batch: int, target: float = 0.6, images: float = 500_000) -> Tensor:
    """Move p, in place, towards the probability at which D's certainty about real images, r_t, is `target`.

        p <- clip(p + sign(r_t - target) batch / images, 0, 1),    r_t = mean sign D(real)

    (Karras et al. 2020, section 3.1 and eq. 1). If r_t is 1, D is sure of every real image: it overfits, and p rises. p
    needs `images` images to rise from 0 to 1. NaN leaves p unchanged.

    Args:
        p: 0-d, float32 or float64, on the device.
        sign: r_t, 0-d, on that device: `logits.sign().mean()`, averaged over some batches.
        batch: real images since the last step.

    Returns:
        p itself.

    Raises:
        TypeError: p or sign is not a tensor of such a dtype; numbers of another type.
        ValueError: they are not 0-d or on two devices; p requires a gradient; batch below 1, images not above 0, a
            target outside [-1, 1].
    """
    for name, t, dtypes in (("p", p, DTYPES[2:]), ("sign", sign, DTYPES)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: got {type(t).__name__}, expected a 0-d torch.Tensor")
        if t.dtype not in dtypes:
            raise TypeError(f"{name}: got {t.dtype}, expected {' or '.join(str(dtype)[6:] for dtype in dtypes)}")
        if t.dim():
            raise ValueError(f"{name}: got shape {tuple(t.shape)}, expected ()")
    if sign.device != p.device:
        raise ValueError(f"sign: got a tensor on {sign.device}, expected {p.device}, the device of p")
    if p.requires_grad:
        raise ValueError("p: got a tensor that requires a gradient, expected a constant")
    step = checks.whole("batch", batch) / checks.positive("images", images)
    target = checks.finite("target", target)
    if not -1 <= target <= 1:
        raise ValueError(f"target: got {target}, expected a number from -1 to 1")
    return p.add_((sign - target).sign().to(p.dtype), alpha=step).clamp_(0, 1)


def _sides(shape: Sequence[int]) -> tuple[int, int]:
    if isinstance(shape, (str, Tensor)) or not isinstance(shape, Sequence) or len(shape) < 2:
        raise ValueError(f"shape: got {checks.shortened(shape)}, expected (..., height, width)")
    height, width = (checks.whole("shape", side, 0) for side in shape[-2:])
    return height, width


def _policy_names(policy: Sequence[str] | str) -> tuple[str, ...]:
    names = (policy,) if isinstance(policy, str) else tuple(checks.list_of(checks.text)("policy", policy))
    for name in names:
        if name not in POLICIES:
            close = difflib.get_close_matches({"colour": "color"}.get(name, name), POLICIES, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"policy: got {name!r}; {hint}expected some of {', '.join(map(repr, POLICIES))}")
    return names


def _same_device(given: torch.device, device: torch.device) -> bool:
    """A device without an index equals any index: PyTorch itself raises if a generator is on another GPU."""
    return given.type == device.type and (device.index is None or given.index in (None, device.index))
