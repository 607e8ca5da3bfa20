"""Intervals of medians, of ratios and of means over processes, and the fit of time over size.

scipy.stats takes a second to import, so only the functions that need it import it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def bootstrap(statistic, *samples: Sequence[float], draws: int = 500) -> tuple[float, float]:
    """The 95 % bootstrap interval of a statistic; whole rounds are resampled."""
    if len(samples[0]) < 2:
        return (float(statistic(*samples, axis=-1)),) * 2
    from scipy import stats

    options = dict(paired=True, vectorized=True, n_resamples=draws, method="percentile", rng=0)
    low, high = stats.bootstrap(samples, statistic, **options).confidence_interval
    return float(low), float(high)


def interval(samples: Sequence[float], draws: int = 500) -> dict[str, float]:
    """Median, quartiles, and the 95 % bootstrap interval of the median."""
    q1, median, q3 = map(float, np.percentile(samples, (25, 50, 75)))
    low, high = bootstrap(np.median, samples, draws=draws)
    return {"median": median, "q1": q1, "q3": q3, "low": low, "high": high, "rounds": len(samples)}


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """Ratio of medians, over / under, with the 95 % interval of a bootstrap that resamples whole rounds."""

    def of(a, b, axis):
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    low, high = bootstrap(of, over, under)
    return {"median": float(np.median(over) / np.median(under)), "low": low, "high": high}


def student(confidence: float, freedom: int) -> float:
    """x with P(|T| < x) = confidence."""
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def paired(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> dict[str, float]:
    """Mean of the paired differences first - second, with Student's interval. Needs two pairs or more."""
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    mean, n = float(differences.mean()), len(differences)
    half = student(confidence, n - 1) * float(differences.std(ddof=1)) / math.sqrt(n)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def geometric_mean(logs: Sequence[float], confidence: float, least: float = 0.0) -> dict[str, float]:
    """exp(mean of logs) with Student's interval, whose half width is at least `least` on the logarithmic scale."""
    n, middle, half = len(logs), float(np.mean(logs)), least
    if n > 1:
        half = max(half, student(confidence, n - 1) * float(np.std(logs, ddof=1)) / math.sqrt(n))
    low, high = (math.exp(min(middle + sign * half, 700.0)) for sign in (-1, 1))
    return {"median": math.exp(middle), "low": low, "high": high}


def across(parts: Sequence[dict], confidence: float = 0.95) -> dict:
    """Merge the intervals of several processes, on a logarithmic scale: of a time, or of a ratio of times."""
    if min(part["median"] for part in parts) <= 0:
        return parts[0]
    within = [math.log(part["high"] / part["low"]) / 2 for part in parts if part["low"] > 0]
    rounds = float(np.mean(within)) / math.sqrt(len(parts)) if within else 0.0
    merged = geometric_mean(np.log([part["median"] for part in parts]), confidence, rounds)
    for key in ("q1", "q3"):
        if key in parts[0]:
            merged[key] = math.exp(float(np.mean(np.log([part[key] for part in parts]))))
    if "rounds" in parts[0]:
        merged["rounds"] = sum(part["rounds"] for part in parts)
    return merged | {"processes": len(parts)}


def most_by_chance(rows: int, chance: float = 0.05, sure: float = 0.99) -> int:
    """The most of so many rows that lie outside of their intervals by chance, in a share `sure` of all runs."""
    from scipy import stats

    return int(stats.binom.ppf(sure, rows, chance))


def fit(sizes: Sequence[int], times_us: Sequence[float]) -> dict[str, float] | None:
    """Least squares of the relative error of floor + n * cost, both >= 0; None for fewer than four sizes.

    floor_us: the floor. ns_a_logit: the cost, for n logits a side. even_at: the n at which floor and n * cost are
    equal. slope: of log t over log n, for n above four times even_at; 1 means in proportion. worst: the largest
    relative distance of a time from the fit; a step from cache to memory shows here.
    """
    n, t = np.asarray(sizes, dtype=float), np.asarray(times_us, dtype=float)
    if len(n) < 4:
        return None
    columns = np.stack([1 / t, n / t], axis=1)
    (floor, cost), *_ = np.linalg.lstsq(columns, np.ones_like(t), rcond=None)
    if floor < 0 or cost < 0:  # the best fit with the other one alone
        keep = int(cost > 0)
        alone = columns[:, keep] @ np.ones_like(t) / (columns[:, keep] @ columns[:, keep])
        floor, cost = (0.0, alone) if keep else (alone, 0.0)
    even_at = float(floor / cost) if cost > 0 else None
    large = n >= (4 * even_at if cost > 0 else np.inf)
    slope = float(np.polyfit(np.log(n[large]), np.log(t[large]), 1)[0]) if large.sum() > 1 else None
    worst = float(np.abs((floor + cost * n) / t - 1).max())
    return {"floor_us": float(floor), "ns_a_logit": float(cost) * 1e3, "even_at": even_at} | dict(
        slope=slope, worst=worst
    )


def fits(results: dict, group: str, size: str, kind: str) -> list[tuple[str, str, dict]]:
    """(cell[group], contender, fit over cell[size]) of every curve, by 'host' or 'device' time."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for cell in results["cells"]:
        for row in cell["rows"]:
            if f"{kind}_us" in row:
                points = curves.setdefault((cell[group], row["contender"]), [])
                points.append((cell[size], row[f"{kind}_us"]["median"]))
    found = [(*key, fit(*zip(*sorted(points)))) for key, points in curves.items()]
    return [each for each in found if each[2] is not None]
