"""Graphs as PyTorch Geometric ``Data``: from its data sets, and from files without pickles."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from geossl.data.arrays import class_numbers, read_npz
from geossl.data.graphs.edges import knn_edges
from geossl.data.listing import files_in
from geossl.errors import InputError, MissingFileError, possible
from geossl.outputs import check_output, replacing

SPLITS = ("train", "val", "test")
SPARSE_BELOW = 0.25  # share of features that are not zero below which a file holds those alone


class NodeRows:
    """Features of nodes by number, as a dense tensor (b c), of a matrix that may be sparse.

    Args:
        x: Features of all nodes (n c), dense or CSR.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        """Number of nodes."""
        return self.x.shape[0]

    def __getitem__(self, rows: Int[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Dense features of some nodes."""
        return dense_rows(self.x, rows.numpy())


def read_graph(source: str | Path | Data | Dataset, edges: str | None = None) -> Data:
    """Read one graph, or the union of many, and check it.

    Args:
        source: PyG ``Data``; a PyG data set such as ``Planetoid`` or ``TUDataset``; an ``.npz`` file as ``write_graph``
            makes it; or a folder with ``NAME.txt``, ``NAME_graph.txt`` and ``NAME_label.txt`` as of SDCN.
        edges: ``knn:5``: every node with the five nearest by its features, whatever edges the source has; then it may
            have none. ``knn:5:words``: with the five that share most words; see ``geossl.data.graphs.edges``.

    Returns:
        ``x`` (n c) float32, sparse CSR if the file holds it so; ``edge_index`` (2 e) both directions, without
        self-loops and repetitions; where known ``y``, ``train_mask``, ``val_mask`` and ``test_mask`` (n,), and of many
        graphs ``batch`` (n,), the graph of every node, and ``graph_y`` (g,), the class of every graph.

    Raises:
        InputError: If it cannot be used; says which array and why.
    """
    if isinstance(source, Data):
        return checked_graph(source, "the graph", edges)
    if not isinstance(source, (str, Path)):
        return from_dataset(source, edges)
    path = possible(source, "graph")
    if path.is_dir():
        return from_text(path, edges)
    if not path.exists():
        raise MissingFileError(f"graph file {str(path)!r} does not exist")
    if path.suffix != ".npz":
        raise InputError(
            f"{path} is not a graph file; expected .npz (geossl.graphs.write makes one of any PyG data set)"
        )
    return from_npz(path, edges)


def from_dataset(dataset: Any, edges: str | None) -> Data:
    """The graphs of a PyG data set."""
    graphs = [dataset[i] for i in range(len(dataset))]
    if len(graphs) == 1:
        return checked_graph(graphs[0], type(dataset).__name__, edges)
    if any(g.x is None for g in graphs):
        graphs = degrees_as_features(graphs)
    joined = Batch.from_data_list(graphs)
    data = Data(x=joined.x, edge_index=joined.edge_index, batch=joined.batch)
    if joined.y is not None:
        data["graph_y" if len(joined.y) == len(graphs) else "y"] = joined.y
    return checked_graph(data, type(dataset).__name__, edges)


def degrees_as_features(graphs: list[Data], most: int = 400) -> list[Data]:
    """One-hot degrees for graphs whose nodes have no features; degrees from ``most`` on share a column."""
    degrees = [torch.bincount(g.edge_index[1], minlength=g.num_nodes).clamp(max=most) for g in graphs]
    width = 1 + max(int(d.max()) for d in degrees if len(d))
    return [
        Data(x=torch.nn.functional.one_hot(d, width).float(), edge_index=g.edge_index, y=g.y)
        for g, d in zip(graphs, degrees, strict=True)
    ]


def checked_graph(data: Data, name: str, edges: str | None = None) -> Data:
    """A copy with plain edges, those of its features where ``edges`` says so, and float features.

    Raises:
        InputError: If features or edges are missing, do not fit each other, or are not finite.
    """
    if edges is not None and data.get("batch") is not None:
        raise InputError(f"edges={edges!r} would join the many graphs of {name}; leave it out")
    missing = [key for key in ("x", "edge_index") if data.get(key) is None and (key == "x" or edges is None)]
    if missing:
        hint = "" if "x" in missing else "; or make edges of its features: data.edges=knn:5"
        raise InputError(f"{name} has no {missing[0]}; a graph needs both{hint}")
    nodes = data.x.shape[0]
    if data.x.ndim != 2 or not nodes or not data.x.shape[1]:
        raise InputError(f"x of {name} has shape {tuple(data.x.shape)}; expected nodes by features, at least 1 x 1")
    out = copy.copy(data)
    out.x = data.x.detach().to_sparse_csr() if data.x.layout == torch.sparse_coo else data.x.detach()
    values = out.x.values() if out.x.layout == torch.sparse_csr else out.x
    if not torch.isfinite(values).all():
        raise InputError(f"x of {name} holds NaN or infinite numbers; fill or drop these nodes first")
    if edges is None:
        pairs = data.edge_index
    else:
        pairs = torch.from_numpy(knn_edges(scipy_csr(out.x) if values is not out.x else out.x.numpy(), edges))
    if pairs.ndim != 2 or pairs.shape[0] != 2:
        raise InputError(f"edge_index of {name} has shape {tuple(pairs.shape)}; expected 2 by edges")
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < nodes:
        raise InputError(f"edge_index of {name} names nodes {int(pairs.min())} to {int(pairs.max())}; it has {nodes}")
    out.x = out.x.float()
    for key in ("y", "graph_y"):
        if isinstance(data.get(key), Tensor) and data[key].ndim == 2 and data[key].shape[1] == 1:
            out[key] = data[key].flatten()  # as of OGB
    out.edge_index = plain_edges(pairs, nodes)
    check_lengths(out, name)
    return out


def check_lengths(data: Data, name: str) -> None:
    """Refuse arrays that do not hold a value per node, graph or feature, and gaps in the numbers of graphs."""
    nodes, features = data.x.shape
    if data.get("batch") is not None and len(data.batch) == nodes:
        present = data.batch.unique()
        if int(present[0]) or len(present) <= int(present[-1]):
            raise InputError(f"batch of {name} must number its graphs 0, 1, 2 ... without gaps")
    graphs = 1 if data.get("batch") is None else int(data.batch.max()) + 1
    expected = dict.fromkeys(("y", "batch", *(f"{s}_mask" for s in SPLITS)), (nodes, "nodes"))
    expected |= {"graph_y": (graphs, "graphs"), "names": (features, "features")}
    for key, (count, what) in expected.items():
        if data.get(key) is not None and len(data[key]) != count:
            raise InputError(f"{key} of {name} has {len(data[key])} values for {count} {what}; expected one each")


def plain_edges(edges: Int[Tensor, "2 e"], nodes: int) -> Int[Tensor, "2 f"]:
    """Both directions of every edge once, sorted, without self-loops."""
    a, b = edges.long().cpu().numpy()
    keep = a != b
    codes = np.unique(np.concatenate([a[keep] * nodes + b[keep], b[keep] * nodes + a[keep]]))
    return torch.from_numpy(np.stack([codes // nodes, codes % nodes]))


def from_npz(path: Path, edges: str | None) -> Data:
    """Read a graph from plain arrays."""
    arrays = read_npz(path)
    try:
        if "x_data" in arrays:
            parts = (arrays["x_data"].astype(np.float32), arrays["x_indices"], arrays["x_indptr"])
            shape = tuple(int(side) for side in arrays["x_shape"])
            check_dense(path, shape)
            x = sparse(sp.csr_matrix(parts, shape=shape))
        elif "x" in arrays:
            x = torch.from_numpy(arrays["x"].astype(np.float32))
        else:
            raise InputError(f"{path} holds {', '.join(sorted(arrays))}; expected x (or x_data, ...) and edge_index")
        data = Data(x=x)
        for key in ("edge_index", "y", "batch", "graph_y"):
            if key in arrays:
                read = class_numbers(path, arrays, key) if key in ("y", "graph_y") else arrays[key]
                data[key] = torch.from_numpy(read.astype(np.int64, casting="same_kind"))
        for split in SPLITS:
            if f"{split}_idx" in arrays:
                mask = np.zeros(x.shape[0], dtype=bool)
                mask[arrays[f"{split}_idx"]] = True
                data[f"{split}_mask"] = torch.from_numpy(mask)
    except InputError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} holds arrays that do not make a graph ({reason}); write it with geossl.graphs.write"
        ) from None
    if "names" in arrays:
        data.names = tuple(str(n) for n in arrays["names"])
    return checked_graph(data, str(path), edges)


def check_dense(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse features whose dense form, which encoders take, does not fit in memory."""
    free = psutil.virtual_memory().available
    if len(shape) != 2 or min(shape) < 1 or 4 * shape[0] * shape[1] > free:
        raise InputError(
            f"{path}: x_shape is {shape}; expected nodes by features that fit in {free / 2**30:.1f} GiB of free memory"
        )


def from_text(folder: Path, edges: str | None) -> Data:
    """A folder in the layout of SDCN's data."""
    found: dict[str, list[Path]] = {"_graph": [], "_label": [], "": []}
    for path in files_in(folder, {".txt"}):
        found[path.stem[-6:] if path.stem[-6:] in found else ""].append(path)
    if len(found[""]) != 1 or (len(found["_graph"]) != 1 and edges is None):
        held = ", ".join(path.name for paths in found.values() for path in paths) or "no .txt"
        raise InputError(f"{folder} holds {held}; expected one NAME.txt of features and one NAME_graph.txt of edges")
    labels = folder / f"{found[''][0].stem}_label.txt"
    try:
        data = Data(x=torch.from_numpy(np.loadtxt(found[""][0], dtype=np.float32, ndmin=2)))
        if edges is None:
            data.edge_index = torch.from_numpy(np.loadtxt(found["_graph"][0], dtype=np.int64, ndmin=2).T.copy())
        if labels.is_file():
            data.y = torch.from_numpy(np.loadtxt(labels, dtype=np.int64))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{folder} cannot be read as tables of numbers ({reason})") from None
    return checked_graph(data, str(folder), edges)


def write_graph(path: str | Path, graph: str | Path | Data | Dataset) -> Path:
    """Write a graph as ``.npz`` of plain arrays; features that are mostly zero as CSR.

    Args:
        path: The ``.npz`` file.
        graph: A graph as ``read_graph`` takes it.

    Raises:
        InputError: As ``read_graph``, or if ``y`` holds other numbers than those of classes.
    """
    path = check_output(path, (".npz",), option="path")
    data = read_graph(graph)
    x = scipy_csr(data.x)
    arrays: dict[str, Any] = {"edge_index": data.edge_index.numpy()}
    if x.nnz < SPARSE_BELOW * x.shape[0] * x.shape[1]:
        arrays |= {"x_data": x.data, "x_indices": x.indices, "x_indptr": x.indptr, "x_shape": np.array(x.shape)}
    else:
        arrays["x"] = data.x.to_dense().numpy() if data.x.layout != torch.strided else data.x.numpy()
    for key in ("y", "batch", "graph_y"):
        if data.get(key) is not None:
            arrays[key] = whole_numbers(data[key], f"{key} of the graph")
    for split in SPLITS:
        mask = data.get(f"{split}_mask")
        if mask is not None and mask.ndim == 1:
            arrays[f"{split}_idx"] = mask.nonzero().flatten().numpy()
    if data.get("names"):
        arrays["names"] = np.array(data.names)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    return path


def whole_numbers(values: Tensor, name: str) -> Int[ndarray, "..."]:
    """Classes as integers, which some data sets keep as floats."""
    found = values.detach().cpu().long()
    if not torch.equal(found.to(values.dtype), values.detach().cpu()):
        raise InputError(f"{name} does not hold whole numbers; expected classes (-1 = not known), or leave it out")
    return found.numpy()


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
