"""CROMA: radar, optical and joint encoders with 2D-ALiBi and X-ALiBi.

Paper: Fuller, Millard, Green, NeurIPS 2023, arXiv:2311.00566.
Any grid of 8 px patches, either sensor or both, any subset of patches: positions enter through distances only.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.errors import BandError, GridError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept
from geossl.models.encoders.croma_streams import JointEncoder, Local, SensorEncoder
from geossl.models.layers.alibi import alibi_slopes, grid_coordinates
from geossl.models.layers.attention import Positions
from geossl.models.layers.local_attention import within_reach
from geossl.models.layers.masking import take
from geossl.models.layers.normalize import ClippedRange
from geossl.models.layers.patches import patchify, sincos_positions
from geossl.models.layers.transformer import FeedForward, mean_tokens
from geossl.models.spec import UNSTATED, ImageGeometry, Provenance, dense_spec
from geossl.models.usual import usual_reach
from geossl.sensors import PAIR, SENSORS, SensorSpec

PATCH_PX = 8
CROSS_COST = 1.6  # of a joint layer over one of self-attention: tiny, a CPU's processor time by tiles
PAIR_SPECS = {name: SENSORS[name].spec for name in PAIR}  # with published statistics
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 128, "depth": 4, "heads": 8},
    "small": {"dim": 384, "depth": 12, "heads": 8},
    "base": {"dim": 768, "depth": 12, "heads": 16},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
}


def croma_spec(
    size: str = "base",
    *,
    window_px: int = 120,
    margin_px: int = 24,
    reach: int | Literal["usual"] | None = "usual",
    position: str = "alibi",
    sensors: Mapping[str, SensorSpec] = PAIR_SPECS,
    provenance: Provenance = UNSTATED,
    **shape: int,
) -> DenseSpec:
    """Spec of a CROMA encoder; ``shape`` (dim, depth, heads) overrides the size's."""
    arguments: dict[str, Any] = {**SIZES[size], **shape, "position": position}
    return dense_spec(
        "croma",
        arguments,
        {name: sensors[name] for name in PAIR},
        ImageGeometry(window_px=window_px, margin_px=margin_px),
        provenance.stated(f"croma_{size}"),
        dim=int(arguments["dim"]),
        patch_px=PATCH_PX,
        reach=usual_reach("croma", arguments) if reach == "usual" else reach,
    )


@dataclass
class CROMAOutput:
    """Tokens and pooled vectors; None where the sensor was not given. Joint tokens sit on the radar patches."""

    s1_tokens: Float[Tensor, "b k1 d"] | None = None
    s1_gap: Float[Tensor, "b d"] | None = None
    s2_tokens: Float[Tensor, "b k2 d"] | None = None
    s2_gap: Float[Tensor, "b d"] | None = None
    joint_tokens: Float[Tensor, "b k1 d"] | None = None
    joint_gap: Float[Tensor, "b d"] | None = None

    def best(self) -> tuple[Tensor, Tensor]:
        """Tokens and pooled vector of the joint encoder, or of the only sensor."""
        for tokens, gap in (
            (self.joint_tokens, self.joint_gap),
            (self.s1_tokens, self.s1_gap),
            (self.s2_tokens, self.s2_gap),
        ):
            if tokens is not None and gap is not None:
                return tokens, gap
        raise AssertionError("forward refuses to run without a sensor")


