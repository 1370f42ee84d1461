"""Draw what a pretraining run reconstructs, from its page: python examples/method_figure.py runs/croma OUT.png [CHIPS]."""

import base64
import io
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from geossl.training.run_page import GAP

FOUND = re.compile(r'base64,([^"]+)"><figcaption>([^<]+)</figcaption>')
TITLES = "what the encoder sees", "reconstructed", "what was there"


def panels(data: str) -> list[list[np.ndarray]]:
    """Seen, reconstructed and true of every chip, date or cloud of a picture."""
    image = plt.imread(io.BytesIO(base64.b64decode(data)))
    side = (image.shape[1] - 2 * GAP) // 3
    starts = range(0, image.shape[0], side + GAP)
    return [[image[y : y + side, x : x + side] for x in range(0, image.shape[1], side + GAP)] for y in starts]


def main(run: str, out: str, chips: str = "1") -> None:
    """Lay the pictures of ``run.html`` out with titles.

    Of one chip: columns are seen, reconstructed and true, rows are sensors. Of several chips of one picture they are
    rows, and the chips lie beside each other.
    """
    found = [(name, panels(data)) for data, name in FOUND.findall((Path(run) / "run.html").read_text(encoding="utf-8"))]
    count = int(chips)
    if count == 1:
        grid = [(name, rows[0]) for name, rows in found]
    else:
        grid = list(zip(TITLES, zip(*found[0][1][:count], strict=True), strict=True))
    shape = len(grid), len(grid[0][1])
    size = (7, 2.4 * shape[0]) if count == 1 else (1.7 * count + 0.4, 5.2)
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for number, (row, (name, images)) in enumerate(zip(axes, grid, strict=True)):
        for i, (axis, image) in enumerate(zip(row, images, strict=True)):
            axis.imshow(image, interpolation="nearest")
            axis.set_title(TITLES[i] if count == 1 and not number else "", fontsize=10)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=10)
    figure.savefig(out, dpi=80 if count == 1 else 100)


if __name__ == "__main__":
    main(*sys.argv[1:])
