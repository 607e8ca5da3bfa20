"""Deliberate bugs in the package outside its kernels."""

ASSEMBLE = "fastgan/losses/assemble.py"
OPERATORS = "fastgan/operators/adversarial.py"
CPU = "fastgan/cpu/adversarial.py"
CPU_MATCHING = "fastgan/cpu/matching.py"
CPU_MMD = "fastgan/cpu/mmd.py"
MMD_FORMULA = "fastgan/formulas/mmd.py"
LAYER_OPERATORS = "fastgan/operators/bias_act.py"
SIGNS = "fastgan/operators/matching.py"
STEP = "fastgan/training/step.py"
TRAINER = "fastgan/training/trainer.py"
AVERAGE = "fastgan/training/average.py"
ACCURACY = "tests/kernels/test_accuracy.py"
AUTOGRAD = "tests/losses/test_autograd.py"
CRITERIA = "tests/losses/test_criteria.py"
OBJECTIVES = "tests/losses/test_objectives.py"
MMD = "tests/losses/test_mmd.py"
MMD_MACHINERY = "tests/losses/test_mmd_machinery.py"
LAYERS = "tests/layers/test_bias_act.py"
LAYER_MACHINERY = "tests/layers/test_bias_act_machinery.py"
MATCHING = "tests/losses/test_matching_signs.py"
RESAMPLED = "tests/layers/test_upfirdn2d.py"
STEPS = "tests/training/test_step.py"
PRECISION = "tests/training/test_step_precision.py"
TRAINING = "tests/training/test_trainer.py"
RESUME = "tests/training/test_exact_resume.py"

