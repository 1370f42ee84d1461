"""GraphMAE on many graphs with a class each: pooled embeddings, a support vector machine, ten folds, over seeds.

Mean and standard deviation over pretraining seeds, as in the paper (not over folds).

Run: python benchmarks/graphmae_graphs.py graphmae/mutag mutag.npz [--seeds 5] [--out runs/mutag]
"""

import argparse

import numpy as np

import geossl
from geossl import recipe as recipes
from geossl.data.graphs.files import read_graph
from geossl.evaluation.heads import Samples
from geossl.evaluation.svm import svm_folds
from geossl.inference.graphs import graph_embeddings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("graphs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="runs/graphmae_graphs")
    parser.add_argument("--set", nargs="*", default=[])
    args = parser.parse_args()
    graphs, found = read_graph(args.graphs), []
    for seed in range(args.seeds):
        values = [f"data.source={args.graphs}", f"train.seed={seed}", f"out={args.out}/seed{seed}", "resume=true"]
        run = geossl.pretrain(recipes.load(args.recipe, [*values, *args.set]))
        x = graph_embeddings(geossl.load_encoder(run / "encoder.safetensors"), graphs)
        samples = Samples(x, graphs.graph_y.numpy())
        found.append(100 * svm_folds(samples, int(samples.y.max()) + 1).values["accuracy"])
        print(f"seed {seed}  {found[-1]:.2f}", flush=True)
    print(f"| {args.recipe} | {np.mean(found):.2f} +- {np.std(found):.2f} |")


if __name__ == "__main__":
    main()
