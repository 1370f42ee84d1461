"""Groups of neighbouring points in plain torch: farthest points, nearest neighbours, and back to single points.

Everything is computed in at least float32, on any device, without compiled extensions.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geossl.models.layers.masking import take

STARTS = ("centroid", "first")


def farthest_points(xyz: Float[Tensor, "b n 3"], count: int, start: str = "centroid") -> Int[Tensor, "b count"]:
    """Ids of points spread over a cloud: each is the one farthest from all before it.

    Args:
        xyz: Clouds.
        count: Points to choose; at most n. A cloud with fewer different places repeats the first point.
        start: ``centroid`` (the point nearest to the mean, so that the order of points does not matter) or ``first``.

    Source: Eldar et al., IEEE TIP 1997; in point networks since PointNet++ (Qi et al., NeurIPS 2017).
    """
    if not 1 <= count <= xyz.shape[1]:
        raise ValueError(f"{count} farthest points of {xyz.shape[1]} points; need at least one and at most all")
    rows = torch.arange(len(xyz), device=xyz.device)
    last = torch.zeros(len(xyz), dtype=torch.int64, device=xyz.device)
    if start == "centroid":
        last = (xyz - xyz.mean(dim=1, keepdim=True)).square().sum(dim=2).argmin(dim=1)
    distance = torch.full(xyz.shape[:2], torch.inf, dtype=xyz.dtype, device=xyz.device)
    chosen = [last]
    for _ in range(count - 1):
        step = (xyz - xyz[rows, last][:, None]).square().sum(dim=2)
        distance = torch.minimum(distance, step)
        last = distance.argmax(dim=1)
        chosen.append(last)
    return torch.stack(chosen, dim=1)


def nearest(
    query: Float[Tensor, "b q 3"], xyz: Float[Tensor, "b n 3"], count: int
) -> tuple[Float[Tensor, "b q k"], Int[Tensor, "b q k"]]:
    """Distances and ids of the nearest points of every query, nearest first.

    Differences are taken directly: the faster matrix form of the distance confuses near neighbours of far points.
    """
    apart = torch.cdist(query, xyz, compute_mode="donot_use_mm_for_euclid_dist")
    near, ids = apart.topk(min(count, xyz.shape[1]), dim=2, largest=False)
    return near, ids


def gather_groups(x: Float[Tensor, "b n c"], ids: Int[Tensor, "b g k"]) -> Float[Tensor, "b g k c"]:
    """Rows of ``x`` by group."""
    return take(x, ids.flatten(1)).unflatten(1, ids.shape[1:])


def spread(
    values: Float[Tensor, "b g d"], centres: Float[Tensor, "b g 3"], where: Float[Tensor, "b m 3"]
) -> Float[Tensor, "b m d"]:
    """Values of the three nearest centres at any place, weighted by inverse square distance.

    Source: feature propagation of PointNet++ (Qi et al., NeurIPS 2017), equation 2.
    """
    near, ids = nearest(where, centres, 3)
    weight = 1 / near.square().clamp(min=1e-8)
    weight = weight / weight.sum(dim=2, keepdim=True)
    return (gather_groups(values, ids) * weight[..., None].to(values)).sum(dim=2)
