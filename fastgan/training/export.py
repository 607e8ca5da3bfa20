"""Export a trained generator to files that other programs read. Standard libraries write the files.

Each file is a function of z (N, latent_dim), from N(0, I), for any N, except "safetensors", which has only the weights.
The labels of a conditional generator are the second argument, int64 (N,). Loading a file does not need fastgan:

    # onnx: 32-bit floats, in any language that has ONNX Runtime
    z = numpy.random.randn(16, latent_dim).astype("float32")
    (samples,) = onnxruntime.InferenceSession("generator.onnx").run(None, {"z": z})

    # torchscript: C++ and PyTorch; deprecated by PyTorch in favour of pt2
    samples = torch.jit.load("generator.pt")(torch.randn(16, latent_dim))

    # pt2, of torch.export: PyTorch, and compilers for it
    samples = torch.export.load("generator.pt2").module()(torch.randn(16, latent_dim))

    # safetensors: by name, for the same network written elsewhere; the file's metadata says how fastgan built it
    network.load_state_dict(safetensors.torch.load_file("generator.safetensors"))

Images are in [-1, 1]. Points are in the units of the data, except with "safetensors", whose weights generate
standardised points; its metadata has `mean` and `scale`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator

import torch

from fastgan.data import needs
from fastgan.training.checkpoints import write_atomically
from fastgan.training.generator import TrainedGenerator

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}
PACKAGES = {"safetensors": ("safetensors",), "onnx": ("onnx", "onnxscript"), "torchscript": (), "pt2": ()}
LOADING = {
    "safetensors": """\
import safetensors.torch
weights = safetensors.torch.load_file({path!r})  # a tensor for every name
network.load_state_dict(weights)  # the same network, written elsewhere; the file's metadata says which""",
    "onnx": """\
import numpy, onnxruntime
z = numpy.random.randn(16, {latent_dim}).astype("float32"){numpy_labels}
(samples,) = onnxruntime.InferenceSession({path!r}).run(None, {{"z": z{onnx_labels}}})""",
    "torchscript": """\
import torch
samples = torch.jit.load({path!r})(torch.randn(16, {latent_dim}){torch_labels})""",
    "pt2": """\
import torch
samples = torch.export.load({path!r}).module()(torch.randn(16, {latent_dim}){torch_labels})""",
}


def how_to_load(generator: TrainedGenerator, path: str | os.PathLike, form: str) -> str:
    """Python code that loads the file without fastgan."""
    labels = dict.fromkeys(("numpy_labels", "onnx_labels", "torch_labels"), "")
    if generator.classes is not None:
        labels["numpy_labels"] = f"\nlabels = numpy.random.randint({generator.classes}, size=16)"
        labels["onnx_labels"] = ', "labels": labels'
        labels["torch_labels"] = f", torch.randint({generator.classes}, (16,))"
    return LOADING[form].format(path=os.fspath(path), latent_dim=generator.latent_dim, **labels)


def check_packages_of(form: str) -> None:
    """Raises ValueError if the format is unknown, ImportError if a package that writes it is missing."""
    if form not in SUFFIXES:
        raise ValueError(f"format: got {form!r}, expected one of {', '.join(map(repr, SUFFIXES))}")
    for package in PACKAGES[form]:
        if importlib.util.find_spec(package) is None:
            raise ImportError(needs(package, "export"))


def export(generator: TrainedGenerator, path: str | os.PathLike, form: str) -> None:
    """Write the generator to `path`, completely or not at all. form: a key of `SUFFIXES`.

    Raises ValueError or ImportError as `check_packages_of` does, OSError if the file cannot be written."""
    check_packages_of(form)
    with torch.no_grad(), _quiet():
        content = _WRITERS[form](generator)
    write_atomically(path, lambda file: file.write(content))


def _safetensors(generator: TrainedGenerator) -> bytes:
    from safetensors.torch import save

    made_of = {name: getattr(generator, name) for name in ("sample_shape", "latent_dim", "step", "classes")}
    if generator.mean is not None:
        made_of |= {"mean": generator.mean.tolist(), "scale": generator.scale}
    described = {name: json.dumps(value) for name, value in made_of.items()} | {"network": repr(generator.network)}
    return save({name: x.contiguous() for name, x in generator.network.state_dict().items()}, metadata=described)


def _onnx(generator: TrainedGenerator) -> bytes:
    program = torch.onnx.export(
        generator, _example(generator), dynamo=True, dynamic_shapes=_any_batch(generator), verbose=False,
        input_names=["z", "labels"][: len(_example(generator))], output_names=["samples"],
    )  # fmt: skip
    assert program is not None
    return program.model_proto.SerializeToString()


def _torchscript(generator: TrainedGenerator) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(generator, _example(generator)), file)
    return file.getvalue()


def _pt2(generator: TrainedGenerator) -> bytes:
    file = io.BytesIO()
    program = torch.export.export(generator, _example(generator), dynamic_shapes=_any_batch(generator))
    torch.export.save(program, file)
    return file.getvalue()


_WRITERS = {"safetensors": _safetensors, "onnx": _onnx, "torchscript": _torchscript, "pt2": _pt2}


def _any_batch(generator: TrainedGenerator) -> tuple[dict, ...]:
    return ({0: torch.export.Dim("batch")},) * len(_example(generator))


def _example(generator: TrainedGenerator) -> tuple[torch.Tensor, ...]:
    """Zeros, in a batch of two: torch.export would treat a batch size of one as a constant."""
    like = next(generator.parameters())
    labels = () if generator.classes is None else (torch.zeros(2, dtype=torch.int64, device=like.device),)
    return like.new_zeros(2, generator.latent_dim), *labels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' warnings about deprecations and about packages that no generator needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
