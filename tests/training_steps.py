"""Small versions of six codebases' training steps, with comments that say what `fastgan.inspect_step` must find.

A comment `# planted: KIND[ xN]` names the kind of a finding that is expected of its line, and how often.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn


def conv(a, b):
    return nn.Conv1d(a, b, 5, 1, 2)


class Vocoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = conv(3, 8), conv(8, 1)

    def forward(self, x):
        return self.last(F.leaky_relu(self.first(x), 0.1)).tanh()


class Judge(nn.Module):
    """(logits, maps) of waves (N, 1, T)."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride
        self.layers = nn.ModuleList([nn.utils.parametrizations.weight_norm(conv(1, 8)), conv(8, 8)])
        self.last = conv(8, 1)

    def forward(self, x):
        x, maps = x[..., :: self.stride], []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            maps.append(x)
        x = self.last(x)
        return x.flatten(1), [*maps, x]


def adam(*networks):
    return torch.optim.AdamW([p for network in networks for p in network.parameters()], 2e-4)


class HiFiGAN:
    """jik876/hifi-gan, train.py: `.item()` in the lists of losses, all of D's gradients in G's step."""

    class Several(nn.Module):
        def __init__(self, strides):
            super().__init__()
            self.judges = nn.ModuleList(Judge(n) for n in strides)

        def forward(self, real, fake):
            logits_r, logits_f, maps_r, maps_f = [], [], [], []
            for judge in self.judges:
                logits, maps = judge(real)  # planted: branch x8
                logits_r.append(logits)
                maps_r.append(maps)
                logits, maps = judge(fake)
                logits_f.append(logits)
                maps_f.append(maps)
            return logits_r, logits_f, maps_r, maps_f

    def __init__(self):
        self.generator = Vocoder()
        self.periods, self.scales = self.Several((2, 3, 5, 7, 11)), self.Several((1, 2, 4))
        self.optim_g, self.optim_d = adam(self.generator), adam(self.periods, self.scales)
        self.mel, self.wave = torch.randn(2, 3, 64), torch.randn(2, 1, 64)

    @staticmethod
    def loss_of_d(real, fake):
        total, of_real, of_fake = 0, [], []
        for r, f in zip(real, fake):
            r, f = torch.mean((1 - r) ** 2), torch.mean(f**2)  # planted: loss x16
            total = total + r + f
            of_real.append(r.item())  # planted: wait x8
            of_fake.append(f.item())  # planted: wait x8
        return total, of_real, of_fake

    @staticmethod
    def loss_of_features(real, fake):
        total = 0
        for r, f in zip(real, fake):
            for a, b in zip(r, f):
                total = total + torch.mean(torch.abs(a - b))  # planted: loss x24
        return total * 2

    def __call__(self):
        fake = self.generator(self.mel)
        self.optim_d.zero_grad()
        loss_d = 0
        for judges in (self.periods, self.scales):
            real_logits, fake_logits, _, _ = judges(self.wave, fake.detach())
            loss_d = loss_d + self.loss_of_d(real_logits, fake_logits)[0]
        loss_d.backward()
        self.optim_d.step()
        self.optim_g.zero_grad()
        loss_g = 45 * F.l1_loss(fake[..., ::4], self.wave[..., ::4])
        for judges in (self.periods, self.scales):
            _, fake_logits, real_maps, fake_maps = judges(self.wave, fake)
            loss_g = loss_g + self.loss_of_features(real_maps, fake_maps)
            for logits in fake_logits:
                loss_g = loss_g + torch.mean((1 - logits) ** 2)  # planted: loss x8
        loss_g.backward()  # planted: gradients
        self.optim_g.step()


class StyleTTS2:
    """yl4579/StyleTTS2, losses.py: a median and a boolean mask for each discriminator; lengths read back."""

    def __init__(self):
        self.generator, self.judge = Vocoder(), Judge(2)
        self.optim_g, self.optim_d = adam(self.generator), adam(self.judge)
        self.mel, self.wave = torch.randn(2, 3, 64), torch.randn(2, 1, 64)
        self.lengths = torch.tensor([40, 60])

    @staticmethod
    def relative(real, fake, tau=0.04):
        middle = torch.median(real - fake)
        loss = torch.mean((((real - fake) - middle) ** 2)[real < fake + middle])  # planted: wait x2
        return tau - F.relu(tau - loss)

    def __call__(self):
        length = int(self.lengths.min().item() / 4)  # planted: wait
        mels, waves = [], []
        for i in range(len(self.lengths)):
            most = int(self.lengths[i].item())  # planted: wait x2
            start = random.randint(0, most - length)
            mels.append(self.mel[i, :, start : start + length])
            waves.append(self.wave[i, :, start : start + length])
        mel, wave = torch.stack(mels), torch.stack(waves)
        fake = self.generator(mel)
        self.optim_d.zero_grad()
        real_logits, fake_logits = self.judge(wave.detach())[0], self.judge(fake.detach())[0]
        loss_d = torch.mean((1 - real_logits) ** 2) + torch.mean(fake_logits**2)  # planted: loss x2
        loss_d = loss_d + self.relative(real_logits, fake_logits)
        loss_d.backward()  # of the mask; planted: wait
        self.optim_d.step()
        self.optim_g.zero_grad()
        with torch.no_grad():
            real_logits = self.judge(wave)[0]
        fake_logits = self.judge(fake)[0]
        loss_g = torch.mean((1 - fake_logits) ** 2) + self.relative(fake_logits, real_logits)  # planted: loss
        loss_g.backward()  # planted: gradients planted: wait
        self.running = loss_g.item()  # planted: wait
        if torch.isnan(loss_g):  # planted: wait
            raise FloatingPointError
        self.optim_g.step()


