"""Deliberate bugs in the Triton kernels."""

KERNEL = "kernels/adversarial.py"
TILES = "kernels/tiles.py"
CRITERION = "kernels/criteria.py"
NUMERICS = "kernels/numerics.py"
PAIRS = "kernels/pairs.py"
LAYER_KERNEL = "kernels/bias_act.py"
ACTIVATIONS = "kernels/activations.py"
SIGNS_KERNEL = "kernels/matching.py"
RESAMPLING = "kernels/upfirdn2d.py"
BETWEEN = "kernels/filtered_lrelu.py"
AUGMENT_KERNEL = "kernels/augment.py"
ACCURACY = "tests/kernels/test_accuracy.py"
LAYOUTS = "tests/kernels/test_layouts.py"
CRITERIA = "tests/losses/test_criteria.py"
OBJECTIVES = "tests/losses/test_objectives.py"
LISTS = "tests/losses/test_lists.py"
MMD = "tests/losses/test_mmd.py"
LAYERS = "tests/layers/test_bias_act.py"
MATCHING = "tests/losses/test_matching_signs.py"
RESAMPLED = "tests/layers/test_upfirdn2d.py"
FILTERED = "tests/layers/test_filtered_lrelu.py"
AUGMENT = "tests/layers/test_augment.py"

