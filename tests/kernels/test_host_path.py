"""How many Python calls a loss makes before its launch."""

import sys
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan.kernels.launch import launch

HERE = {str(Path(fastgan.__file__).parent), str(Path(launch.__code__.co_filename).parent)}


def counted(call):
    """(number of the package's Python calls up to the launch, their depth at the launch)."""
    calls, levels = 0, 0

    def ours(frame):
        code = frame.f_code
        return not code.co_name.startswith("<") and any(code.co_filename.startswith(folder) for folder in HERE)

    def profile(frame, event, _):
        nonlocal calls, levels
        if event != "call" or not ours(frame) or levels:
            return
        calls += 1
        if frame.f_code is launch.__code__:
            while frame is not None:
                levels += ours(frame)
                frame = frame.f_back

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return calls, levels


@pytest.mark.parametrize("name", ["discriminator_loss", "discriminator_value_and_grad"])
def test_calls_and_levels_to_the_launch(kernel_device, name):
    real, fake = (torch.randn(128, device=kernel_device).requires_grad_() for _ in range(2))
    function = getattr(fastgan, name)
    function(real, fake)  # makes the plan
    calls, levels = counted(lambda: function(real, fake))
    assert 0 < calls <= 30 and 0 < levels <= 8, (calls, levels)


def test_calls_of_a_backward_pass(kernel_device):
    real, fake = (torch.randn(128, device=kernel_device).requires_grad_() for _ in range(2))
    fastgan.discriminator_loss(real, fake).backward()
    loss = fastgan.discriminator_loss(real, fake)
    calls, levels = counted(loss.backward)
    assert 0 < calls <= 15 and 0 < levels <= 8, (calls, levels)
