"""The names of objectives, and errors for wrong arguments."""

import pytest
import torch
from checkout import ROOT

import fastgan
from fastgan import kernels, reference
from fastgan.formulas import objectives

pytestmark = pytest.mark.usefixtures("poisoned")
A, B = torch.zeros(4), torch.zeros(3, 2)
BAD = {
    "an empty list": (ValueError, "real_logits: got an empty list", lambda: fastgan.discriminator_loss([], [])),
    "an empty inner list": (ValueError, r"fake_logits\[1\]: got an empty", lambda: fastgan.generator_loss([[A], []])),
    "unequal lists": (
        ValueError,
        "fake_logits: got 1 tensors, expected 2",
        lambda: fastgan.discriminator_loss([A, B], [A]),
    ),
    "two dtypes in a list": (
        *(ValueError, r"real_logits\[1\].*float64.*float32.*real_logits\[0\]"),
        lambda: fastgan.discriminator_loss([A, B.double()], [A, B]),
    ),
    "two devices in a list": (
        *(ValueError, r"fake_logits\[0\].*meta.*cpu"),
        lambda: fastgan.discriminator_loss([A, B], [A.to("meta"), B]),
    ),
    "integers in a list": (TypeError, r"fake_logits\[2\].*int64", lambda: fastgan.generator_loss([A, B, A.long()])),
    "no tensor in a list": (TypeError, r"fake_logits\[1\].*str", lambda: fastgan.generator_loss([A, "B"])),
    "a reduction": (ValueError, "reduction.*'avg'.*'mean'", lambda: fastgan.generator_loss(A, reduction="avg")),
    "a reduction of lists": (
        *(ValueError, "reduce_discriminators.*'max'"),
        lambda: fastgan.generator_loss([A, B], reduce_discriminators="max"),
    ),
    "an objective": (ValueError, "objective.*'lsgan'.*'least_squares'", lambda: fastgan.generator_loss(A, "lsgan")),
    "a criterion": (ValueError, "criterion.*'bce'", lambda: fastgan.criterion_loss(A, 1, "bce")),
    "weights of the wrong length": (
        *(ValueError, "weight: got 3 numbers, expected 2"),
        lambda: fastgan.criterion_loss([A, B], 1, weight=[1.0, 2.0, 3.0]),
    ),
    "weights of another shape": (
        *(ValueError, r"fake_weights: got shape \(5,\), expected one that expands to \(4,\)"),
        lambda: fastgan.discriminator_loss(A, A, fake_weights=torch.ones(5)),
    ),
    "too few label tensors": (
        *(ValueError, "real_label: got 1 tensors, expected 2"),
        lambda: fastgan.discriminator_loss([A, B], [A, B], real_label=[A]),
    ),
    "a negative label for a hinge": (
        *(ValueError, "real_label: got -1.*1 .real. or 0"),
        lambda: fastgan.discriminator_loss(A, A, "hinge", real_label=-1),
    ),
    "a negative probability": (
        ValueError,
        "fake_label.*-0.2",
        lambda: fastgan.discriminator_loss(A, A, fake_label=-0.2),
    ),
    "no real logits to compare with": (
        *(ValueError, "real_logits: got none.*'relativistic'"),
        lambda: fastgan.generator_loss(A, "relativistic"),
    ),
    "pairs of two shapes": (
        *(ValueError, r"fake_logits\[1\].*\(2, 3\).*\(3, 2\)"),
        lambda: fastgan.discriminator_loss([A, B], [A, B.T], "relativistic"),
    ),
    "weights on a comparison": (
        *(ValueError, "real_weights.*'relativistic'"),
        lambda: fastgan.discriminator_loss(A, A, "relativistic", real_weights=A),
    ),
    "an average over nothing known": (
        *(ValueError, "average_over.*'rows'"),
        lambda: fastgan.discriminator_loss(A, A, "relativistic_average", average_over="rows"),
    ),
    "an odd batch of both": (ValueError, "logits: got 3 rows", lambda: fastgan.concatenated_discriminator_loss(B)),
    "a split outside": (ValueError, "logits: got shape", lambda: fastgan.concatenated_discriminator_loss(A, split=4)),
    "a comparison of a batch": (
        *(ValueError, "objective.*'relativistic'"),
        lambda: fastgan.concatenated_discriminator_loss(A, "relativistic"),
    ),
    "a decay": (ValueError, "decay: got 2", lambda: fastgan.losses.LeCamEMA(decay=2)),
    "a module's setting": (TypeError, "wieght", lambda: fastgan.losses.GeneratorLoss("hinge", wieght=2)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    error, message, call = BAD[case]
    launches = kernels.launch_count()
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and kernels.launch_count() == launches


@pytest.mark.parametrize("objective", fastgan.objectives())
def test_one_call_serves_every_objective(objective):
    """An objective that does not compare the sides ignores the real logits, even NaN."""
    random = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 5, generator=random)
    options = {"real_logits": real if fastgan.objectives()[objective].relation else torch.full((3,), torch.nan)}
    loss, out = (f(fake, objective, **options) for f in (fastgan.generator_loss, fastgan.generator_value_and_grad))
    exact = reference.generator_loss(fake.double(), objective, real_logits=real.double())
    for found in (loss, out.loss):
        assert found.item() == pytest.approx(exact.item(), rel=1e-6)
    assert fastgan.losses.GeneratorLoss(objective)(fake, options["real_logits"]).item() == loss.item()


MEANT = {
    "least_squares": ("lsgan", "ls", "mse", "LSGAN", "least-squares", "least squares", "leastsquare"),
    "wasserstein": ("wgan", "wgan-gp", "WGAN_GP", "wassertein"), "minimax": ("bce", "vanilla", "gan", "min-max"),
    "nonsaturating": ("ns", "NSGAN", "non-saturating", "non_saturating", "logistic"), "hinge": ("Hinge", "hing"),
    "relativistic": ("rpgan", "rsgan", "r3gan", "relativistc"), "relativistic_average": ("ra", "ragan", "esrgan"),
    "relativistic_average_least_squares": ("ralsgan", "RaLS"), "relativistic_average_hinge": ("ra-hinge",),
    "clamped_hinge": ("hinge2",), "dual_contrastive": ("dual", "contrastive"), "absolute_error": ("mae",),
}  # fmt: skip


@pytest.mark.parametrize("meant", MEANT)
def test_common_names_of_an_objective_are_suggested(meant):
    takes = (
        lambda name: fastgan.discriminator_loss(A, A, name),
        lambda name: fastgan.generator_value_and_grad(A, name),
        lambda name: fastgan.losses.GeneratorLoss(name),
        lambda name: reference.generator_loss(A, name),
        lambda name: fastgan.GANTrainer(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1), objective=name),
    )
    for name in MEANT[meant]:
        for call in takes:
            with pytest.raises(ValueError, match=f"objective: got {name!r}, did you mean {meant!r}\\? expected one of"):
                call(name)


