"""Graphs as PyTorch Geometric ``Data``: from its data sets, and from files without pickles."""

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from geossl.errors import InputError, MissingFileError

SPLITS = ("train", "val", "test")
SPARSE_BELOW = 0.25  # share of features that are not zero below which a file holds those alone


def read_graph(source: str | Path | Data | Dataset) -> Data:
    """One graph, or the union of many, checked.

    Args:
        source: PyG ``Data``; a PyG data set such as ``Planetoid`` or ``TUDataset``; an ``.npz`` file as ``write_graph``
            makes it; or a folder with ``NAME.txt``, ``NAME_graph.txt`` and ``NAME_label.txt`` as of SDCN.

    Returns:
        ``x`` (n c) float32, sparse CSR if the file holds it so; ``edge_index`` (2 e) both directions, without
        self-loops and repetitions; where known ``y``, ``train_mask``, ``val_mask`` and ``test_mask`` (n,), and of many
        graphs ``batch`` (n,), the graph of every node, and ``graph_y`` (g,), the class of every graph.

    Raises:
        InputError: If it cannot be used; says which array and why.
    """
    if isinstance(source, Data):
        return checked(source, "the graph")
    if not isinstance(source, (str, Path)):
        return from_dataset(source)
    path = Path(source)
    if path.is_dir():
        return from_text(path)
    if not path.is_file():
        raise MissingFileError(f"graph file {str(path)!r} does not exist")
    if path.suffix != ".npz":
        raise InputError(f"{path} is no graph file; expected .npz (geossl.write_graph makes one of any PyG data set)")
    return from_npz(path)


def from_dataset(dataset: Any) -> Data:
    """The graphs of a PyG data set."""
    graphs = [dataset[i] for i in range(len(dataset))]
    if len(graphs) == 1:
        return checked(graphs[0], type(dataset).__name__)
    if any(g.x is None for g in graphs):
        graphs = degrees_as_features(graphs)
    joined = Batch.from_data_list(graphs)
    data = Data(x=joined.x, edge_index=joined.edge_index, batch=joined.batch)
    if joined.y is not None:
        data["graph_y" if len(joined.y) == len(graphs) else "y"] = joined.y
    return checked(data, type(dataset).__name__)


def degrees_as_features(graphs: list[Data], most: int = 400) -> list[Data]:
    """One-hot degrees for graphs whose nodes have no features; degrees from ``most`` on share a column."""
    degrees = [torch.bincount(g.edge_index[1], minlength=g.num_nodes).clamp(max=most) for g in graphs]
    width = 1 + max(int(d.max()) for d in degrees if len(d))
    return [
        Data(x=torch.nn.functional.one_hot(d, width).float(), edge_index=g.edge_index, y=g.y)
        for g, d in zip(graphs, degrees, strict=True)
    ]


def checked(data: Data, name: str) -> Data:
    """A copy with plain edges and float features.

    Raises:
        InputError: If features or edges are missing, do not fit each other, or are not finite.
    """
    if data.get("x") is None or data.get("edge_index") is None:
        raise InputError(f"{name} has no {'x' if data.get('x') is None else 'edge_index'}; a graph needs both")
    nodes = data.x.shape[0]
    if data.x.ndim != 2 or not nodes or not data.x.shape[1]:
        raise InputError(f"x of {name} has shape {tuple(data.x.shape)}; expected nodes by features, at least 1 x 1")
    edges = data.edge_index
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise InputError(f"edge_index of {name} has shape {tuple(edges.shape)}; expected 2 by edges")
    if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
        raise InputError(f"edge_index of {name} names nodes {int(edges.min())} to {int(edges.max())}; it has {nodes}")
    values = data.x.values() if data.x.layout == torch.sparse_csr else data.x
    if not torch.isfinite(values).all():
        raise InputError(f"x of {name} holds NaN or infinite numbers; fill or drop these nodes first")
    out = copy.copy(data)
    out.x = data.x.float()
    out.edge_index = plain_edges(edges, nodes)
    for key in ("y", "batch", *(f"{s}_mask" for s in SPLITS)):
        if out.get(key) is not None and len(out[key]) != nodes:
            raise InputError(f"{key} of {name} has {len(out[key])} values for {nodes} nodes; expected one each")
    return out