class CycleGAN:
    """junyanz/pytorch-CycleGAN-and-pix2pix: a pool of images, and D frozen while G learns. Nothing is wasted."""

    class Criterion(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("yes", torch.tensor(1.0))
            self.register_buffer("no", torch.tensor(0.0))
            self.loss = nn.MSELoss()

        def forward(self, logits, real):
            return self.loss(logits, (self.yes if real else self.no).expand_as(logits))  # planted: loss x6

    class Pool:
        def __init__(self, size):
            self.size, self.images = size, []

        def query(self, images):
            found = []
            for image in images:
                image = torch.unsqueeze(image.data, 0)
                if len(self.images) < self.size:
                    self.images.append(image)
                    found.append(image)
                elif random.uniform(0, 1) > 0.5:
                    at = random.randint(0, self.size - 1)
                    found.append(self.images[at].clone())
                    self.images[at] = image
                else:
                    found.append(image)
            return torch.cat(found, 0)

    def __init__(self):
        self.to_b, self.to_a = (nn.Sequential(conv(1, 8), nn.ReLU(True), conv(8, 1)) for _ in range(2))
        self.of_b, self.of_a = (nn.Sequential(conv(1, 8), nn.LeakyReLU(0.2, True), conv(8, 1)) for _ in range(2))
        self.optim_g, self.optim_d = adam(self.to_b, self.to_a), adam(self.of_b, self.of_a)
        self.pools, self.criterion, self.l1 = (self.Pool(3), self.Pool(3)), self.Criterion(), nn.L1Loss()
        self.a, self.b = torch.randn(2, 2, 1, 32)

    def __call__(self):
        fake_b, fake_a = self.to_b(self.a), self.to_a(self.b)
        again_a, again_b = self.to_a(fake_b), self.to_b(fake_a)
        for network in (self.of_a, self.of_b):
            network.requires_grad_(False)
        self.optim_g.zero_grad()
        loss = self.l1(again_a, self.a) + self.l1(again_b, self.b)
        loss = loss + 0.5 * self.l1(self.to_a(self.a), self.a) + 0.5 * self.l1(self.to_b(self.b), self.b)
        for judge, fake in ((self.of_b, fake_b), (self.of_a, fake_a)):
            loss = loss + self.criterion(judge(fake), True)
        loss.backward()
        self.optim_g.step()
        for network in (self.of_a, self.of_b):
            network.requires_grad_(True)
        self.optim_d.zero_grad()
        for judge, pool, real, fake in zip((self.of_b, self.of_a), self.pools, (self.b, self.a), (fake_b, fake_a)):
            fake = pool.query(fake)
            loss = 0.5 * (self.criterion(judge(real), True) + self.criterion(judge(fake.detach()), False))
            loss.backward()
        self.optim_d.step()


class Taming:
    """CompVis/taming-transformers without Lightning, which freezes the other network: an adaptive weight of two
    `autograd.grad`, and a pass through the autoencoder for D, with its graph."""

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 4)), nn.Sequential(conv(4, 1))
            self.codes = nn.Embedding(16, 4)

        def forward(self, x):
            z = self.encoder(x).transpose(1, 2)
            nearest = torch.cdist(z.flatten(0, 1), self.codes.weight).argmin(1)
            code = self.codes(nearest).view(z.shape)
            loss = torch.mean((code.detach() - z) ** 2) + torch.mean((code - z.detach()) ** 2)
            return self.decoder((z + (code - z).detach()).transpose(1, 2)), loss

    def __init__(self):
        self.model, self.judge = self.Autoencoder(), nn.Sequential(conv(1, 8), nn.LeakyReLU(0.2), conv(8, 1))
        self.features = nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 8)).requires_grad_(False)
        self.optim_g, self.optim_d = adam(self.model), adam(self.judge)
        self.x = torch.randn(2, 1, 32)

    def __call__(self):
        again, loss_of_codes = self.model(self.x)
        error = torch.abs(self.x - again) + (self.features(self.x) - self.features(again)).pow(2).mean()
        error = torch.mean(error)
        loss_g = -torch.mean(self.judge(again))
        last = self.model.decoder[-1].weight
        slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (error, loss_g)]
        weight = torch.clamp(torch.norm(slopes[0]) / (torch.norm(slopes[1]) + 1e-4), 0.0, 1e4).detach()
        self.optim_g.zero_grad()
        (error + weight * loss_g + loss_of_codes).backward()  # planted: gradients
        self.optim_g.step()
        self.logged = {"weight": weight, "loss": loss_g.detach()}

        again, _ = self.model(self.x)  # planted: graph
        real_logits, fake_logits = self.judge(self.x.detach()), self.judge(again.detach())
        loss_d = torch.mean(F.relu(1.0 - real_logits)) + torch.mean(F.relu(1.0 + fake_logits))  # planted: loss x2
        self.optim_d.zero_grad()
        (0.5 * loss_d).backward()
        self.optim_d.step()


