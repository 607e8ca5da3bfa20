"""One suite in several processes, one after the other, and their results merged.

The rounds of one process agree closely, but two processes differ: their memory lies elsewhere, their threads run on
other cores, and a shared machine is busier in one minute than in another. So each row is measured in several processes:
the value is the geometric mean of their medians, and the interval is Student's 95 % interval of that mean over the
processes, or the interval of the rounds if that is wider. Results that are wrong in one process are not timed.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.harness import environment
from bench.harness.progress import progress
from bench.harness.statistics import across, most_by_chance

KEYS = ("name", "dtype", "n", "d", "batch", "size")  # the entries that identify a cell


def run(suite: str, arguments: Sequence[str], processes: int, limit_s: float, out: Path) -> dict:
    """The merged results of `python -m bench SUITE ARGUMENTS` in so many processes; `out` is written after each."""
    begin, found = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for i in progress(range(processes), f"{suite}, processes"):
            left = limit_s - (time.perf_counter() - begin)
            if found and left < 5:
                break
            limit = 0.6 * left if not found and processes > 1 else left / (processes - i)  # the first one compiles
            part = Path(folder) / str(i)
            command = [sys.executable, "-m", "bench", suite, *arguments, "--processes", "1", "--quiet"]
            command += ["--limit", f"{max(limit - 5, 1):.1f}", "--out", str(part)]
            done = subprocess.run(command, cwd=environment.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            file = part / f"{suite}.json"
            if done.returncode or not file.exists():
                said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
                if done.returncode == 2:  # bad arguments, said in one line
                    raise ValueError(said[0].removeprefix("python -m bench: "))
                raise RuntimeError(f"{suite}: process {i + 1} ended with {done.returncode}: {said[0][:300]}")
            found.append(json.loads(file.read_text(encoding="utf-8")))
            merged = merge(found)
            merged["environment"]["command"] = environment.shown_command(sys.argv[1:])
            merged["environment"]["load"] = found[0]["environment"]["load"]  # later ones include our own
            merged["seconds"] = round(time.perf_counter() - begin, 1)
            environment.write_json(out, merged)
    return merged


def merge(found: Sequence[dict]) -> dict:
    """The first results, with each row merged with the same row of the others."""
    merged = dict(found[0], processes=len(found))
    others = [{key_of(cell): cell for cell in results["cells"]} for results in found]
    merged["cells"] = []
    for cell in found[0]["cells"]:
        same = [cells[key_of(cell)] for cells in others if key_of(cell) in cells]
        rows = [[row for c in same for row in c["rows"] if row["contender"] == r["contender"]] for r in cell["rows"]]
        merged["cells"].append(dict(cell, rows=[merge_rows(each) for each in rows]))
    if "limits" in merged:
        merged["limits"] = {
            name: merge_rows([results["limits"][name] for results in found]) for name in merged["limits"]
        }
    return merged


def key_of(cell: dict) -> tuple:
    """What identifies a cell within its suite."""
    return tuple(cell.get(name) for name in KEYS)


def merge_rows(rows: Sequence[dict]) -> dict:
    for row in rows:
        if "error" in row:
            return row
    merged = {}
    for key, value in rows[0].items():
        values = [row[key] for row in rows if key in row]
        if isinstance(value, dict) and "median" in value:
            merged[key] = across(values)
        elif key == "first_call_s" or isinstance(value, (str, bool)) or value is None or key.endswith("_of"):
            merged[key] = value
        elif isinstance(value, (int, float)):
            numbers = [v for v in values if v is not None]
            merged[key] = max(numbers) if isinstance(value, int) or "error" in key else float(np.median(numbers))
        else:
            merged[key] = value
    return merged


def agree(first: dict, second: dict) -> tuple[list[str], int, bool]:
    """(rows in which two results differ by more than their intervals allow, rows compared, whether the runs agree).

    A row's interval covers 95 % of runs: of rows that agree, one in twenty is outside by chance. The runs agree if the
    number of rows outside is at most the 99 % quantile of the binomial distribution with that chance.
    """
    apart, compared = [], 0
    rows = {(key_of(cell), row["contender"]): row for cell in second["cells"] for row in cell["rows"]}
    for cell in first["cells"]:
        for row in cell["rows"]:
            other = rows.get((key_of(cell), row["contender"]), {})
            for key in sorted(row.keys() & other.keys()):
                if not key.endswith("_us") or not isinstance(row[key], dict) or not isinstance(other[key], dict):
                    continue
                compared += 1
                difference = math.log(row[key]["median"] / other[key]["median"])
                allowed = math.hypot(half_width(row[key]), half_width(other[key]))
                if abs(difference) > allowed:
                    where = " ".join(str(x) for x in key_of(cell) if x is not None)
                    said = f"{where}, {row['contender']}, {key[:-3]}: {row[key]['median']:.4g} and "
                    said += f"{other[key]['median']:.4g} µs, {abs(math.expm1(difference)):.1%} apart, "
                    apart.append(said + f"{math.expm1(allowed):.1%} allowed")
    return apart, compared, compared > 0 and len(apart) <= most_by_chance(compared)


def half_width(value: dict) -> float:
    return max(math.log(value["high"] / value["median"]), math.log(value["median"] / value["low"]))


SWITCHES = ("--quiet",)  # options without a value


def inherited(arguments: Sequence[str], leave: Sequence[str]) -> list[str]:
    """The command-line options, without those named in `leave` and their values."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument.split("=")[0] in leave:
            skip = "=" not in argument and argument not in SWITCHES
        else:
            kept.append(argument)
    return kept