def plain_edges(edges: Int[Tensor, "2 e"], nodes: int) -> Int[Tensor, "2 f"]:
    """Both directions of every edge once, sorted, without self-loops."""
    a, b = edges.long().cpu().numpy()
    keep = a != b
    codes = np.unique(np.concatenate([a[keep] * nodes + b[keep], b[keep] * nodes + a[keep]]))
    return torch.from_numpy(np.stack([codes // nodes, codes % nodes]))


def from_npz(path: Path) -> Data:
    """Read arrays; never a pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, EOFError, KeyError):
        raise InputError(f"{path} cannot be read as .npz of plain arrays; write it with geossl.write_graph") from None
    if "x_data" in arrays:
        parts = (arrays["x_data"].astype(np.float32), arrays["x_indices"], arrays["x_indptr"])
        x = sparse(sp.csr_matrix(parts, shape=tuple(arrays["x_shape"])))
    elif "x" in arrays:
        x = torch.from_numpy(arrays["x"].astype(np.float32))
    else:
        raise InputError(f"{path} holds {', '.join(sorted(arrays))}; expected x (or x_data, ...) and edge_index")
    if "edge_index" not in arrays:
        raise InputError(f"{path} holds {', '.join(sorted(arrays))}; expected edge_index, too")
    data = Data(x=x, edge_index=torch.from_numpy(arrays["edge_index"].astype(np.int64)))
    for key in ("y", "batch", "graph_y"):
        if key in arrays:
            data[key] = torch.from_numpy(arrays[key].astype(np.int64))
    for split in SPLITS:
        if f"{split}_idx" in arrays:
            mask = np.zeros(x.shape[0], dtype=bool)
            mask[arrays[f"{split}_idx"]] = True
            data[f"{split}_mask"] = torch.from_numpy(mask)
    if "names" in arrays:
        data.names = tuple(str(n) for n in arrays["names"])
    return checked(data, str(path))


def from_text(folder: Path) -> Data:
    """A folder in the layout of SDCN's data."""
    graphs = sorted(folder.glob("*_graph.txt"))
    name = graphs[0].name.removesuffix("_graph.txt") if graphs else "NAME"
    features, labels = folder / f"{name}.txt", folder / f"{name}_label.txt"
    if len(graphs) != 1 or not features.is_file():
        raise InputError(f"{folder} holds no NAME.txt with one NAME_graph.txt; expected features and edges as text")
    try:
        x = torch.from_numpy(np.loadtxt(features, dtype=np.float32, ndmin=2))
        edges = torch.from_numpy(np.loadtxt(graphs[0], dtype=np.int64, ndmin=2).T.copy())
        y = torch.from_numpy(np.loadtxt(labels, dtype=np.int64)) if labels.is_file() else None
    except ValueError as error:
        raise InputError(f"{folder} cannot be read as tables of numbers ({error})") from None
    return checked(Data(x=x, edge_index=edges, y=y), str(folder))


def write_graph(path: str | Path, graph: str | Path | Data | Dataset) -> Path:
    """Write a graph as ``.npz`` of plain arrays; features that are mostly zero as CSR.

    Args:
        path: The ``.npz`` file.
        graph: As in ``read_graph``.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path} must end in .npz")
    data = read_graph(graph)
    x = scipy_csr(data.x)
    arrays: dict[str, Any] = {"edge_index": data.edge_index.numpy()}
    if x.nnz < SPARSE_BELOW * x.shape[0] * x.shape[1]:
        arrays |= {"x_data": x.data, "x_indices": x.indices, "x_indptr": x.indptr, "x_shape": np.array(x.shape)}
    else:
        arrays["x"] = data.x.to_dense().numpy() if data.x.layout != torch.strided else data.x.numpy()
    for key in ("y", "batch", "graph_y"):
        if data.get(key) is not None:
            arrays[key] = data[key].numpy()
    for split in SPLITS:
        mask = data.get(f"{split}_mask")
        if mask is not None and mask.ndim == 1:
            arrays[f"{split}_idx"] = mask.nonzero().flatten().numpy()
    if data.get("names"):
        arrays["names"] = np.array(data.names)
    temporary = path.with_name(path.stem + ".tmp.npz")
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    os.replace(temporary, path)
    return path


def sparse(x: sp.csr_matrix) -> Tensor:
    """A torch CSR tensor that shares the arrays of a SciPy matrix."""
    starts, columns, values = (
        torch.from_numpy(a) for a in (x.indptr.astype(np.int64), x.indices.astype(np.int64), x.data)
    )
    with warnings.catch_warnings():  # of PyTorch: that CSR tensors are in beta
        warnings.simplefilter("ignore")
        return torch.sparse_csr_tensor(starts, columns, values, size=tuple(x.shape), check_invariants=True)


def scipy_csr(x: Tensor) -> sp.csr_matrix:
    """A SciPy matrix of a dense or CSR tensor."""
    if x.layout != torch.sparse_csr:
        return sp.csr_matrix(x.numpy())
    parts = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
    return sp.csr_matrix(parts, shape=tuple(x.shape))


def dense_rows(x: Tensor, rows: Int[ndarray, " m"] | None = None) -> Float[Tensor, "m c"]:
    """Features of some nodes, all where None, as a dense tensor."""
    if x.layout != torch.sparse_csr:
        return x if rows is None else x[torch.from_numpy(rows)]
    matrix = scipy_csr(x)
    return torch.from_numpy((matrix if rows is None else matrix[rows]).toarray())
