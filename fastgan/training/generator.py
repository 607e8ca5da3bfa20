"""The trained generator of a run.

    generator = fastgan.load("runs/digits-1")               # the averaged generator, in eval mode
    images = generator.sample(16, seed=0)                   # (16, 1, 8, 8) in [-1, 1]; or generator(z)
    generator.push_to_hub("user/digits")                    # Hugging Face, with pip install 'fastgan[export]'
    generator = fastgan.TrainedGenerator.from_pretrained("user/digits")

`fastgan export` writes it in formats that need no fastgan: see `fastgan.training.export`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

import torch
from torch import Tensor, nn

from fastgan.checks import Whole, finite, list_of, positive
from fastgan.data import free_memory, needs, to_points
from fastgan.models import outline
from fastgan.training.checkpoints import check_same_network, read_checkpoint
from fastgan.training.config import check_settings
from fastgan.training.runs import check_sample_shape, read_config
from fastgan.training.trainer import generate

if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin
else:
    try:
        from huggingface_hub import PyTorchModelHubMixin
    except ImportError:

        class PyTorchModelHubMixin:
            """The stand-in if huggingface_hub is not installed."""

            def __init_subclass__(cls, **_):
                super().__init_subclass__()

            def save_pretrained(self, *_, **__):
                raise ImportError(needs("huggingface_hub", "export"))

            push_to_hub = save_pretrained
            from_pretrained = classmethod(save_pretrained)


Network = TypeVar("Network", bound=nn.Module)


class TrainedGenerator(nn.Module, PyTorchModelHubMixin, library_name="fastgan", tags=["gan"]):
    """z (N, latent_dim), from N(0, I) -> images (N, C, H, W) in [-1, 1], or points (N, d) in the units of the data.

    sample_shape, latent_dim, width, networks, classes: the arguments of `fastgan.models.build` for the `network`. With
    `classes` it also needs labels, int64 (N,) in [0, classes).
    mean, scale: convert points back into the units of the data. step: of the training.

    Use `fastgan.load` or `from_pretrained` to make one: the constructor leaves the weights uninitialised.

    `save_pretrained(folder)`, `push_to_hub(name)` and `from_pretrained(name or folder)` are those of Hugging Face's
    PyTorchModelHubMixin: a config.json and model.safetensors, which run no code. They raise ImportError if
    huggingface_hub or safetensors is not installed.

    Raises TypeError or ValueError, naming the argument, if one is wrong or there is too little memory.
    """

    mean: Tensor | None

    def __init__(
        self,
        sample_shape: Sequence[int],
        latent_dim: int,
        width: int,
        networks: str | None = None,
        mean: Sequence[float] | None = None,
        scale: float = 1.0,
        step: int = 0,
        classes: int | None = None,
    ):
        super().__init__()
        self.sample_shape = tuple(check_sample_shape("sample_shape", sample_shape))
        check_settings({"latent_dim": latent_dim, "width": width, "networks": networks, "classes": classes})
        self.latent_dim, self.step, self.classes = latent_dim, Whole(0)("step", step), classes
        outlined, _ = outline(self.sample_shape, latent_dim, width, networks, classes)
        needed = sum(x.numel() * x.element_size() for x in outlined.state_dict().values())
        if needed > free_memory("cpu"):
            raise ValueError(f"width: got {width}, whose weights take {needed / 2**30:,.1f} GiB, more than are free")
        self.network = outlined.to_empty(device="cpu")
        if mean is not None and self.sample_shape != (len(list_of(finite)("mean", mean)),):
            raise ValueError(f"mean: got {len(mean)} numbers for samples of shape {self.sample_shape}")
        self.scale = positive("scale", scale)
        units = None if mean is None else torch.tensor(mean, dtype=torch.float32)
        self.register_buffer("mean", units, persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if (labels is None) != (self.classes is None):
            got, expected = ("None", "int64 (N,)") if labels is None else ("a tensor", "None")
            raise ValueError(f"labels: got {got}, expected {expected} of a generator with classes={self.classes}")
        samples = self.network(z) if labels is None else self.network(z, labels)
        return samples if self.mean is None else to_points(samples, self.mean, self.scale)

    def sample(self, n: int, seed: int = 0, batch: int = 256, labels: Tensor | None = None) -> Tensor:
        """(n, ...) samples, on the generator's device, made `batch` at a time. The same seed gives the same samples as
        `fastgan sample` and `GANTrainer.sample`. `fastgan.data.to_uint8` converts images to 0..255.
        labels: int64 (n,), for a generator with classes; None: 0, 1, ..., classes - 1, 0, 1, ...
        """
        return torch.cat(list(generate(self, self.latent_dim, n, seed, batch, self.classes, labels)))

    @classmethod
    def _from_pretrained(cls, **options):
        """The mixin's method, but every weight must be in the file."""
        return super()._from_pretrained(**{"strict": True, **options})


@overload
def load(run: str | os.PathLike, network: None = None) -> TrainedGenerator: ...
@overload
def load(run: str | os.PathLike, network: Network) -> Network: ...
def load(run, network=None):
    """The averaged generator of a run of `fastgan train`, in eval mode, on the CPU: a `TrainedGenerator`.

        generator = fastgan.load("runs/digits-1")
        images = generator.sample(16, seed=0)
        generator(torch.randn(16, generator.latent_dim))        # the same network, a module

    network: your own, for a run with --generator. `load` loads the averaged weights into it and returns it.

    No file of the run can run code: the checkpoint is read with `weights_only=True`, and both files are checked.

    Raises ValueError or FileNotFoundError, in one line, if there is no run, it is damaged, or has another network."""
    path = Path(run)
    return read_generator(path, read_config(path), network)


@overload
def read_generator(run: Path, config: dict, network: None = None) -> TrainedGenerator: ...
@overload
def read_generator(run: Path, config: dict, network: Network) -> Network: ...
def read_generator(run, config, network=None):
    """`load`, for a run whose config has been read. config: from `read_config`.

    Allocates the weights only after checking that the checkpoint contains them, so that neither file alone can cause a
    huge allocation."""
    settings, data, path = config["settings"], config["data"], run / "checkpoint.pt"
    own = settings.get("generator")
    if (own is None) != (network is None):
        kind, expected = ("one of fastgan's", "none") if own is None else (f"{own}, a network of your own", "it")
        raise ValueError(f"{run}: its generator is {kind}, expected {expected} to be given: --generator, or `network`")
    checkpoint = read_checkpoint(path)
    made_of = {name: settings.get(name) for name in ("latent_dim", "width", "networks", "classes")}
    if network is None:
        outlined, _ = outline(tuple(data["sample_shape"]), **made_of)
    else:
        outlined = network
    average = checkpoint["ema"]
    check_same_network(path, "generator", outlined, average)
    for key, own in outlined.state_dict().items():
        value = average[key]
        if value.layout != torch.strided or value.is_floating_point() != own.is_floating_point():
            raise ValueError(f"{path}: is of another generator: {key} is {value.dtype} in it, expected {own.dtype}")
        if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: is damaged: {key} has more elements than the file holds")
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key} holds NaN or infinity: the generator gives no samples")
    if network is not None:
        network.load_state_dict(average)
        return network.eval().requires_grad_(False)
    units = {"mean": data.get("mean"), "scale": data.get("scale", 1.0)}
    generator = TrainedGenerator(data["sample_shape"], **made_of, **units, step=checkpoint["step"])
    generator.network.load_state_dict(average)
    return generator
