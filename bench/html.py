"""`python -m bench report --html`: all results on one page that needs no other file: pictures are in it."""

from __future__ import annotations

import base64
import functools
import html
import json
import re
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from bench import environment, promises, readme, report, suites

STYLE = """
:root { color-scheme: light; } body { font: 15px/1.5 system-ui, sans-serif; color: #111827; background: #fff;
max-width: 1120px; margin: 2rem auto; padding: 0 1rem; } h1 { font-size: 1.6rem; } h2 { margin-top: 2.6rem; border-top:
1px solid #e5e7eb; padding-top: 1.2rem; } h3 { margin-top: 1.8rem; } nav a { margin-right: 1rem; } p.made { color:
#6b7280; } img, svg { max-width: 100%; height: auto; } table { border-collapse: collapse; font-size: 13px; display:
block; overflow-x: auto; } th, td { padding: 3px 9px; border-bottom: 1px solid #e5e7eb; text-align: left; } td:not(
:first-child) { font-variant-numeric: tabular-nums; } code { background: #f3f4f6; padding: 0 3px; }
"""
TITLES = {
    "losses": "Discriminator loss and its gradients",
    "lists": "Losses of public codebases",
    "batches": "As the batch grows",
    "matching": "Feature matching",
    "mmd": "Maximum mean discrepancy",
    "training": "Training",
    "timeline": "One training step",
}


def write(path: Path) -> None:
    environment.write_atomically(path, page())


def page() -> str:
    """Of every results file there is."""
    found = [(file, json.loads(file.read_text(encoding="utf-8"))) for file in readme.files()]
    devices = list(dict.fromkeys(file.parent for file, _ in found))
    body = ["<h1>fastgan: measurements</h1>"]
    body.append("<p>Every number and picture is drawn from the results files in <code>bench/results</code>.</p><nav>")
    body += [f'<a href="#{device.name}">{html.escape(device.name)}</a>' for device in devices]
    body.append("</nav>")
    for device in devices:
        body.append(f'<h2 id="{device.name}">{html.escape(device.name)}</h2>')
        of_device = [(file, results) for file, results in found if file.parent == device]
        by_suite = {file.stem: results for file, results in of_device}
        if "losses" in by_suite:
            losses = by_suite["losses"]
            for title, what, draw in DRAWN:
                body += [f"<h3>{title}</h3><p>{what}</p>", svg(functools.partial(draw, losses))]
        for file, results in of_device:
            body += section(file, results)
    text = "\n".join(body)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>fastgan</title>'
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{text}</body></html>\n"


def section(file: Path, results: dict) -> list[str]:
    """A suite's table for README, its promises and its pictures."""
    env, module = results["environment"], suites.module(file.stem)
    made = f"{env['date']}, torch {env['torch']}, triton {env['triton']}, commit {(env['commit'] or 'unknown')[:12]}"
    made += f", by {env['command']}"
    lines = [f"<h3>{TITLES.get(file.stem, file.stem)}</h3>", f'<p class="made">{html.escape(made)}</p>']
    if hasattr(module, "summary"):
        lines.append(as_html(module.summary(results)))
    if promised := module.promises(results):
        lines.append(as_html(promises.table(promised)))
    return lines + [png(picture) for picture in pictures(file.parent, file.stem)]


def pictures(folder: Path, suite: str) -> list[Path]:
    """<suite>.png, <suite>-*.png and <suite>_*.png; not those of the losses, which are drawn again, as SVG."""
    if suite == "losses":
        return []
    return sorted(p for p in folder.glob("*.png") if re.match(rf"{suite}([-_].*)?\.png$", p.name))


