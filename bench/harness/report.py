"""What the tables and pictures of all suites share. Every number comes from the results file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from bench.harness import promises
from bench.harness.promises import times

Column = Callable[[dict, dict], str]  # cell, row -> text

INTERVALS = """\
Each row was measured in {processes} processes, one after the other. The time is the geometric mean of their medians. An
interval is Student's 95 % interval of that mean over the processes, or the interval of the rounds if that is wider."""
ONE_PROCESS = """\
Measured in one process: intervals are over its rounds, and another run may lie outside. `--processes P` repeats it."""
NOWHERE = ["Nowhere in this run."]
INK, SMALL = "#111827", {"fontsize": 7.5, "color": "#374151"}


def kinds_of(results: dict) -> tuple[str, ...]:
    return ("host", "device") if results["device_type"] == "cuda" else ("host",)


def microseconds(value: float) -> str:
    if value >= 99.5:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def time_of(row: dict, kind: str) -> str:
    t = row[f"{kind}_us"]
    return f"{microseconds(t['median'])} ({microseconds(t['q1'])}–{microseconds(t['q3'])})"


def bytes_of(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def busy(env: dict) -> list[str]:
    """A warning if other programs used over a tenth of the cores' time or, in older files, if the load was high."""
    others = env.get("others")
    if (others > 0.1) if others is not None else (env["load"] > env["cores"] / 2):
        share = "" if others is None else f", {others:.0%} of their time"
        return ["", f"**Other programs kept the cores busy{share}: the times include waits for cores. Measure again.**"]
    return []


def made_on(env: dict) -> str:
    """When, and with which versions, a file was made."""
    commit = "unknown commit" if env["commit"] is None else f"commit {env['commit'][:12]}"
    text = f"{env['date']}, {commit}{' with uncommitted changes' if env['dirty'] else ''}, torch {env['torch']}, "
    text += f"triton {env['triton']}, Python {env['python']}"
    return text + (f", driver {env['driver']}" if env["driver"] else "") + "."


def header(title: str, results: dict, promised: list, intervals: str | None = None) -> list[str]:
    """The head of a results page: where, when and how it was measured, the promises, the contenders.

    intervals: what an interval is, if it is not one over rounds and processes."""
    env, processes = results["environment"], results.get("processes", 1)
    lines = [f"# {title} on {env['device']}", "", made_on(env)]
    lines += [
        f"Made by `{env['command']}` in {results.get('seconds', 0):g} s, on {env['cores']} cores with a load of "
        f"{env['load']:g} before; drawn by `python -m bench report`.",
        *(*busy(env), ""),
    ]
    if results["contenders"]:
        rounds = INTERVALS.format(processes=processes) if processes > 1 else ONE_PROCESS
        lines += [intervals or rounds, "", "## Promises", "", promises.table(promised), "", "## Contenders", ""]
        lines += [*(f"* **{name}**: {what}" for name, what in results["contenders"].items()), ""]
    return lines


# Tables.


def table(head: Sequence[str], rows: Iterable[Sequence]) -> list[str]:
    lines = [f"| {' | '.join(head)} |".replace("|  |", "| |"), "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def rows_table(cells: Iterable[dict], lead: dict[str, Column], columns: dict[str, Column]) -> list[str]:
    """A line for each row: the columns, by their heads, or `lead` and the error if the row has no time."""

    def line(cell: dict, row: dict) -> list[str]:
        start = [column(cell, row) for column in lead.values()]
        if "host_us" not in row:
            return [*start, row.get("error", "not timed"), *[""] * (len(columns) - 1)]
        return start + [column(cell, row) for column in columns.values()]

    return table([*lead, *columns], (line(cell, row) for cell in cells for row in cell["rows"]))


def time_columns(kinds: Sequence[str]) -> dict[str, Column]:
    return {f"{kind} µs": lambda cell, row, kind=kind: time_of(row, kind) for kind in kinds}


def speed_columns(kinds: Sequence[str]) -> dict[str, Column]:
    """Of each kind of time, against eager and against torch.compile."""
    against = (("eager", "speedup"), ("compile", "against_compile"))
    return {
        f"{kind} vs {other}": lambda cell, row, key=f"{kind}_{column}": times(row.get(key))
        for kind in kinds
        for other, column in against
    }


def count_columns(error: str = "worst relative error", waits: bool = False) -> dict[str, Column]:
    def worst(cell: dict, row: dict) -> str:
        return "" if row.get("worst_relative_error") is None else f"{row['worst_relative_error']:.1e}"

    columns = {"launches": lambda cell, row: str(row["launches"])}
    if waits:
        columns["waits"] = lambda cell, row: str(row.get("waits", ""))
    return columns | {"peak": lambda cell, row: bytes_of(row["peak_bytes"]), error: worst}


CONTENDER: dict[str, Column] = {"contender": lambda cell, row: row["contender"]}


def slower(results: dict, where: Callable[[dict], str], ours: Collection[str]) -> list[str]:
    """A line for each of our rows that is slower than the fastest peer of its cell."""
    lines = []
    for cell in results["cells"]:
        timed = {row["contender"]: row for row in cell["rows"] if "host_us" in row and "error" not in row}
        for kind in kinds_of(results):
            peers = {name: row[f"{kind}_us"]["median"] for name, row in timed.items() if name not in (*ours, "copy")}
            if not peers:
                continue
            fastest = min(peers, key=peers.get)
            for name in ours:
                if name in timed and (own := timed[name][f"{kind}_us"]["median"]) > peers[fastest]:
                    speed = f"{peers[fastest] / own:.2f}× the {kind} speed of {fastest}"
                    lines.append(f"* {where(cell)}: {name} at {speed}, {microseconds(own)} µs")
    return lines


def where_slower(results: dict, where: Callable[[dict], str], ours: Collection[str]) -> list[str]:
    return ["", "## Where fastgan is slower", "", *(slower(results, where, ours) or NOWHERE)]


# Pictures.


def can_draw() -> bool:
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    return True


def subplots(lines: int, columns: int, width: float, height: float, **options):
    from matplotlib import pyplot

    return pyplot.subplots(lines, columns, figsize=(width, height), squeeze=False, layout="constrained", **options)


def tidy(axis, grid: str = "both", **options) -> None:
    """options: of axis.set."""
    axis.grid(True, axis=grid, color="#e5e7eb", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set(**options)


def curve(axis, points: Sequence[tuple[float, dict]], name: str, colour: str, strong: bool, style: str = "-") -> None:
    """Medians over x, and their intervals."""
    if points:
        x, values = zip(*sorted(points, key=lambda point: point[0]))
        line = dict(color=colour, linewidth=2 if strong else 1.2, linestyle=style, markersize=3.5 if strong else 2.5)
        axis.plot(x, [v["median"] for v in values], marker="o", label=name, **line)
        low, high = ([v[key] for v in values] for key in ("low", "high"))
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def legend(figure, axes, columns: int = 8) -> None:
    """Below all axes, each name once."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
    columns = min(len(found), columns) or 1
    figure.legend(found.values(), found, loc="outside lower center", ncols=columns, frameon=False)


def note(axis, x: float, y: float, text: str, left: bool = False) -> None:
    place = dict(xytext=(-3 if left else 3, 0), textcoords="offset points", ha="right" if left else "left", va="center")
    axis.annotate(text, (x, y), **place, annotation_clip=False, **SMALL)


def speed_bars(axis, cells: Sequence[dict], colours: dict[str, str], key: str, label: str) -> None:
    """Speed-ups: a line for each cell, a bar for each contender, drawn from 1 to either side."""
    from matplotlib.ticker import LogLocator

    thick, ends = 0.8 / max(len(colours), 1), [1.0]
    for place, (name, colour) in enumerate(colours.items()):
        for line, cell in enumerate(cells):
            row = next((r for r in cell["rows"] if r["contender"] == name), None)
            y, value = line + (place - (len(colours) - 1) / 2) * thick, (row or {}).get(key)
            if value is None:
                note(axis, 1.0, y, "not timed" if row else f"no {name} here")
                continue
            median, low, high = value["median"], value["low"], value["high"]
            axis.barh(y, median - 1, thick * 0.92, left=1, color=colour, label=name)
            axis.plot([low, high], [y, y], color=INK, linewidth=0.8)
            text = f"{median:.2f}×" if median < 9.95 else f"{median:.0f}×"
            note(axis, max(high, median) if median >= 1 else min(low, median), y, text, left=median < 1)
            ends += [low, high]
    low, high = min(ends), max(*ends, 1.3)
    room = (high / low) ** 0.12  # for the numbers at the ends of the bars
    axis.set_xscale("log", base=2)
    axis.set_xlim(low / room, high * room)
    if high / low < 3:  # powers of 2 alone would be too few
        axis.xaxis.set_major_locator(LogLocator(2, (1.0, 1.25, 1.5)))
    axis.xaxis.set_major_formatter(lambda x, _: f"1/{1 / x:g}" if (1 / x).is_integer() and x < 1 else f"{x:g}×")
    axis.axvline(1, color=INK, linewidth=1)
    axis.set_yticks(range(len(cells)), [cell["title"] for cell in cells], fontsize=9)
    axis.set_ylim(len(cells) - 0.4, -0.6)  # the first on top
    tidy(axis, "x", xlabel=f"{label}; left of 1: slower")


def titled(figure, title: str, results: dict) -> None:
    env = results["environment"]
    made = f"torch {env['torch']}, triton {env['triton']}, commit {(env['commit'] or 'unknown')[:12]}, {env['date']}"
    figure.suptitle(f"{title}\n{env['device']}\n{made}", fontsize=10)


def save(figure, path: Path) -> None:
    """Write the picture atomically, without the date on which it was drawn."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    figure.savefig(part, dpi=130, metadata={"Software": None} if path.suffix == ".png" else None)
    pyplot.close(figure)
    part.replace(path)
