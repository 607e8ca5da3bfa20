"""Shared by the vocoders' steps: a batch of synthetic waves, and the logarithm of the mel spectrogram."""

import torch
import torch.nn.functional as F


def hums(batch, samples, rate):
    """(N, 1, T): each sample is a sine of 100 to 200 Hz."""
    pitch = 100 * 2 ** torch.rand(batch, 1, 1)
    return (torch.arange(samples) / rate * 2 * torch.pi * pitch).sin() * 0.9


class Mel:
    """`(N, 1, T) -> (N, mels, T / hop)`; bands of equal width on HTK's mel scale. Some codebases use Slaney's."""

    def __init__(self, fft, hop, mels, rate):
        hertz = 700 * (10 ** torch.linspace(0, torch.tensor(1 + rate / 1400).log10(), mels + 2) - 1)
        rise = (torch.linspace(0, rate / 2, fft // 2 + 1) - hertz[:-1, None]) / hertz.diff()[:, None]
        self.filters = rise[:-1].minimum(1 - rise[1:]).clamp(min=0) * (2 / (hertz[2:] - hertz[:-2]))[:, None]
        self.window, self.fft, self.hop = torch.hann_window(fft), fft, hop

    def to(self, device, dtype):
        self.filters, self.window = self.filters.to(device, dtype), self.window.to(device, dtype)
        return self

    def magnitude(self, wave):
        """(N, 1, T) -> (N, fft / 2 + 1, T / hop)."""
        wave = F.pad(wave, ((self.fft - self.hop) // 2,) * 2, "reflect").squeeze(1).to(self.window.dtype)
        found = torch.stft(wave, self.fft, self.hop, window=self.window, center=False, return_complex=True)
        return (torch.view_as_real(found).square().sum(-1) + 1e-9).sqrt()

    def of(self, magnitude):
        return (self.filters @ magnitude).clamp(min=1e-5).log()

    def __call__(self, wave):
        return self.of(self.magnitude(wave))
