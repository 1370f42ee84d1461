"""A transformer over groups of points: farthest points, their neighbours, a small PointNet, blocks.

Source: the encoder of Point-MAE (Pang et al., ECCV 2022, arXiv:2203.06604), which Point-CMAE takes over. Differs: no
class token; groups start from the centroid's point, so that the order of points does not matter.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geossl.models.encoder import PointEncoder, PointSpec
from geossl.models.layers.initialization import truncated_normal
from geossl.models.layers.masking import take
from geossl.models.layers.point_groups import farthest_points, gather_groups, nearest, spread
from geossl.models.layers.transformer import Block
from geossl.models.spec import UNSTATED, Provenance

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 96, "depth": 4, "heads": 4},
    "small": {"width": 192, "depth": 6, "heads": 6},
    "base": {"width": 384, "depth": 12, "heads": 6},  # the paper's
}


@dataclass(frozen=True, kw_only=True)
class Clouds:
    """The clouds an encoder is trained on; as in ``PointSpec``."""

    points: int = 1024
    features: tuple[str, ...] = ()
    block_m: float | None = None
    voxel_m: float = 0.0
    ground: str = "none"


def point_spec(
    size: str = "base",
    clouds: Clouds = Clouds(),
    *,
    groups: int = 64,
    group_size: int = 32,
    start: str = "centroid",
    provenance: Provenance = UNSTATED,
    **shape: int,
) -> PointSpec:
    """Spec of a point transformer; ``shape`` (width, depth, heads) overrides the size's."""
    arguments: dict[str, Any] = {
        **SIZES[size],
        **shape,
        "groups": groups,
        "group_size": group_size,
        "start": start,
    }
    return PointSpec(
        architecture="point_transformer",
        arguments=arguments,
        dim=2 * int(arguments["width"]),
        **provenance.stated(f"point_{size}"),
        **vars(clouds),
    )


class Groups(NamedTuple):
    """Patches of a cloud.

    Args:
        centres: x, y, z of each.
        patches: Points of each, nearest to the centre first: coordinates from the centre, then features.
    """

    centres: Float[Tensor, "b g 3"]
    patches: Float[Tensor, "b g k c"]


class MiniPointNet(nn.Module):
    """One vector per patch of points: two layers per point, a maximum, two more layers, a maximum.

    At width 384 the layers are 128, 256, 512 and 384 wide, as published; other widths keep the proportions.

    Args:
        channels: Numbers per point.
        width: Length of the vector; a multiple of 3.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        n = width // 3
        self.first = nn.Sequential(nn.Linear(channels, n), Norm(n), nn.ReLU(), nn.Linear(n, 2 * n))
        self.second = nn.Sequential(nn.Linear(4 * n, 4 * n), Norm(4 * n), nn.ReLU(), nn.Linear(4 * n, width))

    def forward(self, patches: Float[Tensor, "b g k c"]) -> Float[Tensor, "b g d"]:
        """Embed every patch."""
        x = self.first(patches)
        whole = x.amax(dim=2, keepdim=True).expand_as(x)
        return self.second(torch.cat([whole, x], dim=3)).amax(dim=2)


class Norm(nn.BatchNorm1d):
    """Batch norm over all points of all patches; at use its statistics are those of training."""

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Normalise the last axis."""
        return super().forward(x.flatten(0, -2)).view(x.shape)


class Places(nn.Sequential):
    """Position of a patch from its centre.

    Args:
        width: Width of the tokens.
        hidden: Width of the layer between.
    """

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, width))


def run_blocks(
    blocks: nn.ModuleList,
    x: Float[Tensor, "b n d"],
    place: Float[Tensor, "b n d"],
    drop_path: float = 0.0,
    rng: torch.Generator | None = None,
) -> list[Tensor]:
    """Output of every block; positions are added before each of them, not only once.

    Args:
        blocks: Blocks of the transformer.
        x: Tokens.
        place: Their positions.
        drop_path: Share of samples for which the last block's branches are skipped; earlier blocks skip fewer.
        rng: Draws them; None = nothing is skipped.
    """
    found = []
    for number, block in enumerate(blocks):
        assert isinstance(block, Block)
        rate = drop_path * number / max(1, len(blocks) - 1) if rng is not None else 0.0
        x = x + place
        x = x + skipped(block.attention(x, None), rate, rng)
        x = x + skipped(block.feed_forward(x), rate, rng)
        found.append(x)
    return found


