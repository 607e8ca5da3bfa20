"""The interface of a suite, and what all suites share: they run cell by cell, and write tables and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness import environment, report
from bench.harness.clock import clock_of
from bench.harness.contest import Setting
from bench.harness.progress import progress
from bench.harness.promises import Promise


@dataclass(frozen=True)
class Suite:
    """What a suite defines. A cell has "rows", one for each contender; the row of a wrong result has an "error" and no
    time.

    contenders   {name: description}
    names        (device, quick) -> the names of a run's cells
    measure      (setting, name) -> the cell, or None if it adds to setting.results instead
    tables       (results, kinds of time) -> lines
    pictures     {file: function that draws it, of (results, path)}
    summary      results -> the table for README and docs; by default the promises
    sentence     results -> the sentence for README, "" if there is nothing to say
    known        device -> names of all cells that can be selected; by default those of a full run; None: any name
    extras       setting -> entries of the results file besides the cells
    key          name -> the entries that identify the cell
    where        cell -> its name in tables
    why_not      (device, name) -> why the cell cannot run, or None
    budgets      seconds of timing a cell: quick, on a CPU, on a GPU
    time_limits  seconds of a run: on a CPU, on a GPU
    cell         the word for a cell in messages
    must_finish  start no cell that may end after the time limit
    intervals    what an interval is, if it is not one over rounds and processes
    capture      captures a CUDA graph, and cleans up if the capture fails; default torch.cuda.graph
    """

    name: str
    title: str
    contenders: dict[str, str]
    names: Callable[[str, bool], Sequence[str]]
    measure: Callable[[Setting, str], dict | None]
    promises: Callable[[dict], list[Promise]]
    tables: Callable[[dict, tuple[str, ...]], list[str]]
    pictures: dict[str, Callable[[dict, Path], None]]
    summary: Callable[[dict], str] | None = None
    sentence: Callable[[dict], str] | None = None
    known: Callable[[str], Sequence[str] | None] | None = None
    extras: Callable[[Setting], dict] = lambda setting: {}
    key: Callable[[str], dict] = lambda name: {"name": name}
    where: Callable[[dict], str] = lambda cell: cell.get("title", cell.get("name"))
    why_not: Callable[[str, str], str | None] = lambda device, name: None
    budgets: tuple[float, float, float] = (0.3, 3.0, 1.0)
    time_limits: tuple[float, float] = (540.0, 400.0)
    cell: str = "configuration"
    must_finish: bool = False
    intervals: str | None = None
    capture: Callable | None = None

    def selected_names(self, device: str, only: Sequence[str] | None, quick: bool) -> list[str]:
        """The names of a run's cells. only: names, or their first words; raises ValueError if no cell matches one."""
        names = list(self.names(device, quick))
        known = self.known(device) if self.known else self.names(device, False)
        selected = []
        for name in only or ():
            found = [[c for c in cells if c == name or c.startswith(f"{name} ")] for cells in (names, known or [name])]
            if not any(found):
                raise ValueError(f"{self.cell} {name!r}: expected one of {', '.join(known)}")
            selected += found[0] or found[1]
        return names if only is None else selected

    def run(
        self,
        device: str,
        only: Sequence[str] | None = None,
        *,
        quick: bool = False,
        budget_s: float | None = None,
        limit_s: float | None = None,
        compiled: bool = True,
        commit: str | None = None,
        out: Path | None = None,
    ) -> dict:
        """Run the suite and return the content of <name>.json. `out` is written after every cell, so that a stopped
        run keeps its cells."""
        names = self.selected_names(device, only, quick)
        cuda = device == "cuda"
        limit_s = limit_s or self.time_limits[cuda]
        budget_s = budget_s or (self.budgets[0] if quick else self.budgets[1 + cuda])
        results = {"suite": self.name, "environment": environment.describe(device, commit), "device_type": device}
        results |= {"quick": quick, "contenders": self.contenders, "cells": [], "skipped": []}
        setting = Setting(device, quick, budget_s, compiled, results, clock_of(device, quick, self.capture))
        results |= self.extras(setting)
        begin, longest = time.perf_counter(), 0.0
        bar = progress(names, self.name)
        for name in bar:
            started = time.perf_counter()
            why = self.why_not(device, name)
            if started - begin + longest * self.must_finish > limit_s:
                why = f"the run's limit of {limit_s:g} s was reached"
            if why:
                results["skipped"].append(self.key(name) | {"why": why})
                continue
            bar.set_postfix_str(name)
            if (cell := self.measure(setting, name)) is not None:
                results["cells"].append(cell)
            longest = max(longest, time.perf_counter() - started)
            results["seconds"] = round(time.perf_counter() - begin, 1)
            if out is not None:
                environment.write_json(out, results)
        if out is not None:
            environment.write_json(out, results)
        return results

    def markdown(self, results: dict) -> str:
        lines = report.header(self.title, results, self.promises(results), self.intervals)
        lines += self.tables(results, report.kinds_of(results))
        for skipped in results["skipped"]:
            lines += ["", f"Not measured: {self.where(skipped)}: {skipped['why']}."]
        return "\n".join(lines) + "\n"

    def write(self, results: dict, folder: Path) -> list[Path]:
        """Write the table and, if matplotlib is installed, the pictures beside the results file."""
        written = [folder / f"{self.name}.md"]
        environment.write_atomically(written[0], self.markdown(results))
        if report.can_draw():
            for name, draw in self.pictures.items():
                written.append(folder / name)
                draw(results, written[-1])
        return written