class DCGAN:
    """pytorch/examples, dcgan/main.py."""

    def __init__(self):
        self.netG = nn.Sequential(conv(4, 8), nn.BatchNorm1d(8), nn.ReLU(True), conv(8, 1), nn.Tanh())
        self.netD = nn.Sequential(conv(1, 8), nn.LeakyReLU(0.2), nn.Conv1d(8, 1, 16), nn.Flatten(0), nn.Sigmoid())
        self.criterion = nn.BCELoss()
        self.optimizerG, self.optimizerD = adam(self.netG), adam(self.netD)
        self.real = torch.randn(4, 1, 16)

    def __call__(self):
        self.netD.zero_grad()
        label = torch.full((4,), 1.0)
        output = self.netD(self.real)
        errD_real = self.criterion(output, label)  # planted: loss
        errD_real.backward()
        D_x = output.mean().item()  # planted: wait
        fake = self.netG(torch.randn(4, 4, 16))
        label.fill_(0.0)
        output = self.netD(fake.detach())
        errD_fake = self.criterion(output, label)  # planted: loss
        errD_fake.backward()
        D_G_z1 = output.mean().item()  # planted: wait
        errD = errD_real + errD_fake
        self.optimizerD.step()
        self.netG.zero_grad()
        label.fill_(1.0)
        output = self.netD(fake)
        errG = self.criterion(output, label)  # planted: loss
        errG.backward()  # planted: gradients
        D_G_z2 = output.mean().item()  # planted: wait
        self.optimizerG.step()
        self.line = f"{errD.item():.4f} {errG.item():.4f} {D_x:.4f} {D_G_z1:.4f} / {D_G_z2:.4f}"  # planted: wait x2


class VITS:
    """jaywalnut310/vits, train.py and commons.py: slices whose bounds are tensors, and the norm of each gradient
    read back separately. Its feature loss detaches the real maps."""

    WEIGHTS_OF_G, WEIGHTS_OF_D = 4, 7

    def __init__(self):
        self.net_g, self.net_d = Vocoder(), HiFiGAN.Several((1,))
        self.optim_g, self.optim_d = adam(self.net_g), adam(self.net_d)
        self.mel, self.wave = torch.randn(3, 3, 64), torch.randn(3, 1, 64)

    @staticmethod
    def norm_of_gradients(parameters):
        total = 0.0
        for p in parameters:
            total += p.grad.data.norm(2).item() ** 2  # planted: wait x11
        return total**0.5

    def __call__(self):
        starts, mels, waves = (torch.rand(3) * 32).long(), [], []
        for i in range(3):
            start = starts[i]
            mels.append(self.mel[i, :, start : start + 32])  # planted: wait x6
            waves.append(self.wave[i, :, start : start + 32])  # planted: wait x6
        mel, wave = torch.stack(mels), torch.stack(waves)
        fake = self.net_g(mel)
        real_logits, fake_logits, _, _ = self.net_d(wave, fake.detach())
        loss_d = sum(torch.mean((1 - r) ** 2) for r in real_logits)  # planted: loss
        loss_d = loss_d + sum(torch.mean(f**2) for f in fake_logits)  # planted: loss
        self.optim_d.zero_grad()
        loss_d.backward()
        self.norm_of_gradients(self.net_d.parameters())
        self.optim_d.step()
        _, fake_logits, real_maps, fake_maps = self.net_d(wave, fake)
        loss_g = 45 * F.l1_loss(wave, fake)
        for r, f in zip(real_maps[0], fake_maps[0]):
            loss_g = loss_g + 2 * torch.mean(torch.abs(r.float().detach() - f.float()))  # planted: loss x3
        loss_g = loss_g + torch.mean((1 - fake_logits[0]) ** 2)  # planted: loss
        self.optim_g.zero_grad()
        loss_g.backward()  # planted: gradients
        self.norm_of_gradients(self.net_g.parameters())
        self.optim_g.step()


CODEBASES = (HiFiGAN, StyleTTS2, CycleGAN, Taming, DCGAN, VITS)
