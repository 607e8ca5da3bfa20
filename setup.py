"""Static metadata only: nothing is probed, compiled or downloaded at install time."""

import re
from pathlib import Path

from setuptools import setup

PACKAGE = Path(__file__).with_name("fastgan") / "__init__.py"
VERSION = re.search(r'^__version__ = "(.+?)"', PACKAGE.read_text(encoding="utf-8"), re.MULTILINE)[1]

TRAIN = [
    "matplotlib>=3.8",
    "pillow>=10",
    "scikit-learn>=1.4",
    "tensorboard>=2.15",
    "tqdm>=4.66",
]
METRICS = ["torchmetrics>=1.4"]
HUB = ["datasets>=3"]
EXPORT = ["huggingface_hub>=0.26", "onnx>=1.17", "onnxscript>=0.3", "safetensors>=0.4.3"]
LOOPS = ["accelerate>=1", "lightning-fabric>=2.4"]  # what docs/training.md has examples for
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"]
BENCH = ["matplotlib>=3.8", "pytest>=8", "pytest-benchmark>=5", "scipy>=1.15", "tqdm>=4.66"]
TEST = [
    *("hypothesis>=6.100", "mypy>=1.13", "onnxruntime>=1.20", "pytest-timeout>=2.3", "pytest-xdist>=3.5", "ruff>=0.8"),
]

setup(
    name="fastgan",
    version=VERSION,
    description="Adversarial losses and GAN training steps in PyTorch: loss and gradients in one Triton launch",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # fastgan/kernels is a link to kernels: every package is found by its path, and a folder named fastgan hides none.
    package_dir={"": "."},  # so that an editable install is a path too
    packages=[
        *("fastgan", "fastgan.cli", "fastgan.compat", "fastgan.cpu", "fastgan.data", "fastgan.evaluation"),
        *("fastgan.formulas", "fastgan.game", "fastgan.kernels", "fastgan.layers", "fastgan.losses"),
        *("fastgan.models", "fastgan.operators", "fastgan.training"),
    ],
    package_data={"fastgan": ["py.typed"]},  # its types are for type checkers
    install_requires=[
        "torch>=2.7",
        "triton>=3.3; platform_system == 'Linux'",
        "numpy>=1.26",
    ],
    extras_require={
        "train": TRAIN,
        "bench": BENCH,
        "metrics": METRICS,
        "hub": HUB,
        "export": EXPORT,
        "docs": DOCS,
        "test": [*TRAIN, *METRICS, *BENCH, *EXPORT, *LOOPS, *TEST],
    },
    entry_points={"console_scripts": ["fastgan = fastgan.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