def skipped(branch: Float[Tensor, "b n d"], rate: float, rng: torch.Generator | None) -> Float[Tensor, "b n d"]:
    """Stochastic depth: zero for some samples, larger for the others (Huang et al., ECCV 2016)."""
    if rate == 0:
        return branch
    keep = torch.rand(len(branch), 1, 1, generator=rng, device=branch.device) >= rate
    return branch * keep / (1 - rate)


class PointTransformer(PointEncoder):
    """Vectors of groups of points, and of whole clouds: the maximum and the mean over groups, one after the other.

    Args:
        spec: From ``point_spec``.
    """

    def __init__(self, spec: PointSpec) -> None:
        super().__init__()
        self.spec = spec
        settings = spec.arguments
        self.count, self.size, self.start = settings["groups"], settings["group_size"], settings["start"]
        self.width, self.heads = settings["width"], settings["heads"]
        if self.width % 3 or self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of 3 and of heads={self.heads}")
        self.embed = MiniPointNet(spec.channels, self.width)
        self.place = Places(self.width)
        self.blocks = nn.ModuleList(Block(self.width, self.heads) for _ in range(settings["depth"]))
        self.norm = nn.LayerNorm(self.width)
        self.apply(truncated_normal)

    def group(self, points: Float[Tensor, "b n c"]) -> Groups:
        """Patches around the farthest points; computed in float32 also under autocast."""
        with torch.autocast(points.device.type, enabled=False):
            xyz = points[..., :3]
            centres = take(xyz, farthest_points(xyz, self.count, self.start))
            _, ids = nearest(centres, xyz, self.size)
            patches = gather_groups(points, ids)
            local = patches[..., :3] - centres[:, :, None]
            return Groups(centres, torch.cat([local, patches[..., 3:]], dim=3))

    def encode(
        self,
        x: Float[Tensor, "b k d"],
        centres: Float[Tensor, "b k 3"],
        drop_path: float = 0.0,
        rng: torch.Generator | None = None,
    ) -> Float[Tensor, "b k d"]:
        """Transform any subset of a cloud's patch vectors; see ``run_blocks``."""
        return self.norm(run_blocks(self.blocks, x, self.place(centres), drop_path, rng)[-1])

    def tokens(self, points: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b g d"], Float[Tensor, "b g 3"]]:
        """See PointEncoder."""
        centres, patches = self.group(points)
        return self.encode(self.embed(patches), centres), centres

    def pooled(self, points: Float[Tensor, "b n c"]) -> Float[Tensor, "b d"]:
        """See PointEncoder."""
        x, _ = self.tokens(points)
        return torch.cat([x.amax(dim=1), x.mean(dim=1)], dim=1)

    @property
    def point_dim(self) -> int:
        """See PointEncoder."""
        return 9 * self.width

    def per_point(self, points: Float[Tensor, "b n c"], where: Float[Tensor, "b m 3"]) -> Float[Tensor, "b m d"]:
        """See PointEncoder: three depths of the nearest groups, then the cloud's maximum and mean of them.

        Source: the part segmentation of Point-MAE, which takes blocks 4, 8 and 12 of 12.
        """
        centres, patches = self.group(points)
        depths = run_blocks(self.blocks, self.embed(patches), self.place(centres))
        n = len(depths)
        x = torch.cat([self.norm(depths[-(-n * i // 3) - 1]) for i in (1, 2, 3)], dim=2)
        whole = torch.cat([x.amax(dim=1), x.mean(dim=1)], dim=1)[:, None]
        return torch.cat([spread(x, centres, where), whole.expand(-1, where.shape[1], -1)], dim=2)
