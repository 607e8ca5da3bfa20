"""`python -m bench report`: the table and the picture of a results file. Every number in them comes from the file."""

from __future__ import annotations

from pathlib import Path

from bench import environment, promises
from bench.promises import percent, size, times

COLOURS = {
    "eager": "#6b7280",
    "eager softplus": "#a16207",
    "torch.compile": "#2563eb",
    "drop-in": "#e11d74",
    "value_and_grad": "#7c3aed",
    "copy": "#9ca3af",
}

HOW_TO_READ = """\
Forward and backward together: median (quartiles) in microseconds, over interleaved rounds. *n* is logits a side; there
are two sides. A speed-up is a ratio of medians in this run, with its 95 % interval. *GB/s* counts the bytes that must
move, logits read once and gradients written once; *of copy* is that as a share of what a copy of as many bytes reached
in the same rounds. Float16 runs under a loss scale of 2^15. """
BUSY = ["", "**Other work kept the cores busy: a thread that waits for a core is in these times. Measure again.**"]
ON_A_GPU = """\
*host* is the time to enqueue; *device* is between two events, with everything enqueued before the first; *in a graph*
is a call's share of a CUDA graph of 32. *launches* counts what the profiler saw on the device. Inputs and outputs
rotate through more memory than the L2 cache holds, except at the sizes marked °."""
ON_A_CPU = """\
Buffers are not rotated: a loss sees logits that the network has just written. *launches* counts operators that touch
elements and call no other, and compiled graphs. *peak* is the most that one call holds at a time, outputs included."""


def write(results: dict, folder: Path) -> list[Path]:
    """losses.md and losses.png beside losses.json."""
    written = [folder / "losses.md"]
    environment.write_atomically(written[0], markdown(results))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return written
    written.append(folder / "losses.png")
    picture(results, written[1])
    return written


def microseconds(value: float) -> str:
    if value >= 99.5:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def _time(row: dict, kind: str) -> str:
    t = row[f"{kind}_us"]
    return f"{microseconds(t['median'])} ({microseconds(t['q1'])}–{microseconds(t['q3'])})"


