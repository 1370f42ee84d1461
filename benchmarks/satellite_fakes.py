"""Build the set of real and generated satellite pictures that benchmarks/selfcon.py is run on, and look for shortcuts.

Prints what logistic regression makes of statistics that say nothing of arrangement (per band least, greatest, mean,
spread, number of different values; bytes of the file): an area under the curve near 0.5 means that neither format nor
single values give the answer away. Bytes of a PNG do measure arrangement, and are listed apart.

Run: python benchmarks/satellite_fakes.py OUT [--source sample] [--side 32] [--seed 0]
"""

import argparse
from pathlib import Path

import click
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geossl.api.generating import generate
from geossl.data.synthetic.images import forgeries


def statistics(pictures):
    """One row of numbers per picture, none of which knows where a value lies."""
    rows = []
    for i in range(len(pictures)):
        x = pictures[i].reshape(3, -1)
        unique = [len(np.unique(band)) for band in x]
        rows.append(np.concatenate([x.min(1), x.max(1), x.mean(1), x.std(1), unique]))
    return np.array(rows)


def sizes(pictures):
    """Bytes per file."""
    return np.array([[path.stat().st_size] for path in pictures.paths], dtype=float)


def shortcut(parts, features):
    """Test AUC of logistic regression fitted on the training part."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    model.fit(features(parts["train"]), parts["train"].origin)
    return roc_auc_score(parts["test"].origin, model.predict_proba(features(parts["test"]))[:, 1])


def main():
    """Build, count, probe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", default="sample")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not asked.out.exists():
        generate(asked.out, source=asked.source, side_px=asked.side, seed=asked.seed, progress=click.echo)
    parts = forgeries(asked.out)
    for name, part in parts.items():
        counts = np.bincount(part.generator + 1).tolist()
        print(name, dict(zip(("real", *part.generators), counts, strict=True)))
    by_value, by_size = (shortcut(parts, features) for features in (statistics, sizes))
    print(f"shortcut probe: AUC {by_value:.3f} from values, {by_size:.3f} from file size")


if __name__ == "__main__":
    main()
