"""The tables of README and of docs/benchmarks.md, from the results files.

They stand between `<!-- bench:SUITE -->` (or `devices`, `versions`) and `<!-- /bench -->`. `<!-- bench:SUITE gpu -->`
has only the GPUs' tables, and `<!-- bench:SUITE sentence -->` a sentence in place of tables."""

from __future__ import annotations

import json
import os
import re
import textwrap
from pathlib import Path
from types import ModuleType

from bench import bundle, suites
from bench.checks import versions
from bench.harness import environment, promises

PAGES = ("README.md", "docs/benchmarks.md")
MARKED = re.compile(r"<!-- bench:(\w+)( gpu| sentence)? -->\n(.*?)<!-- /bench -->", re.S)


def pages() -> list[Path]:
    """The files with generated tables."""
    return [path for name in PAGES if (path := environment.ROOT / name).exists()]


def files() -> list[Path]:
    """Results files of full runs, in the order of the suites, then of the devices, GPUs first."""
    folders = [p for p in environment.RESULTS.glob("*") if p.is_dir() and not p.name.endswith("-quick")]
    folders.sort(key=lambda folder: (folder.name.startswith("cpu"), folder.name))
    found = [folder / f"{name}.json" for name in suites.SUITES for folder in folders]
    return [file for file in found if file.exists()]


def devices() -> str:
    """The sentence that names the measured devices."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files()]
    named = ", ".join(dict.fromkeys(results["environment"]["device"] for results in found)) or "nothing yet"
    if any(results["device_type"] == "cuda" for results in found):
        return f"Measured: {named}."
    return f"Measured: {named}. **No GPU has been measured yet**, and no GPU figure is claimed here."


def table(suite: str, gpus: bool = False, page: str = "README.md") -> str:
    """A page's tables of a suite: one for each device that it ran on, or for each GPU."""
    if suite == "devices":
        return devices()
    if suite == "versions":
        there = versions.RESULTS.exists()
        rows = json.loads(versions.RESULTS.read_text(encoding="utf-8"))["rows"] if there else []
        wrong = versions.found_wrong(rows) if page != "README.md" else ""
        return versions.table(rows) + (f"\n\nFailures:\n\n{wrong}" if wrong else "")
    parts = []
    for file in files():
        results = json.loads(file.read_text(encoding="utf-8"))
        if file.stem != suite or (gpus and results["device_type"] != "cuda"):
            continue
        env, found = results["environment"], suites.suite(suite)
        link = os.path.relpath(file.relative_to(environment.ROOT).with_suffix(".md"), Path(page).parent)
        link = Path(link).as_posix()
        made = f"{env['device']}, torch {env['torch']}, commit {(env['commit'] or 'unknown')[:12]}, {env['date']}"
        shown = found.summary(results) if found.summary else promises.table(found.promises(results))
        parts.append(f"{made} ([all rows]({link})):\n\n{shown}")
    return "\n\n".join(parts) if parts else "Not measured yet."


def sentence(suite: str, page: str = "README.md") -> str:
    """A suite's sentence, about the first device for which it has one."""
    say = suites.suite(suite).sentence
    for file in files() if say else []:
        if file.stem == suite and (said := say(json.loads(file.read_text(encoding="utf-8")))):
            link = Path(os.path.relpath(file.relative_to(environment.ROOT).with_suffix(".md"), Path(page).parent))
            return textwrap.fill(f"{said} [All rows]({link.as_posix()}).", 120, break_on_hyphens=False)
    return "Not measured yet."


def rewritten(text: str, page: str = "README.md") -> str:
    def fill(found: re.Match) -> str:
        suite, kind = found[1], found[2] or ""
        shown = sentence(suite, page) if kind == " sentence" else table(suite, bool(kind), page)
        return f"<!-- bench:{suite}{kind} -->\n{shown}\n<!-- /bench -->"

    return MARKED.sub(fill, text)


def rewrite(path: Path, write: bool) -> list[str]:
    """A message for each table of the page that differs from the results files; corrects them if `write`."""
    page = path.relative_to(environment.ROOT).as_posix() if path.is_relative_to(environment.ROOT) else path.name
    text = path.read_text(encoding="utf-8")
    new = rewritten(text, page)
    pairs = zip(MARKED.findall(text), MARKED.findall(new))
    stale = [suite for (suite, _, there), (_, _, made) in pairs if there != made]
    if write and new != text:
        environment.write_atomically(path, new)
    return [f"{page}: the table of {suite} is not that of the results files" for suite in stale]


def of_document(name: str) -> ModuleType:
    from bench import tune
    from bench.checks import device

    return {"checks": device, "tune": tune}[name]


def unpack(found: dict) -> list[Path]:
    """Write another machine's results files and their pages, from the results.json of `bench gpu`."""
    folder = environment.RESULTS / re.sub(r"[^a-z0-9-]", "", found["folder"] or "unknown")
    written = []
    for name, results in found["suites"].items():
        if name in suites.SUITES:
            environment.write_json(folder / f"{name}.json", results)
            written += [folder / f"{name}.json", *suites.suite(name).write(results, folder)]
    for name in bundle.DOCUMENTS:
        if name in found:
            environment.write_json(folder / f"{name}.json", found[name])
            environment.write_atomically(folder / f"{name}.md", of_document(name).markdown(found[name]))
            written += [folder / f"{name}.json", folder / f"{name}.md"]
    run = {key: found[key] for key in ("stages", "tests") if key in found}
    environment.write_json(folder / "gpu.json", run)
    return [*written, folder / "gpu.json"]
