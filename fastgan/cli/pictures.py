"""Sample grids, scatter plots, training curves and the animation of a run, as PNG and GIF bytes."""

from __future__ import annotations

import io
import math

import numpy as np
from torch import Tensor

from fastgan.data import needs
from fastgan.evaluation import label_of

LN2 = math.log(2)
ERROR_OF_D = "error of D: the share of samples that D judges wrongly; 0.5: D cannot tell real from generated"
LABELS = {"high_quality": "within 3 std of a mode"}  # of scores whose name does not explain them
FILM_SIDES, FILM_BYTES = (544, 272, 136), 3_000_000  # 30 frames of noise have 0.7 MB at the smallest
SHOW_FOR, HOLD_FOR = 250, 2_000  # milliseconds: a frame, and the last frame


def image_grid(images: Tensor, columns: int | None = None, min_side: int = 64) -> bytes:
    """A PNG of uint8 images (N, C, H, W), C 1 or 3, in a grid, row by row from the top left.

    columns: None for a grid that is as square as possible. Images of fewer than `min_side` pixels a side are enlarged
    by a whole factor, so that 8x8 digits can be recognised."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("pillow")) from error
    n, c, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows, zoom, gap = math.ceil(n / columns), max(1, math.ceil(min_side / min(h, w))), 2
    tiles = images.cpu().numpy().transpose(0, 2, 3, 1).repeat(zoom, axis=1).repeat(zoom, axis=2)
    h, w = h * zoom, w * zoom
    grid = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), 128, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (h + gap), gap + i % columns * (w + gap)
        grid[top : top + h, left : left + w] = tile
    out = io.BytesIO()
    Image.fromarray(grid[..., 0] if c == 1 else grid).save(out, "png")
    return out.getvalue()


def film(grids: dict[int, bytes]) -> bytes:
    """A GIF of PNG pictures {step: PNG}, one after the other, with the step above each.

    The pictures are reduced until it has at most `FILM_BYTES`. Empty if Pillow can read none of them."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError(needs("pillow")) from error
    frames, out = [], io.BytesIO()
    for step, png in grids.items():
        try:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
                if opened.width * opened.height <= 1 << 22:
                    frames.append((step, opened.convert("L" if opened.mode == "L" else "RGB")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    for side in FILM_SIDES if frames else ():
        images: list[Image.Image] = []
        for step, image in frames:
            small = image.reduce(math.ceil(max(image.size) / side))
            framed = Image.new(small.mode, images[0].size if images else (small.width, small.height + 18), "white")
            framed.paste(small, (0, 18))
            ImageDraw.Draw(framed).text((4, 3), f"step {step:,}", fill="black")
            images.append(framed if framed.mode == "L" else framed.quantize(method=Image.Quantize.FASTOCTREE))
        out, durations = io.BytesIO(), [SHOW_FOR] * (len(images) - 1) + [HOLD_FOR]
        images[0].save(out, "gif", save_all=True, append_images=images[1:], duration=durations, loop=0)
        if out.tell() <= FILM_BYTES:
            break
    return out.getvalue()


def scatter(points: Tensor, real: Tensor | None = None) -> bytes:
    """A PNG of generated points (N, d) over real ones (M, d), in the first two coordinates; histograms if d = 1."""
    figure, save = _figure(5, 5)
    axes = figure.subplots()
    sides = [("real", real, "0.6"), ("generated", points, "tab:red")]
    for label, side, colour in sides:
        if side is None:
            continue
        drawn = side.cpu().numpy()
        if drawn.shape[1] == 1:
            axes.hist(drawn[:, 0], bins=80, density=True, color=colour, alpha=0.6, label=label)
        else:
            axes.scatter(drawn[:, 0], drawn[:, 1], s=3, color=colour, alpha=0.6, label=label, linewidths=0)
    if points.shape[1] > 1:
        axes.set(xlabel="first coordinate (units of the data)", ylabel="second coordinate (units of the data)")
        axes.set_aspect("equal", "datalim")
    else:
        axes.set(xlabel="x (units of the data)", ylabel="density (1 / unit of x)")
    _legend_above(axes, markerscale=3)
    return save()


def curves(records: list[dict], cross_entropy: bool = True) -> bytes:
    """A PNG of the losses of D and G and of D's expected error over the steps, from the records of `metrics.jsonl`.

    The records are pale lines, their running mean over a fiftieth of the run is a strong one. cross_entropy: mark ln 2,
    the loss of both networks if D cannot tell (D's with weight 1/2; G's if it is the non-saturating loss)."""
    figure, save = _figure(8, 6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    step = np.array([r["step"] for r in records])
    for axes, key, label, colour in (
        (top, "loss_d", "discriminator", "tab:blue"),
        (top, "loss_g", "generator", "tab:orange"),
        (bottom, "error", "expected error of D: what it judges wrongly", "tab:green"),
    ):
        value = np.array([r.get(key, math.nan) for r in records], dtype=float)
        if np.isnan(value).all():  # objective mmd has no discriminator
            continue
        axes.plot(step, value, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(step, _running_mean(value, max(1, len(value) // 50)), color=colour, label=label)
    if cross_entropy:
        top.axhline(LN2, color="0.4", linestyle=":", label="ln 2: D cannot tell")
    bottom.axhline(0.5, color="0.4", linestyle=":", label="1/2: D cannot tell")
    top.set(ylabel="loss (nats)" if cross_entropy else "loss")
    bottom.set(xlabel="training step", ylabel="error (share of samples)", ylim=(0, 0.75))
    for axes in (top, bottom):
        _legend_above(axes)
        axes.grid(alpha=0.2)
    return save()


def quality(records: list[dict]) -> bytes:
    """A PNG of coverage, precision and recall, and below them the distances, over the training time (without evaluation
    and saving), from the records of `metrics.jsonl` that have a `quality`."""
    figure, save = _figure(8, 6)
    top, bottom = figure.subplots(2, 1, sharex=True)
    seconds = [r.get("seconds", 0.0) for r in records]
    unit, size = next((u for u in (("hours", 3600), ("minutes", 60)) if max(seconds) >= 2 * u[1]), ("seconds", 1))
    time = [value / size for value in seconds]
    last = records[-1]["quality"]
    distances = [name for name in last if name.startswith(("fd_", "fid"))]
    for axes, names in ((top, ("coverage", "precision", "recall", "high_quality")), (bottom, distances)):
        for name in names:
            if name in last:
                value = [r["quality"].get(name, math.nan) for r in records]
                label = f"{LABELS.get(name) or label_of(name)} ({last[name]:.3g} now)"
                axes.plot(time, value, marker="o", markersize=3, label=label)
        axes.grid(alpha=0.2, which="both")
        _legend_above(axes)
    figure.suptitle(f"{last['samples']:,} generated samples against real ones", fontsize=10)
    top.set(ylabel="share of samples", ylim=(0, 1.02))
    bottom.set(xlabel=f"training time ({unit})", ylabel="distance (lower is better)")
    if all(r["quality"].get(name, 0) > 0 for r in records for name in distances):
        bottom.set_yscale("log")
        bottom.yaxis.get_major_locator().set_params(subs=(1, 2, 5))  # 0.5 and 20, not 10^0 alone
        bottom.yaxis.set_major_formatter("{x:g}")
        bottom.yaxis.set_minor_formatter("")
    return save()


def _legend_above(axes, **options) -> None:
    """Put the legend above the axes, where it covers no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=8, frameon=False, **options)


def _running_mean(value: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values, or of fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(value)])
    last = np.arange(1, len(value) + 1)
    first = np.maximum(last - window, 0)
    return (total[last] - total[first]) / (last - first)


def _figure(width: float, height: float):
    """A figure, and a function that returns it as PNG. Without pyplot, which would keep it alive and need a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(needs("matplotlib")) from error
    figure = Figure(figsize=(width, height), dpi=110)
    # An inch for the labels, by hand: a layout engine would draw everything twice.
    figure.subplots_adjust(left=0.95 / width, right=1 - 0.2 / width, top=0.9, bottom=0.1, hspace=0.2)
    FigureCanvasAgg(figure)

    def save() -> bytes:
        out = io.BytesIO()
        figure.savefig(out, format="png")
        return out.getvalue()

    return figure, save
