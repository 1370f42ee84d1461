"""Draw what a regularized auto-encoder undoes: python examples/spectra_figure.py runs/regularized_ae OUT.png.

Spectra of the scenes, the same with the noise the network was trained to undo, and what it makes of them; beside them
how likely it finds spectra of that ground, and the same spectra with their bands in another order.
"""

import sys
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import geossl
from geossl import recipe as recipes
from geossl.api.pretrain.run import prepare
from geossl.sensors import SENSORS

SPECTRA = 4
KINDS = {"as they are": "#0a7d6c", "with noise": "#999999", "noise undone": "#d9531e"}


@torch.no_grad()
def main(run: str, out: str) -> None:
    """Draw it."""
    recipe = recipes.load(Path(run) / "recipe.yaml")
    data, _ = prepare(recipe)
    model = geossl.load_encoder(str(Path(run) / "encoder.safetensors")).autoencoder
    vectors = torch.cat(list(islice(iter(data.train_dataloader()), 8)))
    rng = torch.Generator().manual_seed(0)
    z = model.whiten(vectors)
    noisy = z + model.config.sigma * torch.randn(z.shape, generator=rng)
    found = model.reconstruct(noisy)
    rows = torch.randperm(len(z), generator=rng)[:SPECTRA]
    figure, axes = plt.subplots(
        1, SPECTRA + 1, figsize=(13, 3), layout="constrained", width_ratios=[1] * SPECTRA + [1.4]
    )
    bands = list(SENSORS["s2"].bands)
    for axis, row in zip(axes, rows, strict=False):
        for (name, colour), x in zip(KINDS.items(), (z, noisy, found), strict=True):
            axis.plot(bands, model.whiten.inverse(x[row]), label=name, color=colour)
        axis.tick_params("x", rotation=90, labelsize=7)
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("reflectance")
    axes[0].legend(fontsize=8)
    shuffled = vectors[:, torch.randperm(vectors.shape[1], generator=rng)]
    for name, x in (("spectra of the ground", vectors), ("their bands in another order", shuffled)):
        far = model.score(model.whiten(x)).norm(dim=1).numpy()
        axes[-1].hist(far, np.geomspace(1, 1000, 60), alpha=0.6, label=name)
    axes[-1].set_xscale("log")
    axes[-1].margins(y=0.4)  # room for the legend
    axes[-1].set_xlabel("length of the score")
    axes[-1].legend(fontsize=8)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
