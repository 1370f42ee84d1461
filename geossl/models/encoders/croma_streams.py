"""The three transformers of CROMA: one per sensor, and the joint one; whole grids, or local attention by tiles."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geossl.models.layers.attention import Placed
from geossl.models.layers.local_attention import Neighbourhood
from geossl.models.layers.tiles import Linears, TileGrid, embedded, in_groups, run_blocks
from geossl.models.layers.transformer import Block, CrossBlock


class SensorEncoder(nn.Module):
    """Patch embedding, blocks, final norm: one sensor by itself."""

    def __init__(self, patch_dim: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(patch_dim, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, patches: Float[Tensor, "b k p"], table: Float[Tensor, "*b k d"] | None, positions: Placed | None
    ) -> Float[Tensor, "b k d"]:
        """Encode patches; ``table`` is added after embedding where positions are absolute."""
        x = self.embed(patches)
        x = x if table is None else x + table
        for block in self.blocks:
            x = block(x, positions)
        return self.norm(x)


class JointEncoder(nn.Module):
    """Radar tokens attend to each other and to the optical tokens."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Float[Tensor, "b k1 d"],
        context: Float[Tensor, "b k2 d"],
        own: Placed | None,
        across: Placed | None,
    ) -> Float[Tensor, "b k1 d"]:
        """Fuse; the optical tokens are the same context in every block."""
        for block in self.blocks:
            x = block(x, context, own, across)
        return self.norm(x)


@dataclass(frozen=True, eq=False)
class Local:
    """Runs the transformers with local attention: by tiles where nothing is trained, whole otherwise and on a GPU.

    Args:
        grid: Rows and columns of patches.
        reach: Farthest key in patches, in row and in column.
        slopes: ALiBi slope per head.
        wanted: Patches whose tokens are asked for; what they cannot see may be left out.
    """

    grid: tuple[int, int]
    reach: int
    slopes: Float[Tensor, " heads"]
    wanted: Bool[Tensor, "b n"]

    @cached_property
    def is_tiled(self) -> bool:
        """Whether tokens lie tile after tile."""
        return not torch.is_grad_enabled() and self.wanted.device.type == "cpu"

    @cached_property
    def area(self) -> TileGrid:
        """The tiles of all samples."""
        return TileGrid(len(self.wanted), self.grid, self.reach, self.slopes)

    @cached_property
    def tiles(self) -> Bool[Tensor, "b ty tx"]:
        """Tiles with a wanted token."""
        area = self.area
        return area.rows(self.wanted)[:-1].view(area.samples, *area.sides, -1).any(dim=-1)

    def dtype(self, x: Tensor) -> torch.dtype:
        """Type of matrix products: that of autocast, or of the tokens."""
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype

    def near(self, fed: Bool[Tensor, "b n"]) -> Neighbourhood:
        """Places of a whole grid."""
        return Neighbourhood(self.grid, self.reach, self.slopes, fed)

    def sensor(self, encoder: SensorEncoder, patches: Float[Tensor, "b n p"], fed: Tensor, far: int) -> Tensor:
        """Tokens of one sensor, right up to ``far`` patches around the wanted ones."""
        if not self.is_tiled:
            return encoder(patches, None, self.near(fed))
        dtype, fed = self.dtype(patches), self.area.rows(fed)
        looks = far + len(encoder.blocks) * self.reach
        with torch.autocast("cpu", enabled=False):
            seen = self.area.needed(self.tiles, looks, fed)
            x = embedded(encoder.embed, patches, seen, self.area, Linears(dtype))
            run_blocks(encoder.blocks, x, fed, self.area, self.tiles, dtype, far)
            return in_groups(encoder.norm, x)

    def joint(self, encoder: JointEncoder, x: Tensor, context: Tensor, fed: Tensor, context_fed: Tensor) -> Tensor:
        """Joint tokens; arguments as ``sensor`` gave them."""
        if not self.is_tiled:
            return encoder(x, context, self.near(fed), self.near(context_fed))
        fed, context_fed, dtype = self.area.rows(fed), self.area.rows(context_fed), self.dtype(x)
        with torch.autocast("cpu", enabled=False):
            x = run_blocks(encoder.blocks, x.clone(), fed, self.area, self.tiles, dtype, 0, (context, context_fed))
            return in_groups(encoder.norm, x)

    def rows(self, x: Tensor) -> Float[Tensor, "b n d"]:
        """Tokens of a stream, row-major."""
        return self.area.unpack(x) if self.is_tiled else x
