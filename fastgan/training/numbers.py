"""The numbers of a step, read by the host."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class TrainingDiverged(RuntimeError):
    """A number of the step is NaN or infinite. step: where this was detected; values: the numbers of that step."""

    def __init__(self, step: int, values: dict[str, float]):
        self.step, self.values = step, values
        broken = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
        super().__init__(f"training diverged: at step {step}, {broken}")


def check_finite(step: int, record: dict[str, float]) -> None:
    """Raises TrainingDiverged, naming the step, if a number of the record is NaN or infinite."""
    if not all(map(math.isfinite, record.values())):
        raise TrainingDiverged(step, record)


def to_numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """The values as Python numbers. One copy to the host, and the only place where the host waits for a step."""
    return dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist()))


def describe(record: dict) -> str:
    """The text of the progress bar beside the rate."""
    said = {"loss_d": "D {:.3f}", "loss_g": "G {:.3f}", "error": "error of D {:.3f}"}
    return "  ".join(form.format(record[name]) for name, form in said.items() if name in record)