def _bytes(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def header(title: str, results: dict, promised: list) -> list[str]:
    """What a table of results begins with: where, when and how it was made, what was promised, who takes part."""
    env, cuda = results["environment"], results["device_type"] == "cuda"
    commit = "unknown commit" if env["commit"] is None else f"commit {env['commit'][:12]}"
    return [
        f"# {title} on {env['device']}",
        "",
        f"{env['date']}, {commit}{' with uncommitted changes' if env['dirty'] else ''}, torch {env['torch']}, "
        f"triton {env['triton']}, Python {env['python']}"
        + (f", driver {env['driver']}" if env["driver"] else "")
        + ".",
        f"Made by `{env['command']}` in {results.get('seconds', 0):g} s, on {env['cores']} cores with a load of "
        f"{env['load']:g} before; drawn by `python -m bench report`.",
        *BUSY * (not cuda and env["load"] > env["cores"] / 2),
        "",
        "## Promises",
        "",
        promises.table(promised),
        "",
        "## Contenders",
        "",
        *(f"* **{name}**: {what}" for name, what in results["contenders"].items()),
        "",
    ]


def markdown(results: dict) -> str:
    cuda = results["device_type"] == "cuda"
    kinds = ("host", "device") if cuda else ("host",)
    moving = kinds[-1]
    lines = [
        *header("Discriminator loss and its gradients", results, promises.losses(results)),
        HOW_TO_READ + (ON_A_GPU if cuda else ON_A_CPU),
    ]
    head = ["n", "contender", *(f"{kind} µs" for kind in kinds), "vs eager", "GB/s", "of copy"]
    head += ["in a graph µs"] * cuda + ["launches", "peak", "worst relative error"]
    for dtype in dict.fromkeys(cell["dtype"] for cell in results["cells"]):
        lines += ["", f"## {dtype}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for cell in results["cells"]:
            if cell["dtype"] == dtype:
                lines += [f"| {' | '.join(_line(cell, row, kinds, moving, cuda))} |" for row in cell["rows"]]
    for skipped in results["skipped"]:
        lines += ["", f"Not measured: {skipped['dtype']}, {size(skipped['n'])}: {skipped['why']}."]
    return "\n".join(lines) + "\n"


def _line(cell: dict, row: dict, kinds: tuple[str, ...], moving: str, cuda: bool) -> list[str]:
    n = size(cell["n"]) + ("°" if cuda and not cell["cold"] else "")
    if f"{moving}_us" not in row:
        width = len(kinds) + 6 + cuda
        return [n, row["contender"], row.get("error", "not timed"), *[""] * (width - 1)]
    speedup = row.get(f"{moving}_speedup")
    out = [n, row["contender"], *(_time(row, kind) for kind in kinds), times(speedup) if speedup else ""]
    out += [f"{row['bytes_per_s'] / 1e9:.3g}", "" if row["contender"] == "copy" else percent(row["share_of_copy"])]
    if cuda:
        graph = row.get("graph_us")
        out.append(row.get("graph_error", "") if graph is None else f"{graph:.2f}")
    error = row.get("worst_relative_error")
    return [*out, str(row["launches"]), _bytes(row["peak_bytes"]), "" if error is None else f"{error:.1e}"]


def picture(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cuda = results["device_type"] == "cuda"
    panels = [("host_us", "time to enqueue, µs"), ("device_us", "time on the device, µs")]
    panels = panels if cuda else [("host_us", "time, µs")]
    moving = "device" if cuda else "host"
    panels.append((f"{moving}_speedup", "speed-up over eager"))
    if cuda:
        panels.append(("share_of_copy", "share of copy bandwidth"))
    dtypes = list(dict.fromkeys(cell["dtype"] for cell in results["cells"]))
    figure, axes = plt.subplots(
        len(panels),
        len(dtypes),
        figsize=(3.4 * len(dtypes) + 1.2, 2.9 * len(panels) + 1),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, dtype in enumerate(dtypes):
        for line, (key, label) in enumerate(panels):
            axis = axes[line][column]
            for name, colour in COLOURS.items():
                if name == "copy" and not key.endswith("_us"):
                    continue
                _curve(axis, results, dtype, name, key, colour)
            axis.set_xscale("log", base=2)
            axis.grid(True, color="#e5e7eb", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
            if key.endswith("_us"):
                axis.set_yscale("log")
            else:
                axis.axhline(1, color="#111827", linewidth=0.8)
                axis.set_ylim(bottom=0)
            if key == "share_of_copy":
                axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
            if line == 0:
                axis.set_title(dtype, fontsize=11)
            if column == 0:
                axis.set_ylabel(label)
            if line == len(panels) - 1:
                axis.set_xlabel("logits a side")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    env = results["environment"]
    commit = (env["commit"] or "unknown")[:12]
    figure.suptitle(
        f"Discriminator loss, forward + backward, on {env['device']}\n"
        f"median and 95 % interval; torch {env['torch']}, triton {env['triton']}, commit {commit}, {env['date']}",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part.png")
    figure.savefig(part, dpi=130)
    plt.close(figure)
    part.replace(path)


def _curve(axis, results: dict, dtype: str, name: str, key: str, colour: str) -> None:
    points = [
        (cell["n"], row[key])
        for cell in results["cells"]
        for row in cell["rows"]
        if cell["dtype"] == dtype and row["contender"] == name and key in row
    ]
    if not points:
        return
    points.sort(key=lambda point: point[0])
    x = [n for n, _ in points]
    ours = name in ("drop-in", "value_and_grad")
    style = {"color": colour, "linewidth": 2 if ours else 1.2, "linestyle": "--" if name == "copy" else "-"}
    axis.plot(x, [v["median"] for _, v in points], marker="o", markersize=3.5 if ours else 2.5, label=name, **style)
    axis.fill_between(x, [v["low"] for _, v in points], [v["high"] for _, v in points], color=colour, alpha=0.15, lw=0)