class CROMAEncoder(DenseEncoder):
    """The three encoders and two pooling networks that remain after pretraining.

    Args:
        spec: From ``croma_spec``. ``arguments["position"]`` is ``alibi``, or ``sincos`` for comparison.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        dim, depth, heads = (int(spec.arguments[name]) for name in ("dim", "depth", "heads"))
        self.is_alibi = spec.arguments.get("position", "alibi") == "alibi"
        self.slopes = alibi_slopes(heads)
        self.ranges = nn.ModuleDict({name: ClippedRange(s.mean, s.std) for name, s in spec.sensors.items()})
        self.radar = SensorEncoder(len(spec.sensors["s1"].bands) * PATCH_PX**2, dim, depth // 2, heads)
        self.radar_gap = FeedForward(dim)
        self.optical = SensorEncoder(len(spec.sensors["s2"].bands) * PATCH_PX**2, dim, depth, heads)
        self.optical_gap = FeedForward(dim)
        self.joint = JointEncoder(dim, depth // 2, heads)

    def normalize(self, images: Images) -> dict[str, Tensor]:
        """Scale physical units to 0..1 with the spec's fixed statistics; NaN takes the band mean."""
        return {name: self.ranges[name](x) for name, x in images.items()}

    def forward(
        self,
        s1: Float[Tensor, "b c1 h1 w1"] | None = None,
        s2: Float[Tensor, "b c2 h2 w2"] | None = None,
        s1_ids: Int[Tensor, "b k1"] | None = None,
        s2_ids: Int[Tensor, "b k2"] | None = None,
    ) -> CROMAOutput:
        """Encode images scaled to 0..1.

        Args:
            s1: Radar (VV, VH); None = not there.
            s2: Optical, in the spec's band order; None = not there.
            s1_ids: Patches of ``s1`` that are fed, row-major ids; None = all.
            s2_ids: Likewise for ``s2``; the two may differ in number and place.

        Raises:
            GridError: If no image is given, sizes are not whole patches, or the two grids differ.
            BandError: If the number of bands is not the spec's.
        """
        grid = self.check(s1, s2)
        out = CROMAOutput()
        if s1 is not None:
            where1 = self.coordinates(grid, s1_ids, s1.device)
            own = self.positions(where1, where1)
            out.s1_tokens = self.radar(self.patches(s1, s1_ids), self.table(grid, s1_ids, s1), own)
            out.s1_gap = self.radar_gap(mean_tokens(out.s1_tokens))
        if s2 is not None:
            where2 = self.coordinates(grid, s2_ids, s2.device)
            same = s1 is not None and s1_ids is None and s2_ids is None
            theirs = own if same else self.positions(where2, where2)
            out.s2_tokens = self.optical(self.patches(s2, s2_ids), self.table(grid, s2_ids, s2), theirs)
            out.s2_gap = self.optical_gap(mean_tokens(out.s2_tokens))
        if out.s1_tokens is not None and out.s2_tokens is not None:
            across = own if same else self.positions(where1, where2)
            out.joint_tokens = self.joint(out.s1_tokens, out.s2_tokens, own, across)
            out.joint_gap = mean_tokens(out.joint_tokens)
        return out

    def check(self, s1: Tensor | None, s2: Tensor | None) -> tuple[int, int]:
        """Patch grid of the images that are there."""
        images = {name: x for name, x in (("s1", s1), ("s2", s2)) if x is not None}
        if not images:
            raise GridError("no image given; CROMA needs s1 (radar), s2 (optical) or both")
        sizes = {name: tuple(x.shape[-2:]) for name, x in images.items()}
        if len(set(sizes.values())) > 1:
            raise GridError(f"s1 is {sizes['s1']} px and s2 is {sizes['s2']} px; resample them to one grid")
        h, w = next(iter(sizes.values()))
        if h % PATCH_PX or w % PATCH_PX or not h or not w:
            raise GridError(f"images are {h} x {w} px; height and width must be multiples of the {PATCH_PX} px patch")
        for name, x in images.items():
            bands = self.spec.sensors[name].bands
            if x.shape[1] != len(bands):
                raise BandError(f"{name} has {x.shape[1]} bands; this encoder needs {len(bands)}: {', '.join(bands)}")
        return h // PATCH_PX, w // PATCH_PX

    def patches(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"] | None) -> Float[Tensor, "b k p"]:
        """Fed patches only, so that the others cost nothing."""
        patches = patchify(x, PATCH_PX)
        return patches if ids is None else take(patches, ids)

    def coordinates(self, grid: tuple[int, int], ids: Tensor | None, device: torch.device) -> Int[Tensor, "*b k 2"]:
        """Row and column of the fed patches."""
        where = grid_coordinates(*grid).to(device)
        return where if ids is None else where[ids]

    def positions(self, query: Tensor, key: Tensor) -> Positions | None:
        """Bias by distance; one sample's coordinates are given a batch axis if the other's have one."""
        if not self.is_alibi:
            return None
        if query.ndim != key.ndim:
            query, key = (c if c.ndim == 3 else c.expand(max(len(query), len(key)), -1, -1) for c in (query, key))
        return Positions(query, key, self.slopes)

    def table(self, grid: tuple[int, int], ids: Tensor | None, like: Tensor) -> Tensor | None:
        """Absolute positions of the fed patches, for ``position="sincos"`` only."""
        if self.is_alibi:
            return None
        table = sincos_positions(*grid, self.spec.dim).to(like)
        return table if ids is None else table[ids]

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseEncoder; joint tokens on the radar patches if both sensors are fed, optical ones on the others."""
        return self.encode(images, kept)[0]

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """See DenseEncoder; joint vector if both sensors are fed."""
        return self.encode(images, kept)[1]

    @property
    def has_relative_positions(self) -> bool:
        """See LocalModel."""
        return self.is_alibi

    def local_tokens(
        self, images: Images, kept: Kept | None, reach: int, wanted: Bool[Tensor, "b gh gw"] | None = None
    ) -> Float[Tensor, "b gh gw d"]:
        """See LocalModel; joint where radar is fed and optical within reach, else of the sensor that is fed there."""
        scaled, fed, grid = self.prepare(images, kept)
        if not self.is_alibi:
            raise GridError(f"{self.spec.name} has absolute positions, which need whole windows; use --reach none")
        if reach < 1:
            raise GridError(f"reach {reach} is not a number of patches; use 7, or none for whole windows")
        patches = {name: patchify(x, PATCH_PX) for name, x in scaled.items()}
        first = next(iter(patches.values()))
        wanted = first.new_ones(len(first), *grid).bool() if wanted is None else wanted
        run = Local(grid, reach, self.slopes, wanted.flatten(1))
        streams = {"s1": self.radar, "s2": self.optical}
        far = run.reach * len(self.joint.blocks) if len(fed) == 2 else 0  # how far joint tokens look at the others
        found = {name: run.sensor(streams[name], patches[name], fed[name], far) for name in fed}
        tokens = first.new_full((*first.shape[:2], self.spec.dim), torch.nan)
        for name in sorted(found, reverse=True):  # radar tokens go over optical ones
            tokens = torch.where(fed[name][..., None], run.rows(found[name]), tokens)
        if len(found) == 2:
            is_joint = fed["s1"] & within_reach(fed["s2"].unflatten(1, grid), reach).flatten(1)
            joint = run.joint(self.joint, found["s1"], found["s2"], is_joint, fed["s2"])
            tokens = torch.where(is_joint[..., None], run.rows(joint), tokens)
        return torch.where(wanted.flatten(1)[..., None], tokens, torch.nan).unflatten(1, grid)

    def local_layers(self, sensors: Collection[str]) -> list[tuple[int, float]]:
        """What ``local_tokens`` computes, layer by layer, so that its cost can be foretold.

        Returns:
            How many reaches around the wanted patches a layer is computed, and its cost in layers of self-attention.
        """
        last = len(self.joint.blocks) if len(sensors) == 2 else 0
        streams = {"s1": self.radar, "s2": self.optical}
        found = [(last + n, 1.0) for name in sensors for n in range(len(streams[name].blocks))]
        return found + [(n, CROSS_COST) for n in range(last)]

    def prepare(
        self, images: Images, kept: Kept | None
    ) -> tuple[dict[str, Tensor], dict[str, Bool[Tensor, "b n"]], tuple[int, int]]:
        """Scaled images, which of their patches are fed, and the grid.

        Raises:
            GridError: If there is no image, or the images do not fit together.
            BandError: If a sensor is not known, or its bands are not the spec's.
        """
        if not images:
            raise GridError("no image given; CROMA needs s1 (radar), s2 (optical) or both")
        unknown = set(images) - set(self.spec.sensors)
        if unknown:
            raise BandError(f"unknown sensor {sorted(unknown)}; this encoder knows {', '.join(self.spec.sensors)}")
        scaled, kept = self.normalize(images), kept or {}
        first = next(iter(scaled.values()))
        grid = self.check(scaled.get("s1"), scaled.get("s2"))
        everything = first.new_ones(len(first), grid[0] * grid[1]).bool()
        return scaled, {name: kept[name].flatten(1) if name in kept else everything for name in scaled}, grid

    def encode(self, images: Images, kept: Kept | None = None) -> tuple[Tensor, Tensor]:
        """Tokens on the grid and pooled vectors; whole samples in one batch, partly fed ones each alone.

        A sample runs through the encoders of the sensors it has patches of. A partly fed one runs with exactly its own
        patches, so its result cannot depend on the rest of the batch.
        """
        scaled, fed, grid = self.prepare(images, kept)
        first = next(iter(scaled.values()))
        tokens = first.new_full((len(first), grid[0] * grid[1], self.spec.dim), torch.nan)
        pooled = first.new_full((len(first), self.spec.dim), torch.nan)
        for names, is_whole, rows in alike(fed):
            ids = {name: fed[name][rows].nonzero()[:, 1][None] for name in names if not is_whole}
            pixels = {name: scaled[name][rows] for name in names}
            out = self(**pixels, **{f"{name}_ids": where for name, where in ids.items()})
            best, gap = out.best()
            pooled[rows] = gap.to(pooled)
            for name, found in ((names[-1], out.s2_tokens), (names[0], best)):  # joint tokens go over optical ones
                if found is not None:
                    where = ids.get(name, torch.arange(found.shape[1])[None])
                    tokens[torch.tensor(rows)[:, None], where] = found.to(tokens)
        return tokens.unflatten(1, grid), pooled


def alike(fed: dict[str, Bool[Tensor, "b n"]]) -> list[tuple[tuple[str, ...], bool, list[int]]]:
    """Samples that can run together: sensors with a fed patch, whether those are fed whole, and rows of the batch.

    Partly fed samples are alone; samples without a fed patch are left out.
    """
    groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
    some, whole = ({name: f(x, 1).tolist() for name, x in fed.items()} for f in (torch.any, torch.all))
    for row in range(len(next(iter(fed.values())))):
        names = tuple(sorted(name for name in fed if some[name][row]))
        if names:
            alone = -1 if all(whole[name][row] for name in names) else row
            groups.setdefault((names, alone), []).append(row)
    return [(names, alone < 0, rows) for (names, alone), rows in groups.items()]
