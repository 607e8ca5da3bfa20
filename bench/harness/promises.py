"""What fastgan promises about speed, read off a results file: promise, measured, met or not met."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Promise = tuple[str, str, str]  # what is promised, what was measured, "met" / "not met" / "not measured"

UNMEASURED = "not measured"


def losses(results: dict) -> list[Promise]:
    return [*(_cuda(results) if results["device_type"] == "cuda" else _cpu(results)), _gate(results)]


def _rows(results: dict, contender: str) -> Iterator[tuple[dict, dict]]:
    for cell in results["cells"]:
        for row in cell["rows"]:
            if row["contender"] == contender:
                yield cell, row


def _at(results: dict, contender: str, dtype: str, n: int, column: str) -> dict | float | None:
    for cell, row in _rows(results, contender):
        if cell["dtype"] == dtype and cell["n"] == n:
            return row.get(column)
    return None


def _at_least(what: str, value: dict | None, bound: float, form: Callable[[dict], str]) -> Promise:
    if value is None:
        return what, "", UNMEASURED
    return what, form(value), "met" if value["median"] >= bound else "not met"


def times(value: dict) -> str:
    return f"{value['median']:.2f}× [{value['low']:.2f}, {value['high']:.2f}]"


def percent(value: dict) -> str:
    return f"{value['median']:.0%} [{value['low']:.0%}, {value['high']:.0%}]"


def size(n: int) -> str:
    power = n.bit_length() - 1
    return f"2^{power}" if n == 1 << power and n >= 1024 else str(n)


def _worst(
    what: str, found: list[tuple[float, str]], good: Callable[[float], bool], unit: str, largest: bool = False
) -> Promise:
    if not found:
        return what, "", UNMEASURED
    value, where = (max if largest else min)(found)
    return what, f"{value:.2f}{unit} at worst ({where})", "met" if good(value) else "not met"


def lists(results: dict) -> list[Promise]:
    """What `python -m bench lists` is held to: CPU speed, and on a GPU the launches of HiFi-GAN's D list."""
    by_name = {
        cell["name"]: {row["contender"]: row for row in cell["rows"] if "host_us" in row} for cell in results["cells"]
    }
    if results["device_type"] == "cuda":
        rows = []
        for name, allowed, what in (
            ("value_and_grad", {1}, "value_and_grad of HiFi-GAN's D list: 1 kernel launch, by the profiler"),
            ("drop-in", {2, 3}, "drop-in for HiFi-GAN's D list: 2 kernel launches, and the fill that starts autograd"),
        ):
            counted = by_name.get("hifigan-d", {}).get(name, {}).get("launches")
            verdict = UNMEASURED if counted is None else "met" if counted in allowed else "not met"
            rows.append((what, "" if counted is None else str(counted), verdict))
        return [*rows, _gate(results)]
    rows = [
        _at_least(
            f"drop-in ≥ 1.5× eager, {what}", by_name.get(name, {}).get("drop-in", {}).get("host_speedup"), 1.5, times
        )
        for name, what in (("hifigan-d", "HiFi-GAN's D list"), ("real-esrgan-d", "Real-ESRGAN's D"))
    ]
    found = [
        (row["host_speedup"]["median"], name)
        for name, contenders in by_name.items()
        for contender, row in contenders.items()
        if contender == "drop-in" and "host_speedup" in row
    ]
    rows.append(_worst("drop-in never slower than eager, any configuration", found, lambda v: v >= 1, "×"))
    return [*rows, _gate(results)]


def _cpu(results: dict) -> list[Promise]:
    promised = [("value_and_grad", 128, 2.0), ("value_and_grad", 2**18, 2.5), ("value_and_grad", 2**22, 2.5)]
    promised += [("drop-in", 2**18, 1.8)]
    rows = [
        _at_least(
            f"{name} ≥ {bound:g}× eager, float32, {size(n)} logits a side",
            _at(results, name, "float32", n, "host_speedup"),
            bound,
            times,
        )
        for name, n, bound in promised
    ]
    found = [
        (row["host_speedup"]["median"], f"{cell['dtype']}, {size(cell['n'])}")
        for cell, row in _rows(results, "drop-in")
        if "host_speedup" in row
    ]
    rows.append(_worst("drop-in never slower than eager, any dtype and size", found, lambda v: v >= 1, "×"))
    return rows


def _cuda(results: dict) -> list[Promise]:
    big = 2**26
    rows = [
        _at_least(
            f"value_and_grad ≥ {bound:.0%} of copy bandwidth, {dtype}, {size(big)} logits a side",
            _at(results, "value_and_grad", dtype, big, "share_of_copy"),
            bound,
            percent,
        )
        for dtype, bound in (("float32", 0.9), ("bfloat16", 0.8))
    ]
    for dtype in ("float32", "bfloat16"):
        for column, against, bound in (
            ("device_against_compile", "torch.compile", 1.4),
            ("device_speedup", "eager", 6),
        ):
            rows.append(
                _at_least(
                    f"value_and_grad ≥ {bound:g}× {against} on the device, {dtype}, {size(big)} logits a side",
                    _at(results, "value_and_grad", dtype, big, column),
                    bound,
                    times,
                )
            )
    for column, against, bound in (("host_speedup", "eager", 2.0), ("host_against_compile", "torch.compile", 1.0)):
        found = [
            (row[column]["median"], f"{cell['dtype']}, {size(cell['n'])}")
            for cell, row in _rows(results, "drop-in")
            if column in row and cell["n"] <= 2**16
        ]
        what = f"drop-in enqueued {bound:g}× as fast as {against} or faster, up to 2^16 logits a side"
        rows.append(_worst(what, found, lambda v, bound=bound: v >= bound, "×"))
    found = [
        (row["graph_us"], f"{cell['dtype']}, {size(cell['n'])}")
        for cell, row in _rows(results, "value_and_grad")
        if row.get("graph_us") is not None
    ]
    what = "value_and_grad in a CUDA graph ≤ 4 µs, up to 2^16 logits a side"
    rows.append(_worst(what, found, lambda v: v <= 4, " µs", largest=True))
    for name, allowed, what in (
        ("value_and_grad", {1}, "value_and_grad: 1 kernel launch, by the profiler"),
        ("drop-in", {2, 3}, "drop-in: 2 kernel launches, and the fill with which autograd starts, by the profiler"),
    ):
        counted = {row["launches"] for _, row in _rows(results, name) if "launches" in row}
        shown = ", ".join(map(str, sorted(counted)))
        rows.append((what, shown, ("met" if counted <= allowed else "not met") if counted else UNMEASURED))
    return rows


def _gate(results: dict) -> Promise:
    what = "every fastgan result right to half a unit in the last place + 5e-6, per element, against float64"
    ours = [row for name in ("drop-in", "value_and_grad") for _, row in _rows(results, name)]
    failed = [row for row in ours if "error" in row]
    return what, f"{len(ours) - len(failed)} of {len(ours)} cells", "met" if ours and not failed else "not met"


def all_right(results: dict, ours: tuple[str, ...]) -> Promise:
    """That every row of ours passed the gate."""
    rows = [row for cell in results["cells"] for row in cell["rows"] if row["contender"] in ours]
    right = sum("error" not in row for row in rows)
    what = "every fastgan result right, per element, against float64"
    return what, f"{right} of {len(rows)} rows", "met" if rows and right == len(rows) else "not met"


def table(promises: list[Promise]) -> str:
    lines = ["| promise | measured | |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {measured} | **{verdict}** |" for what, measured, verdict in promises])
