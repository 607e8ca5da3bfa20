"""What a call costs as the work grows: t(n) = floor + n * cost, fitted to measured times, and the slope of log t."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fit(sizes: Sequence[int], times_us: Sequence[float]) -> dict[str, float] | None:
    """Least squares of the relative error of floor + n * cost, both >= 0; None for fewer than four sizes.

    floor_us: what the smallest call costs. ns_a_logit: what each logit adds, of n logits a side. even_at: the n where
    both are alike. slope: of log t over log n above four times that, where cost rules: 1 is in proportion.
    worst: the largest relative distance of a time from the fit; a step from cache to memory shows here.
    """
    n, t = np.asarray(sizes, dtype=float), np.asarray(times_us, dtype=float)
    if len(n) < 4:
        return None
    columns = np.stack([1 / t, n / t], axis=1)
    (floor, cost), *_ = np.linalg.lstsq(columns, np.ones_like(t), rcond=None)
    if floor < 0 or cost < 0:  # the best with the other alone
        keep = int(cost > 0)
        alone = columns[:, keep] @ np.ones_like(t) / (columns[:, keep] @ columns[:, keep])
        floor, cost = (0.0, alone) if keep else (alone, 0.0)
    found = {"floor_us": float(floor), "ns_a_logit": float(cost) * 1e3}
    found["even_at"] = float(floor / cost) if cost > 0 else None
    large = n >= (4 * found["even_at"] if cost > 0 else np.inf)
    found["slope"] = float(np.polyfit(np.log(n[large]), np.log(t[large]), 1)[0]) if large.sum() > 1 else None
    return found | {"worst": float(np.abs((floor + cost * n) / t - 1).max())}


def fits(results: dict, kind: str) -> list[tuple[str, str, dict]]:
    """(dtype, contender, fit) of every curve of losses.json, by 'host' or 'device' time."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for cell in results["cells"]:
        for row in cell["rows"]:
            if f"{kind}_us" in row:
                curves.setdefault((cell["dtype"], row["contender"]), []).append(
                    (cell["n"], row[f"{kind}_us"]["median"])
                )
    found = [(dtype, name, fit(*zip(*sorted(points)))) for (dtype, name), points in curves.items()]
    return [each for each in found if each[2] is not None]
