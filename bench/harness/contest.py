"""A cell: contenders on the same inputs. Results that differ from float64 are not timed; the others run interleaved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from bench.harness.clock import Call, Cpu, clock_of, poison, sample_rounds
from bench.harness.statistics import interval, ratio

EAGER, COMPILE, REDUCED, COPY = "eager", "torch.compile", "reduce-overhead", "copy"
LEFT_OUT = "left out with --no-compile"

Step = Callable[..., object]  # members of a batch -> result
WhyWrong = Callable[[str, object], tuple[str | None, float]]  # contender, result -> what is wrong, the worst error


@dataclass
class Setting:
    """How a run measures. results: what has been measured so far. clock: times calls on the device."""

    device: str
    quick: bool = False
    budget_s: float = 1.0
    compiled: bool = True
    results: dict = field(default_factory=dict)
    clock: Cpu | None = None

    def __post_init__(self):
        self.clock = self.clock or clock_of(self.device, self.quick)


def one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:200]


def rotating(step: Step, batches: Sequence[Sequence]) -> Call:
    """A call that uses the batches in turn."""
    if len(batches) == 1:
        return lambda i: step(*batches[0])
    kept = [None] * len(batches)  # outputs live as long as their inputs, so that they rotate through memory too

    def call(i: int) -> None:
        k = i % len(batches)
        kept[k] = step(*batches[k])

    return call


def checked(
    setting: Setting,
    makers: dict[str, Callable[[], Step]],
    batches: Sequence[Sequence],
    why_wrong: WhyWrong,
    poisoned: Iterable[Tensor] = (),
) -> tuple[dict[str, dict], dict[str, Call]]:
    """(a row for each contender, the calls of the contenders whose first result is right).

    poisoned: tensors with the shapes of the outputs; the memory that the outputs will reuse is filled with NaN before
    each contender."""
    rows, calls = {}, {}
    for name, make in makers.items():
        row = rows[name] = {"contender": name}
        if name in (COMPILE, REDUCED) and not setting.compiled:
            row["error"] = LEFT_OUT
            continue
        try:
            begin = time.perf_counter()
            step = make()
            for x in poisoned:
                poison(setting.device, x.shape, x.dtype)
            result = step(*batches[0])
            setting.clock.synchronize()
            row["first_call_s"] = round(time.perf_counter() - begin, 3)
            wrong, worst = why_wrong(name, result)
            del result
            row["worst_relative_error"] = worst if math.isfinite(worst) else None
            if wrong:
                row["error"] = f"wrong result, not timed: {wrong}"
                continue
            call = rotating(step, batches)
            for i in range(max(3, len(batches))):
                call(i)
            calls[name] = call
        except Exception as error:  # the row of a contender that cannot run here holds the error
            row["error"] = one_line(error)
    return rows, calls


def timed(setting: Setting, rows: dict[str, dict], calls: dict[str, Call], at_least: tuple[int, int] = (5, 9)) -> dict:
    """Put times, speeds, launches and memory into the rows and return the samples.

    at_least: the fewest rounds of a quick and of a full run."""
    samples = sample_rounds(setting.clock, calls, setting.budget_s, at_least=at_least[not setting.quick])
    for name, kinds in samples.items():
        row = rows.setdefault(name, {"contender": name})
        for kind, values in kinds.items():
            row[f"{kind}_us"] = interval(values)
            for other, column in ((EAGER, "speedup"), (COMPILE, "against_compile")):
                if other in samples and name != COPY and not (name == other == COMPILE):
                    row[f"{kind}_{column}"] = ratio(samples[other][kind], values)
        row["launches"] = setting.clock.launches(calls[name])
        row["peak_bytes"] = setting.clock.peak_bytes(calls[name])
    return samples