# name: (file, definition, old text, new text, backend and test for `-k`, file of tests)
PACKAGE = {
    "swapped sides": (
        *(ASSEMBLE, "labels_given"),
        'found.real_label), ("fake_label", fake_label, found.fake_label)',
        'found.fake_label), ("fake_label", fake_label, found.real_label)',
        *("triton and discriminator", ACCURACY),
    ),
    "grad_output ignored": (
        *(OPERATORS, "_run_gradient"),
        *("partner_gradient=of_partners, scale=scale)", "partner_gradient=of_partners, scale=None)"),
        *("triton and grad_output", AUTOGRAD),
    ),
    "curvature of the wrong sign": (
        *(OPERATORS, "_Gradient.backward", "upstream * phi.curvature(x, y)", "-upstream * phi.curvature(x, y)"),
        *("triton and generator_loss", AUTOGRAD),
    ),
    "an average without its gradient": (
        *(OPERATORS, "_gradients", "-widen(grad).sum()", "0 * widen(grad).sum()"),
        *("triton and detached", OBJECTIVES),
    ),
    "signs: no derivative by grad_output": (
        *(SIGNS, "_Gradient.backward", "(upstream * sign).sum() * (weight", "(upstream * sign).sum() * (0 * weight"),
        *("torch-cpu and gradgradcheck_of", MATCHING),
    ),
    "signs: maps saved all the same": (
        *(SIGNS, "_Matching.setup_context"),
        "ctx.save_for_backward(*signs)\n        ctx.set",
        "ctx.save_for_backward(*signs, *inputs[1:])\n        ctx.set",
        *("torch-cpu and maps_go", MATCHING),
    ),
    "bias_act: y kept where its sign is lost": (
        *("fastgan/formulas/bias_act.py", "Settings.saved", "self.gain > 0.5 and", "self.gain > 0.0 and"),
        *("torch-cpu and kept", LAYER_MACHINERY),
    ),
    "bias_act: no gradient of the gradient by b": (
        *(LAYER_OPERATORS, "_Gradient.backward"),
        *("found = call(h, k, g, x, b, *settings, *asked)", "found = call(h, None, g, x, b, *settings, *asked)"),
        *("torch-cpu and two_derivatives and tanh-torch.float32", LAYERS),
    ),
    "upfirdn2d: the gradient's filter not turned round": (
        *("fastgan/operators/upfirdn2d.py", "_Upfirdn2d.backward"),
        *("padding_of, not flip, gain", "padding_of, flip, gain"),
        *("torch-cpu and values", RESAMPLED),
    ),
    "step: G's step trains D's weights too": (
        *(STEP, "_frozen", "p.requires_grad_(False)", "pass"),
        *("leaves_no_gradient", TRAINING),
    ),
    "step: G against the old D": (
        *(STEP, "Step._alternating", "self._update(1, discriminator)", "pass"),
        *("plain_loop and False-points-hinge", STEPS),
    ),
    "step: a penalty without its half": (
        *(STEP, "Step._backward_d", "gamma / 2 * s.r1_every", "gamma * s.r1_every"),
        *("r1_of_a_linear", TRAINING),
    ),
    "step: a lazy penalty that weighs one step": (
        *(STEP, "Step._backward_d", "gamma / 2 * s.r1_every", "gamma / 2"),
        *("lazy_r1", TRAINING),
    ),
    "step: parts of a batch that count as a whole": (
        *(STEP, "Step._scale", "whole * distributed.ranks())", "n * distributed.ranks())"),
        *("accumulation_is_the_step", STEPS),
    ),
    "step: one stage, D's gradient for G": (
        *(STEP, "Step._one_stage", "(d.grad_fake_samples * ratio)", "(d.grad_fake_samples * -ratio)"),
        *("one_stage_is_simultaneous and hinge", STEPS),
    ),
    "step: one stage, the penalty's gradient for G": (
        *(STEP, "Step._backward_d", "if s.one_stage and r2:", "if False:"),
        *("one_stage_is_simultaneous and smooth", STEPS),
    ),
    "step: float16 gradients that stay scaled": (
        *(STEP, "Step._update", "self.scaler.step(self.optimizers[player])", "self.optimizers[player].step()"),
        *("unscaled", PRECISION),
    ),
    "trainer: an average that is a copy": (
        *(AVERAGE, "Average.update", "get_ema_multi_avg_fn(min(", "get_ema_multi_avg_fn(0 * min("),
        *("average_of_the_weights", TRAINING),
    ),
    "trainer: resumed with random numbers of its own": (
        *(TRAINER, "GANTrainer.load", 'self.random.set_state(checkpoint["random"].cpu())', "pass"),
        *("resume_is_exact", RESUME),
    ),
    "mmd: curvature of the wrong sign": (
        *(MMD_FORMULA, "derivatives", "second + rate * rate * k", "second - rate * rate * k"),
        *("torch-cpu and gradcheck", MMD_MACHINERY),
    ),
    "cpu: zero gradient": (
        *(CPU, "_cross_entropy", "p.mul_(rate) if out is None", "p.zero_() if out is None"),
        *("torch-cpu and test_generator", ACCURACY),
    ),
    "cpu: wrong sign": (
        *(CPU, "_cross_entropy", "-slope if flip else slope", "slope"),
        *("torch-cpu and test_discriminator", ACCURACY),
    ),
    "cpu: the last block dropped": (
        *("fastgan/cpu/blocks.py", "blocks", "range(0, n, BLOCK)", "range(0, n - 8, BLOCK)"),
        *("several_blocks", CRITERIA),
    ),
    "cpu: one of sixteen left out": (
        *(CPU, "_log_sum", ".view(16, -1), 0", ".view(16, -1)[1:], 0"),
        *("several_blocks_on", ACCURACY),
    ),
    "cpu: rest dropped": (CPU, "_log_sum", "p[n - rest :].log().sum()", "(p.sum() * 0)", "several_blocks_on", ACCURACY),
    "cpu: how sure D is lost": (
        *(CPU, "_softplus_sum", "return total if not total <", "return total if True or total <"),
        *("several_blocks_on", ACCURACY),
    ),
    "cpu: products that underflow": (
        *(CPU, "_log_sum", "products.amin().item() <", "products.amin().item() < 0 *"),
        *("underflow", ACCURACY),
    ),
    "cpu: what cancels": (CPU, "_softplus_sum", "max(z.numel(), size):", "0.0:", "several_blocks_on", ACCURACY),
    "cpu: infinities hidden": (
        *(CPU, "_cross_entropy", "if not math.isfinite(total) or not math.isfinite(z_sum):", "if False:"),
        *("torch-cpu and special", ACCURACY),
    ),
    "cpu: fence on the other side": (
        *(CPU, "_on_host", "z.numpy() < 0)", "z.numpy() <= 0)"),
        *("torch-cpu and statistics", ACCURACY),
    ),
    "cpu: swapped sides": (
        *(CPU, "_on_host", "(n - below if k < terms.n_real", "(n - below if k >= terms.n_real"),
        *("torch-cpu and statistics", ACCURACY),
    ),
    "cpu: a mask left out of the gradient": (
        *(CPU, "_by_formula", "grad = grad if mask is None else grad * mask", "pass"),
        *("several_blocks", CRITERIA),
    ),
    "cpu matching: the other sign": (
        *(CPU_MATCHING, "matching_signs", "out.copy_(gap.sign())", "out.copy_(-gap.sign())"),
        *("torch-cpu and signs_give", MATCHING),
    ),
    "cpu matching: a weight left out": (
        *(CPU_MATCHING, "matching_gradient", "slope = weight * factor", "slope = factor"),
        *("torch-cpu and signs_give", MATCHING),
    ),
    "criterion: least squares without its 2": (
        *("fastgan/formulas/criteria.py", "CRITERIA", "lambda x, y: 2.0 * (x - y),", "lambda x, y: (x - y),"),
        *("several_blocks and least", CRITERIA),
    ),
    "criterion: the hinge's knee": (
        *("fastgan/formulas/criteria.py", "_hinge_slope"),
        *("inside = (gap > 0) | gap.isnan()", "inside = (gap >= 0) | gap.isnan()"),
        *("several_blocks and hinge", CRITERIA),
    ),
    "cpu mmd: products whatever they lose": (
        *(CPU_MMD, "_Blocks.set_floor", "self.floor = max(0.0,", "self.floor = min(0.0,"),
        *("torch-cpu and far_apart and row-g", MMD),
    ),
    "cpu mmd: a pair counted once": (
        *(CPU_MMD, "_Blocks.within", "+ 2 * self._total(others)", "+ self._total(others)"),
        *("several_blocks", MMD),
    ),
}
