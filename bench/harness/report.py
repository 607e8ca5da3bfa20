"""The table and the pictures of losses.json, and what the other suites draw alike. Every number comes from the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.harness import environment, growth, promises
from bench.harness.promises import percent, size, times

OURS = ("drop-in", "value_and_grad")
COLOURS = {
    "eager": "#6b7280",
    "eager softplus": "#a16207",
    "eager, CUDA graph": "#0d9488",
    "torch.compile": "#2563eb",
    "reduce-overhead": "#60a5fa",
    "drop-in": "#e11d74",
    "value_and_grad": "#7c3aed",
    "copy": "#9ca3af",
}

INTERVALS = """\
Each row was measured in {processes} processes, one after the other: the time is the geometric mean of their medians, an
interval is Student's 95 % interval of that mean over the processes, or that of the rounds where it is wider."""
ONE_PROCESS = """\
Measured in one process: an interval is that of its rounds; another run may lie outside. `--processes` repeats it."""
HOW_TO_READ = """\
Forward and backward together: median (quartiles) in microseconds, over interleaved rounds. *n* is logits a side; there
are two sides. A speed-up is a ratio of medians in this run, with its 95 % interval. *GB/s* counts the bytes that must
move, logits read once and gradients written once; *of copy* is that as a share of what a copy of as many bytes reached
in the same rounds. Float16 runs under a loss scale of 2^15. """
ON_A_GPU = """\
*host* is the time to enqueue; *device* is between two events, with everything enqueued before the first; *in a graph*
is a call's share of a CUDA graph of 32. *launches* counts what the profiler saw on the device. Inputs and outputs
rotate through more memory than the L2 cache holds, except at the sizes marked °."""
ON_A_CPU = """\
Buffers are not rotated: a loss sees logits that the network has just written. *launches* counts operators that touch
elements and call no other, and compiled graphs. *peak* is the most that one call holds at a time, outputs included."""


def write(results: dict, folder: Path) -> list[Path]:
    """losses.md, losses.png and growth.png beside losses.json."""
    written = [folder / "losses.md"]
    environment.write_atomically(written[0], markdown(results))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return written
    for name, draw in (("losses.png", picture), ("growth.png", growth_picture)):
        written.append(folder / name)
        draw(results, written[-1])
    return written


def intervals(results: dict) -> str:
    """How a file's intervals were come by."""
    processes = results.get("processes", 1)
    return INTERVALS.format(processes=processes) if processes > 1 else ONE_PROCESS


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


def _busy(env: dict) -> list[str]:
    """A warning where others had over a tenth of the cores' time, or, in older files, the load was high before."""
    others = env.get("others")
    if (others > 0.1) if others is not None else (env["load"] > env["cores"] / 2):
        share = "" if others is None else f", {others:.0%} of their time"
        return ["", f"**Other work kept the cores busy{share}: waiting for a core is in these times. Measure again.**"]
    return []


def made_on(env: dict) -> str:
    """When, and with which versions, a file was made."""
    commit = "unknown commit" if env["commit"] is None else f"commit {env['commit'][:12]}"
    text = f"{env['date']}, {commit}{' with uncommitted changes' if env['dirty'] else ''}, torch {env['torch']}, "
    text += f"triton {env['triton']}, Python {env['python']}"
    return text + (f", driver {env['driver']}" if env["driver"] else "") + "."


