"""When to stop SCGC without labels: by its own loss on nodes it was not shown (``data.holdout``).

The encoder sees a node's features alone, so it also gives codes to nodes that took no part in training. What it has
learned of the graph holds for their edges, too; what it has learned by heart of single edges does not. So a fifth of
the nodes is held out with all their edges, and the contrast of these nodes with all others falls while structure is
learned and rises while edges are memorised. The rule: of the recipe's epochs that with the least. Then SCGC is trained
on all nodes for so many epochs; these runs are those of scgc_clusters.py (its files OUT_SEED.csv).

Run: python benchmarks/scgc_stopping.py acm.npz "scgc/acm objective.star=true" scgc/acm --curves runs/scgc_acm
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scgc_clusters import NAMES, asked, copied, fixed, named, pretrained, table, update


def contrasts(recipe, start, batch):
    """Contrast of the nodes held out before every epoch on the graph."""
    (method, optimizer), found = copied(recipe, start), []
    for _ in range(fixed(recipe)):
        update(method, optimizer, batch)
        found.append(float(method.logged_scalars["holdout"]))
    return found


def main():
    parser = asked(__doc__)
    parser.add_argument("--share", type=float, default=0.2, help="of the nodes, held out")
    parser.add_argument("--curves", required=True, type=Path, help="OUT of scgc_clusters.py")
    args = parser.parse_args()
    rows = {name: [] for name in args.recipes}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        changes = [f"data.source={args.graph}", f"train.seed={seed}", f"data.holdout={args.share}"]
        loaded, every = [named(name, *changes) for name in args.recipes], pd.read_csv(f"{args.curves}_{seed}.csv")
        start, batch, _ = pretrained(loaded[0], seed)
        for name, recipe in zip(args.recipes, loaded, strict=True):
            batch.pop("walks", None), batch.everyone.pop("walks", None)  # they depend on the recipe
            found = contrasts(recipe, start, batch)
            epoch = 1 + int(np.argmin(found[1:]))
            curve = every[(every.recipe == name) & (every.epoch <= fixed(recipe))].set_index("epoch")
            rows[name].append({**curve.loc[epoch, NAMES], "epoch": epoch})
            print(
                f"seed {seed}  {name}  epoch {epoch}  held out {found[epoch]:.3f}, at the end {found[-1]:.3f}  "
                f"ACC {curve.acc[epoch]:.1f}, best {curve.acc.max():.1f} at {curve.acc.idxmax()}, "
                f"last {curve.acc.iloc[-1]:.1f}",
                flush=True,
            )
    print("| | ACC | NMI | ARI | F1 | epochs |\n|---|---|---|---|---|---|")
    for name, chosen in rows.items():
        print(table(name, pd.DataFrame(chosen)))


if __name__ == "__main__":
    main()
