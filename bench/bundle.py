"""One results.json of everything that `bench gpu` measured, written again whenever a stage has new results."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bench import suites
from bench.harness import environment, processes, promises, report

MOST_BYTES = 16 * 2**20  # the largest log; a larger one is cut
DOCUMENTS = ("checks", "tune")  # results files that belong to no suite


class Bundle:
    """out: the folder of results.json and summary.md. scratch: has a folder for each stage, with the stage's files.
    waiting: names of the stages that have not started."""

    def __init__(self, out: Path, scratch: Path):
        self.out, self.scratch = out, scratch
        self.stages: list[dict] = []
        self.waiting: list[str] = []
        self._seen: dict[Path, float] = {}

    def add(self, name: str, result: str, seconds: float) -> None:
        self.stages.append({"name": name, "result": result, "seconds": round(seconds, 1)})
        print(f"       {name}: {result}, {seconds:.0f} s", flush=True)
        self.write()

    def refresh(self) -> None:
        """Write if a stage has written a file since the last call."""
        now = {file: file.stat().st_mtime for file in self._files()}
        if now != self._seen:
            self._seen = now
            self.write()

    def complete(self) -> bool:
        return all(row["result"] == "passed" for row in self.stages)

    def write(self) -> None:
        results = self.results()
        for folder in (self.out, self.scratch):
            environment.write_json(folder / "results.json", results)
        environment.write_atomically(self.out / "summary.md", self.summary(results) + "\n")
        for log in self.out.glob("*.log"):
            if log.stat().st_size > MOST_BYTES:
                log.write_bytes(log.read_bytes()[-MOST_BYTES // 2 :])

    def results(self) -> dict:
        """{"folder", "stages", "tests", suites by name, documents by name}."""
        found: dict = {"folder": None, "stages": self.stages, "suites": {}}
        for file in sorted(self._files(), key=lambda file: file.stat().st_mtime):
            try:
                part = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:  # an incomplete file: its stage was stopped
                continue
            found["folder"] = environment.slug_of(part["environment"]["device"])
            if file.stem in DOCUMENTS:
                found[file.stem] = part
            else:
                found["suites"][file.stem] = merged(found["suites"].get(file.stem), part)
        log = self.out / "pytest.log"
        if log.exists():
            found["tests"] = outcomes(log.read_text(encoding="utf-8", errors="replace"))
        return found

    def summary(self, results: dict | None = None) -> str:
        results = self.results() if results is None else results
        rows = [(row["name"], row["result"], f"{row['seconds']:.0f}") for row in self.stages]
        lines = report.table(["stage", "result", "seconds"], rows)
        missing = [row["name"] for row in self.stages if row["result"] != "passed"] + self.waiting
        lines += ["", f"Missing or incomplete: {', '.join(missing) or 'nothing'}."]
        if "tests" in results:
            tests = results["tests"]
            lines += [f"Tests: {tests['passed']} passed, {len(tests['failed'])} failed, {tests['skipped']} skipped."]
            lines += [f"* failed: {name}" for name in tests["failed"]]
        failed = [row for row in results.get("checks", {}).get("rows", []) if row["wrong"]]
        lines += [f"* check failed: {r['check']}, {r['call']}, {r['dtype']}: {r['wrong']}" for r in failed]
        return "\n".join([*lines, "", promises.table(_promises(results))])

    def _files(self) -> list[Path]:
        return [file for file in self.scratch.glob("*/*.json") if not file.name.startswith(".")]


def _promises(results: dict) -> list[promises.Promise]:
    found = []
    for name, part in results["suites"].items():
        try:
            found += suites.suite(name).promises(part)
        except Exception as error:  # the suite was stopped halfway
            found.append((f"what {name} shows", f"{type(error).__name__}: {error}", promises.UNMEASURED))
    return found


def merged(earlier: dict | None, later: dict) -> dict:
    """Both results, cell by cell. If both have a cell, the one with more timed contenders counts, or the later one."""
    if earlier is None:
        return later
    cells = {processes.key_of(cell): cell for cell in earlier["cells"]}
    for cell in later["cells"]:
        key = processes.key_of(cell)
        if key not in cells or _timed(cell) >= _timed(cells[key]):
            cells[key] = cell
    filled = {key: value for key, value in later.items() if value not in (None, {}, [])}
    skipped = [*earlier["skipped"], *later["skipped"]]
    return earlier | filled | {
        "cells": list(cells.values()),
        "skipped": [row for row in skipped if not any(_is(cell, row) for cell in cells.values())],
    }  # fmt: skip


def _timed(cell: dict) -> int:
    return sum("error" not in row for row in cell.get("rows", ()))


def _is(cell: dict, skipped: dict) -> bool:
    return all(cell.get(name) == value for name, value in skipped.items() if name != "why")


def outcomes(log: str) -> dict:
    """{"passed": n, "skipped": n, "failed": ids} from a verbose pytest log, which may be incomplete or from xdist."""
    found = {}
    for line in log.splitlines():
        one = re.match(r"(tests/\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b", line)
        many = re.match(r"\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED|XFAIL) (tests/.*?) *$", line)
        if one or many:
            name, result = one.groups() if one else reversed(many.groups())
            found[name] = result
    bad = [name for name, result in found.items() if result in ("FAILED", "ERROR")]
    results = list(found.values())
    return {"passed": results.count("PASSED"), "skipped": results.count("SKIPPED"), "failed": bad}


def read(file: Path) -> dict:
    """Read an earlier results.json; raises ValueError if the file is not one."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected the results.json of an earlier call ({error})") from None
    if not isinstance(results, dict) or "stages" not in results:
        raise ValueError(f"{file}: expected the results.json of an earlier call, which has stages")
    return results
