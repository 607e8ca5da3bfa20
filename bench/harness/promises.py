"""Promises, checked against a results file: what is promised, what was measured, met or not met."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

Promise = tuple[str, str, str]  # what is promised, what was measured, "met" / "not met" / "not measured"

UNMEASURED = "not measured"


def times(value: dict | None) -> str:
    return "" if value is None else f"{value['median']:.2f}× [{value['low']:.2f}, {value['high']:.2f}]"


def percent(value: dict | None) -> str:
    return "" if value is None else f"{value['median']:.0%} [{value['low']:.0%}, {value['high']:.0%}]"


def size(n: int) -> str:
    power = n.bit_length() - 1
    return f"2^{power}" if n == 1 << power and n >= 1024 else str(n)


def rows(results: dict, contender: str, column: str | None = None, **cell: object) -> Iterator[tuple[dict, dict]]:
    """(cell, row) of a contender, from cells with these values and rows with this column."""
    for found in results["cells"]:
        for row in found["rows"]:
            matches = row["contender"] == contender and (column is None or row.get(column) is not None)
            if matches and all(found.get(key) == value for key, value in cell.items()):
                yield found, row


def at(results: dict, contender: str, column: str, **cell: object):
    """The column of the first such row, or None."""
    return next((row[column] for _, row in rows(results, contender, column, **cell)), None)


def promise(what: str, measured: str, met: bool | None) -> Promise:
    return what, measured, UNMEASURED if met is None else "met" if met else "not met"


def at_least(what: str, value: dict | None, bound: float, form: Callable[[dict], str] = times) -> Promise:
    return promise(what, form(value), None if value is None else value["median"] >= bound)


def worst(
    what: str,
    found: Collection[tuple[float, str]],
    good: Callable[[float], bool],
    unit: str = "×",
    largest: bool = False,
) -> Promise:
    """A promise on the worst of all (value, where)."""
    if not found:
        return what, "", UNMEASURED
    value, where = (max if largest else min)(found)
    return promise(what, f"{value:.2f}{unit} at worst ({where})", good(value))


def never_slower(what: str, results: dict, contender: str, column: str, where: Callable[[dict], str]) -> Promise:
    found = [(row[column]["median"], where(cell)) for cell, row in rows(results, contender, column)]
    return worst(what, found, lambda v: v >= 1)


def counted(what: str, found: Collection[int], allowed: Collection[int]) -> Promise:
    """A promise on counts, such as launches: each must be one of the allowed."""
    return promise(what, ", ".join(map(str, sorted(set(found)))), set(found) <= set(allowed) if found else None)


def all_right(results: dict, ours: Collection[str], what: str, unit: str = "rows") -> Promise:
    """A promise that every row of ours passed the gate."""
    found = [row for cell in results["cells"] for row in cell["rows"] if row["contender"] in ours]
    right = sum("error" not in row for row in found)
    return promise(what, f"{right} of {len(found)} {unit}", bool(found) and right == len(found))


def table(promises: list[Promise]) -> str:
    lines = ["| promise | measured | |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {measured} | **{verdict}** |" for what, measured, verdict in promises])
