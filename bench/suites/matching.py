"""`python -m bench matching`: feature matching over the maps of real discriminators, and what a gradient penalty costs.

A configuration is one codebase's feature matching at one of its own training settings, at full size on a GPU and cut
down (one sample, a shorter or smaller one) on a CPU. `eager` is that codebase's formula, restated here from its source;
the others are what a user can put in its place. Each is forward and backward, into the maps of generated data; real
maps want no gradient, but in the configuration that says so.

The second table is a whole discriminator step with R1, exact and approximate, on a small convolutional D.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgan
from bench.harness import environment, report
from bench.harness.clock import interval, machine, poison, ratio, sample_rounds
from bench.harness.progress import progress
from bench.harness.promises import UNMEASURED, all_right, percent, times
from bench.suites.contenders import DTYPES, LOSS_SCALE, _ulp
from bench.suites.losses import COMPILE, _one_line
from fastgan.compat import audiocraft, bigvgan, hifigan, pix2pixhd, spade, vits
from fastgan.penalties import lazy

EAGER, FOREACH, DROP_IN, SIGNS, DIRECT, COPY = "eager", "foreach", "drop-in", "signs", "value_and_grad", "copy"
CONTENDERS = {
    EAGER: "the codebase's formula in PyTorch, as it is written there",
    FOREACH: "the same with `torch._foreach_sub` and `_foreach_abs` over all maps at once",
    COMPILE: "eager, compiled in the default mode",
    DROP_IN: "the member of fastgan.compat that takes its place: both maps are read again in the backward pass",
    SIGNS: 'fastgan.feature_matching_loss(..., save="signs"): a byte an element is saved instead of the maps',
    DIRECT: "fastgan.feature_matching_value_and_grad: loss and gradients in one call, no autograd",
    COPY: "a copy of as many bytes as value_and_grad has to move, for scale",
}
OURS = (DROP_IN, SIGNS, DIRECT)
Shapes = list[list[tuple[int, ...]]]  # of each discriminator's maps
Lists = list[list[Tensor]]


@dataclass(frozen=True)
class Configuration:
    """full, small: the maps of one side on a GPU, on a CPU. eager, drop_in: (fake maps, real maps) -> loss.
    options: of fastgan.feature_matching_loss, for the same loss. attached: the real maps want gradients too."""

    name: str
    title: str
    full: Shapes
    small: Shapes
    eager: Callable[[Lists, Lists], Tensor]
    drop_in: Callable[[Lists, Lists], Tensor]
    options: dict
    notes: str
    dtype: str = "float32"
    attached: bool = False

    def shapes(self, device: str, quick: bool) -> Shapes:
        if not quick:
            return self.full if device == "cuda" else self.small
        return [[(n, max(1, c // 16), *rest) for n, c, *rest in maps] for maps in self.small]


@dataclass(frozen=True)
class Batch:
    """leaves: the maps that want gradients, those of generated data first."""

    fake: Lists
    real: Lists
    leaves: list[Tensor]
    used: tuple[list[Tensor], list[Tensor]]


# The maps, from the layers of the discriminators that make them.


def _halved(n: int, times: int = 1) -> int:
    return -(-n // times)


def period_maps(batch: int, samples: int, always_pad: bool = False) -> Shapes:
    """HiFi-GAN's multi-period discriminator: four layers of stride 3, one of stride 1, the logits."""
    found = []
    for p in (2, 3, 5, 7, 11):
        rest, length, maps = samples % p, samples // p, []
        length += bool(rest) or always_pad
        for channels, stride in ((32, 3), (128, 3), (512, 3), (1024, 3), (1024, 1), (1, 1)):
            length = _halved(length, stride)
            maps.append((batch, channels, length, p))
        found.append(maps)
    return found


def scale_maps(batch: int, samples: int, layers: Sequence[tuple[int, int]], scales: int) -> Shapes:
    """Convolutions of (channels, stride) on a waveform, and on it pooled by two."""
    found = []
    for _ in range(scales):
        length, maps = samples, []
        for channels, stride in layers:
            length = _halved(length, stride)
            maps.append((batch, channels, length))
        found.append(maps)
        samples = samples // 2 + 1
    return found


def spectrogram_maps(batch: int, frames: int, bins: int, channels: int = 32) -> list[tuple[int, ...]]:
    """Five layers on a spectrogram, of which the second to the fourth halve the frequencies."""
    widths = [bins]
    for _ in range(3):
        widths.append(_halved(widths[-1], 2))
    return [(batch, channels, frames, width) for width in (*widths, widths[-1])]


def hifigan_maps(batch: int, samples: int) -> Shapes:
    layers = ((128, 1), (128, 2), (256, 2), (512, 4), (1024, 4), (1024, 1), (1024, 1), (1, 1))
    return period_maps(batch, samples) + scale_maps(batch, samples, layers, 3)


