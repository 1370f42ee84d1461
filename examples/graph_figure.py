"""Draw what GraphMAE makes of the bundled valley: python examples/graph_figure.py runs/graphmae OUT.png.

Superpixels in their mean colour, half of them hidden; as their neighbours reconstruct them; as they are.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch_geometric.data import Data

from geossl import recipe as recipes
from geossl.api.graphs.build import source_graph
from geossl.api.pretrain.run import prepare
from geossl.methods.graphmae import random_mask

VALLEY = -72.5, -38.86, -72.45, -38.80  # west, south, east, north
TRUE_COLOUR = "B04 mean", "B03 mean", "B02 mean"
GREY = 0.85


def colours(graph: Data, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean colours of nodes, stretched by those of the nodes ``rows`` as they are."""
    bands = [graph.names.index(name) for name in TRUE_COLOUR]
    low, high = np.percentile(graph.x.numpy()[rows][:, bands], [2, 98], axis=0)
    return np.clip((features[:, bands] - low) / (high - low), 0, 1) ** 0.8


@torch.no_grad()
def reconstructed(run: Path, recipe: recipes.Recipe, graph: Data) -> tuple[np.ndarray, np.ndarray]:
    """Features of all nodes, hidden ones as reconstructed, and which were hidden."""
    _, build = prepare(recipe)
    module = build().eval()
    module.load_state_dict(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    mask = random_mask(graph.num_nodes, module.mask_ratio, 0.0, torch.Generator().manual_seed(0))
    found, target, nodes = module.reconstruct(graph, mask)
    found = found / found.norm(dim=1, keepdim=True) * target.norm(dim=1, keepdim=True)  # the loss sees directions alone
    x = graph.x.clone()
    x[nodes] = found * module.encoder.std + module.encoder.mean
    hidden = np.zeros(graph.num_nodes, dtype=bool)
    hidden[nodes.numpy()] = True
    return x.numpy(), hidden


def main(run: str, out: str) -> None:
    """Draw it."""
    recipe = recipes.load(Path(run) / "recipe.yaml")
    graph = source_graph(recipe.data)
    valley = graph.frame.to_crs(4326).cx[VALLEY[0] : VALLEY[2], VALLEY[1] : VALLEY[3]]
    rows = valley.index.to_numpy()
    true = colours(graph, graph.x.numpy(), rows)[rows]
    features, hidden = reconstructed(Path(run), recipe, graph)
    panels = {
        "what the encoder sees": np.where(hidden[rows][:, None], GREY, true),
        "reconstructed from neighbours": colours(graph, features, rows)[rows],
        "what was there": true,
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.8), layout="constrained")
    ground = valley.to_crs(valley.estimate_utm_crs())
    for axis, (title, paint) in zip(axes, panels.items(), strict=True):
        ground.plot(ax=axis, color=paint, edgecolor=paint, linewidth=0.4)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
