"""Draw what a pretraining run reconstructs, from its page: python examples/method_figure.py runs/croma OUT.png."""

import base64
import io
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt

FOUND = re.compile(r'base64,([^"]+)"><figcaption>([^<]+)</figcaption>')
TITLES = "what the encoder sees", "reconstructed", "what was there"


def main(run: str, out: str) -> None:
    """Lay the pictures of ``run.html`` out with titles: rows of sensors, columns input, reconstruction, truth."""
    pictures = FOUND.findall((Path(run) / "run.html").read_text(encoding="utf-8"))
    figure, rows = plt.subplots(len(pictures), 3, figsize=(7, 2.4 * len(pictures)), layout="constrained", squeeze=False)
    for row, (panels, (data, name)) in enumerate(zip(rows, pictures, strict=True)):
        image = plt.imread(io.BytesIO(base64.b64decode(data)))
        side = image.shape[1] // 3
        for i, axes in enumerate(panels):
            axes.imshow(image[:side, i * side : (i + 1) * side], interpolation="nearest")  # the first chip
            axes.set_title("" if row else TITLES[i], fontsize=10)
            axes.set_xticks([])
            axes.set_yticks([])
        panels[0].set_ylabel(name, fontsize=10)
    figure.savefig(out, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
