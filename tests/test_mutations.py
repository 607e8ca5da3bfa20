"""The suite bites: each deliberate bug, planted in a copy of the sources, makes it fail."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
KERNEL, CRITERION, NUMERICS = "kernels/adversarial.py", "kernels/criteria.py", "kernels/numerics.py"
FUNCTIONAL, OPERATORS, CLOSED = "fastgan/functional.py", "fastgan/operators.py", "fastgan/closed_form.py"
SMALL = "fastgan/small.py"
ACCURACY, AUTOGRAD, OBJECTIVES = "tests/test_accuracy.py", "tests/test_autograd.py", "tests/test_objectives.py"
LAYOUTS = "tests/test_layouts.py"
MMD_KERNEL, MMD_CLOSED, MMD = "kernels/mmd.py", "fastgan/mmd.py", "tests/test_mmd.py"
SIGNS_KERNEL, SIGNS, MATCHING = "kernels/matching.py", "fastgan/signs.py", "tests/test_matching.py"
AVERAGE = "fastgan/training/average.py"
STEP, TRAINER, STEPS, TRAINING = (
    "fastgan/training/step.py",
    "fastgan/training/trainer.py",
    "tests/test_step.py",
    "tests/test_trainer.py",
)

# name: (file, what stands there, what replaces it, backend, test file)
MUTANTS = {
    "zero gradient": (
        KERNEL,
        "base + lane, slope.to(",
        "base + lane, (slope * 0).to(",
        "triton and discriminator",
        ACCURACY,
    ),
    "zero gradient in the tail": (
        KERNEL,
        "tail, lane, inside, shift, y, w,",
        "tail, lane, inside, shift, y, w * 0,",
        "triton and discriminator",
        ACCURACY,
    ),
    "swapped sides": (
        FUNCTIONAL,
        'found.real_label), ("fake_label", fake_label, found.fake_label)',
        'found.fake_label), ("fake_label", fake_label, found.real_label)',
        *("triton and discriminator", ACCURACY),
    ),
    "N of the other side, one program": (
        KERNEL,
        "weights_lo[k]) / n.to(ACC)",
        "weights_lo[k]) / plain(sizes[0]).to(ACC)",
        "triton and discriminator",
        ACCURACY,
    ),
    "N of the other side": (
        KERNEL,
        "s * w / n.to(ACC)",
        "s * w / plain(sizes[0]).to(ACC)",
        "triton and discriminator",
        ACCURACY,
    ),
    "mean over both sides": (
        *(
            KERNEL,
            "s * w / n.to(ACC)",
            "s * w / (plain(sizes[0]) + plain(sizes[K - 1])).to(ACC)",
            "triton and discriminator",
            ACCURACY,
        ),
    ),
    "lost tail": (KERNEL, "if (tail < n) &", "if (tail > n) &", "triton and discriminator", ACCURACY),
    "tail in the value twice": (KERNEL, "tl.where(inside, v, 0.0)", "v", "triton and discriminator", ACCURACY),
    "the tile ahead is this one": (
        *(KERNEL, "tl.minimum(tile + stride, full - 1) * BLOCK", "base", "triton and discriminator", ACCURACY),
    ),
    "rows of a permuted batch": (
        *(KERNEL, "dense_rows(x) if split else dense(x)", "dense(x)", "triton and batch", LAYOUTS),
    ),
    "a negative view as it lies": (
        *("kernels/layout.py", "x.resolve_neg() if x.is_neg() else x).contiguous()", "x).contiguous()"),
        *("triton and upstream", LAYOUTS),
    ),
    "wrong sign of the slope": (CRITERION, "tl.fma(s, -w,", "tl.fma(s, w,", "triton and discriminator", ACCURACY),
    "naive log(1 + e)": (
        NUMERICS,
        "return v * tl.fma(p, u, 1.0), v * q",
        "return tl.log(w), v * q",
        "triton",
        ACCURACY,
    ),
    "exp without its residual": (
        NUMERICS,
        "return e - e * tl.fma(",
        "return e - 0.0 * tl.fma(",
        "triton and sure",
        ACCURACY,
    ),
    "a program's sum left out": (
        KERNEL,
        "i, i < plain(ends[K - 1]), MAX",
        "i, i < plain(ends[K - 1]) - 1, MAX",
        "triton and sure",
        ACCURACY,
    ),
    "ticket never reset": (
        KERNEL,
        "tl.atomic_xchg(counter, 0",
        "tl.atomic_xchg(counter, ticket",
        "triton and statistics",
        ACCURACY,
    ),
    "weight left out of the loss": (KERNEL, "weight * (value / n)", "value / n", "triton and labels", ACCURACY),
    "number as grad_scale ignored": (KERNEL, "s = zero + factor[0]", "s = zero + 1.0", "triton and labels", ACCURACY),
    "tensor as grad_scale ignored": (
        KERNEL,
        "s *= tl.load(scale)",
        "s *= 1 + 0 * tl.load(scale)",
        "triton and labels",
        ACCURACY,
    ),
    "grad_output ignored": (
        *(
            OPERATORS,
            "partner_gradient=of_partners, scale=scale)",
            "partner_gradient=of_partners, scale=None)",
            "triton",
            AUTOGRAD,
        ),
    ),
    "curvature of the wrong sign": (
        *(OPERATORS, "upstream * phi.curvature(x, y)", "-upstream * phi.curvature(x, y)", "triton", AUTOGRAD),
    ),
    "closed form: zero gradient": (
        CLOSED,
        "grad.mul_(constant(slope_weight, grad.dtype))",
        "grad.mul_(0.0)",
        "torch-cpu",
        ACCURACY,
    ),
    "closed form: zero gradient of a block": (CLOSED, " p.mul_(slope)", " p.mul_(0.0)", "several", ACCURACY),
    "closed form: wrong sign": (CLOSED, "slope_weight = -slope_weight", "pass", "torch-cpu", ACCURACY),
    "closed form: one of sixteen left out": (CLOSED, ".view(16, -1), 0", ".view(16, -1)[1:], 0", "several", ACCURACY),
    "closed form: rest dropped": (CLOSED, "p[n - rest :].log().sum()", "(p.sum() * 0)", "several", ACCURACY),
    "closed form: how sure D is lost": (
        CLOSED,
        "return total if not total <",
        "return total if True or total <",
        "several",
        ACCURACY,
    ),
    "small losses: softplus off by 1e-5": (
        *(SMALL, "return torch._C._nn.softplus(x, -1.0,", "return torch._C._nn.softplus(x, -1.00001,"),
        *("torch-cpu and discriminator", ACCURACY),
    ),
    "small losses: infinities hidden": (
        *(
            SMALL,
            "if not _finite(x.detach()):",
            "if False:",
            "torch-cpu and special",
        ),
        ACCURACY,
    ),
    "small losses: a pair's signs": (
        *(
            SMALL,
            "other_total - total, other_factor",
            "other_total + total, other_factor",
            "sides_of_one_size",
        ),
        ACCURACY,
    ),
    "small losses: swapped sides": (
        *(SMALL, "non_negative if k < n_real", "non_negative if k >= n_real", "torch-cpu and statistics", ACCURACY),
    ),
    "memory: one that somebody reads": (
        *("fastgan/memory.py", "_holders(storage._cdata) == 1 and", "_holders(storage._cdata) > 0 or"),
        *("reads or kept_by", "tests/test_memory.py"),
    ),
    "closed form: last block dropped": (CLOSED, "range(0, n, BLOCK)", "range(0, n - 4, BLOCK)", "several", ACCURACY),
    "closed form: infinities hidden": (
        *(CLOSED, "if not math.isfinite(mean_loss) or not math.isfinite(logit_sum):", "if False:"),
        *("torch-cpu and special", ACCURACY),
    ),
    "closed form: fence on the other side": (
        *(CLOSED, "wide.numpy() >= _ZERO", "wide.numpy() > _ZERO", "torch-cpu and statistics", ACCURACY),
    ),
    "a list: a term's last program not found": (
        *(KERNEL, "ticket == end - begin - 1", "ticket == end - begin", "triton and parts_and", OBJECTIVES),
    ),
    "a list: the last term left out": (
        *(KERNEL, "total += tl.load(at,", "total += (k < K - 1) * tl.load(at,", "triton and parts_and", OBJECTIVES),
    ),
    "a list: one scale for all terms": (
        *(KERNEL, "tl.load(scale + term)", "tl.load(scale)", "triton and each_part", OBJECTIVES),
    ),
    "a partner added": (*(KERNEL, "x -= widen(b, ACC)", "x += widen(b, ACC)", "triton and relativistic-", OBJECTIVES),),
    "a partner's gradient of the wrong sign": (
        *(KERNEL, "(-slope).to(", "slope.to(", "triton and relativistic-", OBJECTIVES),
    ),
    "a shift ignored": (KERNEL, "x -= shift", "x -= 0 * shift", "triton and lecam", OBJECTIVES),
    "an average without its gradient": (
        *(OPERATORS, "-closed_form.widen(grad).sum()", "0 * closed_form.widen(grad).sum()"),
        *("triton and detached", OBJECTIVES),
    ),
    "a mask left out of the gradient": (
        *(KERNEL, "CRITERION(x, y, w * m)", "CRITERION(x, y, w)", "triton and masks", OBJECTIVES),
    ),
    "label tensors ignored": (KERNEL, "y = tl.load(t_ptr", "y = 0 * tl.load(t_ptr", "triton and label_t", OBJECTIVES),
    "the sides of a batch swapped": (
        *(KERNEL, "if split > 0 else (second, first)", "if split < 0 else (second, first)"),
        *("triton and one_batch", OBJECTIVES),
    ),
    "the hinge's knee": (CRITERION, "tl.where(t <= 0, 0.0", "tl.where(t < 0, 0.0", "triton and knee", OBJECTIVES),
    "least squares without its 2": (
        *(CRITERION, "(2.0 * w) * d", "w * d", "triton and test_criterion and least", OBJECTIVES),
    ),
    "closed form: least squares without its 2": (
        *(CLOSED, "2.0 * slope_weight", "slope_weight", "what_is_small and least", OBJECTIVES),
    ),
    "closed form: the hinge's knee": (
        *(CLOSED, "(slope, gap, 0.0)", "(slope, gap, -1e-6)", "what_is_small and hinge", OBJECTIVES),
    ),
    "large least squares without its 2": (
        *(CLOSED, "torch.tensor(2.0 * slope_weight", "torch.tensor(slope_weight", "by_blocks and least", OBJECTIVES),
    ),
    "large hinge: the knee": (
        *(CLOSED, "(slope.expand_as(gap), gap, 0.0", "(slope.expand_as(gap), gap, -1e-6", "by_blocks", OBJECTIVES),
    ),
    "large losses: the last stretch dropped": (
        *(CLOSED, "range(0, n, BLOCK)", "range(0, n - 8, BLOCK)", "by_blocks", OBJECTIVES),
    ),
    "sigmoid cross-entropy: products that underflow": (
        *(CLOSED, "products.amin().item() <", "products.amin().item() < 0 *", "underflow", ACCURACY),
    ),
    "sigmoid cross-entropy: slope of the other side, alone": (
        *(CLOSED, "-1.0 if flip else 1.0, 50.0", "1.0 if flip else -1.0, 50.0", "several", ACCURACY),
    ),
    "sigmoid cross-entropy: what cancels": (*(CLOSED, "max(x.numel(), size):", "0.0:", "several", ACCURACY),),
    "a held gradient: grad_output ignored": (
        *(OPERATORS, "torch._foreach_mul_(found, scale)", "pass", "given_once", MATCHING),
    ),
    "a held gradient: given twice": (*(OPERATORS, "ctx.held, None\n", "ctx.held, ctx.held\n", "given_once", MATCHING),),
    "matching, closed form: the other sign": (
        *(CLOSED, "torch.sign(d, out=out).mul_(scale)", "torch.sign(d, out=out).mul_(-scale)", "layouts", MATCHING),
    ),
    "matching, closed form: squares without their 2": (
        *(CLOSED, "out=out), 2.0)", "out=out), 1.0)", "torch-cpu and test_value_and_gradients", MATCHING),
    ),
    "signs: those of the tail lost": (
        *(SIGNS_KERNEL, "ragged = (tail < n) &", "ragged = (tail > n) &", "triton and signs_give", MATCHING),
    ),
    "signs: of the other side": (
        *(SIGNS_KERNEL, "tl.where(d > 0, 1, tl.where(d < 0, -1", "tl.where(d < 0, 1, tl.where(d > 0, -1"),
        *("triton and signs_give", MATCHING),
    ),
    "signs: grad_output ignored": (
        *(
            SIGNS_KERNEL,
            "tl.load(scale).to(ACC)",
            "(0 * tl.load(scale) + 1).to(ACC)",
            "triton and signs_give",
            MATCHING,
        ),
    ),
    "signs: the real maps' gradient not negated": (
        *(SIGNS_KERNEL, "(-grad).to(h_ptr", "grad.to(h_ptr", "triton and signs_give", MATCHING),
    ),
    "signs: a program's sum left out": (
        *(SIGNS_KERNEL, "mask=i < programs, other", "mask=i < programs - 1, other", "triton and signs_give", MATCHING),
    ),
    "signs: no derivative by grad_output": (
        *(SIGNS, "(upstream * sign).sum() * (weight", "(upstream * sign).sum() * (0 * weight"),
        *("torch-cpu and gradgradcheck_of", MATCHING),
    ),
    "signs: maps saved all the same": (
        *(
            SIGNS,
            "ctx.save_for_backward(*signs)\n        ctx.set",
            "ctx.save_for_backward(*signs, *inputs[1:])\n        ctx.set",
        ),
        *("torch-cpu and maps_go", MATCHING),
    ),
    "signs, closed form: all zero": (
        *(CLOSED, "out.copy_(torch.sign(d, out=two))", "out.zero_()", "torch-cpu and signs_give", MATCHING),
    ),
    "step: G's step trains D's weights too": (
        *(STEP, "            p.requires_grad_(False)\n", "            pass\n", "leaves_no_gradient", TRAINING),
    ),
    "step: G against the old D": (
        *(STEP, "        self._update(1, discriminator)\n\n        # D only", "        # D only"),
        *("plain_loop and False-points-hinge", STEPS),
    ),
    "step: a penalty without its half": (
        *(STEP, "gamma / 2 * s.r1_every", "gamma * s.r1_every", "r1_of_a_linear", TRAINING),
    ),
    "step: a lazy penalty that weighs one step": (*(STEP, "gamma / 2 * s.r1_every", "gamma / 2", "lazy_r1", TRAINING),),
    "step: parts of a batch that count as a whole": (
        *(STEP, "whole * distributed.ranks())", "n * distributed.ranks())", "accumulation_is_the_step", STEPS),
    ),
    "step: one stage, D's gradient for G": (
        *(STEP, "(d.arrived * ratio)", "(d.arrived * -ratio)", "one_stage_is_simultaneous and hinge", STEPS),
    ),
    "step: one stage, the penalty's gradient for G": (
        *(STEP, "if s.one_stage and r2:", "if False:", "one_stage_is_simultaneous and smooth", STEPS),
    ),
    "step: float16 gradients that stay scaled": (
        *(STEP, "self.scaler.step(self.optimizers[player])", "self.optimizers[player].step()", "unscaled", STEPS),
    ),
    "trainer: an average that is a copy": (
        *(
            "fastgan/training/average.py",
            "get_ema_multi_avg_fn(min(",
            "get_ema_multi_avg_fn(0 * min(",
            "average_of_the_weights",
            TRAINING,
        ),
    ),
    "trainer: resumed with random numbers of its own": (
        *(TRAINER, 'self.random.set_state(checkpoint["random"].cpu())', "pass", "resume_is_exact", TRAINING),
    ),
    "mmd: a pair counted once": (
        *(MMD_KERNEL, "first + WHOLE // BJ), 2.0", "first + WHOLE // BJ), 1.0", "triton and several_tiles", MMD),
    ),
    "mmd: columns beyond the last": (MMD_KERNEL, "inside = j < columns", "inside = j >= 0", "triton and 49", MMD),
    "mmd: attraction for repulsion": (MMD_KERNEL, "ratio, -1.0), 0.0)", "ratio, 1.0), 0.0)", "triton and 49", MMD),
    "mmd: products about zero": (
        *(MMD_KERNEL, "centre = tl.sum(a, axis=0) / BI", "centre = tl.sum(a, axis=0) * 0", "triton and close", MMD),
    ),
    "mmd: products whatever they lose": (
        *(MMD_KERNEL, "largest * 0.0009765625 -", "largest * 0.0 -", "triton and far_apart and row-g", MMD),
    ),
    "mmd, closed form: products whatever they lose": (
        *(MMD_CLOSED, "self.floor = max(0.0,", "self.floor = min(0.0,", "torch-cpu and far_apart and row-g", MMD),
    ),
    "mmd, closed form: a pair counted once": (
        *(MMD_CLOSED, "+ 2 * self._total(others)", "+ self._total(others)", "several_blocks", MMD),
    ),
    "mmd: curvature of the wrong sign": (
        *(MMD_CLOSED, "second + rate * rate * k", "second - rate * rate * k", "torch-cpu and gradcheck", MMD),
    ),
}


def plant(folder, mutant=None):
    """A copy of the sources, with fastgan.kernels in its installed place, and a bug in it."""
    package = folder / "fastgan"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastgan", package, ignore=ignore)
    tests = ("accuracy", "autograd", "layouts", "objectives", "mmd", "matching", "memory", "step", "trainer")
    for name in ("conftest.py", "oracle.py", *[f"test_{name}.py" for name in tests]):
        shutil.copy(ROOT / "tests" / name, folder)
    if mutant:
        file, old, new = mutant
        path = package / file if file.startswith("kernels/") else folder / file
        source = path.read_text()
        assert old in source, f"{file} no longer has {old!r}: mend the mutant"
        path.write_text(source.replace(old, new))


def run(folder, test_file, only):
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-W", "ignore"),
            *("-k", only, Path(test_file).name),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def of(name, folder):
    file, old, new, only, test_file = MUTANTS[name]
    plant(folder, (file, old, new))
    return run(folder, test_file, only)


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """{name: what the tests said of that mutant, or will}: one run a processor, each on one thread. Nothing where there
    is a process a processor already."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield {}
        return
    asked = [item.callspec.params["name"] for item in request.session.items if "test_mutant_is_caught" in item.name]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(of, name, tmp_path_factory.mktemp("mutant")) for name in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(results, name, tmp_path):
    result = results[name].result() if results else of(name, tmp_path)
    assert result.returncode == 1 and "1 failed" in result.stdout, result.stdout[-3000:] + result.stderr[-1000:]
    assert "ImportError" not in result.stdout and "SyntaxError" not in result.stdout


def test_without_a_mutant_the_copy_passes(tmp_path):
    plant(tmp_path)
    backend = "triton-cuda" if torch.cuda.is_available() else "triton-cpu"
    result = run(tmp_path, ACCURACY, f"{backend} and (test_generator or test_scalars or test_statistics)")
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout[-3000:]
    where = subprocess.run(
        [sys.executable, "-c", "import fastgan.kernels as k; print(k.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in where.stdout, "the copy was not what ran"
