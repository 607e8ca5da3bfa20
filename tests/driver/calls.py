"""Run the kernels' launcher on the stand-in driver, in a separate process (see tests/kernels/test_launcher.py):

    python calls.py FOLDER compare                launch every case in both ways; print a line of JSON for each
    python calls.py FOLDER keys N SEED [HOLE]     make N random calls: do two with one key specialise differently?

HOLE plants a fault: "addresses" leaves all alignments out of the key, "halves" those of a split batch's gradients.
FOLDER holds the stand-in libcuda. No kernel runs, no GPU is needed; Triton's launcher and compiler are the real ones.
"""

import contextlib
import ctypes
import functools
import importlib
import json
import math
import os
import random
import struct
import sys
from unittest import mock

FOLDER = sys.argv[1]
os.environ["TRITON_LIBCUDA_PATH"] = FOLDER
DRIVER = ctypes.CDLL(f"{FOLDER}/libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
DRIVER.stand_in_launches.restype = ctypes.c_long

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.nvidia.driver import CudaDriver  # noqa: E402
from triton.runtime import driver  # noqa: E402

launcher = importlib.import_module("fastgan.kernels.launch")
adversarial = importlib.import_module("fastgan.kernels.adversarial")
augment = importlib.import_module("fastgan.kernels.augment")
bias_act = importlib.import_module("fastgan.kernels.bias_act")
matching = importlib.import_module("fastgan.kernels.matching")
mmd = importlib.import_module("fastgan.kernels.mmd")
resampling = importlib.import_module("fastgan.kernels.upfirdn2d")
filtered = importlib.import_module("fastgan.kernels.filtered_lrelu")
GPU = torch.device("cuda", 0)
WIDTHS = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "fp32": 4, "fp64": 8}
FLOATS = (torch.float32, torch.float32, torch.bfloat16, torch.bfloat16, torch.float64)


class Device(CudaDriver):
    """The properties of an H100 that Triton reads."""

    def __init__(self):
        super().__init__()
        self.get_device_capability = lambda device=0: (9, 0)
        self.get_current_stream = lambda device=0: 0x77
        self.get_current_device = lambda: 0
        self.set_current_device = lambda device: None


