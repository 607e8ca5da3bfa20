"""The training step of LlamaGen's VQ-16 tokenizer (FoundationVision/LlamaGen, tokenizer/tokenizer_image/vq_train.py),
restated as upstream has it and with fastgan: hinge losses, LPIPS, and the adaptive weight of taming-transformers, which
is an option of LlamaGen.

    python -m examples.integrations.llamagen --steps 3 --width 0.125

Only lines marked `# fastgan:` change. Here D learns from the first step. The entropy loss, which has weight 0, is left
out.
"""

import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.compat import taming

from . import main, select_pieces
from .llamagen_networks import Autoencoder, Perceptual, patches

LR, BETAS, D_WEIGHT, CLIP = 1e-4, (0.9, 0.95), 0.5, 1.0


def hinge_d_loss(real_logits, fake_logits):
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def adaptive_weight(nll, adversarial):
    """The adversarial loss's weight, from the gradients of the two losses for G's last layer."""
    return (nll.norm() / (adversarial.norm() + 1e-4)).clamp(0.0, 1e4).detach()


def backward_of_g(backward, nll, adversarial, codebook, images, generator):
    """Three backward passes: through LPIPS to G's last layer, through D to it, and of the weighted sum through both to
    the encoder."""
    last = generator.last.weight
    grads = [torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (nll, adversarial)]
    loss = nll + adaptive_weight(*grads) * D_WEIGHT * adversarial + codebook
    backward(loss, generator)
    return loss


def backward_of_g_once(backward, nll, adversarial, codebook, images, generator):
    """One backward pass through LPIPS and one through D, both to the images; from there two through one layer for the
    weight, and one of the weighted sum through G."""
    (of_nll,) = torch.autograd.grad(nll, images)  # fastgan: passes
    (of_d,) = torch.autograd.grad(adversarial, images, retain_graph=True)  # fastgan: passes
    last = generator.last.weight
    grads = [torch.autograd.grad(images, last, g, retain_graph=True)[0] for g in (of_nll, of_d)]  # fastgan: passes
    weight = adaptive_weight(*grads) * D_WEIGHT
    fastgan.generator_backward([(images, [of_nll + weight * of_d]), codebook], generator)  # fastgan: passes
    return nll + weight * adversarial + codebook


UPSTREAM = {
    "losses": {
        "loss_of_d": hinge_d_loss,
        "loss_of_g": lambda logits: -logits.mean(),
        "log": lambda loss_g, loss_d: loss_g.item() + loss_d.item(),
    },
    "generator_backward": {"backward": lambda loss, generator: loss.backward()},
    "passes": {
        "backward_of_g": backward_of_g,
        "logits_of_fake": lambda d, images, logits: d(images.detach()),
        "backward_of_d": lambda loss, discriminator: loss.backward(),
    },
}
FASTGAN = {
    "losses": {
        "loss_of_d": taming.hinge_d_loss,  # fastgan: losses
        "loss_of_g": taming.hinge_gen_loss,  # fastgan: losses
        "log": lambda loss_g, loss_d: loss_g.detach() + loss_d.detach(),  # fastgan: losses
    },
    "generator_backward": {"backward": fastgan.generator_backward},  # fastgan: generator_backward
    "passes": {
        "backward_of_g": backward_of_g_once,  # fastgan: passes
        # reuse the logits of G's step: the same images, and D's weights have not changed since
        "logits_of_fake": lambda d, images, logits: logits,  # fastgan: passes
        "backward_of_d": fastgan.generator_backward,  # fastgan: passes
    },
}


class Step:
    """A call does a step of G and a step of D on a fixed batch and returns their losses. use: pieces by fastgan.

    width: a factor on all channels, also LPIPS's. pixels: of an image's side."""

    def __init__(self, use=(), width=1.0, batch=128, pixels=256, device="cpu", dtype=None, bf16=False):
        torch.manual_seed(1234)
        self.form, self.log = select_pieces(UPSTREAM, FASTGAN, use), 0.0
        nets = (Autoencoder(width), patches(width), Perceptual(width).requires_grad_(False))
        self.generator, self.discriminator, self.perceptual = (net.to(device, dtype) for net in nets)
        pair = (self.discriminator.parameters(), self.generator.parameters())
        self.optim_d, self.optim_g = (torch.optim.Adam(p, LR, BETAS) for p in pair)
        self.cast = lambda: torch.autocast(device, torch.bfloat16, enabled=bf16)
        left, right = torch.rand(2, batch, 3, 1, 1) * 2 - 1  # each picture: two colours and an edge between
        edge = torch.arange(pixels) < torch.randint(pixels // 8, pixels, (batch, 1, pixels, 1))
        self.real = torch.where(edge, left, right).to(device, dtype)

    def __call__(self):
        f, d, real = self.form, self.discriminator, self.real
        self.optim_g.zero_grad()
        with self.cast():
            images, codebook = self.generator(real)
            nll = F.mse_loss(images, real) + self.perceptual(real, images)
            logits = d(images)
            adversarial = f.loss_of_g(logits)
        loss_g = f.backward_of_g(f.backward, nll, adversarial, codebook, images, self.generator)
        nn.utils.clip_grad_norm_(self.generator.parameters(), CLIP)
        self.optim_g.step()
        self.optim_d.zero_grad()
        with self.cast():
            real_logits, fake_logits = d(real), f.logits_of_fake(d, images, logits)
            loss_d = D_WEIGHT * f.loss_of_d(real_logits, fake_logits)
        f.backward_of_d(loss_d, d)
        nn.utils.clip_grad_norm_(d.parameters(), CLIP)
        self.optim_d.step()
        self.log += f.log(loss_g, loss_d)
        return loss_d.detach(), loss_g.detach()


if __name__ == "__main__":
    main(Step, tuple(FASTGAN), batch=1, pixels=64)