# name: (file, definition, old text, new text, backend and test for `-k`, file of tests)
KERNELS = {
    "zero gradient": (
        *(TILES, "_evaluate_tile", "base + lane, slope.to(", "base + lane, (slope * 0).to("),
        *("triton and discriminator", ACCURACY),
    ),
    "zero gradient in the tail": (
        *(TILES, "walk_tiles", "tail, lane, inside, shift, y, w,", "tail, lane, inside, shift, y, w * 0,"),
        *("triton and discriminator", ACCURACY),
    ),
    "N of the other side, one program": (
        *(KERNEL, "adversarial_kernel", "weights_lo[k]) / n.to(ACC)", "weights_lo[k]) / decode_int(sizes[0]).to(ACC)"),
        *("triton and discriminator", ACCURACY),
    ),
    "N of the other side": (
        *(KERNEL, "adversarial_kernel", "s * w / n.to(ACC)", "s * w / decode_int(sizes[0]).to(ACC)"),
        *("triton and discriminator", ACCURACY),
    ),
    "mean over both sides": (
        *(KERNEL, "adversarial_kernel"),
        *("s * w / n.to(ACC)", "s * w / (decode_int(sizes[0]) + decode_int(sizes[K - 1])).to(ACC)"),
        *("triton and discriminator", ACCURACY),
    ),
    "lost tail": (TILES, "walk_tiles", "if (tail < n) &", "if (tail > n) &", "triton and discriminator", ACCURACY),
    "tail in the value twice": (
        *(TILES, "walk_tiles", "tl.where(inside, v, 0.0)", "v"),
        *("triton and discriminator", ACCURACY),
    ),
    "the tile ahead is this one": (
        *(TILES, "walk_tiles", "tl.minimum(tile + stride, full - 1) * BLOCK", "base"),
        *("triton and discriminator", ACCURACY),
    ),
    "rows of a permuted batch": (
        *(KERNEL, "adversarial", "logits = [dense_rows(x) for x in logits]", "logits = [dense(x) for x in logits]"),
        *("triton and batch", LAYOUTS),
    ),
    "a negative view as it lies": (
        *("kernels/layout.py", "packed", "x.resolve_neg() if x.is_neg() else x).contiguous()", "x).contiguous()"),
        *("triton and upstream", LAYOUTS),
    ),
    "wrong sign of the slope": (
        *(CRITERION, "_sigmoid_minus", "tl.fma(s, -w,", "tl.fma(s, w,"),
        *("triton and discriminator", ACCURACY),
    ),
    "naive log(1 + e)": (
        *(NUMERICS, "log1p_and_sigmoid", "return v * tl.fma(p, u, 1.0), v * q", "return tl.log(w), v * q"),
        *("triton and sure", ACCURACY),
    ),
    "exp without its residual": (
        *(NUMERICS, "exp_minus_abs", "return e - e * tl.fma(", "return e - 0.0 * tl.fma("),
        *("triton and sure", ACCURACY),
    ),
    "a program's sum left out": (
        *(KERNEL, "adversarial_kernel"),
        *("i, i < decode_int(ends[K - 1]), MAX", "i, i < decode_int(ends[K - 1]) - 1, MAX"),
        *("triton and sure", ACCURACY),
    ),
    "ticket never reset": (
        *(KERNEL, "adversarial_kernel"),
        'tl.atomic_xchg(counter, 0, sem="relaxed")  # the next',
        'tl.atomic_xchg(counter, ticket, sem="relaxed")  # the next',
        *("triton and statistics", ACCURACY),
    ),
    "weight left out of the loss": (
        *(TILES, "write_term", "weight * (value / n)", "value / n"),
        *("triton and labels", ACCURACY),
    ),
    "number as grad_scale ignored": (
        *(KERNEL, "adversarial_kernel", "s = zero + factor[0]", "s = zero + 1.0"),
        *("triton and labels", ACCURACY),
    ),
    "tensor as grad_scale ignored": (
        *(KERNEL, "adversarial_kernel", "s *= tl.load(scale)", "s *= 1 + 0 * tl.load(scale)"),
        *("triton and labels", ACCURACY),
    ),
    "a list: a term's last program not found": (
        *(KERNEL, "adversarial_kernel", "ticket == end - begin - 1", "ticket == end - begin"),
        *("triton and parts_and", LISTS),
    ),
    "a list: the last term left out": (
        *(KERNEL, "adversarial_kernel", "total += tl.load(at,", "total += (k < K - 1) * tl.load(at,"),
        *("triton and parts_and", LISTS),
    ),
    "a list: one scale for all terms": (
        *(KERNEL, "adversarial_kernel", "tl.load(scale + term)", "tl.load(scale)"),
        *("triton and each_part", LISTS),
    ),
    "a list: ticket never reset": (
        *(KERNEL, "adversarial_kernel"),
        "element_ty))\n                        tl.atomic_xchg(counter, 0",
        "element_ty))\n                        tl.atomic_xchg(counter, K",
        *("triton and parts_and", LISTS),
    ),
    "a partner added": (
        *(TILES, "_evaluate_tile", "x -= widen(b, ACC)", "x += widen(b, ACC)"),
        *("triton and relativistic-", OBJECTIVES),
    ),
    "a partner's gradient of the wrong sign": (
        *(TILES, "_evaluate_tile", "(-slope).to(", "slope.to("),
        *("triton and relativistic-", OBJECTIVES),
    ),
    "a shift ignored": (TILES, "_evaluate_tile", "x -= shift", "x -= 0 * shift", "triton and lecam", LISTS),
    "a mask left out of the gradient": (
        *(TILES, "_evaluate_tile", "CRITERION(x, y, w * m)", "CRITERION(x, y, w)"),
        *("triton and masks", OBJECTIVES),
    ),
    "label tensors ignored": (
        *(TILES, "_evaluate_tile", "y = tl.load(t_ptr", "y = 0 * tl.load(t_ptr"),
        *("triton and label_t", OBJECTIVES),
    ),
    "the sides of a batch swapped": (
        *(KERNEL, "_terms_of", "order = 1 if split > 0 else -1", "order = 1 if split < 0 else -1"),
        *("triton and one_batch", LISTS),
    ),
    "the hinge's knee": (
        *(CRITERION, "hinge", "tl.where(t <= 0, 0.0", "tl.where(t < 0, 0.0"),
        *("triton and knee", CRITERIA),
    ),
    "least squares without its 2": (
        *(CRITERION, "least_squares", "(2.0 * w) * d", "w * d"),
        *("triton and test_criterion and least", CRITERIA),
    ),
    "signs: those of the tail lost": (
        *(SIGNS_KERNEL, "matching_kernel", "ragged = (tail < n) &", "ragged = (tail > n) &"),
        *("triton and signs_give", MATCHING),
    ),
    "signs: of the other side": (
        *(SIGNS_KERNEL, "_compare", "tl.where(d > 0, 1, tl.where(d < 0, -1", "tl.where(d < 0, 1, tl.where(d > 0, -1"),
        *("triton and signs_give", MATCHING),
    ),
    "signs: grad_output ignored": (
        *(SIGNS_KERNEL, "matching_kernel", "tl.load(scale).to(ACC)", "(0 * tl.load(scale) + 1).to(ACC)"),
        *("triton and signs_give", MATCHING),
    ),
    "signs: the real maps' gradient not negated": (
        *(SIGNS_KERNEL, "_write_gradient", "(-grad).to(h_ptr", "grad.to(h_ptr"),
        *("triton and signs_give", MATCHING),
    ),
    "signs: a program's sum left out": (
        *(SIGNS_KERNEL, "matching_kernel", "mask=i < programs, other", "mask=i < programs - 1, other"),
        *("triton and signs_give", MATCHING),
    ),
    "bias_act: a tile's rest left out of the bias's gradient": (
        *(LAYER_KERNEL, "_tile", "found = tl.where(inside, found, 0.0)", "found = tl.where(inside, 0.0, found)"),
        *("triton and two_derivatives and lrelu-torch.float32", LAYERS),
    ),
    "bias_act: a program's sum left out": (
        *(LAYER_KERNEL, "bias_act_kernel", "there = (s < splits) &", "there = (s < splits - 1) &"),
        *("many_tiles and lrelu-contiguous", LAYERS),
    ),
    "bias_act: the bias of the next channel": (
        *(LAYER_KERNEL, "bias_act_kernel"),
        *("bias = widen(tl.load(b + first), ACC)", "bias = widen(tl.load(b + (first + 1) % channels), ACC)"),
        *("triton and two_derivatives and tanh-torch.float32", LAYERS),
    ),
    "bias_act: a gradient that the clamp lets through": (
        *(LAYER_KERNEL, "_tile", "< limit, u, 0.0)", "< limit, u, u)"),
        *("triton and two_derivatives and -lrelu-torch.float32", LAYERS),
    ),
    "bias_act: curvature of the wrong sign": (
        *(ACTIVATIONS, "times_curvature", "tl.fma(v, c - s, 2.0)", "tl.fma(v, s - c, 2.0)"),
        *("triton and two_derivatives and swish-torch.float32", LAYERS),
    ),
    "bias_act: expm1 that cancels": (
        *(ACTIVATIONS, "expm1_of_minus_abs"),
        *("tl.where(u > -0.5, u * tl.fma(p, u, 1.0), d)", "tl.where(u > -0.5, d, d)"),
        *("triton and small_and_large and -elu", LAYERS),
    ),
    "upfirdn2d: a filter the wrong way round": (
        *(RESAMPLING, "_column_tap"),
        *("INDEX: tl.constexpr = M if FLIP else TAPS - 1 - M", "INDEX: tl.constexpr = TAPS - 1 - M if FLIP else M"),
        *("triton and values", RESAMPLED),
    ),
    "upfirdn2d: the first column lost": (
        *(RESAMPLING, "_sample", "(column >= 0) &", "(column > 0) &"),
        *("triton and values", RESAMPLED),
    ),
    "upfirdn2d: a sample that a phase has no tap for": (
        *(RESAMPLING, "_sample", "used &= k0 + M * UP < TAPS", "used &= k0 + M * UP <= TAPS"),
        *("triton and not_finite", RESAMPLED),
    ),
    "filtered_lrelu: a clamped element with a slope": (
        *(BETWEEN, "_times_slopes"),
        *("tl.where(tl.abs(u[c] * s) <= clamp, a, 0.0)", "tl.where(tl.abs(u[c] * s) >= 0, a, 0.0)"),
        *("triton and values", FILTERED),
    ),
    "filtered_lrelu: slopes of the other sign": (
        *(BETWEEN, "_times_slopes"),
        *("s = tl.where(u[c] > 0, positive, negative)", "s = tl.where(u[c] < 0, positive, negative)"),
        *("triton and values", FILTERED),
    ),
    "filtered_lrelu: a bias in the padding": (
        *("kernels/polyphase.py", "with_rows", "tl.where(inside, value + bias, 0.0)", "value + bias"),
        *("triton and values", FILTERED),
    ),
    "filtered_lrelu: the last lanes of a group": (
        *(BETWEEN, "_lost"),
        *("(of.reach(columns, 0) - 1) // (w // of.up)", "(of.reach(columns, 0) - 1) // (w // of.up) - 1"),
        *("triton and values", FILTERED),
    ),
    "filtered_lrelu: codes of the other sign, by two launches": (
        *(RESAMPLING, "_store", "tl.where(code == 1, positive, negative)", "tl.where(code == 2, positive, negative)"),
        *("triton and values", FILTERED),
    ),
    "filtered_lrelu: the slopes of two launches, without the bias": (
        *(BETWEEN, "filtered_slopes"),
        "        codes = slope_codes(x, fg",
        "        codes = slope_codes(x if b is None else x - b[:, None, None], fg",
        *("triton and values", FILTERED),
    ),
    "mmd: a pair counted once": (
        *(PAIRS, "_rows", "first + WHOLE // BJ), 2.0", "first + WHOLE // BJ), 1.0"),
        *("triton and several_tiles", MMD),
    ),
    "mmd: columns beyond the last": (PAIRS, "_rows", "inside = j < columns", "inside = j >= 0", "triton and 49", MMD),
    "mmd: attraction for repulsion": (PAIRS, "_rows", "ratio, -1.0), 0.0)", "ratio, 1.0), 0.0)", "triton and 49", MMD),
    "mmd: products about zero": (
        *(PAIRS, "_rows"),
        "centre = tl.sum(a, axis=0) / BI\n            a -= centre",
        "centre = tl.sum(a, axis=0) * 0\n            a -= centre",
        *("triton and close", MMD),
    ),
    "mmd: products whatever they lose": (
        *(PAIRS, "_fit", "largest * 0.0009765625 -", "largest * 0.0 -"),
        *("triton and far_apart and row-g", MMD),
    ),
    "augment: a program's sum left out": (
        *(AUGMENT_KERNEL, "augment_kernel", "mask=i < parts, other", "mask=(i < parts) & (i > 0), other"),
        *("triton and values_and and 64", AUGMENT),
    ),
    "augment: the transpose moves the same way": (
        *(AUGMENT_KERNEL, "_write", "row - down, column - right", "row + down, column + right"),
        *("triton and values_and and 33", AUGMENT),
    ),
    "augment: a cutout that is not centred": (
        *(AUGMENT_KERNEL, "augment_kernel", "tl.load(centre + 2 * n) - (rows >> 1)", "tl.load(centre + 2 * n)"),
        *("triton and each_policy", AUGMENT),
    ),
    "augment: the mean of what is cut counts": (
        *(AUGMENT_KERNEL, "_tile_sum", "v = tl.where(_written(row, column, place, H, W), v, 0.0)", "pass"),
        *("triton and values_and and 33", AUGMENT),
    ),
}