@contextlib.contextmanager
def launches_go_to(function):
    """Pass the kernels' launches to `function`: on CPU tensors, as if on a GPU of 132 multiprocessors."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("torch.cuda.current_device", lambda: 0))
        for module in (adversarial, augment, bias_act, filtered, matching, mmd, resampling):
            stack.enter_context(mock.patch.object(module, "launch", function))
            stack.enter_context(mock.patch.object(module, "processors", lambda device: 132))
        yield


# ---- both ways to launch -------------------------------------------------------------------------------------------


def parameters(compiled, values):
    """[(type, value)] of the parameters for the driver: tuples flattened, constants left out."""
    found = []

    def walk(kind, value):
        if isinstance(kind, tuple):
            for pair in zip(kind, value, strict=True):
                walk(*pair)
        elif kind != "constexpr":
            found.append((kind, value))

    for kind, value in zip(compiled.src.signature.values(), values, strict=True):
        walk(kind, value)
    return found


def encoded(kind, value) -> bytes:
    if kind[0] == "*":
        return struct.pack("<Q", value.data_ptr())
    if kind.startswith("fp"):
        return struct.pack("<f" if kind == "fp32" else "<d", value)
    return int(value).to_bytes(WIDTHS[kind], "little", signed=True)


def last_launch():
    buffer, config = ctypes.create_string_buffer(1 << 15), (ctypes.c_ulonglong * 8)()
    filled = DRIVER.stand_in_last(buffer, config)
    return buffer.raw[:filled], list(config)


def compare(plan, args, given):
    """Launch in both ways, and print a comparison of what the driver received."""
    plan.device = GPU
    ordinary_way = functools.partial(plan.kernel[(plan.programs,)], *args, **plan.constants, **plan.options)
    DRIVER.stand_in_expect(0, None)
    compiled = ordinary_way(enable_fp_fusion=True)
    asked = parameters(compiled, [*args, *plan.constants.values()])
    widths = [8 if kind[0] == "*" else WIDTHS[kind] for kind, _ in asked]
    DRIVER.stand_in_expect(len(widths), (ctypes.c_int * len(widths))(*widths))
    ordinary_way(enable_fp_fusion=True)
    ordinary = last_launch()
    for _ in range(2):  # the first launch of a plan compiles, the second is the short way
        before = launcher.launch_count(), DRIVER.stand_in_launches()
        launcher.launch(plan, args, given)
        counted = launcher.launch_count() - before[0], DRIVER.stand_in_launches() - before[1]
    short = last_launch()
    right = b"".join(encoded(kind, value) for kind, value in asked)
    row = {
        "case": case, "kernel": plan.kernel.__name__, "parameters": len(asked), "same": ordinary == short,
        "right": short[0] == right, "grid": short[1][:3] == [plan.programs, 1, 1], "counted": counted == (1, 1),
        "short": launcher.alignment(given) in plan.launchers,
    }  # fmt: skip
    print(json.dumps(row), flush=True)


def view(n, dtype=torch.float32, offset=0):
    return torch.zeros(n + offset, dtype=dtype)[offset:]


def side(sizes, dtype=torch.float32, offsets=None, **options):
    terms = len(sizes) * (2 if options.get("split") else 1)
    logits = [view(n, dtype, offset) for n, offset in zip(sizes, offsets or [0] * len(sizes))]
    numbers = {"labels": (1.0,) * terms, "weights": (1.0,) * terms, "criterion": "hinge", "n_real": terms // 2}
    asked = {"value": True, "statistics": True, "gradient": True}
    adversarial.adversarial(logits, **{**numbers, **asked, **options})


def matched(sizes, dtype=torch.float32):
    maps = [[view(n, dtype) for n in sizes] for _ in range(2)]
    _, signs = matching.matching_signs(*maps, (2.0,) * len(sizes))
    matching.matching_gradient(signs, (2.0,) * len(sizes), dtype, torch.zeros(3)[1], True, False)


def points(n, m, d, kernel, bandwidths, **options):
    powers = (False, True) if kernel == "gaussian" else ()
    arguments = {"powers": powers, "precision": "exact" if d <= 4 else "fp32", "of_x": True, **options}
    mmd.mmd(view(n * d).view(n, d), view(m * d).view(m, d), bandwidths, kernel, **arguments)


def augmented(shape, dtype=torch.float32, form="map", channels_last=False, of=view):
    n = shape[0]
    x = of(math.prod(shape), dtype).view(shape)
    if channels_last:
        x = x.view(n, *shape[2:], shape[1]).permute(0, 3, 1, 2)
    floats = [of(n, torch.float32) for _ in range(3)]
    whole = [of(2 * n, torch.int32).view(n, 2) for _ in range(3)]
    augment.augment(x, *floats, *whole, of(n, torch.bool), form)


def parameters_drawn(n, p=None, of=view):
    augment.draw_augmentation(of(12 * n, torch.float32).view(n, 12), p, 0.5, 7, [1, 16, 32, 32, 65, 1])


def layer(shape, act, dtype=torch.float32, biased=True, offset=0, clamp=math.inf, channels_last=False, gain=1.5):
    """Value, gradient and, for curved activations, second derivative: two or three launches."""
    x, g, h = (view(math.prod(shape), dtype, offset).view(shape) for _ in range(3))
    if channels_last:
        x, g, h = (t.contiguous(memory_format=torch.channels_last) for t in (x, g, h))
    b = view(shape[1], dtype, offset) if biased else None
    settings = (1, act, 0.2, gain, clamp)
    y, from_y = bias_act.bias_act(x, b, *settings), act in ("relu", "lrelu")
    ref, own = (y, None) if from_y else (x, b)
    if act == "linear":
        ref = own = None
    bias_act.bias_act_gradient(g, ref, own, *settings, from_y, True, biased)
    if act not in ("linear", "relu", "lrelu"):
        bias_act.bias_act_second(h, b, g, x, b, *settings, True, True, biased)


def resampled(shape, taps, up=1, down=1, padding=(2, 1, 2, 1), dtype=torch.float32, last=False, offset=0):
    n, c, h, w = shape
    x = view(n * c * h * w, dtype, offset)
    x = x.view(n, h, w, c).permute(0, 3, 1, 2) if last else x.view(shape)
    resampling.upfirdn2d(x, torch.zeros(taps), (up, up), (down, down), padding, False, 4.0)


def filtered_lrelu(shape, taps, up=2, down=2, dtype=torch.float32, last=False, biased=True, slopes=False, of=view):
    """One launch: R2 a(R1 (x + b)), or R2 (s * R1 v)."""
    n, c, h, w = shape
    x, v = (of(n * c * h * w, dtype) for _ in range(2))
    x, v = (t.view(n, h, w, c).permute(0, 3, 1, 2) if last else t.view(shape) for t in (x, v))
    b, fu, fd = of(c, dtype) if biased else None, *[of(count, torch.float32) for count in taps]
    first = ((up, up), (1, 1), (taps[0], taps[0] - 1) * 2, False, float(up * up))
    second, activation = ((1, 1), (down, down), (0, 0, 0, 0), False, 1.0), (2.0**0.5, 0.2, 256.0 if biased else None)
    if slopes:
        filtered.filtered_slopes(v, x, b, fu, fd, fu, first, second, first, *activation)
    else:
        filtered.filtered_lrelu(x, b, fu, fd, first, second, *activation)


SCALES = torch.zeros(8)
CASES = {
    "one program": lambda: side([128, 128]),
    "sizes that are 1 and 16": lambda: side([1, 16], labels=(0.9, 0.0), weights=(16.0, 1.0), factor=3.0),
    "an empty side": lambda: side([0, 5]),
    "many programs": lambda: side([5000, 12345], weights=(2.0, 0.5)),
    "large": lambda: side([1 << 20, (1 << 20) + 3]),
    "float64": lambda: side([128, 20], torch.float64, weights=(1 / 3, 0.1)),
    "bfloat16, misaligned": lambda: side([5000, 12345], torch.bfloat16, [1, 8]),
    "float16": lambda: side([5000, 777], torch.float16, [0, 1]),
    "scale": lambda: side([128, 128], scale=SCALES[1]),
    "a scale a term": lambda: side([5000, 5000], scale=SCALES[:2]),
    "three terms": lambda: side([100, 7, 64]),
    "five terms": lambda: side([101, 7, 1, 16, 70000]),
    "25 terms": lambda: side([100] * 25),
    "64 terms": lambda: side([100] * 64),
    "70 terms, two launches": lambda: side([100] * 70),
    "a batch of both, aligned": lambda: side([64], split=32),
    "a batch of both, generated rows first": lambda: side([65], split=-33),
    "a batch of both, many programs": lambda: side([50_000], split=20_001),
    "partners": lambda: side([4096, 101], partners=[view(4096), view(101)], partner_gradient=True),
    "gradients of partners alone": lambda: side([4096], partners=[view(4096)], partner_gradient=True, gradient=False),
    "labels and weights": lambda: side(
        [4096, 100], targets=[view(4096, torch.bfloat16), view(100, torch.bfloat16)], masks=[view(4096), view(100)]
    ),
    "shift": lambda: side([4096, 101], shift=torch.zeros(5)[1:3]),
    "gradient alone": lambda: side([128, 128], value=False, statistics=False, scale=SCALES[0]),
    "value alone": lambda: side([128, 128], gradient=False, statistics=False),
    "feature maps": lambda: matched([100, 2000]),
    "54 feature maps": lambda: matched([54, 1, 16] * 18, torch.bfloat16),
    "float64 feature maps": lambda: matched([300], torch.float64),
    "a layer": lambda: layer((2, 16, 8, 8), "lrelu"),
    "a layer of halves, clamped": lambda: layer((4, 512, 4, 4), "lrelu", torch.bfloat16, clamp=256.0),
    "a layer of odd sizes": lambda: layer((3, 5, 7, 9), "swish", torch.float64, clamp=1 / 3),
    "a layer, channels last": lambda: layer((2, 48, 8, 8), "tanh", channels_last=True),
    "a layer of many programs": lambda: layer((8, 32, 64, 64), "relu", torch.float16),
    "a layer without a bias, misaligned": lambda: layer((1, 1, 1000), "softplus", biased=False, offset=1),
    "a matrix": lambda: layer((16, 512), "linear"),
    "one element": lambda: layer((1, 1), "elu"),
    "gaussian": lambda: points(100, 40, 2, "gaussian", (4.0, 2.0)),
    "gaussian, one point": lambda: points(1, 16, 2, "gaussian", (4.0, 2.0)),
    "energy": lambda: points(17, 1, 2, "energy", ()),
    "images": lambda: augmented((16, 3, 64, 64)),
    "images, their gradient": lambda: augmented((16, 3, 64, 64), form="transpose"),
    "many images, channels_last": lambda: augmented((300, 3, 9, 16), torch.bfloat16, "linear", True),
    "a draw": lambda: parameters_drawn(16),
    "a draw of one, p on the device": lambda: parameters_drawn(1, SCALES[1]),
    "one image": lambda: augmented((1, 1, 1, 1), torch.float64),
    "rational quadratic, products": lambda: points(100, 40, 64, "rational_quadratic", (1.0, 2.0), unbiased=True),
    "blur": lambda: resampled((2, 3, 17, 33), (4, 4)),
    "blur of a misaligned image": lambda: resampled((2, 3, 16, 32), (4, 4), offset=1),
    "upsample, channels_last": lambda: resampled((2, 16, 8, 8), (4, 4), 2, dtype=torch.bfloat16, last=True),
    "a leaky ReLU between filters": lambda: filtered_lrelu((2, 3, 17, 16), (4, 6)),
    "its derivative, channels_last": lambda: filtered_lrelu(
        (1, 16, 8, 9), (4, 4), 2, 1, torch.bfloat16, True, False, slopes=True
    ),
    "downsample, 12 taps": lambda: resampled((1, 1, 32, 32), (12,), 1, 2, dtype=torch.float64),
}


# ---- keys -----------------------------------------------------------------------------------------------------------


class Keys:
    """Records the first specialisation of each key, and the calls with that key but another specialisation."""

    def __init__(self, hole=None):
        from triton.backends.compiler import GPUTarget
        from triton.compiler import make_backend
        from triton.runtime.jit import create_function_from_signature

        self.make, self.backend = create_function_from_signature, make_backend(GPUTarget("cuda", 90, 32))
        self.binders, self.seen, self.collisions, self.hole = {}, {}, [], hole

    def __call__(self, plan, args, given):
        kernel = plan.kernel
        plan.device = GPU
        if kernel not in self.binders:
            self.binders[kernel] = self.make(kernel.signature, kernel.params, self.backend)
        _, types, compiled_with = self.binders[kernel](
            *args, **plan.constants, **plan.options, enable_fp_fusion=True, debug=False
        )
        if self.hole == "addresses":
            given = ()
        elif self.hole == "halves" and kernel is adversarial.adversarial_kernel:
            given = [x for x in given if not any(x is g for g in args[1] or ())]
        found = repr((types, sorted(compiled_with.items(), key=str)))
        first, first_case = self.seen.setdefault(launcher.cache_key(plan, given), (found, case))
        if first != found:
            self.collisions.append([first_case, case])


def anything(rng):
    """A random call, at sizes and addresses that Triton may treat as special."""
    kinds = (anything_adversarial, anything_matched, anything_of_points)
    kinds += (anything_of_images, anything_of_layers, anything_resampled, anything_filtered)
    kinds[rng.choice((0,) * 14 + (1, 1, 2, 2, 3, 3, 4, 5, 6))](rng)


def numbers(rng, choices, count):
    return tuple(rng.choice(choices) for _ in range(count))


def anywhere(rng, n, dtype):
    return view(n, dtype, rng.choice((0, 0, 0, 1, 2, 3, 4, 5, 8)))


def anything_adversarial(rng):
    dtype, count = rng.choice(FLOATS), rng.choice((1, 1, 1, 2, 2, 3, 5, 25))
    sizes = numbers(rng, (0, 1, 2, 3, 15, 16, 17, 64, 127, 128, 1000, 1024, 3000, 4096, 9000, 20000), count)
    mode, options = rng.choice(("plain", "split", "partners", "targets", "masks", "both", "shift")), {}
    terms = count
    if mode == "split":
        options["split"] = rng.choice((1, 2, 3, 4, 5, 8, 16, 33)) * rng.choice((1, -1))
        sizes, terms = [n + abs(options["split"]) + 1 for n in sizes], 2 * count
    if mode == "partners":
        options |= {"partners": [anywhere(rng, n, dtype) for n in sizes], "partner_gradient": rng.random() < 0.5}
    for name in ("targets", "masks"):
        if mode in (name, "both"):
            kind = rng.choice((torch.float32, torch.bfloat16))
            options[name] = [anywhere(rng, n, kind) for n in sizes]
    if mode == "shift":
        options["shift"] = anywhere(rng, terms, rng.choice((torch.float32, torch.float64)))
    scale = rng.choice((None, None, None, 0, 1, "a term"))
    if scale is not None:
        options["scale"] = anywhere(rng, terms if scale == "a term" else 1, rng.choice(FLOATS))
        options["scale"] = options["scale"][0] if scale == 0 else options["scale"]
    options["factor"] = rng.choice((1.0, 2.0, 0.5, 0.0))
    asked = rng.choice(((True, True), (True, True), (True, False), (False, True)))
    options |= {"value": asked[0], "statistics": asked[0], "gradient": asked[1]}
    if not asked[1] and options.get("partner_gradient"):
        options["partner_gradient"] = False
    adversarial.adversarial(
        [anywhere(rng, n, dtype) for n in sizes],
        numbers(rng, (0.0, 1.0, 0.9, 16.0), terms),
        numbers(rng, (1.0, 0.5, 0.0, 16.0), terms),
        "hinge",
        terms // 2,
        **options,
    )


def anything_matched(rng):
    dtype, count = rng.choice(FLOATS), rng.choice((1, 2, 3, 8, 54, 64))
    sizes, weights = numbers(rng, (0, 1, 16, 17, 1000, 5000), count), numbers(rng, (1.0, 2.0), count)
    if rng.random() < 0.5:
        maps = [[anywhere(rng, n, dtype) for n in sizes] for _ in range(2)]
        matching.matching_signs(*maps, weights)
    else:
        signs, scale = [anywhere(rng, n, torch.int8) for n in sizes], anywhere(rng, 1, torch.float32)[0]
        matching.matching_gradient(signs, weights, dtype, scale, rng.random() < 0.7, True)


def anything_of_points(rng):
    dtype, d = rng.choice(FLOATS), rng.choice((1, 2, 3, 4, 5, 8, 16, 32, 64, 65, 100, 128, 256))
    n, m = numbers(rng, (1, 2, 5, 16, 100, 1000), 2)
    kernel = rng.choice(("gaussian", "rational_quadratic", "energy"))
    bandwidths = () if kernel == "energy" else numbers(rng, (1.0, 2.0, 3.0), rng.choice((1, 2, 4)))
    value = rng.random() < 0.7
    mmd.mmd(
        *(anywhere(rng, k * d, dtype).view(k, d) for k in (n, m)),
        bandwidths,
        kernel,
        alpha=rng.choice((1.0, 0.5)),
        powers=tuple(i > 0 and rng.random() < 0.5 for i in range(len(bandwidths))) if kernel == "gaussian" else (),
        unbiased=rng.random() < 0.3,
        target=rng.random() < 0.7,
        weight=rng.choice((1.0, 2.0)),
        precision=rng.choice(("exact", "fp32", "tf32")),
        value=value,
        of_x=rng.random() < 0.6 or not value,
        of_y=rng.random() < 0.4,
        scale=rng.choice((None, anywhere(rng, 1, torch.float32)[0])),
    )


def anything_of_images(rng):
    shape = tuple(rng.choice(of) for of in ((1, 2, 16, 64, 300), (1, 3, 4, 80), (1, 16, 33), (1, 16, 17)))
    form, last = rng.choice(("map", "linear", "transpose", "draw")), rng.random() < 0.5
    of = functools.partial(anywhere, rng)
    if form == "draw":
        p = rng.choice((None, torch.float32, torch.float64))
        parameters_drawn(shape[0], p and of(1, p)[0], of)
    else:
        augmented(shape, rng.choice(FLOATS), form, last, of)


def anything_of_layers(rng):
    shape = (rng.choice((1, 16)), rng.choice((1, 48)), rng.choice((1, 3, 4)), 16)
    act, dtype = rng.choice(("lrelu", "swish")), rng.choice((torch.float32, torch.bfloat16))
    layer(shape, act, dtype, rng.random() < 0.8, rng.choice((0, 1)), channels_last=rng.random() < 0.2)


def anything_resampled(rng):
    n, c, h, w = numbers(rng, (1, 2, 3, 16, 17, 32), 4)
    dtype, last = rng.choice((*FLOATS, torch.float16)), rng.random() < 0.5
    x = anywhere(rng, 2 * n * c * h * w, dtype)
    x = x.view(n, h, w, 2 * c).permute(0, 3, 1, 2) if last else x.view(n, c, h, 2 * w)
    cut = rng.choice((None, None, 0, 1, 2, 3))  # a view, whose strides do not follow from its sizes
    x = x if cut is None else x.narrow(cut, 0, max(1, x.shape[cut] // 2))
    taps = rng.choice(((4, 4), (4, 4), (3, 5), (12,), (1, 1)))
    f = anywhere(rng, math.prod(taps), torch.float32).view(taps)
    up, down = numbers(rng, (1, 1, 2, 3), 2), numbers(rng, (1, 1, 2, 3), 2)
    padding = numbers(rng, (11, 12), 4)
    resampling.upfirdn2d(x, f, up, down, padding, True, 1.0)


def anything_filtered(rng):
    shape, taps = numbers(rng, (1, 2, 3, 16, 17, 32), 4), numbers(rng, (4, 6), 2)
    up, down = numbers(rng, (1, 2), 2)
    options = dict(last=rng.random() < 0.5, biased=rng.random() < 0.5, slopes=rng.random() < 0.5)
    dtype, of = rng.choice((*FLOATS, torch.float16)), functools.partial(anywhere, rng)
    filtered_lrelu(shape, taps, up, down, dtype, **options, of=of)


if __name__ == "__main__":
    driver.set_active(Device())
    if sys.argv[2] == "compare":
        with launches_go_to(compare):
            for case in CASES:
                CASES[case]()
    else:
        keys, count, seed = Keys(*sys.argv[5:]), int(sys.argv[3]), int(sys.argv[4])
        with launches_go_to(keys):
            for i in range(count):
                case = f"{seed} {i}"
                anything(random.Random(case))
        found = {"calls": count, "keys": len(keys.seen), "collisions": keys.collisions, "triton": triton.__version__}
        print(json.dumps(found))
