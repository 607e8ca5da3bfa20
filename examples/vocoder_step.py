"""A small version of HiFi-GAN's training step: multi-period discriminators, feature matching, least squares, L1.

    python examples/vocoder_step.py --steps 200

In HiFi-GAN's own code only two things change: the import of the three losses, and `loss.backward()` in G's step.
"""

import argparse

import torch
from torch import nn

import fastgan
from fastgan.compat.hifigan import discriminator_loss, feature_loss, generator_loss


class PeriodDiscriminators(nn.Module):
    def __init__(self, periods=(2, 3, 5), width=16):
        super().__init__()
        self.periods, shape = periods, ((5, 1), (3, 1), (2, 0))  # kernel, stride, padding
        blocks = [[nn.Sequential(nn.Conv2d(n, width, *shape), nn.LeakyReLU(0.1)) for n in (1, width)] for _ in periods]
        self.networks = nn.ModuleList(nn.Sequential(*block, nn.Conv2d(width, 1, 1)) for block in blocks)

    def forward(self, wave):
        """(N, 1, T) -> (logits, feature maps), lists with an entry for each period."""
        maps = []
        for period, layers in zip(self.periods, self.networks):
            x = wave.unflatten(-1, (-1, period))
            maps.append([x := layer(x) for layer in layers.children()])
        return [of_period[-1].flatten(1) for of_period in maps], maps


def spectrogram(wave):
    """(N, 1, T) -> (N, 33, T / 8), in place of HiFi-GAN's mel spectrogram."""
    return torch.stft(wave.squeeze(1), 64, 8, window=torch.hann_window(64), return_complex=True).abs()[..., :-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    torch.manual_seed(0)
    generator = nn.Sequential(nn.ConvTranspose1d(33, 16, 16, 8, 4), nn.LeakyReLU(0.1), nn.Conv1d(16, 1, 7, padding=3))
    discriminator = PeriodDiscriminators()
    optimizer_g, optimizer_d = (torch.optim.AdamW(m.parameters(), 2e-4) for m in (generator, discriminator))
    for step in range(parser.parse_args().steps):
        wave = torch.sin(torch.linspace(0, 200, 1920) * (1 + torch.rand(4, 1, 1)))
        fake = generator(mel := spectrogram(wave))
        loss_d, _, _ = discriminator_loss(discriminator(wave)[0], discriminator(fake.detach())[0])  # one launch
        optimizer_d.zero_grad(), loss_d.backward(), optimizer_d.step()
        (_, real_maps), (logits, maps) = discriminator(wave), discriminator(fake)
        loss_g = generator_loss(logits)[0] + feature_loss(real_maps, maps) + 45 * (spectrogram(fake) - mel).abs().mean()
        optimizer_g.zero_grad()
        fastgan.generator_backward(loss_g, generator)  # computes no gradient for D or the real branch
        optimizer_g.step()
        if step % 50 == 49 or step == 1:
            print(f"step {step + 1}: loss of D {loss_d:.3f}, loss of G {loss_g:.3f}")


if __name__ == "__main__":
    main()
