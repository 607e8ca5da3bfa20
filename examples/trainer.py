"""`GANTrainer` with your own networks and DataLoader. Training resumes exactly from the checkpoint.

    python examples/trainer.py --steps 2000 --out checkpoint.pt

It trains on scikit-learn's digits (8 x 8 pixels).
"""

import argparse
import itertools

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastgan

LATENT = 32


def networks():
    generator = nn.Sequential(nn.Linear(LATENT, 256), nn.ReLU(), nn.Linear(256, 64), nn.Tanh(),
                              nn.Unflatten(1, (1, 8, 8)))  # fmt: skip
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
    return generator, discriminator


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--out", help="where to write a checkpoint")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    data = TensorDataset(images, torch.from_numpy(digits.target))
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)  # equal batches: a GPU can capture the step

    generator, discriminator = networks()
    trainer = fastgan.GANTrainer(
        generator, discriminator, device=device, latent_dim=LATENT, objective="nonsaturating", r1=0.5, lr=1e-3
    )
    epochs = itertools.chain.from_iterable(loader for _ in itertools.count())
    for real, _ in itertools.islice(epochs, args.steps):
        values = trainer.step(real.to(device))  # 0-d tensors on the device, without a synchronisation
        if trainer.step_number % 200 == 0 or trainer.step_number == args.steps:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in trainer.numbers(values).items())
            print(f"step {trainer.step_number}: {shown}")

    samples = trainer.sample(16, seed=0)  # by the averaged generator
    print(f"samples {tuple(samples.shape)} from {samples.min():.2f} to {samples.max():.2f}")
    if args.out:
        trainer.save(args.out)


if __name__ == "__main__":
    main()
