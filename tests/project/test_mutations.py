"""The suite bites: each deliberate bug, planted in a copy of the sources, makes it fail."""

import concurrent.futures
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT

KERNEL, TILES = "kernels/adversarial.py", "kernels/tiles.py"
CRITERION, NUMERICS = "kernels/criteria.py", "kernels/numerics.py"
ASSEMBLE, OPERATORS = "fastgan/losses/assemble.py", "fastgan/operators/adversarial.py"
CPU, CPU_MATCHING, CPU_MMD = "fastgan/cpu/adversarial.py", "fastgan/cpu/matching.py", "fastgan/cpu/mmd.py"
ACCURACY, LAYOUTS = "tests/kernels/test_accuracy.py", "tests/kernels/test_layouts.py"
AUTOGRAD, CRITERIA = "tests/losses/test_autograd.py", "tests/losses/test_criteria.py"
OBJECTIVES, LISTS = "tests/losses/test_objectives.py", "tests/losses/test_lists.py"
MMD_KERNEL, PAIRS = "kernels/mmd.py", "kernels/pairs.py"
MMD_FORMULA = "fastgan/formulas/mmd.py"
MMD, MMD_MACHINERY = "tests/losses/test_mmd.py", "tests/losses/test_mmd_machinery.py"
LAYER_KERNEL, ACTIVATIONS, LAYERS = "kernels/bias_act.py", "kernels/activations.py", "tests/layers/test_bias_act.py"
LAYER_OPERATORS, LAYER_MACHINERY = "fastgan/operators/bias_act.py", "tests/layers/test_bias_act_machinery.py"
SIGNS_KERNEL, SIGNS, MATCHING = (
    "kernels/matching.py",
    "fastgan/operators/matching.py",
    "tests/losses/test_matching_signs.py",
)
RESAMPLING, RESAMPLED = "kernels/upfirdn2d.py", "tests/layers/test_upfirdn2d.py"
BETWEEN, FILTERED = "kernels/filtered_lrelu.py", "tests/layers/test_filtered_lrelu.py"
STEP, TRAINER, AVERAGE = "fastgan/training/step.py", "fastgan/training/trainer.py", "fastgan/training/average.py"
AUGMENT_KERNEL, AUGMENT = "kernels/augment.py", "tests/layers/test_augment.py"
STEPS, PRECISION = "tests/training/test_step.py", "tests/training/test_step_precision.py"
TRAINING, RESUME = "tests/training/test_trainer.py", "tests/training/test_exact_resume.py"

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "torch", "torch._dynamo", "torch.testing", "triton"])

