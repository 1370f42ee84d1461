"""What an encoder is: a specification that travels with the weights, and the interface of image encoders."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.models.usual import usual_optional, usual_reach
from geossl.sensors import SensorSpec

Images = Mapping[str, Float[Tensor, "b _ h w"]]  # sensor name -> pixels in physical units, NaN = invalid
Clip = Float[Tensor, "b t c h w"]  # pixels of several dates
Kept = Mapping[str, Bool[Tensor, "b gh gw"]]  # sensor name -> True where the patch is fed to the encoder


@runtime_checkable
class Items(Protocol):
    """What an encoder embeds one by one: a list, or a map-style data set of torch."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitem__(self, i: int) -> Any:
        """One item."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What every encoder states of itself; stored beside its weights.

    Args:
        name: Short name, e.g. ``croma_tiny``.
        architecture: Key of ``geossl.models.files.ARCHITECTURES``.
        arguments: Keyword arguments of the architecture's constructor.
        dim: Length of an embedding.
        source: Paper, URL or run the weights come from.
        licence: SPDX identifier of the weights.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    dim: int
    source: str
    licence: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_dict`` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EncoderSpec":
        """Build a spec from ``to_dict`` output, lists turned back into tuples."""
        return cls(**dict[str, Any]((k, tuple(v) if isinstance(v, list) else v) for k, v in values.items()))


class Encoder(nn.Module):
    """What a method pretrains and a file holds: a module that states what it is.

    A subclass names the type of its spec, and is built from a spec alone: ``encoder = Architecture(spec)``.
    """

    spec_type: ClassVar[type[EncoderSpec]] = EncoderSpec
    spec: EncoderSpec
    projection: Mapping[str, Tensor] | None = None  # of its vectors to fewer numbers; travels in its file
    is_rebuilt_from_spec: ClassVar[bool] = True  # False: its spec alone does not say what it computes


@dataclass(frozen=True, kw_only=True)
class DenseSpec(EncoderSpec):
    """All a map needs to know of an image encoder.

    Args:
        sensors: Input by sensor name (``s1``, ``s2``).
        patch_px: Side of a patch in pixels.
        gsd_m: Ground sampling distance of a pixel in metres.
        window_px: Side of the square the encoder sees in map inference.
        margin_px: Halo of a window in pixels, whose embeddings are not kept.
        reach: Farthest patch a token attends to in map inference, in row and in column; maps are then made of large
            blocks without seams, and the window is that of ``--reach none``. None = whole windows.
    """

    sensors: Mapping[str, SensorSpec]
    patch_px: int
    gsd_m: float
    window_px: int
    margin_px: int
    reach: int | None = None

    def __post_init__(self) -> None:
        """Check that the window geometry is whole patches and leaves something to keep."""
        if self.reach is not None and self.reach < 1:
            raise ValueError(f"reach={self.reach} must be 1 or more patches, or None")
        if self.patch_px < 1 or not 0 < self.gsd_m < math.inf:
            raise ValueError(f"patch_px={self.patch_px} and gsd_m={self.gsd_m} must be positive")
        if self.window_px % self.patch_px or self.margin_px % self.patch_px:
            raise ValueError(
                f"window_px={self.window_px} and margin_px={self.margin_px} must be "
                f"multiples of patch_px={self.patch_px}"
            )
        if not 0 <= 2 * self.margin_px < self.window_px:
            raise ValueError(f"margin_px={self.margin_px} leaves nothing of window_px={self.window_px}")

    @property
    def patch_m(self) -> float:
        """Side of a patch on the ground in metres: the cell size of an embedding map."""
        return self.patch_px * self.gsd_m

    @property
    def dates(self) -> int:
        """Dates of an image: 1, or as many as an encoder of series takes, one after the other, each with all bands."""
        return int(self.arguments.get("dates", 1))

    def channels(self, sensor: str) -> int:
        """Bands of an image of a sensor, over all its dates."""
        return self.dates * len(self.sensors[sensor].bands)

    def needed(self, sensor: str) -> list[int]:
        """Channels of an image of a sensor without which a pixel is not usable: all but those of optional bands."""
        bands, optional = self.sensors[sensor].bands, self.sensors[sensor].optional
        return [i for i in range(self.channels(sensor)) if bands[i % len(bands)] not in optional]

    def lacking(self, bands: Mapping[str, Sequence[str]]) -> "DenseSpec":
        """The same with other optional bands, by sensor."""
        sensors = {name: replace(s, optional=tuple(bands.get(name, ()))) for name, s in self.sensors.items()}
        return replace(self, sensors=sensors)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; optional bands where they are not the usual ones, so that older files keep their hash."""
        values, usual = asdict(self), usual_optional(self.architecture, self.source)
        for name, sensor in values["sensors"].items():
            if sensor["optional"] == usual.get(name, ()):
                del sensor["optional"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DenseSpec":
        """Build a spec from ``to_dict`` output, lists turned back into tuples."""
        usual = usual_optional(values["architecture"], values["source"])
        sensors: dict[str, SensorSpec] = {}
        for name, sensor in values["sensors"].items():
            stated = dict[str, Any]((k, tuple(v) if isinstance(v, list) else v) for k, v in sensor.items())
            sensors[name] = SensorSpec(**{"optional": usual.get(name, ()), **stated})
        reach = usual_reach(values["architecture"], values["arguments"])  # files of geossl 0.1 do not say
        return cls(**{"reach": reach, **values, "sensors": sensors})


class DenseModel(Encoder, ABC):
    """What the map engine runs: pixels of a window in, a vector per patch out.

    Any non-empty subset of ``spec.sensors`` may be given, and of each sensor any subset of patches.
    """

    spec_type: ClassVar[type[EncoderSpec]] = DenseSpec
    spec: DenseSpec
    knows_own_sensors_only: ClassVar[bool] = False  # whether what is fed around a patch changes nothing of its vector

    @abstractmethod
    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """One vector per patch.

        Args:
            images: Pixels in the spec's physical units and band order; height and width are multiples
                of the patch, the same for all sensors. NaN pixels are filled with the band mean.
            kept: Patches that are fed; all where None. The others cost nothing and influence nothing.

        Returns:
            One vector per patch; NaN where the output has no token (nothing was fed there).
        """


@runtime_checkable
class LocalModel(Protocol):
    """A DenseModel whose attention can be limited to what lies around a token."""

    @property
    def has_relative_positions(self) -> bool:
        """Whether positions enter by distances only; if not, whole windows are needed."""

    def local_tokens(
        self, images: Images, kept: Kept | None, reach: int, wanted: Bool[Tensor, "b gh gw"] | None = None
    ) -> Float[Tensor, "b gh gw d"]:
        """One vector per patch, from what lies around it.

        Args:
            images: As in ``tokens``; any size.
            kept: As in ``tokens``.
            reach: Farthest patch a token attends to, in row and in column, in every layer.
            wanted: Patches asked for; all where None. What they cannot see may be left out, which changes no bit.

        Returns:
            One vector per patch; NaN where nothing was fed, and where it is not wanted.
        """


class DenseEncoder(DenseModel):
    """A model whose vectors are embeddings; what ``embed`` maps and ``evaluate`` probes."""

    @abstractmethod
    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """Embed every image as one vector; NaN where an image has no fed patch."""


class SeriesEncoder(Encoder, ABC):
    """Pixels of several dates in, a vector per patch or per series out."""

    spec_type: ClassVar[type[EncoderSpec]] = DenseSpec
    spec: DenseSpec
    sensor: str  # the one it takes
    tubelet: int  # dates that are read as one

    @abstractmethod
    def tokens(self, pixels: Clip, days: Float[Tensor, "b t"], dates: str = "mean") -> Float[Tensor, "b gh gw e"]:
        """One vector per patch, from its valid dates (``mean``, ``season`` or ``each``); day 0 is 1 January 2015."""

    @abstractmethod
    def pooled(self, pixels: Clip, days: Float[Tensor, "b t"]) -> Float[Tensor, "b d"]:
        """One vector per series; arguments as of ``tokens``."""


@dataclass(frozen=True, kw_only=True)
class PointSpec(EncoderSpec):
    """All that is needed to give an encoder of point clouds what it was trained on.

    Args:
        points: Points per cloud.
        features: Numbers per point beside x, y and z, in order.
        block_m: Side of the square block of an airborne scan that is one cloud, in metres; coordinates are from the
            block's centre, over half a side. None = whole objects, centred and scaled to the unit sphere.
        voxel_m: Of the points of a block, at most one per cube of this side is kept; 0 = all.
        ground: How height 0 is found: see ``geossl.data.points.blocks``.
    """

    points: int
    features: tuple[str, ...]
    block_m: float | None
    voxel_m: float
    ground: str

    @property
    def channels(self) -> int:
        """Numbers per point."""
        return 3 + len(self.features)


class PointEncoder(Encoder, ABC):
    """Point clouds in, a vector per group of points, per point or per cloud out; ``spec.dim`` is of the last."""

    spec_type: ClassVar[type[EncoderSpec]] = PointSpec
    spec: PointSpec

    @abstractmethod
    def tokens(self, points: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b g d"], Float[Tensor, "b g 3"]]:
        """One vector per group of neighbouring points, and where the group lies.

        Args:
            points: x, y, z and the spec's features, scaled as the spec says.
        """

    @abstractmethod
    def pooled(self, points: Float[Tensor, "b n c"]) -> Float[Tensor, "b d"]:
        """One vector per cloud; does not depend on the order of its points."""

    @property
    @abstractmethod
    def point_dim(self) -> int:
        """Length of the vectors of ``per_point``."""

    @abstractmethod
    def per_point(self, points: Float[Tensor, "b n c"], where: Float[Tensor, "b m 3"]) -> Float[Tensor, "b m d"]:
        """One vector for each place of a cloud: its own points, or any others."""


REDUCTIONS = {"mean": "mean", "max": "amax", "sum": "sum"}


@dataclass(frozen=True, kw_only=True)
class GraphSpec(EncoderSpec):
    """All one needs to know to embed the nodes of another graph.

    Args:
        features: Numbers per node.
        names: What they are, in order; empty where they have no names, as words of a paper.
        scaling: ``none``, ``row`` (a node's features sum to one), or ``column`` (statistics of the training graph).
        hops: Steps along edges over which other nodes reach a node's embedding.
        pool: How the nodes of a graph become its vector: ``mean``, ``max`` or ``sum``.
    """

    features: int
    names: tuple[str, ...]
    scaling: Literal["none", "row", "column"]
    hops: int
    pool: Literal["mean", "max", "sum"] = "mean"


class GraphEncoder(Encoder, ABC):
    """Nodes to vectors, and graphs to vectors.

    ``edge_index`` (PyG's) holds a message from ``edge_index[0, k]`` to ``edge_index[1, k]``; self-loops are ignored.

    Args:
        spec: What the encoder takes and gives.
    """

    spec_type: ClassVar[type[EncoderSpec]] = GraphSpec
    spec: GraphSpec
    mean: Tensor
    std: Tensor

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.features))
        self.register_buffer("std", torch.ones(spec.features))

    @abstractmethod
    def forward(self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, "n d"]:
        """One vector per node, from scaled features."""

    def normalize(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Features as the first layer takes them; a row of zeros stays one."""
        if self.spec.scaling == "row":
            total = x.sum(dim=1, keepdim=True)
            return x / torch.where(total == 0, 1.0, total)
        return (x - self.mean) / self.std if self.spec.scaling == "column" else x

    def nodes(self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, "n d"]:
        """Embed every node; ``x`` as it is measured."""
        return self(self.normalize(x), edge_index)

    def pooled(
        self, x: Float[Tensor, "n c"], edge_index: Int[Tensor, "2 e"], graph: Int[Tensor, " n"]
    ) -> Float[Tensor, "g d"]:
        """Embed every graph as one vector.

        Args:
            x: Features of the nodes of all graphs.
            edge_index: Edges of all graphs.
            graph: To which graph a node belongs, 0 and up.
        """
        nodes = self.nodes(x, edge_index)
        out = nodes.new_zeros((int(graph.max()) + 1, nodes.shape[1]))
        where, how = graph[:, None].expand_as(nodes), REDUCTIONS[self.spec.pool]
        return out.scatter_reduce(0, where, nodes, how, include_self=False)