def test_unknown_names_get_a_suggestion_only_if_one_is_close():
    for name in ("ganeral", "", "xyz", 3, None):
        with pytest.raises(ValueError, match=r"objective: got .*, expected one of 'minimax'"):
            fastgan.generator_loss(A, name)
    with pytest.raises(ValueError, match=r"did you mean 'mmd'.*'mmd'"):
        fastgan.GANTrainer(torch.nn.Linear(2, 2), None, objective="MMD")
    with pytest.raises(ValueError, match=r"did you mean 'minimax'. expected one of 'absolute_error', 'minimax'"):
        fastgan.game.game_value(torch.randn(9), torch.randn(9), "bce")


def test_every_alias_names_one_objective():
    aliases = [alias for names in objectives.ALIASES.values() for alias in names]
    assert len(aliases) == len(set(aliases)) and set(objectives.ALIASES) == set(fastgan.objectives())


def test_the_list_of_objectives_is_complete():
    found = fastgan.objectives()
    assert set(found) == set(reference.LOSSES)
    page = (ROOT / "docs" / "objectives.md").read_text()
    for name, objective in found.items():
        assert f"| `{name}` | {objective.discriminator} | {objective.generator} | {objective.source} |" in page
    for objective in found.values():
        assert objective.discriminator and objective.generator and objective.source
    found.clear()
    assert fastgan.objectives(), "a copy"
