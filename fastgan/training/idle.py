"""Settings that would have no part in a training. They are refused, as the record of a run must not name what it did
not do. A value that says what happens anyway, such as r1 = 0 where there is no discriminator, is no contradiction."""

from __future__ import annotations

MMD = "mmd"  # the one objective without a discriminator


def refuse_idle(
    objective: str,
    *,
    weight: float,
    r1: float,
    r2: float,
    r1_every: int,
    step: str,
    redraw: bool,
    concatenate: bool | None,
    bandwidths,
) -> None:
    """Raises ValueError, naming the setting, its value and the reason. See `fastgan.trainer.GANTrainer`."""
    alone = objective == MMD
    nothing = "MMD has no discriminator"
    for name, value, idle, why in (
        ("weight", weight, alone and weight != 0.5, f"{nothing} whose loss it would weigh"),
        ("r1", r1, alone and r1 != 0, f"{nothing} to penalise"),
        ("r2", r2, alone and r2 != 0, f"{nothing} to penalise"),
        ("r1_every", r1_every, r1_every != 1 and not r1 and not r2, "neither r1 nor r2 is more than 0"),
        ("step", step, alone and step != "alternating", f"{nothing} to take turns with"),
        ("redraw", redraw, alone and not redraw, f"{nothing} that has seen samples before the generator's step"),
        ("concatenate", concatenate, alone and bool(concatenate), f"{nothing} to pass samples through"),
        ("bandwidths", bandwidths, bandwidths is not None and not alone, f"objective {objective!r} has no kernel"),
    ):
        if idle:
            raise ValueError(f"{name}: got {value}, but {why}")
