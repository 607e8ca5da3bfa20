"""Training steps of public codebases, restated in two forms: as upstream, and with fastgan in place of some pieces.

`python -m bench integrations` measures them. Each file has UPSTREAM and FASTGAN, {piece: {name: function}}, and `Step`.
"""

import argparse
from types import SimpleNamespace


def select_pieces(upstream, fastgan, use):
    """The functions of a step as attributes: fastgan's for the pieces in `use`, upstream's for the others."""
    functions: dict = {}
    for piece in upstream:
        functions |= (fastgan if piece in use else upstream)[piece]
    return SimpleNamespace(**functions)


def main(make, pieces=("losses", "matching", "generator_backward"), **settings):
    """Run a few steps of both forms, from the same weights on the same batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--width", type=float, default=0.125, help="a factor on all channels; upstream's is 1")
    args = parser.parse_args()
    for name, use in (("upstream", ()), ("fastgan", pieces)):
        step = make(use, width=args.width, **settings)
        for i in range(args.steps):
            loss_d, loss_g = step()
            print(f"{name}, step {i + 1}: loss of D {loss_d:.5f}, loss of G {loss_g:.5f}")