def header(title: str, results: dict, promised: list) -> list[str]:
    """What a table of results begins with: where, when and how it was made, what was promised, who takes part."""
    env = results["environment"]
    return [
        f"# {title} on {env['device']}",
        "",
        made_on(env),
        f"Made by `{env['command']}` in {results.get('seconds', 0):g} s, on {env['cores']} cores with a load of "
        f"{env['load']:g} before; drawn by `python -m bench report`.",
        *_busy(env),
        "",
        intervals(results),
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
    lines += ["", "## As the work grows", "", *_growth_table(results, kinds)]
    lines += ["", "## Where fastgan is the slower one", ""]
    lines += slower(results, lambda cell: f"{cell['dtype']}, {size(cell['n'])}") or ["Nowhere in this run."]
    for skipped in results["skipped"]:
        lines += ["", f"Not measured: {skipped['dtype']}, {size(skipped['n'])}: {skipped['why']}."]
    return "\n".join(lines) + "\n"


def slower(results: dict, where: Callable[[dict], str], ours: tuple[str, ...] = OURS) -> list[str]:
    """One line for each of our rows that takes longer than a peer's in the same cell: by the fastest of the peers."""
    kinds = ("host", "device") if results["device_type"] == "cuda" else ("host",)
    lines = []
    for cell in results["cells"]:
        timed = {row["contender"]: row for row in cell["rows"] if f"{kinds[0]}_us" in row and "error" not in row}
        for kind in kinds:
            peers = {name: row[f"{kind}_us"]["median"] for name, row in timed.items() if name not in (*ours, "copy")}
            if not peers:
                continue
            fastest = min(peers, key=peers.get)
            for name in ours:
                if name in timed and timed[name][f"{kind}_us"]["median"] > peers[fastest]:
                    own = timed[name][f"{kind}_us"]["median"]
                    speed = f"{peers[fastest] / own:.2f}× the {kind} speed of {fastest}"
                    lines.append(f"* {where(cell)}: {name} at {speed}, {microseconds(own)} µs")
    return lines


def _growth_table(results: dict, kinds: tuple[str, ...]) -> list[str]:
    lines = [
        "The fit is time = floor + n × cost, by least squares of the relative error. *slope* is that of log time over",
        "log n above four times the size where both are alike: 1 is in proportion to the work.",
        "",
        "| dtype | contender | time | floor µs | ns a logit of n | alike at n | slope | farthest point |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        for dtype, name, found in growth.fits(results, kind):
            alike = "" if found["even_at"] is None else f"{found['even_at']:,.0f}"
            slope = "" if found["slope"] is None else f"{found['slope']:.2f}"
            fit = f"{found['floor_us']:.3g} | {found['ns_a_logit']:.3g} | {alike} | {slope} | {found['worst']:.0%}"
            lines.append(f"| {dtype} | {name} | {kind} | {fit} |")
    if "limits" in results:
        lines += ["", "| the least there is | µs | |", "|---|---|---|"]
        from bench.harness.limits import WHAT

        for name, row in results["limits"].items():
            lines.append(f"| {name} | {limit_time(row)} | {WHAT[name]} |")
    return lines


def limit_time(row: dict) -> str:
    if "graph_us" in row:
        return f"{row['graph_us']:.2f}"
    found = [
        f"{kind} {microseconds(row[f'{kind}_us']['median'])}" for kind in ("host", "device") if f"{kind}_us" in row
    ]
    return ", ".join(found) or row.get("error", "not measured")


def summary(results: dict) -> str:
    """README's table: microseconds of float32, the fastest of each size in bold."""
    kind = "device" if results["device_type"] == "cuda" else "host"
    cells = [
        c for c in results["cells"] if c["dtype"] == "float32" and c["n"] in (1, 128, *[4**k for k in range(5, 15)])
    ]
    names = [name for name in results["contenders"] if any(_timed(c, name, kind) for c in cells)]
    lines = [f"| logits a side, float32, {kind} µs | {' | '.join(names)} |", "|" + "---|" * (1 + len(names))]
    for cell in cells:
        found = {name: _timed(cell, name, kind) for name in names}
        best = min((v for name, v in found.items() if v and name != "copy"), default=None)
        shown = [
            ("" if v is None else f"**{microseconds(v)}**" if v == best else microseconds(v)) for v in found.values()
        ]
        lines.append(f"| {size(cell['n'])} | {' | '.join(shown)} |")
    count = slower(results, str)
    compared = sum(
        row["contender"] in OURS and f"{kind}_us" in row for cell in results["cells"] for row in cell["rows"]
    ) * (1 + (kind == "device"))
    fit = {name: found for dtype, name, found in growth.fits(results, kind) if dtype == "float32"}
    lines += ["", f"Slower than the fastest peer in {len(count)} of {compared} rows of all dtypes."]
    said = [
        f"{name} {fit[name]['floor_us']:.3g} µs + {fit[name]['ns_a_logit']:.3g} ns a logit"
        for name in OURS
        if name in fit
    ]
    if said:
        lines[-1] += f" Fitted: {', '.join(said)}."
    if "limits" in results:
        lines[-1] += (
            " An " + ", an ".join(f"{name} {limit_time(row)}" for name, row in results["limits"].items()) + " µs."
        )
    return "\n".join(lines)


def _timed(cell: dict, name: str, kind: str) -> float | None:
    for row in cell["rows"]:
        if row["contender"] == name and "error" not in row and f"{kind}_us" in row:
            return row[f"{kind}_us"]["median"]
    return None


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
        figsize=(max(3.4 * len(dtypes) + 1.2, 11), 2.9 * len(panels) + 1),  # at least as wide as title and legend
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
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
    env = results["environment"]
    commit = (env["commit"] or "unknown")[:12]
    figure.suptitle(
        f"Discriminator loss, forward + backward, on {env['device']}\n"
        f"median and 95 % interval; torch {env['torch']}, triton {env['triton']}, commit {commit}, {env['date']}",
        fontsize=11,
    )
    save(figure, path)


def save(figure, path: Path) -> None:
    """The picture in place of an older one, at once. Nothing in it tells when it was drawn."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    figure.savefig(part, dpi=130, metadata={"Software": None} if path.suffix == ".png" else None)
    plt.close(figure)
    part.replace(path)


def growth_picture(results: dict, path: Path) -> None:
    """Time over logits, both on logarithmic scales, with the fitted floor + n * cost and the least there is."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = ("host", "device") if results["device_type"] == "cuda" else ("host",)
    dtype = results["cells"][0]["dtype"] if results["cells"] else "float32"
    figure, axes = plt.subplots(1, len(kinds), figsize=(7.6 * len(kinds), 5.4), squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds):
        found = {name: fit for d, name, fit in growth.fits(results, kind) if d == dtype}
        for name, colour in COLOURS.items():
            points = sorted(
                (cell["n"], value)
                for cell in results["cells"]
                if cell["dtype"] == dtype and (value := _timed(cell, name, kind))
            )
            if not points:
                continue
            n, t = zip(*points)
            label, fit = name, found.get(name)
            if fit:
                label += f": {fit['floor_us']:.3g} µs + {fit['ns_a_logit']:.3g} ns · n"
                label += "" if fit["slope"] is None else f", slope {fit['slope']:.2f}"
                line = [fit["floor_us"] + fit["ns_a_logit"] * 1e-3 * x for x in n]
                axis.plot(n, line, color=colour, linewidth=0.9, linestyle=":")
            axis.plot(n, t, color=colour, marker="o", markersize=4, linewidth=2 if name in OURS else 1.1, label=label)
        for name, row in results.get("limits", {}).items():
            value = row.get("graph_us") if kind == "device" else row.get("host_us", {}).get("median")
            if value:
                axis.axhline(value, color="#9ca3af", linewidth=0.8, linestyle="--")
                axis.annotate(
                    name,
                    (0.99, value),
                    xycoords=axis.get_yaxis_transform(),
                    xytext=(0, 2),
                    textcoords="offset points",
                    ha="right",
                    fontsize=7.5,
                    color="#6b7280",
                )
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.grid(True, color="#e5e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("n, logits a side")
        axis.set_ylabel(f"{kind} time of forward + backward, µs")
        axis.legend(fontsize=7.5, frameon=False)
    figure.suptitle(
        f"Cost as the work grows, {dtype}, on {results['environment']['device']}; dotted: the fit", fontsize=10
    )
    save(figure, path)


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
