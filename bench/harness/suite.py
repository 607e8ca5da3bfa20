"""The shape of a suite, and what all suites have in common: to run cell by cell, to write tables and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness import environment, report
from bench.harness.clock import machine
from bench.harness.contest import Setting
from bench.harness.progress import progress
from bench.harness.promises import Promise


@dataclass(frozen=True)
class Suite:
    """What a suite gives. A cell has "rows", one a contender; a row with a wrong result has an "error" and no time.

    contenders   {name: what it is}
    names        (device, quick) -> the cells of a run
    measure      (setting, name) -> the cell, or None if it put something else into setting.results
    tables       (results, kinds of time) -> lines
    pictures     {file: (results, path) draws it}
    summary      results -> the rows that stand in README and docs; by default the promises
    sentence     results -> what README says in words, if anything
    known        device -> all cells that may be asked for; by default those of a full run; None: no list has them all
    begun        setting -> what a results file has beside its cells
    key          name -> which cell it is
    where        a cell -> what tables call it
    why_not      (device, name) -> why it cannot run
    budgets      seconds of timing a cell: quick, on a CPU, on a GPU
    limits       seconds of a run: on a CPU, on a GPU
    cell         what a cell is called
    whole        no cell is started that may end after the limit
    intervals    what tables say of intervals, if they are not of rounds and processes
    capture      how to capture a CUDA graph, for contenders whose capture may fail
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
    begun: Callable[[Setting], dict] = lambda setting: {}
    key: Callable[[str], dict] = lambda name: {"name": name}
    where: Callable[[dict], str] = lambda cell: cell.get("title", cell.get("name"))
    why_not: Callable[[str, str], str | None] = lambda device, name: None
    budgets: tuple[float, float, float] = (0.3, 3.0, 1.0)
    limits: tuple[float, float] = (540.0, 400.0)
    cell: str = "configuration"
    whole: bool = False
    intervals: str | None = None
    capture: Callable | None = None

    def chosen(self, device: str, only: Sequence[str] | None, quick: bool) -> list[str]:
        """The cells of a run. only: their names, or their first words; raises ValueError for one that no cell has."""
        names = list(self.names(device, quick))
        known = self.known(device) if self.known else self.names(device, False)
        found = []
        for name in only or ():
            named = [[c for c in cells if c == name or c.startswith(f"{name} ")] for cells in (names, known or [name])]
            if not any(named):
                raise ValueError(f"{self.cell} {name!r}: expected one of {', '.join(known)}")
            found += named[0] or named[1]
        return names if only is None else found

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
        """The results, as they stand in <name>.json. `out` is written after every cell, so that a stopped run is
        kept."""
        names = self.chosen(device, only, quick)
        cuda = device == "cuda"
        limit_s = limit_s or self.limits[cuda]
        budget_s = budget_s or (self.budgets[0] if quick else self.budgets[1 + cuda])
        results = {"suite": self.name, "environment": environment.describe(device, commit), "device_type": device}
        results |= {"quick": quick, "contenders": self.contenders, "cells": [], "skipped": []}
        setting = Setting(device, quick, budget_s, compiled, results, machine(device, quick, self.capture))
        results |= self.begun(setting)
        begin, longest = time.perf_counter(), 0.0
        bar = progress(names, self.name)
        for name in bar:
            started = time.perf_counter()
            why = self.why_not(device, name)
            if started - begin + longest * self.whole > limit_s:
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
        """The table and, if there is matplotlib, the pictures beside the results file."""
        written = [folder / f"{self.name}.md"]
        environment.write_atomically(written[0], self.markdown(results))
        if report.can_draw():
            for name, draw in self.pictures.items():
                written.append(folder / name)
                draw(results, written[-1])
        return written
