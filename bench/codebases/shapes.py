"""Shapes of the logits and maps of public discriminators at their own training settings."""

from __future__ import annotations

from collections.abc import Iterable

Shapes = list[list[tuple[int, ...]]]

# Logits: one shape a discriminator.

PERIODS = (102, 102, 105, 105, 110)
HIFIGAN = tuple((16, n) for n in (*PERIODS, 128, 65, 33))
VITS = tuple((64, n) for n in (*PERIODS, 128))
BIGVGAN = (*[(4, n) for n in (810, 810, 810, 812, 814)], (4, 1, 257, 27), (4, 1, 513, 41), (4, 1, 513, 54))
DAC = tuple((12, 1, n, p) for n, p in ((104, 2), (69, 3), (42, 5), (30, 7), (19, 11)))
DAC = (*DAC, (12, 1, 33, 130), (12, 1, 66, 66), (12, 1, 131, 34))
ENCODEC = tuple((8, 1, *at) for at in ((90, 65), (43, 129), (184, 33), (372, 17), (747, 9)))
SPADE = ((4, 1, 35, 35), (4, 1, 19, 19))

# Maps: for each discriminator, one shape a layer, of (batch, ...).


def halved(n: int, stride: int = 2) -> int:
    """The output length of a convolution of this stride."""
    return -(-n // stride)


def period_maps(batch: int, samples: int, always_pad: bool = False) -> Shapes:
    """HiFi-GAN's multi-period discriminator: four layers of stride 3, one of stride 1, the logits."""
    found = []
    for p in (2, 3, 5, 7, 11):
        rest, length, maps = samples % p, samples // p, []
        length += bool(rest) or always_pad
        for channels, stride in ((32, 3), (128, 3), (512, 3), (1024, 3), (1024, 1), (1, 1)):
            length = halved(length, stride)
            maps.append((batch, channels, length, p))
        found.append(maps)
    return found


def scale_maps(batch: int, samples: int, layers: Iterable[tuple[int, int]], scales: int) -> Shapes:
    """Convolutions of (channels, stride) on a waveform, and on the waveform pooled by two for each further scale."""
    found = []
    for _ in range(scales):
        length, maps = samples, []
        for channels, stride in layers:
            length = halved(length, stride)
            maps.append((batch, channels, length))
        found.append(maps)
        samples = samples // 2 + 1
    return found


def spectrogram_maps(batch: int, frames: int, bins: int, channels: int = 32) -> list[tuple[int, ...]]:
    """Five layers on a spectrogram, of which the second to the fourth halve the frequencies."""
    widths = [bins]
    for _ in range(3):
        widths.append(halved(widths[-1]))
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
    """Each spectrogram is cut into five bands with separate layers; the logits come last in each list."""
    found = period_maps(batch, samples, always_pad=True)
    for window in (2048, 1024, 512):
        bins, frames, maps, width = window // 2 + 1, halved(samples, window // 4), [], 0
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
        height, width = halved(height), halved(width)
    return found
