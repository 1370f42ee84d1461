"""A graph whose nodes have classes, as a labelled data set."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from geossl.data.datasets.base import ClassificationDataset
from geossl.errors import InputError


def graph_set(path: Path, arrays: dict[str, Any]) -> ClassificationDataset:
    """The nodes of a graph as ``geossl.graphs.write`` stores it, for ``geossl evaluate``.

    Args:
        path: The file, for messages.
        arrays: ``x`` or its CSR parts, ``edge_index``, ``y``, and where known ``train_idx``, ``val_idx``, ``test_idx``.

    Raises:
        InputError: If the nodes have no classes.
    """
    if "y" not in arrays or not len(arrays["y"]) or arrays["y"].min() < 0:
        raise InputError(f"{path}: not every node has a class; evaluate needs y (n) of 0 and up")
    if "x" in arrays:
        x = arrays["x"].astype(np.float32)
    else:
        parts = (arrays["x_data"].astype(np.float32), arrays["x_indices"], arrays["x_indptr"])
        x = sp.csr_matrix(parts, shape=tuple(arrays["x_shape"])).toarray()
    labels = arrays["y"].astype(np.int64)
    part = None
    if {"train_idx", "test_idx"} <= set(arrays):
        part = np.full(len(labels), -1, dtype=np.int64)
        for number, name in enumerate(("train", "val", "test")):
            part[arrays.get(f"{name}_idx", [])] = number
    item = {"x": torch.from_numpy(x), "edge_index": torch.from_numpy(arrays["edge_index"].astype(np.int64))}
    classes = tuple(f"class {i}" for i in range(int(labels.max()) + 1))
    return ClassificationDataset(
        path.stem, [item], labels, classes, part=part, metadata={"edges": arrays["edge_index"].shape[1] // 2}
    )