def vits_maps(batch: int, samples: int) -> Shapes:
    layers = ((16, 1), (64, 4), (256, 4), (1024, 4), (1024, 4), (1024, 1), (1, 1))
    return scale_maps(batch, samples, layers, 1) + period_maps(batch, samples)


def bigvgan_maps(batch: int, samples: int) -> Shapes:
    """With the constant-Q discriminator, of 9 octaves, 128 filters and twice the sample rate."""
    transforms = ((512, 24), (256, 36), (256, 48))
    return period_maps(batch, samples) + [
        spectrogram_maps(batch, 2 * samples // hop + 1, 9 * bins, 128) for hop, bins in transforms
    ]


def dac_maps(batch: int, samples: int) -> Shapes:
    """Its spectrograms are cut into five bands, each with layers of its own; the logits come last in each list."""
    found = period_maps(batch, samples, always_pad=True)
    for window in (2048, 1024, 512):
        bins, frames, maps, width = window // 2 + 1, _halved(samples, window // 4), [], 0
        for low, high in ((0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)):
            maps += spectrogram_maps(batch, frames, int(high * bins) - int(low * bins))
            width += maps[-1][-1]
        found.append([*maps, (batch, 1, frames, width)])
    return found


def encodec_maps(batch: int, samples: int) -> Shapes:
    transforms = ((1024, 256), (2048, 512), (512, 128), (256, 64), (128, 32))
    return [spectrogram_maps(batch, (samples - n) // hop + 1, n // 2 + 1) for n, hop in transforms]


def patch_maps(batch: int, height: int, width: int, scales: int) -> Shapes:
    """pix2pixHD's and SPADE's: four layers of kernel 4 and padding 2, the last of stride 1; the logits."""
    found = []
    for _ in range(scales):
        h, w, maps = height, width, []
        for channels, stride in ((64, 2), (128, 2), (256, 2), (512, 1), (1, 1)):
            h, w = h // stride + 1, w // stride + 1
            maps.append((batch, channels, h, w))
        found.append(maps)
        height, width = _halved(height, 2), _halved(width, 2)
    return found


# What the codebases compute. Restated from their sources.


def _hifigan(fake: Lists, real: Lists, widen: Callable = lambda x: x) -> Tensor:
    loss = 0
    for dr, dg in zip(real, fake):
        for rl, gl in zip(dr, dg):
            loss += torch.mean(torch.abs(widen(rl) - widen(gl)))
    return loss * 2


def _vits(fake: Lists, real: Lists) -> Tensor:
    return _hifigan(fake, [[x.detach() for x in maps] for maps in real], Tensor.float)


def _dac(fake: Lists, real: Lists) -> Tensor:
    loss = 0
    for i in range(len(fake)):
        for j in range(len(fake[i]) - 1):
            loss += F.l1_loss(fake[i][j], real[i][j].detach())
    return loss


def _audiocraft(fake: Lists, real: Lists) -> Tensor:
    """`FeatureMatchingLoss`, normalised; it sums up |real| as well, and makes no use of it."""
    total = torch.tensor(0.0, device=fake[0][0].device)
    for maps, others in zip(fake, real):
        loss = torch.tensor(0.0, device=fake[0][0].device)
        scale = torch.tensor(0.0, device=fake[0][0].device)
        for x, other in zip(maps, others):
            loss = loss + F.l1_loss(x, other)
            scale = scale + torch.mean(torch.abs(other))
        total = total + loss / len(maps)
    return total / len(fake)


def _pix2pixhd(fake: Lists, real: Lists) -> Tensor:
    loss = 0
    for i in range(len(fake)):
        for j in range(len(fake[i]) - 1):
            loss += 1.0 / len(fake) * (4.0 / (3 + 1)) * F.l1_loss(fake[i][j], real[i][j].detach()) * 10.0
    return loss


def _spade(fake: Lists, real: Lists) -> Tensor:
    loss = torch.zeros(1, device=fake[0][0].device)
    for i in range(len(fake)):
        for j in range(len(fake[i]) - 1):
            loss = loss + F.l1_loss(fake[i][j], real[i][j].detach()) * 10.0 / len(fake)
    return loss.mean()


_OF_MAPS = audiocraft.FeatureMatchingLoss()  # of a sub-adversary; its AdversarialLoss divides by their number
_MEANS = dict(reduce_layers="mean", reduce_discriminators="mean")
_CUT = dict(exclude_last=True)

CONFIGURATIONS = (
    Configuration(
        "hifigan",
        "HiFi-GAN V1",
        hifigan_maps(16, 8192),
        hifigan_maps(1, 8192),
        eager=_hifigan,
        drop_in=lambda fake, real: hifigan.feature_loss(real, fake),
        options=dict(weights=2.0),
        notes="5 periods and 3 scales, segments of 8192; b16 on a GPU, b1 on a CPU",
    ),
    Configuration(
        "hifigan-attached",
        "HiFi-GAN V1, real maps attached",
        hifigan_maps(16, 8192),
        hifigan_maps(1, 8192),
        eager=_hifigan,
        drop_in=lambda fake, real: hifigan.feature_loss(real, fake),
        options=dict(weights=2.0, detach_real=False),
        notes="as its train.py calls it: the real maps get gradients too, which nobody uses",
        attached=True,
    ),
    Configuration(
        "bigvgan-v2",
        "BigVGAN-v2 24k",
        bigvgan_maps(4, 65536),
        bigvgan_maps(1, 8192),
        eager=_hifigan,
        drop_in=lambda fake, real: bigvgan.feature_loss(real, fake),
        options=dict(weights=2.0),
        notes="5 periods and 3 constant-Q transforms; b4, segments of 65536 on a GPU, b1 of 8192 on a CPU",
    ),
    Configuration(
        "dac",
        "DAC 44k",
        dac_maps(12, 16758),
        dac_maps(1, 8379),
        eager=_dac,
        drop_in=lambda fake, real: fastgan.feature_matching_loss(fake, real, exclude_last=True),
        options=_CUT,
        notes="5 periods and 3 spectrograms of 5 bands; b12, 0.38 s on a GPU, b1 of half of that on a CPU; "
        "the drop-in is the call in compat.dac.GANLoss.generator_loss",
    ),
    Configuration(
        "encodec",
        "EnCodec 24k",
        encodec_maps(8, 24000),
        encodec_maps(1, 12000),
        eager=_audiocraft,
        drop_in=lambda fake, real: _OF_MAPS(fake, real) / len(fake),
        options=_MEANS,
        notes="audiocraft's FeatureMatchingLoss over 5 spectrograms; b8, 1 s on a GPU, b1 of half a second on a CPU",
    ),
    Configuration(
        "vits",
        "VITS fp16",
        vits_maps(64, 8192),
        vits_maps(1, 8192),
        eager=_vits,
        drop_in=lambda fake, real: vits.feature_loss(real, fake),
        options=dict(weights=2.0),
        notes="a scale and 5 periods, float16 maps, widened one by one, under a loss scale of 2^15; b64, b1 on a CPU",
        dtype="float16",
    ),
    Configuration(
        "pix2pixhd",
        "pix2pixHD",
        patch_maps(1, 1024, 2048, 3),
        patch_maps(1, 256, 512, 3),
        eager=_pix2pixhd,
        drop_in=pix2pixhd.feature_matching_loss,
        options=_CUT | dict(weights=10.0, reduce_discriminators="mean"),
        notes="3 scales of 2048×1024 on a GPU, of 512×256 on a CPU",
    ),
    Configuration(
        "spade",
        "SPADE 256",
        patch_maps(4, 256, 256, 2),
        patch_maps(1, 256, 256, 2),
        eager=_spade,
        drop_in=spade.feature_matching_loss,
        options=_CUT | dict(weights=10.0, reduce_discriminators="mean"),
        notes="2 scales; b4, b1 on a CPU",
    ),
)
QUICK = ("hifigan", "spade")


def draw(configuration: Configuration, device: str, quick: bool, generator: torch.Generator) -> Batch:
    """Maps as a leaky ReLU leaves them: N(0, 1), the negative half of it times 0.1."""
    dtype = DTYPES[configuration.dtype]

    def tensor(shape: tuple[int, ...]) -> Tensor:
        return F.leaky_relu(torch.randn(shape, generator=generator, device=device), 0.1).to(dtype)

    shapes = configuration.shapes(device, quick)
    return batch_of(configuration, *([[tensor(shape) for shape in maps] for maps in shapes] for _ in range(2)))


def batch_of(configuration: Configuration, fake: Lists, real: Lists) -> Batch:
    cut = -1 if configuration.options.get("exclude_last") else None
    used = [x for maps in fake for x in maps[:cut]], [x for maps in real for x in maps[:cut]]
    leaves = [x.requires_grad_() for x in (*used[0], *(used[1] if configuration.attached else ()))]
    return Batch(fake, real, leaves, used)


Step = Callable[[Batch], tuple[Tensor, Sequence[Tensor]]]


def _forward_backward(loss_of: Callable[[Lists, Lists], Tensor], scale: Tensor | None) -> Step:
    def step(batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        loss = loss_of(batch.fake, batch.real)
        return loss, torch.autograd.grad(loss, batch.leaves, scale)

    return step


def steps(c: Configuration, batch: Batch, scale: Tensor | None) -> dict[str, Callable[[], Step]]:
    """How to make each contender that the configuration has."""
    cut = c.options.get("exclude_last")
    weights = _weights(c, batch)

    def foreach() -> Step:
        def loss_of(fake: Lists, real: Lists) -> Tensor:
            a, b = ([x for maps in lists for x in (maps[:-1] if cut else maps)] for lists in (fake, real))
            if a[0].dtype == torch.float16:
                a, b = [x.float() for x in a], [x.float() for x in b]
            gaps = torch._foreach_abs(torch._foreach_sub(a, b))
            return sum(weight * gap.mean() for weight, gap in zip(weights, gaps))

        return _forward_backward(loss_of, scale)

    def compiled() -> Step:
        torch._dynamo.reset()  # one specialised program a configuration
        return _forward_backward(torch.compile(c.eager), scale)

    def direct() -> Step:
        options = {key: value for key, value in c.options.items() if key != "detach_real"}

        def step(batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
            out = fastgan.feature_matching_value_and_grad(batch.fake, batch.real, **options, grad_scale=scale)
            return out.loss, out.grads

        return step

    def signs(fake: Lists, real: Lists) -> Tensor:
        return fastgan.feature_matching_loss(fake, real, **c.options, save="signs")

    steps = {
        EAGER: lambda: _forward_backward(c.eager, scale),
        FOREACH: foreach,
        COMPILE: compiled,
        DROP_IN: lambda: _forward_backward(c.drop_in, scale),
        SIGNS: lambda: _forward_backward(signs, scale),
    }
    return steps if c.attached else steps | {DIRECT: direct}  # value_and_grad has no gradients of real maps


def _weights(c: Configuration, batch: Batch) -> list[float]:
    """w_k of each map that is used."""
    cut, weights = c.options.get("exclude_last", False), []
    for maps in batch.fake:
        count = len(maps) - cut
        share = 1.0 / count if c.options.get("reduce_layers") == "mean" else 1.0
        share /= len(batch.fake) if c.options.get("reduce_discriminators") == "mean" else 1
        weights += [c.options.get("weights", 1.0) * share] * count
    return weights


def why_wrong(result, batch: Batch, weights: Sequence[float], scale: float, ours: bool) -> tuple[str | None, float]:
    """(None, or what is wrong; the worst relative error of a gradient): against sum_k w_k mean |fake_k - real_k| and
    its gradient in float64, map by map, per element, relative. Ours to half a unit in the last place and 5e-6, others
    to 4 eps."""
    loss, grads = result
    exact, worst, k = 0.0, 0.0, len(weights)
    eps = torch.finfo(batch.leaves[0].dtype).eps
    if len(grads) != len(batch.leaves):
        return f"{len(grads)} gradients for {len(batch.leaves)} maps", math.inf
    for i, (x, got) in enumerate(zip(batch.leaves, grads)):
        a, b = (side[i % k].detach().double() for side in batch.used)
        gap = a - b
        if i < k:
            exact += weights[i] * gap.abs().mean().item()
        if got is None or got.shape != x.shape or got.dtype != x.dtype:
            return f"gradient of map {i}: not a {x.dtype} tensor of the map's shape", math.inf
        want = gap.sign_().mul_((1 if i < k else -1) * weights[i % k] * scale / gap.numel())
        error, size = (got.double() - want).abs(), want.abs()
        bound = size * 5e-6 + 0.51 * _ulp(size, x.dtype) if ours else size * (4 * eps) + _ulp(size, x.dtype)
        worst = max(worst, (error / size).nan_to_num(nan=0.0).max().item())
        if (wrong := ~((error <= bound) | ((size == 0) & (error == 0)))).any():
            at = int(wrong.flatten().nonzero()[0])
            found, wanted = got.flatten()[at].item(), want.flatten()[at].item()
            return f"gradient of map {i}, element {at}: {found:.9g}, float64 gives {wanted:.9g}", worst
    if not abs(loss.item() - exact) <= (5e-6 if ours else 1e-5) * exact:
        return f"loss {loss.item():.9g}, float64 gives {exact:.9g}", math.inf
    return None, worst


def run(
    device: str,
    only: Sequence[str] | None = None,
    *,
    quick: bool = False,
    budget_s: float | None = None,
    limit_s: float | None = None,
    compiled: bool = True,
    commit: str | None = None,
    out: Path | None = None,
) -> dict:
    """The results, as they stand in matching.json. only: names of configurations, and "penalties" for the second
    table; all of them, or with `quick` a few, by default. `out` is written after every one."""
    first, *rest = (c.name for c in CONFIGURATIONS)
    known = [first, "penalties", *rest]  # what is promised first, in case the limit is reached
    if only is None:
        only = [*QUICK, "penalties"] if quick else known
    if unknown := set(only) - set(known):
        raise ValueError(f"configuration {sorted(unknown)[0]!r}: expected one of {', '.join(known)}")
    if budget_s is None:
        budget_s = 0.3 if quick else 2.0 if device == "cuda" else 6.0
    if limit_s is None:
        limit_s = 300.0
    results = {
        "suite": "matching",
        "environment": environment.describe(device, commit),
        "device_type": device,
        "quick": quick,
        "contenders": CONTENDERS,
        "cells": [],
        "penalties": None,
        "skipped": [],
    }
    begin = time.perf_counter()
    bar = progress([name for name in known if name in only], "matching")
    for name in bar:
        if time.perf_counter() - begin > limit_s:
            results["skipped"].append({"name": name, "why": f"the run's limit of {limit_s:g} s was reached"})
            continue
        bar.set_postfix_str(name)
        if name == "penalties":
            results["penalties"] = penalties(device, quick, budget_s, compiled)
        else:
            configuration = next(c for c in CONFIGURATIONS if c.name == name)
            results["cells"].append(cell(device, configuration, quick, budget_s, compiled))
        results["seconds"] = round(time.perf_counter() - begin, 1)
        if out is not None:
            environment.write_json(out, results)
    return results


def cell(device: str, configuration: Configuration, quick: bool, budget_s: float, compiled: bool = True) -> dict:
    """One configuration: the gate, then times in interleaved rounds, then what each call launches and allocates."""
    host, dtype = machine(device, quick), DTYPES[configuration.dtype]
    scale_value = LOSS_SCALE if configuration.dtype == "float16" else 1.0
    scale = torch.tensor(scale_value, device=device) if configuration.dtype == "float16" else None
    generator = torch.Generator(device=device).manual_seed(int(time.time_ns()) & 0xFFFFFFFF)
    batch = draw(configuration, device, quick, generator)
    weights, elements = _weights(configuration, batch), sum(x.numel() for x in batch.used[0])
    written = 1 + configuration.attached
    # bytes an element that have to be moved: maps read, signs written and read, gradients written
    held = device == "cpu" and dtype == torch.float32 and not configuration.attached  # read once, in the forward pass
    moved = {
        DROP_IN: ((2 if held else 4) + written) * dtype.itemsize,
        SIGNS: (2 + written) * dtype.itemsize + 2,
        DIRECT: (2 + written) * dtype.itemsize,
        COPY: 3 * dtype.itemsize,
    }
    rows, calls = {}, {}
    for name, make in steps(configuration, batch, scale).items():
        row = rows[name] = {"contender": name}
        if name == COMPILE and not compiled:
            row["error"] = "left out with --no-compile"
            continue
        try:
            begin = time.perf_counter()
            step = make()
            for x in batch.leaves[:3]:
                poison(device, x.shape, dtype)
            result = step(batch)
            host.synchronize()
            row["first_call_s"] = round(time.perf_counter() - begin, 3)
            wrong, worst = why_wrong(result, batch, weights, scale_value, name in OURS)
            del result
            row["worst_relative_error"] = worst if math.isfinite(worst) else None
            if wrong:
                row["error"] = f"wrong result, not timed: {wrong}"
            else:
                calls[name] = lambda _, step=step: step(batch)
                for i in range(3):
                    calls[name](i)
        except Exception as error:  # a contender that cannot run here is a row that says so
            row["error"] = _one_line(error)
    source = torch.ones(elements * 3 // 2, dtype=dtype, device=device)
    target = torch.empty_like(source)
    calls[COPY], rows[COPY] = (lambda _: target.copy_(source)), {"contender": COPY}
    _time(host, rows, calls, budget_s, quick)
    for name, row in rows.items():
        if name in moved and f"{host.kinds[-1]}_us" in row:
            row["bytes"] = moved[name] * elements
            row["bytes_per_s"] = row["bytes"] / (row[f"{host.kinds[-1]}_us"]["median"] * 1e-6)
    for name in OURS:
        if "bytes_per_s" in rows.get(name, {}):
            scaled = rows[name]["bytes"] / rows[COPY]["bytes"]
            of_copy = rows[name].pop(f"{host.kinds[-1]}_of_copy")
            rows[name]["share_of_copy"] = {key: value * scaled for key, value in of_copy.items()}
    return {
        "name": configuration.name,
        "title": configuration.title,
        "notes": configuration.notes,
        "dtype": configuration.dtype,
        "shapes": [[list(x.shape) for x in maps] for maps in batch.fake],
        "pairs": len(batch.used[0]),
        "n": elements,
        "rows": list(rows.values()),
    }


def _time(host, rows: dict[str, dict], calls: dict[str, Callable], budget_s: float, quick: bool) -> None:
    """Puts times, launches and memory into the rows."""
    samples = sample_rounds(host, calls, budget_s, at_least=5 if quick else 9)
    for name, kinds in samples.items():
        row = rows[name]
        for kind, values in kinds.items():
            row[f"{kind}_us"] = interval(values)
            for other, column in ((EAGER, "speedup"), (COMPILE, "against_compile")):
                if other in samples and name not in (COPY, other * (other == COMPILE)):
                    row[f"{kind}_{column}"] = ratio(samples[other][kind], values)
            if name in OURS and COPY in samples and kind == host.kinds[-1]:
                row[f"{kind}_of_copy"] = ratio(samples[COPY][kind], values)
        row["launches"] = host.launches(calls[name])
        row["peak_bytes"] = host.peak_bytes(calls[name])


# What a gradient penalty costs.

NONE, EXACT, LAZY, APPROXIMATE = "no penalty", "R1", "R1 at every 16th step", "approximate R1"
COMPILED_NONE, COMPILED = "no penalty, D compiled", "approximate R1, D compiled"
PENALTIES = {
    NONE: "D's non-saturating loss of real and generated images, forward and backward",
    EXACT: "and fastgan.r1_penalty at every step: a double backward, so that D cannot be compiled",
    LAZY: "the same at every 16th step, times 16 (`fastgan.penalties.lazy`); mean over 16 steps",
    APPROXIMATE: "and fastgan.approximate_r1_penalty at every step",
    COMPILED_NONE: "the first with torch.compile(D)",
    COMPILED: "approximate R1 with torch.compile(D)",
}


def small_discriminator(channels: int = 32) -> nn.Sequential:
    """Three convolutions and a linear layer, for images of 3 x 32 x 32."""
    layers, width = [], 3
    for k in range(3):
        layers += [nn.Conv2d(width, channels << k, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels << k
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, 1))


def penalties(device: str, quick: bool, budget_s: float, compiled: bool = True) -> dict:
    """Step cost of each way to penalise a small convolutional D; how far the approximation is from R1."""
    host = machine(device, quick)
    batch = 4 if quick else 64 if device == "cuda" else 16
    torch.manual_seed(0)
    discriminator = small_discriminator(4 if quick else 32).to(device)
    real, fake = (torch.rand(batch, 3, 32, 32, device=device) * 2 - 1 for _ in range(2))

    def step(penalty: Callable | None, d: nn.Module = discriminator, weight: float = 1.0) -> Tensor:
        loss = fastgan.discriminator_loss(d(real), d(fake), "nonsaturating")
        if penalty is not None:
            loss = loss + weight * penalty(d, real, 1.0)
        discriminator.zero_grad()
        loss.backward()
        return loss

    def sixteen() -> None:
        for i in range(16):
            factor = lazy(i, 16)
            step(fastgan.r1_penalty if factor else None, weight=factor)

    calls = {
        NONE: lambda _: step(None),
        EXACT: lambda _: step(fastgan.r1_penalty),
        LAZY: lambda _: sixteen(),
        APPROXIMATE: lambda _: step(fastgan.approximate_r1_penalty),
    }
    rows = {name: {"contender": name} for name in PENALTIES}
    if compiled:
        torch._dynamo.reset()
        program = torch.compile(discriminator)
        calls[COMPILED_NONE] = lambda _: step(None, program)
        calls[COMPILED] = lambda _: step(fastgan.approximate_r1_penalty, program)
    for name in list(calls):
        try:
            for i in range(3):
                calls[name](i)
        except Exception as error:
            rows[name]["error"] = _one_line(error)
            del calls[name]
    for name in rows:
        if name not in calls:
            rows[name].setdefault("error", "left out with --no-compile")
    samples = sample_rounds(host, calls, budget_s, at_least=5 if quick else 9)
    for kind in host.kinds:
        samples[LAZY][kind] = [value / 16 for value in samples[LAZY][kind]]
        for name in samples:
            rows[name][f"{kind}_us"] = interval(samples[name][kind])
            rows[name][f"{kind}_cost"] = ratio(samples[name][kind], samples[NONE][kind])
            rows[name][f"{kind}_against_r1"] = ratio(samples[EXACT][kind], samples[name][kind])
    for name in samples:
        rows[name]["peak_bytes"] = host.peak_bytes(calls[name])
    return {"batch": batch, "rows": list(rows.values()), "error": _error(discriminator, real, 50 if quick else 400)}


def _error(discriminator: nn.Module, real: Tensor, draws: int) -> dict:
    """Of approximate R1, relative to R1: standard deviation of a draw and of the mean of all, and the error of that."""
    exact = fastgan.r1_penalty(discriminator, real).item()
    with torch.no_grad():
        found = torch.stack([fastgan.approximate_r1_penalty(discriminator, real) for _ in range(draws)]).double()
    deviation = found.std().item() / exact
    return {
        "draws": draws,
        "deviation": deviation,
        "of_the_mean": found.mean().item() / exact - 1,
        "its_deviation": deviation / draws**0.5,
    }


# Promises, table, picture. Every number in them comes from the file.


def promises(results: dict) -> list[tuple[str, str, str]]:
    by_name = {
        cell["name"]: {row["contender"]: row for row in cell["rows"] if "host_us" in row} for cell in results["cells"]
    }
    hifi = by_name.get("hifigan", {})

    def at_least(what: str, value: dict | None, bound: float, form: Callable = times) -> tuple[str, str, str]:
        if value is None:
            return what, "", UNMEASURED
        return what, form(value), "met" if value["median"] >= bound else "not met"

    if results["device_type"] == "cuda":
        launches = hifi.get(DROP_IN, {}).get("launches")
        rows = [
            at_least(
                "value_and_grad ≥ 85% of copy bandwidth, HiFi-GAN's maps",
                hifi.get(DIRECT, {}).get("share_of_copy"),
                0.85,
                percent,
            ),
            at_least("drop-in ≥ 4× eager, HiFi-GAN's maps", hifi.get(DROP_IN, {}).get("device_speedup"), 4.0),
            at_least(
                "drop-in ≥ 1.3× torch.compile, HiFi-GAN's maps",
                hifi.get(DROP_IN, {}).get("device_against_compile"),
                1.3,
            ),
            (
                "drop-in: at most 8 launches forward and backward, HiFi-GAN's maps",
                "" if launches is None else str(launches),
                UNMEASURED if launches is None else "met" if launches <= 8 else "not met",
            ),
        ]
    else:
        rows = [at_least("drop-in ≥ 2× eager, HiFi-GAN's maps", hifi.get(DROP_IN, {}).get("host_speedup"), 2.0)]
    kind = _kinds(results)[-1]
    for contender in (DROP_IN, SIGNS):
        found = [
            (row[contender][f"{kind}_speedup"]["median"], name) for name, row in by_name.items() if contender in row
        ]
        what = f"{contender} never slower than eager, any list of maps"
        if found:
            worst, name = min(found)
            rows.append((what, f"{worst:.2f}× at worst ({name})", "met" if worst >= 1 else "not met"))
        else:
            rows.append((what, "", UNMEASURED))
    return [*rows, all_right(results, OURS)]


HOW_TO_READ = """\
Forward and backward together: median (quartiles) in microseconds, over interleaved rounds. A speed-up is a ratio of
medians in this run, with its 95 % interval; below 1 the contender is the slower one. *GB/s* counts the bytes that have
to be moved: by drop-in both maps twice and the gradient, by signs both maps, two bytes, the gradient, by value_and_grad
both maps and the gradient; *of copy* is that as a share of what a copy reached in the same rounds. *peak* is the most
that one call holds at a time, outputs included; on a CPU large gradients lie in memory that is kept (fastgan.memory),
and do not count. """
ON_A_GPU = "*host* is the time to enqueue, *device* is between two events; *launches* is what the profiler counted."
ON_A_CPU = "*launches* counts operators that touch elements and call no other, and compiled graphs."
COLOURS = {FOREACH: "#a16207", COMPILE: "#2563eb", DROP_IN: "#e11d74", SIGNS: "#059669", DIRECT: "#7c3aed"}


def _kinds(results: dict) -> tuple[str, ...]:
    return ("host", "device") if results["device_type"] == "cuda" else ("host",)


def write(results: dict, folder: Path) -> list[Path]:
    """matching.md and matching.png beside matching.json."""
    return environment.write_drawn("matching", results, folder, markdown, picture)


def markdown(results: dict) -> str:
    cuda, kinds = results["device_type"] == "cuda", _kinds(results)
    lines = [
        *report.header("Feature matching and gradient penalties", results, promises(results)),
        "## Feature matching",
        "",
        HOW_TO_READ + (ON_A_GPU if cuda else ON_A_CPU),
        "",
    ]
    head = ["maps", "contender", *(f"{kind} µs" for kind in kinds)]
    head += [f"{kind} vs {other}" for kind in kinds for other in ("eager", "compile")]
    head += ["GB/s", "of copy", "launches", "peak", "worst relative error"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in results["cells"]:
        lines += [f"| {' | '.join(_line(cell, row, kinds, len(head)))} |" for row in cell["rows"]]
    slower = report.slower(results, lambda cell: cell["title"], OURS)
    lines += ["", "## Where fastgan is the slower one", "", *(slower or ["Nowhere in this run."])]
    lines += ["", "## Configurations", "", "| name | codebase | pairs | elements a side | dtype | what it is |"]
    lines += ["|---|---|---|---|---|---|"]
    for cell in results["cells"]:
        values = cell["name"], cell["title"], cell["pairs"], f"{cell['n']:,}", cell["dtype"], cell["notes"]
        lines.append(f"| {' | '.join(map(str, values))} |")
    if results["penalties"] is not None:
        lines += _penalty_lines(results["penalties"], kinds)
    for skipped in results["skipped"]:
        lines += ["", f"Not measured: {skipped['name']}: {skipped['why']}."]
    return "\n".join(lines) + "\n"


def _line(cell: dict, row: dict, kinds: tuple[str, ...], width: int) -> list[str]:
    start = [cell["title"], row["contender"]]
    if f"{kinds[0]}_us" not in row:
        return [*start, row.get("error", "not timed"), *[""] * (width - 3)]
    out = [*start, *(report._time(row, kind) for kind in kinds)]
    for kind in kinds:
        out += [
            times(row[f"{kind}_{column}"]) if f"{kind}_{column}" in row else ""
            for column in ("speedup", "against_compile")
        ]
    out.append(f"{row['bytes_per_s'] / 1e9:.3g}" if "bytes_per_s" in row else "")
    out.append(percent(row["share_of_copy"]) if "share_of_copy" in row else "")
    error = row.get("worst_relative_error")
    return [*out, str(row["launches"]), report._bytes(row["peak_bytes"]), "" if error is None else f"{error:.1e}"]


def _penalty_lines(found: dict, kinds: tuple[str, ...]) -> list[str]:
    error = found["error"]
    lines = [
        "",
        "## Gradient penalties",
        "",
        f"A step of a small convolutional D, {found['batch']} real and as many generated images of 3×32×32: forward, "
        "backward into D's weights, no optimizer. *cost* is in steps without a penalty, *vs R1* how much less than "
        f"exact R1 at every step. One draw of approximate R1 was off by {error['deviation']:.0%} (standard deviation), "
        f"the mean of {error['draws']} by {error['of_the_mean']:+.1%} ± {error['its_deviation']:.1%}.",
        "",
        *(f"* **{name}**: {what}" for name, what in PENALTIES.items()),
        "",
    ]
    head = ["step", *(f"{kind} {what}" for kind in kinds for what in ("µs", "cost", "vs R1")), "peak"]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found["rows"]:
        if "error" in row:
            lines.append(f"| {row['contender']} | {row['error']} |" + " |" * (len(head) - 2))
            continue
        values = [
            v
            for kind in kinds
            for v in (report._time(row, kind), times(row[f"{kind}_cost"]), times(row[f"{kind}_against_r1"]))
        ]
        lines.append(f"| {' | '.join([row['contender'], *values, report._bytes(row['peak_bytes'])])} |")
    return lines


def picture(results: dict, path: Path) -> None:
    """Speed-up over eager by configuration; below, what a penalty costs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kind, env, cells = _kinds(results)[-1], results["environment"], results["cells"]
    costs = [row for row in (results["penalties"] or {"rows": []})["rows"] if f"{kind}_cost" in row]
    heights = [0.75 * max(len(cells), 1) + 0.6, 0.34 * len(costs) + 0.6 if costs else 0.1]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9.5, sum(heights) + 1.6), height_ratios=heights, layout="constrained"
    )
    thick = 0.8 / len(COLOURS)
    for place, (name, colour) in enumerate(COLOURS.items()):
        for line, cell in enumerate(cells):
            row = next((r for r in cell["rows"] if r["contender"] == name), {})
            value, y = row.get(f"{kind}_speedup"), line + (place - 2) * thick
            if value is None:
                _note(top, 1.0, y, "not timed" if row else f"no {name} of it")
                continue
            top.barh(y, value["median"] - 1, thick * 0.92, left=1, color=colour)
            top.plot([value["low"], value["high"]], [y, y], color="#111827", linewidth=0.8)
            _note(top, max(value["high"], 1.0), y, f"{value['median']:.2f}×")
    top.set_xscale("log", base=2)
    top.set_yticks(range(len(cells)), [cell["title"] for cell in cells], fontsize=9)
    top.set_ylim(len(cells) - 0.4, -0.6)  # the first on top
    top.axvline(1, color="#111827", linewidth=1)
    top.set_xlabel(f"feature matching: speed-up over eager, {kind} time; left of 1: slower", fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    for line, row in enumerate(costs):
        cost = row[f"{kind}_cost"]
        bottom.barh(line, cost["median"], 0.7, color="#6b7280" if row["contender"] in (NONE, EXACT) else "#e11d74")
        bottom.plot([cost["low"], cost["high"]], [line, line], color="#111827", linewidth=0.8)
        _note(bottom, cost["high"], line, f"{cost['median']:.2f}×")
    bottom.set_yticks(range(len(costs)), [row["contender"] for row in costs], fontsize=9)
    bottom.set_ylim(len(costs) - 0.4, -0.6)
    bottom.set_xlabel(f"a discriminator step, {kind} time; 1 without a penalty", fontsize=9)
    bottom.set_visible(bool(costs))
    for axis in (top, bottom):
        low, high = axis.get_xlim()
        axis.set_xlim(low, high * 1.3 if axis is top else high * 1.12)  # room for the numbers
        axis.grid(True, axis="x", color="#e5e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}×")
    figure.legend(handles, list(COLOURS), loc="outside lower center", ncols=len(COLOURS), frameon=False)
    figure.suptitle(
        f"Feature matching, forward + backward{', and the cost of a gradient penalty' * bool(costs)}\n{env['device']}\n"
        f"torch {env['torch']}, triton {env['triton']}, commit {(env['commit'] or 'unknown')[:12]}, {env['date']}",
        fontsize=10,
    )
    report.save(figure, path)


def _note(axis, x: float, y: float, text: str) -> None:
    axis.annotate(
        text,
        (x, y),
        (3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color="#374151",
        annotation_clip=False,
    )