# name: (file, what stands there, what replaces it, backend, test file)
MUTANTS = {
    "zero gradient": (
        TILES,
        "base + lane, slope.to(",
        "base + lane, (slope * 0).to(",
        "triton and discriminator",
        ACCURACY,
    ),
    "zero gradient in the tail": (
        TILES,
        "tail, lane, inside, shift, y, w,",
        "tail, lane, inside, shift, y, w * 0,",
        "triton and discriminator",
        ACCURACY,
    ),
    "swapped sides": (
        ASSEMBLE,
        'found.real_label), ("fake_label", fake_label, found.fake_label)',
        'found.fake_label), ("fake_label", fake_label, found.real_label)',
        "triton and discriminator",
        ACCURACY,
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
        KERNEL,
        "s * w / n.to(ACC)",
        "s * w / (plain(sizes[0]) + plain(sizes[K - 1])).to(ACC)",
        "triton and discriminator",
        ACCURACY,
    ),
    "lost tail": (TILES, "if (tail < n) &", "if (tail > n) &", "triton and discriminator", ACCURACY),
    "tail in the value twice": (TILES, "tl.where(inside, v, 0.0)", "v", "triton and discriminator", ACCURACY),
    "the tile ahead is this one": (
        TILES,
        "tl.minimum(tile + stride, full - 1) * BLOCK",
        "base",
        "triton and discriminator",
        ACCURACY,
    ),
    "rows of a permuted batch": (
        KERNEL,
        "logits = [dense_rows(x) for x in logits]",
        "logits = [dense(x) for x in logits]",
        "triton and batch",
        LAYOUTS,
    ),
    "a negative view as it lies": (
        "kernels/layout.py",
        "x.resolve_neg() if x.is_neg() else x).contiguous()",
        "x).contiguous()",
        "triton and upstream",
        LAYOUTS,
    ),
    "wrong sign of the slope": (CRITERION, "tl.fma(s, -w,", "tl.fma(s, w,", "triton and discriminator", ACCURACY),
    "naive log(1 + e)": (
        NUMERICS,
        "return v * tl.fma(p, u, 1.0), v * q",
        "return tl.log(w), v * q",
        "triton and sure",
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
    "weight left out of the loss": (TILES, "weight * (value / n)", "value / n", "triton and labels", ACCURACY),
    "number as grad_scale ignored": (KERNEL, "s = zero + factor[0]", "s = zero + 1.0", "triton and labels", ACCURACY),
    "tensor as grad_scale ignored": (
        KERNEL,
        "s *= tl.load(scale)",
        "s *= 1 + 0 * tl.load(scale)",
        "triton and labels",
        ACCURACY,
    ),
    "grad_output ignored": (
        OPERATORS,
        "partner_gradient=of_partners, scale=scale)",
        "partner_gradient=of_partners, scale=None)",
        "triton and grad_output",
        AUTOGRAD,
    ),
    "curvature of the wrong sign": (
        OPERATORS,
        "upstream * phi.curvature(x, y)",
        "-upstream * phi.curvature(x, y)",
        "triton and generator_loss",
        AUTOGRAD,
    ),
    "a list: a term's last program not found": (
        KERNEL,
        "ticket == end - begin - 1",
        "ticket == end - begin",
        "triton and parts_and",
        LISTS,
    ),
    "a list: the last term left out": (
        KERNEL,
        "total += tl.load(at,",
        "total += (k < K - 1) * tl.load(at,",
        "triton and parts_and",
        LISTS,
    ),
    "a list: one scale for all terms": (
        KERNEL,
        "tl.load(scale + term)",
        "tl.load(scale)",
        "triton and each_part",
        LISTS,
    ),
    "a partner added": (TILES, "x -= widen(b, ACC)", "x += widen(b, ACC)", "triton and relativistic-", OBJECTIVES),
    "a partner's gradient of the wrong sign": (
        TILES,
        "(-slope).to(",
        "slope.to(",
        "triton and relativistic-",
        OBJECTIVES,
    ),
    "a shift ignored": (TILES, "x -= shift", "x -= 0 * shift", "triton and lecam", LISTS),
    "an average without its gradient": (
        OPERATORS,
        "-widen(grad).sum()",
        "0 * widen(grad).sum()",
        "triton and detached",
        OBJECTIVES,
    ),
    "a mask left out of the gradient": (
        TILES,
        "CRITERION(x, y, w * m)",
        "CRITERION(x, y, w)",
        "triton and masks",
        OBJECTIVES,
    ),
    "label tensors ignored": (TILES, "y = tl.load(t_ptr", "y = 0 * tl.load(t_ptr", "triton and label_t", OBJECTIVES),
    "the sides of a batch swapped": (
        KERNEL,
        "order = 1 if split > 0 else -1",
        "order = 1 if split < 0 else -1",
        "triton and one_batch",
        LISTS,
    ),
    "the hinge's knee": (CRITERION, "tl.where(t <= 0, 0.0", "tl.where(t < 0, 0.0", "triton and knee", CRITERIA),
    "least squares without its 2": (
        CRITERION,
        "(2.0 * w) * d",
        "w * d",
        "triton and test_criterion and least",
        CRITERIA,
    ),
    "signs: those of the tail lost": (
        SIGNS_KERNEL,
        "ragged = (tail < n) &",
        "ragged = (tail > n) &",
        "triton and signs_give",
        MATCHING,
    ),
    "signs: of the other side": (
        SIGNS_KERNEL,
        "tl.where(d > 0, 1, tl.where(d < 0, -1",
        "tl.where(d < 0, 1, tl.where(d > 0, -1",
        "triton and signs_give",
        MATCHING,
    ),
    "signs: grad_output ignored": (
        SIGNS_KERNEL,
        "tl.load(scale).to(ACC)",
        "(0 * tl.load(scale) + 1).to(ACC)",
        "triton and signs_give",
        MATCHING,
    ),
    "signs: the real maps' gradient not negated": (
        SIGNS_KERNEL,
        "(-grad).to(h_ptr",
        "grad.to(h_ptr",
        "triton and signs_give",
        MATCHING,
    ),
    "signs: a program's sum left out": (
        SIGNS_KERNEL,
        "mask=i < programs, other",
        "mask=i < programs - 1, other",
        "triton and signs_give",
        MATCHING,
    ),
    "signs: no derivative by grad_output": (
        SIGNS,
        "(upstream * sign).sum() * (weight",
        "(upstream * sign).sum() * (0 * weight",
        "torch-cpu and gradgradcheck_of",
        MATCHING,
    ),
    "signs: maps saved all the same": (
        SIGNS,
        "ctx.save_for_backward(*signs)\n        ctx.set",
        "ctx.save_for_backward(*signs, *inputs[1:])\n        ctx.set",
        "torch-cpu and maps_go",
        MATCHING,
    ),
    "bias_act: a tile's rest left out of the bias's gradient": (
        LAYER_KERNEL,
        "found = tl.where(inside, found, 0.0)",
        "found = tl.where(inside, 0.0, found)",
        "triton and two_derivatives and lrelu-torch.float32",
        LAYERS,
    ),
    "bias_act: a program's sum left out": (
        LAYER_KERNEL,
        "there = (s < splits) &",
        "there = (s < splits - 1) &",
        "many_tiles and lrelu-contiguous",
        LAYERS,
    ),
    "bias_act: the bias of the next channel": (
        LAYER_KERNEL,
        "bias = widen(tl.load(b + first), ACC)",
        "bias = widen(tl.load(b + (first + 1) % channels), ACC)",
        "triton and two_derivatives and tanh-torch.float32",
        LAYERS,
    ),
    "bias_act: a gradient that the clamp lets through": (
        LAYER_KERNEL,
        "< limit, u, 0.0)",
        "< limit, u, u)",
        "triton and two_derivatives and -lrelu-torch.float32",
        LAYERS,
    ),
    "bias_act: curvature of the wrong sign": (
        ACTIVATIONS,
        "tl.fma(v, c - s, 2.0)",
        "tl.fma(v, s - c, 2.0)",
        "triton and two_derivatives and swish-torch.float32",
        LAYERS,
    ),
    "bias_act: expm1 that cancels": (
        ACTIVATIONS,
        "tl.where(u > -0.5, u * tl.fma(p, u, 1.0), d)",
        "tl.where(u > -0.5, d, d)",
        "triton and small_and_large and -elu",
        LAYERS,
    ),
    "bias_act: y kept where its sign is lost": (
        "fastgan/formulas/bias_act.py",
        "self.gain > 0.5 and",
        "self.gain > 0.0 and",
        "torch-cpu and kept",
        LAYER_MACHINERY,
    ),
    "bias_act: no gradient of the gradient by b": (
        LAYER_OPERATORS,
        "found = call(h, k, g, x, b, *settings, *asked)",
        "found = call(h, None, g, x, b, *settings, *asked)",
        "torch-cpu and two_derivatives and tanh-torch.float32",
        LAYERS,
    ),
    "upfirdn2d: a filter the wrong way round": (
        RESAMPLING,
        "INDEX: tl.constexpr = M if FLIP else TAPS - 1 - M",
        "INDEX: tl.constexpr = TAPS - 1 - M if FLIP else M",
        "triton and values",
        RESAMPLED,
    ),
    "upfirdn2d: the first column lost": (
        RESAMPLING,
        "(column >= 0) &",
        "(column > 0) &",
        "triton and values",
        RESAMPLED,
    ),
    "upfirdn2d: a sample that a phase has no tap for": (
        RESAMPLING,
        "used &= k0 + M * UP < TAPS",
        "used &= k0 + M * UP <= TAPS",
        "triton and not_finite",
        RESAMPLED,
    ),
    "upfirdn2d: the gradient's filter not turned round": (
        "fastgan/operators/upfirdn2d.py",
        "padding_of, not flip, gain",
        "padding_of, flip, gain",
        "torch-cpu and values",
        RESAMPLED,
    ),
    "filtered_lrelu: a clamped element with a slope": (
        BETWEEN,
        "tl.where(tl.abs(u[c] * s) <= clamp, a, 0.0)",
        "tl.where(tl.abs(u[c] * s) >= 0, a, 0.0)",
        "triton and values",
        FILTERED,
    ),
    "filtered_lrelu: slopes of the other sign": (
        BETWEEN,
        "s = tl.where(u[c] > 0, positive, negative)",
        "s = tl.where(u[c] < 0, positive, negative)",
        "triton and values",
        FILTERED,
    ),
    "filtered_lrelu: a bias in the padding": (
        "kernels/polyphase.py",
        "tl.where(inside, value + bias, 0.0)",
        "value + bias",
        "triton and values",
        FILTERED,
    ),
    "filtered_lrelu: the last lanes of a group": (
        BETWEEN,
        "(of.reach(columns, 0) - 1) // (w // of.up)",
        "(of.reach(columns, 0) - 1) // (w // of.up) - 1",
        "triton and values",
        FILTERED,
    ),
    "filtered_lrelu: codes of the other sign, by two launches": (
        RESAMPLING,
        "tl.where(code == 1, positive, negative)",
        "tl.where(code == 2, positive, negative)",
        "triton and values",
        FILTERED,
    ),
    "filtered_lrelu: the slopes of two launches, without the bias": (
        BETWEEN,
        "        codes = slope_codes(x, fg",
        "        codes = slope_codes(x if b is None else x - b[:, None, None], fg",
        "triton and values",
        FILTERED,
    ),
    "step: G's step trains D's weights too": (
        STEP,
        "            p.requires_grad_(False)\n",
        "            pass\n",
        "leaves_no_gradient",
        TRAINING,
    ),
    "step: G against the old D": (
        STEP,
        "        self._update(1, discriminator)\n\n        # D only",
        "        # D only",
        "plain_loop and False-points-hinge",
        STEPS,
    ),
    "step: a penalty without its half": (
        STEP,
        "gamma / 2 * s.r1_every",
        "gamma * s.r1_every",
        "r1_of_a_linear",
        TRAINING,
    ),
    "step: a lazy penalty that weighs one step": (STEP, "gamma / 2 * s.r1_every", "gamma / 2", "lazy_r1", TRAINING),
    "step: parts of a batch that count as a whole": (
        STEP,
        "whole * distributed.ranks())",
        "n * distributed.ranks())",
        "accumulation_is_the_step",
        STEPS,
    ),
    "step: one stage, D's gradient for G": (
        STEP,
        "(d.arrived * ratio)",
        "(d.arrived * -ratio)",
        "one_stage_is_simultaneous and hinge",
        STEPS,
    ),
    "step: one stage, the penalty's gradient for G": (
        STEP,
        "if s.one_stage and r2:",
        "if False:",
        "one_stage_is_simultaneous and smooth",
        STEPS,
    ),
    "step: float16 gradients that stay scaled": (
        STEP,
        "self.scaler.step(self.optimizers[player])",
        "self.optimizers[player].step()",
        "unscaled",
        PRECISION,
    ),
    "trainer: an average that is a copy": (
        AVERAGE,
        "get_ema_multi_avg_fn(min(",
        "get_ema_multi_avg_fn(0 * min(",
        "average_of_the_weights",
        TRAINING,
    ),
    "trainer: resumed with random numbers of its own": (
        TRAINER,
        'self.random.set_state(checkpoint["random"].cpu())',
        "pass",
        "resume_is_exact",
        RESUME,
    ),
    "mmd: a pair counted once": (
        PAIRS,
        "first + WHOLE // BJ), 2.0",
        "first + WHOLE // BJ), 1.0",
        "triton and several_tiles",
        MMD,
    ),
    "mmd: columns beyond the last": (PAIRS, "inside = j < columns", "inside = j >= 0", "triton and 49", MMD),
    "mmd: attraction for repulsion": (PAIRS, "ratio, -1.0), 0.0)", "ratio, 1.0), 0.0)", "triton and 49", MMD),
    "mmd: products about zero": (
        PAIRS,
        "centre = tl.sum(a, axis=0) / BI",
        "centre = tl.sum(a, axis=0) * 0",
        "triton and close",
        MMD,
    ),
    "mmd: products whatever they lose": (
        PAIRS,
        "largest * 0.0009765625 -",
        "largest * 0.0 -",
        "triton and far_apart and row-g",
        MMD,
    ),
    "mmd: curvature of the wrong sign": (
        MMD_FORMULA,
        "second + rate * rate * k",
        "second - rate * rate * k",
        "torch-cpu and gradcheck",
        MMD_MACHINERY,
    ),
    "augment: a program's sum left out": (
        AUGMENT_KERNEL,
        "mask=i < parts, other",
        "mask=(i < parts) & (i > 0), other",
        "triton and values_and and 64",
        AUGMENT,
    ),
    "augment: the transpose moves the same way": (
        AUGMENT_KERNEL,
        "row - down, column - right",
        "row + down, column + right",
        "triton and values_and and 33",
        AUGMENT,
    ),
    "augment: a cutout that is not centred": (
        AUGMENT_KERNEL,
        "tl.load(centre + 2 * n) - (rows >> 1)",
        "tl.load(centre + 2 * n)",
        "triton and each_policy",
        AUGMENT,
    ),
    "augment: the mean of what is cut counts": (
        AUGMENT_KERNEL,
        "v = tl.where(_written(row, column, place, H, W), v, 0.0)",
        "pass",
        "triton and values_and and 33",
        AUGMENT,
    ),
    "cpu: zero gradient": (
        CPU,
        "p.mul_(slope) if out is None",
        "p.zero_() if out is None",
        "torch-cpu and test_generator",
        ACCURACY,
    ),
    "cpu: wrong sign": (CPU, "-slope if flip else slope", "slope", "torch-cpu and test_discriminator", ACCURACY),
    "cpu: the last block dropped": (
        "fastgan/cpu/blocks.py",
        "range(0, n, BLOCK)",
        "range(0, n - 8, BLOCK)",
        "several_blocks",
        CRITERIA,
    ),
    "cpu: one of sixteen left out": (CPU, ".view(16, -1), 0", ".view(16, -1)[1:], 0", "several_blocks_on", ACCURACY),
    "cpu: rest dropped": (CPU, "p[n - rest :].log().sum()", "(p.sum() * 0)", "several_blocks_on", ACCURACY),
    "cpu: how sure D is lost": (
        CPU,
        "return total if not total <",
        "return total if True or total <",
        "several_blocks_on",
        ACCURACY,
    ),
    "cpu: products that underflow": (
        CPU,
        "products.amin().item() <",
        "products.amin().item() < 0 *",
        "underflow",
        ACCURACY,
    ),
    "cpu: what cancels": (CPU, "max(z.numel(), size):", "0.0:", "several_blocks_on", ACCURACY),
    "cpu: infinities hidden": (
        CPU,
        "if not math.isfinite(total) or not math.isfinite(z_sum):",
        "if False:",
        "torch-cpu and special",
        ACCURACY,
    ),
    "cpu: fence on the other side": (CPU, "z.numpy() < 0)", "z.numpy() <= 0)", "torch-cpu and statistics", ACCURACY),
    "cpu: swapped sides": (
        CPU,
        "(n - below if k < terms.n_real",
        "(n - below if k >= terms.n_real",
        "torch-cpu and statistics",
        ACCURACY,
    ),
    "cpu: a mask left out of the gradient": (
        CPU,
        "grad = grad if mask is None else grad * mask",
        "pass",
        "several_blocks",
        CRITERIA,
    ),
    "cpu matching: the other sign": (
        CPU_MATCHING,
        "out.copy_(gap.sign())",
        "out.copy_(-gap.sign())",
        "torch-cpu and signs_give",
        MATCHING,
    ),
    "cpu matching: a weight left out": (
        CPU_MATCHING,
        "slope = weight * factor",
        "slope = factor",
        "torch-cpu and signs_give",
        MATCHING,
    ),
    "criterion: least squares without its 2": (
        "fastgan/formulas/criteria.py",
        "lambda x, y: 2.0 * (x - y),",
        "lambda x, y: (x - y),",
        "several_blocks and least",
        CRITERIA,
    ),
    "criterion: the hinge's knee": (
        "fastgan/formulas/criteria.py",
        "inside = (gap > 0) | gap.isnan()",
        "inside = (gap >= 0) | gap.isnan()",
        "several_blocks and hinge",
        CRITERIA,
    ),
    "cpu mmd: products whatever they lose": (
        CPU_MMD,
        "self.floor = max(0.0,",
        "self.floor = min(0.0,",
        "torch-cpu and far_apart and row-g",
        MMD,
    ),
    "cpu mmd: a pair counted once": (
        CPU_MMD,
        "+ 2 * self._total(others)",
        "+ self._total(others)",
        "several_blocks",
        MMD,
    ),
}


def plant(folder, mutant=None):
    """A copy of the sources, with fastgan.kernels in its installed place, and a bug in it."""
    package = folder / "fastgan"
    shutil.copytree(ROOT / "fastgan", package)  # with what is compiled: only the mutant's file is compiled again
    for path in (ROOT / "tests").rglob("*.py"):
        if path.parent != ROOT / "tests" / "driver":
            shutil.copy(path, folder)  # all of them into one folder: their names differ
    if mutant:
        file, old, new = mutant
        path = package / file if file.startswith("kernels/") else folder / file
        source = path.read_text()
        assert old in source, f"{file} no longer has {old!r}: mend the mutant"
        path.write_text(source.replace(old, new))


def run(folder, test_file, only):
    """(exit code of pytest, what it printed), in a process that has imported torch and Triton already."""
    path = folder / "output.txt"
    process = PROCESSES.Process(target=_run_pytest, args=(str(folder), str(path), Path(test_file).name, only))
    process.start()
    process.join(timeout=300)
    process.kill()
    output = path.read_text()
    assert f"ran {folder}" in output, "the copy was not what ran: " + output[-3000:]
    return process.exitcode, output


def _run_pytest(folder, path, test_file, only):
    output = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1), os.dup2(output, 2)
    os.chdir(folder)
    sys.path[:] = [folder, *(p for p in sys.path if not Path(p or ".").resolve().is_relative_to(ROOT / "tests"))]
    sys.dont_write_bytecode = True
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONPATH=folder)
    torch.set_num_threads(1)
    options = ["-x", "-q", "-W", "ignore", "-p", "no:cacheprovider", "--assert=plain"]
    code = pytest.main([*options, "-k", only, "-m", "not slow", test_file])
    print("ran", sys.modules["fastgan"].__file__, flush=True)
    sys.exit(code)


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
    code, output = results[name].result() if results else of(name, tmp_path)
    assert code == 1 and "1 failed" in output, output[-3000:]
    assert "ImportError" not in output and "SyntaxError" not in output


def test_without_a_mutant_the_copy_passes(tmp_path):
    plant(tmp_path)
    backend = "triton-cuda" if torch.cuda.is_available() else "triton-cpu"
    code, output = run(tmp_path, ACCURACY, f"{backend} and (test_generator or test_scalars or test_statistics)")
    assert code == 0 and " passed" in output, output[-3000:]
