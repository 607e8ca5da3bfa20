"""Pictures of the game, as PNG and GIF bytes: p_t, p_g, the learned D beside the best D, D's error over the steps."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from fastgan.data import needs
from fastgan.game.targets import Target
from fastgan.game.training import Frame, Played, grid_axis, grid_points

TRUE, GENERATED, LEARNED, BEST = "0.45", "tab:orange", "tab:blue", "black"
COLOURS = 24  # of the animation
SHOW_FOR, HOLD_FOR = 120, 2_000  # milliseconds: a frame, and the last frame


def picture(played: Played) -> bytes:
    """One PNG. In 1-D: densities with the learned and the best D. In 2-D: samples over the learned D, and the best D
    beside it. Then D's errors over the steps, with 1/2 and (1 - TV) / 2."""
    goal, last = played.target, played.frames[-1]
    if goal.d == 1:
        figure = _figure(10.5, 4.2)
        left, right = figure.subplots(1, 2)
        _densities(left, goal, last)
    else:
        figure = _figure(13, 4.2)
        left, middle, right = figure.subplots(1, 3)
        _plane(left, goal, last, last.d, "samples" if last.d is None else "samples, and the learned D(x)")
        image = _plane(middle, goal, None, best_discriminator(goal, last.points), "the best D(x) for this p_g")
        figure.colorbar(image, ax=middle, shrink=0.8, label="D(x): probability that x is true")
        _legend_below(left)
    _errors(right, played)
    figure.suptitle(_title(played), fontsize=10)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def animation(played: Played) -> bytes:
    """A GIF of the training: the left part of `picture` for each frame."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(needs("pillow")) from error
    goal, images = played.target, []
    for frame in played.frames:
        if goal.d > 1:
            frame = frame._replace(points=frame.points[::2])  # half of the points, for a smaller file
        figure = _figure(4.8, 4, dpi=80)
        axes = figure.subplots()
        if goal.d == 1:
            _densities(axes, goal, frame)
        else:
            _plane(axes, goal, frame, frame.d, "")
            _legend_below(axes)
        seen = "; D(x): blue for true" if goal.d > 1 and frame.d is not None else ""
        axes.set_title(f"{played.settings.objective}, step {frame.step:,}{seen}", fontsize=9)
        figure.canvas.draw()
        images.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()))
    # One palette for all frames, so that unchanged pixels cost nothing. Its colours are far apart, so that rare colours
    # are kept.
    palette = images[len(images) // 2].quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    out = io.BytesIO()
    durations = [SHOW_FOR] * (len(images) - 1) + [HOLD_FOR]
    images[0].save(out, "gif", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True)
    return out.getvalue()


def best_discriminator(goal: Target, points: Tensor) -> Tensor:
    """p_t / (p_t + p_g) on `grid_points`, NaN where neither has mass. p_g is a kernel estimate from the points. p_t is
    smoothed with the same kernel, so that the blur of the estimate does not look like a difference."""
    width = goal.std / 2 if goal.d > 1 else goal.std / 6
    smooth = goal._replace(std=(goal.std**2 + width**2) ** 0.5).distribution
    x = grid_points(goal).double()
    p_t = smooth.log_prob(x[:, 0] if goal.d == 1 else x).exp()
    scale = len(points) * (2 * torch.pi * width**2) ** (goal.d / 2)
    p_g = torch.cat([(-torch.cdist(part, points.double()).square() / (2 * width**2)).exp().sum(1) / scale
                     for part in x.split(2048)])  # fmt: skip
    empty = p_t + p_g < 3e-3 * p_t.max()
    return torch.where(empty, torch.nan, p_t / (p_t + p_g))


def _densities(axes, goal: Target, frame: Frame) -> None:
    x = grid_axis(goal).numpy()
    p_t = goal.distribution.log_prob(grid_axis(goal).double()).exp().numpy()
    axes.fill_between(x, p_t, color=TRUE, alpha=0.35, label="p_t", linewidth=0)
    axes.hist(frame.points[:, 0].numpy(), bins=80, range=(x[0], x[-1]), density=True, color=GENERATED,
              alpha=0.6, label="p_g (samples)")  # fmt: skip
    of_d = axes.twinx()
    best = best_discriminator(goal, frame.points).numpy()
    of_d.plot(x, best, color=BEST, linewidth=1, linestyle="--", label="best D(x) for this p_g")
    if frame.d is not None:
        of_d.plot(x, frame.d.numpy(), color=LEARNED, linewidth=1.5, label="learned D(x)")
    of_d.axhline(0.5, color="0.7", linewidth=0.6)
    of_d.set(ylim=(0, 1.02), ylabel="D(x): probability that x is true")
    axes.set(xlim=(x[0], x[-1]), ylim=(0, 1.3 * p_t.max()), xlabel="x (standard deviations of p_t)", ylabel="density")
    _legend_below(axes, of_d)


def _plane(axes, goal: Target, frame: Frame | None, d: Tensor | None, title: str):
    axis = grid_axis(goal).numpy()
    image, side = None, len(axis)
    if d is not None:
        extent = (axis[0], axis[-1]) * 2
        image = axes.imshow(d.reshape(side, side).T.numpy(), origin="lower", extent=extent, cmap="coolwarm_r",
                            vmin=0, vmax=1, alpha=0.8, interpolation="nearest")  # fmt: skip
    if frame is not None:
        modes, points = goal.modes.numpy(), frame.points.numpy()
        axes.scatter(modes[:, 0], modes[:, 1], s=50, facecolors="none", edgecolors=BEST, linewidths=0.8, label="p_t")
        axes.scatter(points[:, 0], points[:, 1], s=2, color=GENERATED, linewidths=0)
        axes.scatter([], [], s=14, color=GENERATED, label="p_g (samples)")
    axes.set(xlim=(axis[0], axis[-1]), ylim=(axis[0], axis[-1]), xlabel="first coordinate (rms of p_t)",
             ylabel="second coordinate (rms of p_t)")  # fmt: skip
    axes.set_aspect("equal")
    axes.set_title(title, fontsize=9)
    return image


def _errors(axes, played: Played) -> None:
    step = [record["step"] for record in played.history]
    axes.axhline(0.5, color="0.4", linestyle=":", label="1/2: D cannot tell")
    if "error" in played.history[0]:
        for key, label, alpha in (("error", "expected error of D", 1.0), ("error_rate", "error rate of D", 0.45)):
            axes.plot(step, [record[key] for record in played.history], color=LEARNED, alpha=alpha, label=label)
    bound = [record["bound"] for record in played.history]
    axes.plot(step, bound, color=BEST, linestyle="--", linewidth=1, label="the best D's, (1 - TV) / 2")
    axes.set(xlabel="training step", ylabel="error (share of samples judged wrongly)", ylim=(0, 0.75))
    axes.grid(alpha=0.2)
    _legend_below(axes)


def _legend_below(*axes) -> None:
    """Put one legend for all axes below them, where it covers no data."""
    lines = [line for one in axes for line in one.get_legend_handles_labels()[0]]
    axes[0].legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=7, frameon=False)


def _title(played: Played) -> str:
    s = played.settings
    penalties = "".join(f" + {name.upper()} {value:g}" for name, value in (("r1", s.r1), ("r2", s.r2)) if value)
    how = "direct: MMD, no discriminator" if s.objective == "mmd" else s.objective + penalties
    return f"{s.pair}: {how}, {played.frames[-1].step:,} steps"


def _figure(width: float, height: float, dpi: int = 110):
    """A figure without pyplot, which would keep it alive and need a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(needs("matplotlib")) from error
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
