"""Pictures with known factors, one shape on black, 64 × 64 pixels, so that generated pictures can be checked.

The factors of a picture are the kind (circle, square, triangle), the hue, the centroid (x, y) and the size s: the
radius of the circle of the same area, pi s^2. Pixel (x, y) is a(x, y) c, with the colour c of that hue at full
brightness and the share a in [0, 1] of the pixel that the shape covers. The largest channel of c is 1, so the largest
channel of a pixel is a, for every hue. The factors follow from a picture's area, centroid and mean colour.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 64
KINDS = ("circle", "square", "triangle")
PLACE = (26.0, 38.0)  # range of x and y, in pixels from the corner: every shape is inside the picture
SIZE = (11.0, 16.0)
SATURATION = 0.75
HUES, PLACES, SIZES = 6, 3, 2  # bins of the factors; x and y have PLACES bins each
CELLS = len(KINDS) * HUES * PLACES**2 * SIZES
RIGHT = 0.3  # the largest error of a right picture, see `Read.error`
MARGIN = 1.0  # how many pixels the size of a right picture may lie outside of SIZE
_SQUARE = math.sqrt(math.pi) / 2  # half the side
_TRIANGLE = math.sqrt(math.pi / (3 * math.sqrt(3)))  # the radius of the circle inside an equilateral one


class Factors(NamedTuple):
    """kind: int64 (N,). hue in [0, 1), x, y and size in pixels: float32 (N,)."""

    kind: Tensor
    hue: Tensor
    x: Tensor
    y: Tensor
    size: Tensor

    def part(self, rows: slice) -> Factors:
        return Factors(*(f[rows] for f in self))


class Read(NamedTuple):
    """error: |picture - rendering| / |rendering| (N,), in the norm over all pixels and channels, with black as 0: about
    0.4 between a circle and a square, 1 for a picture that has nothing in common with the rendering."""

    factors: Factors
    error: Tensor

    @property
    def right(self) -> Tensor:
        size = self.factors.size
        return (self.error <= RIGHT) & (size >= SIZE[0] - MARGIN) & (size <= SIZE[1] + MARGIN)


def draw_factors(n: int, seed: int = 0) -> Factors:
    """Each uniform and independent of the others."""
    random = torch.Generator().manual_seed(seed)
    kind = torch.randint(len(KINDS), (n,), generator=random)
    hue, x, y, size = torch.rand(4, n, generator=random)
    x, y = (PLACE[0] + (PLACE[1] - PLACE[0]) * place for place in (x, y))
    return Factors(kind, hue, x, y, SIZE[0] + (SIZE[1] - SIZE[0]) * size)


def render(factors: Factors, chunk: int = 1000) -> Tensor:
    """uint8 (N, 3, 64, 64)."""
    found = []
    for first in range(0, len(factors.kind), chunk):
        f = factors.part(slice(first, first + chunk))
        covered = covers(f.x, f.y, f.size)[torch.arange(len(f.kind)), f.kind]
        found.append((covered[:, None] * colours(f.hue)[:, :, None, None] * 255).round().to(torch.uint8))
    return torch.cat(found)


def covers(x: Tensor, y: Tensor, size: Tensor) -> Tensor:
    """The share of each pixel that a shape of each kind covers: (N, 3, 64, 64). It falls from 1 to 0 within one pixel
    of the edge, which is exact for edges along the axes."""
    axis = torch.arange(SIDE) + 0.5
    dx, dy = axis - x[:, None, None], axis[:, None] - y[:, None, None]  # (N, 1, 64), (N, 64, 1): y points down
    size = size[:, None, None]
    slant = math.sqrt(3) / 2 * dx.abs() - dy / 2
    outside = torch.stack(
        [
            torch.hypot(dx, dy) - size,
            torch.maximum(dx.abs(), dy.abs()) - _SQUARE * size,
            torch.maximum(slant, dy) - _TRIANGLE * size,
        ],
        dim=1,
    )
    return (0.5 - outside).clamp(0, 1)


def colours(hue: Tensor) -> Tensor:
    """(N, 3) in [0, 1], at full brightness and `SATURATION`: the hexagon of hues, red at 0, green at 1/3."""
    turned = (hue[:, None] * 6 + torch.tensor([0.0, 4.0, 2.0])) % 6
    return 1 - SATURATION * (1 - ((turned - 3).abs() - 1).clamp(0, 1))


def hues(colour: Tensor) -> Tensor:
    """The hue of colours (N, 3) of any saturation and brightness: the inverse of `colours`."""
    red, green, blue = colour.unbind(1)
    largest, which = colour.max(1)
    spread = (largest - colour.amin(1)).clamp(min=1e-6)
    differences = torch.stack([green - blue, blue - red, red - green], dim=1)
    turned = differences.gather(1, which[:, None])[:, 0] / spread + 2 * which
    return turned / 6 % 1


def read(images: Tensor, chunk: int = 250) -> Read:
    """The factors of pictures (N, 3, 64, 64), uint8 or floats in [-1, 1], and the error of each.

    A pixel's weight w is 0 if less than a quarter of it is covered, 1 if more than three quarters are, and linear in
    between, which keeps the area of a shape with sharp edges. area = sum w, x = sum w x / area, colour =
    sum w picture / area, s = (area / pi)^(1/2), and the kind is that of the nearest of the three renderings."""
    kinds, others = [], []
    axis = torch.arange(SIDE) + 0.5
    for part in images.cpu().split(chunk):
        shown = part.float() / 255 if part.dtype == torch.uint8 else ((part.float() + 1) / 2).clamp(0, 1)
        w = (2 * shown.amax(1) - 0.5).clamp(0, 1)
        area = w.sum((1, 2))
        least = area.clamp(min=1e-6)
        x, y = (w.sum(1) @ axis) / least, (w.sum(2) @ axis) / least
        hue, size = hues((w[:, None] * shown).sum((2, 3)) / least[:, None]), (area / math.pi).sqrt()
        error = _errors(shown, covers(x, y, size), colours(hue))
        best, kind = error.min(1)
        kinds.append(kind)
        others.append(torch.stack([hue, x, y, size, best]))
    *factors, error = torch.cat(others, dim=1)
    return Read(Factors(torch.cat(kinds), *factors), error)


def _errors(shown: Tensor, covered: Tensor, colour: Tensor) -> Tensor:
    """The error for each kind (N, 3), from |p - a c|^2 = |p|^2 - 2 sum a (p . c) + |c|^2 sum a^2, which needs no
    rendered picture."""
    along = (shown * colour[:, :, None, None]).sum(1, keepdim=True)
    energy = (colour.square().sum(1, keepdim=True) * covered.square().sum((2, 3))).clamp(min=1e-6)
    apart = shown.square().sum((1, 2, 3))[:, None] - 2 * (covered * along).sum((2, 3)) + energy
    return (apart.clamp(min=0) / energy).sqrt()


def cells(factors: Factors) -> Tensor:
    """The cell of each picture, of the `CELLS` equal parts of the factor space; outside, the nearest cell."""

    def bins(value: Tensor, low: float, high: float, count: int) -> Tensor:
        return ((value - low) / (high - low) * count).long().clamp(0, count - 1)

    cell = factors.kind * HUES + bins(factors.hue, 0, 1, HUES)
    for place in (factors.x, factors.y):
        cell = cell * PLACES + bins(place, *PLACE, PLACES)
    return cell * SIZES + bins(factors.size, *SIZE, SIZES)


def cells_reached(read: Read) -> int:
    """How many cells the right pictures reach."""
    return len(cells(read.factors)[read.right].unique())


def scores(real: Read, generated: Read) -> dict[str, float]:
    """precision: the share of generated pictures that are right. recall: the number of cells that these reach, relative
    to the number for as many real pictures."""
    recall = cells_reached(generated) / max(cells_reached(real), 1)
    return {"precision": generated.right.double().mean().item(), "recall": recall}
