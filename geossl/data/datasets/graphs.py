"""A graph whose nodes have classes, or many graphs with a class each, as a labelled data set."""

from pathlib import Path

import numpy as np

from geossl.data.datasets.base import ClassificationDataset
from geossl.data.graphs.files import SPLITS, dense_rows, read_graph
from geossl.errors import InputError


def graph_set(path: Path) -> ClassificationDataset:
    """Nodes, or whole graphs, of a file as ``geossl.graphs.write`` stores it.

    Args:
        path: The file; ``y`` holds a class per node, or ``graph_y`` and ``batch`` one per graph. A split is stated by
            ``train_idx``, ``val_idx`` and ``test_idx``, of nodes.

    Raises:
        InputError: If it cannot be read, or has no classes.
    """
    graph = read_graph(path)
    by_graph = graph.get("graph_y") is not None
    y = graph.graph_y if by_graph else graph.get("y")
    if y is None or y.ndim != 1 or not len(y) or int(y.min()) < 0:
        raise InputError(f"{path}: not every node has a class; evaluate needs y (n) of 0 and up, or graph_y of graphs")
    labels, part = y.numpy().astype(np.int64), None
    if not by_graph and {"train_mask", "test_mask"} <= set(graph.keys()):
        part = np.full(len(labels), -1, dtype=np.int64)
        for number, name in enumerate(SPLITS):
            if f"{name}_mask" in graph:
                part[graph[f"{name}_mask"].numpy()] = number
    item = {"x": dense_rows(graph.x), "edge_index": graph.edge_index}
    if by_graph:
        item["batch"] = graph.batch
    classes = tuple(f"class {i}" for i in range(int(labels.max()) + 1))
    metadata = {"edges": graph.edge_index.shape[1] // 2}
    return ClassificationDataset(path.stem, [item], labels, classes, part=part, metadata=metadata)