def png(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{html.escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


def svg(draw: Callable[[Path], None]) -> str:
    """What draw(path) writes, as an element of the page. Text stays text."""
    import matplotlib

    with tempfile.TemporaryDirectory() as folder, matplotlib.rc_context({"svg.hashsalt": "0", "svg.fonttype": "none"}):
        path = Path(folder) / "picture.svg"
        draw(path)
        text = path.read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)  # where it was made, with addresses of others
    # ids are of the picture; on a page of several they must not meet
    prefix = f"p{zlib.crc32(text.encode()):08x}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    return text[text.index("<svg") :]


def as_html(markdown: str) -> str:
    """Of the Markdown that the tables here are made of: tables, bold, code, paragraphs."""
    out, table = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            table.append([_inline(cell.strip()) for cell in line.strip("|").split("|")])
            continue
        if table:
            out.append(_table(table))
            table = []
        if line.strip():
            out.append(f"<p>{_inline(line)}</p>")
    return "\n".join(out)


def _table(rows: list[list[str]]) -> str:
    head, body = rows[0], [row for row in rows[1:] if not all(set(cell) <= {"-", ":"} and cell for cell in row)]
    lines = ["<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return "".join(lines) + "</table>"


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", text)
    return re.sub(r"^\* ", "• ", text)


# Pictures of the losses that only this page has.


def roofline(results: dict, path: Path) -> None:
    """Bytes that must move a second, over the bytes of a call, against the copy of the same cells."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kind = "device" if results["device_type"] == "cuda" else "host"
    dtypes = [d for d in ("float32", "bfloat16") if any(c["dtype"] == d for c in results["cells"])]
    figure, axes = plt.subplots(1, len(dtypes), figsize=(5.6 * len(dtypes), 4.2), sharey=True, squeeze=False)
    figure.set_layout_engine("constrained")
    for axis, dtype in zip(axes[0], dtypes):
        for name, colour in report.COLOURS.items():
            points = sorted(
                (cell["bytes"], row["bytes_per_s"] / 1e9)
                for cell in results["cells"]
                for row in cell["rows"]
                if cell["dtype"] == dtype and row["contender"] == name and "bytes_per_s" in row and "error" not in row
            )
            if points:
                style = dict(color=colour, lw=2 if name in report.OURS else 1.1, ls="--" if name == "copy" else "-")
                axis.plot(*zip(*points), marker="o", ms=3, label="measured copy" if name == "copy" else name, **style)
        floor = results.get("limits", {}).get("empty autograd node" if kind == "host" else "empty launch", {})
        if floor := floor.get(f"{kind}_us", {}).get("median"):
            x = sorted({cell["bytes"] for cell in results["cells"] if cell["dtype"] == dtype})
            what = "empty autograd node" if kind == "host" else "empty launch"
            label = f"bytes over the time of an {what}"
            axis.plot(x, [b / floor / 1e3 for b in x], color="#111827", lw=0.8, ls=":", label=label)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.grid(True, color="#e5e7eb", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("bytes that a call must move")
        axis.set_title(dtype, fontsize=10)
    axes[0][0].set_ylabel("GB/s")
    axes[0][0].legend(fontsize=8, frameon=False)
    report.save(figure, path)


def launches(results: dict, path: Path) -> None:
    """Of each contender in float32, at the largest size that all were measured at."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [cell for cell in results["cells"] if cell["dtype"] == "float32"]
    best = max(cells, key=lambda c: (sum("launches" in row for row in c["rows"]), c["n"]))
    rows = [row for row in best["rows"] if "launches" in row and "error" not in row]
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(rows) + 1.2), layout="constrained")
    names = [row["contender"] for row in rows]
    colours = [report.COLOURS.get(name, "#9ca3af") for name in names]
    axis.barh(names, [row["launches"] for row in rows], color=colours)
    for y, row in enumerate(rows):
        axis.annotate(str(row["launches"]), (row["launches"], y), (4, 0), textcoords="offset points", va="center")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    cuda = results["device_type"] == "cuda"
    what = "kernels launched, by the profiler" if cuda else "operators that touch elements, and compiled graphs"
    axis.set_xlabel(f"{what}, {best['n']:,} logits a side")
    report.save(figure, path)


DRAWN: tuple[tuple[str, str, Callable[[dict, Path], None]], ...] = (
    ("Speed", "Forward and backward together, by contender, dtype and size.", report.picture),
    ("Cost as the work grows", "Time over logits with the fitted floor and cost.", report.growth_picture),
    ("Roofline", "Logits read once and gradients written once: how near to a copy of as many bytes.", roofline),
    ("Launches", "Forward and backward together.", launches),
)
