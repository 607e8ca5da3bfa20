"""What a gradient penalty costs: a discriminator step with R1, exact and approximate, on a small convolutional D."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import fastgan
from bench.harness import report
from bench.harness.clock import sample_rounds
from bench.harness.contest import LEFT_OUT, Setting, one_line
from bench.harness.promises import times
from bench.harness.statistics import interval, ratio
from fastgan.penalties import lazy

NONE, EXACT, LAZY, APPROXIMATE = "no penalty", "R1", "R1 at every 16th step", "approximate R1"
COMPILED_NONE, COMPILED = "no penalty, D compiled", "approximate R1, D compiled"
PENALTIES = {
    NONE: "D's non-saturating loss of real and generated images, forward and backward",
    EXACT: "and fastgan.r1_penalty at every step: a double backward, so D cannot be compiled",
    LAZY: "the same at every 16th step, times 16 (`fastgan.penalties.lazy`); mean over 16 steps",
    APPROXIMATE: "and fastgan.approximate_r1_penalty at every step",
    COMPILED_NONE: "the first with torch.compile(D)",
    COMPILED: "approximate R1 with torch.compile(D)",
}


def small_discriminator(channels: int = 32) -> nn.Sequential:
    """Three convolutions and a linear layer, for images of 3 x 32 x 32."""
    layers, width = [], 3
    for k in range(3):
        layers += [nn.Conv2d(width, channels << k, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels << k
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, 1))


def measure(setting: Setting) -> dict:
    """The step cost of each penalty on a small convolutional D, and the error of approximate R1."""
    device, clock, quick = setting.device, setting.clock, setting.quick
    batch = 4 if quick else 64 if device == "cuda" else 16
    torch.manual_seed(0)
    discriminator = small_discriminator(4 if quick else 32).to(device)
    real, fake = (torch.rand(batch, 3, 32, 32, device=device) * 2 - 1 for _ in range(2))

    def step(penalty: Callable | None, d: nn.Module = discriminator, weight: float = 1.0) -> Tensor:
        loss = fastgan.discriminator_loss(d(real), d(fake), "nonsaturating")
        if penalty is not None:
            loss = loss + weight * penalty(d, real, 1.0)
        discriminator.zero_grad()
        loss.backward()
        return loss

    def sixteen() -> None:
        for i in range(16):
            factor = lazy(i, 16)
            step(fastgan.r1_penalty if factor else None, weight=factor)

    calls = {
        NONE: lambda _: step(None),
        EXACT: lambda _: step(fastgan.r1_penalty),
        LAZY: lambda _: sixteen(),
        APPROXIMATE: lambda _: step(fastgan.approximate_r1_penalty),
    }
    if setting.compiled:
        torch._dynamo.reset()
        program = torch.compile(discriminator)
        calls[COMPILED_NONE] = lambda _: step(None, program)
        calls[COMPILED] = lambda _: step(fastgan.approximate_r1_penalty, program)
    rows = {name: {"contender": name} | ({} if name in calls else {"error": LEFT_OUT}) for name in PENALTIES}
    for name in list(calls):
        try:
            for i in range(3):
                calls[name](i)
        except Exception as error:
            rows[name]["error"] = one_line(error)
            del calls[name]
    samples = sample_rounds(clock, calls, setting.budget_s, at_least=5 if quick else 9)
    for kind in clock.kinds:
        samples[LAZY][kind] = [value / 16 for value in samples[LAZY][kind]]
        for name in samples:
            rows[name][f"{kind}_us"] = interval(samples[name][kind])
            rows[name][f"{kind}_cost"] = ratio(samples[name][kind], samples[NONE][kind])
            rows[name][f"{kind}_against_r1"] = ratio(samples[EXACT][kind], samples[name][kind])
    for name in samples:
        rows[name]["peak_bytes"] = clock.peak_bytes(calls[name])
    return {"batch": batch, "rows": list(rows.values()), "error": _error(discriminator, real, 50 if quick else 400)}


def _error(discriminator: nn.Module, real: Tensor, draws: int) -> dict:
    """The error of approximate R1, relative to R1: the standard deviation of a draw, the error of the mean of all draws
    and its standard deviation."""
    exact = fastgan.r1_penalty(discriminator, real).item()
    with torch.no_grad():
        found = torch.stack([fastgan.approximate_r1_penalty(discriminator, real) for _ in range(draws)]).double()
    deviation = found.std().item() / exact
    return {
        "draws": draws,
        "deviation": deviation,
        "of_the_mean": found.mean().item() / exact - 1,
        "its_deviation": deviation / draws**0.5,
    }


def tables(found: dict, kinds: tuple[str, ...]) -> list[str]:
    error, columns = found["error"], {}
    for kind in kinds:
        columns |= {
            f"{kind} µs": lambda cell, row, kind=kind: report.time_of(row, kind),
            f"{kind} cost": lambda cell, row, kind=kind: times(row[f"{kind}_cost"]),
            f"{kind} vs R1": lambda cell, row, kind=kind: times(row[f"{kind}_against_r1"]),
        }
    columns["peak"] = lambda cell, row: report.bytes_of(row["peak_bytes"])
    return [
        "",
        "## Gradient penalties",
        "",
        f"A step of a small convolutional D, {found['batch']} real and as many generated images of 3×32×32: forward, "
        "backward into D's weights, no optimizer. *cost*: in steps without a penalty. *vs R1*: the speed-up over exact "
        f"R1 at every step. One draw of approximate R1 was off by {error['deviation']:.0%} (standard deviation), the "
        f"mean of {error['draws']} draws by {error['of_the_mean']:+.1%} ± {error['its_deviation']:.1%}.",
        "",
        *(f"* **{name}**: {what}" for name, what in PENALTIES.items()),
        "",
        *report.rows_table([found], {"step": report.CONTENDER["contender"]}, columns),
    ]


def bars(axis, rows: Sequence[dict], kind: str) -> None:
    """Costs in steps without a penalty."""
    for line, row in enumerate(rows):
        cost = row[f"{kind}_cost"]
        axis.barh(line, cost["median"], 0.7, color="#6b7280" if row["contender"] in (NONE, EXACT) else "#e11d74")
        axis.plot([cost["low"], cost["high"]], [line, line], color=report.INK, linewidth=0.8)
        report.note(axis, cost["high"], line, f"{cost['median']:.2f}×")
    axis.set_yticks(range(len(rows)), [row["contender"] for row in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.margins(x=0.12)  # room for the numbers
    report.tidy(axis, "x", xlabel=f"a discriminator step, {kind} time; 1 without a penalty")
