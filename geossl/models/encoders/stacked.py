"""Encoders that see all bands of all sensors as channels of one image: what single-image methods pretrain."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.errors import BandError, GridError
from geossl.models.encoder import DenseEncoder, DenseSpec, Images, Kept
from geossl.models.layers.alibi import alibi_slopes, grid_coordinates
from geossl.models.layers.attention import Positions
from geossl.models.layers.masking import enlarge
from geossl.models.layers.normalize import Standardize
from geossl.models.layers.patches import sincos_positions
from geossl.sensors import SensorSpec, batch_spec


def channels(sensor: str, bands: Sequence[str]) -> list[int]:
    """Where bands lie in a training batch: by name for known sensors, by number for images of any bands."""
    known = batch_spec(sensor)
    return [int(b) - 1 if known is None else known.bands.index(b) for b in bands]


def choose_bands(sensor: str, bands: tuple[str, ...] | None, known: SensorSpec | None = None) -> SensorSpec:
    """A sensor with some of its bands, in the given order.

    Args:
        sensor: One that ``geossl.sensors.batch_spec`` knows, or any with ``known``.
        bands: Names; None = all.
        known: Has the statistics; the published ones by default.

    Raises:
        BandError: If the sensor does not have a band.
    """
    known = known or batch_spec(sensor)
    assert known is not None  # images of numbered bands have no published statistics
    bands = known.bands if bands is None else bands
    missing = [band for band in bands if band not in known.bands]
    if missing or not bands:
        raise BandError(f"{sensor} has no band {', '.join(missing) or '(none given)'}; known: {', '.join(known.bands)}")
    where = [known.bands.index(band) for band in bands]
    mean, std = (tuple(values[i] for i in where) for values in (known.mean, known.std))
    optional = tuple(band for band in known.optional if band in bands)
    return SensorSpec(tuple(bands), known.unit, known.level, mean, std, optional if len(optional) < len(bands) else ())


def pick(batch: Mapping[str, Tensor], sensors: Mapping[str, SensorSpec]) -> dict[str, Tensor]:
    """Sensors and bands of a training batch that a network wants, found by name.

    Args:
        batch: Pixels by sensor in the bands and order of ``batch_spec``; sensors that are not there are left out.
        sensors: What the network takes.

    Raises:
        BandError: If images of any bands have fewer than are needed.
    """
    found = {}
    for name, sensor in sensors.items():
        if name in batch:
            where, count = channels(name, sensor.bands), batch[name].shape[1]
            if max(where) >= count:
                raise BandError(f"band {max(where) + 1} of {name} is needed; the images have {count} bands")
            found[name] = batch[name] if where == list(range(count)) else batch[name][:, where]
    return found


def stack(images: Images, spec: DenseSpec, scales: nn.ModuleDict) -> Float[Tensor, "b c h w"]:
    """Standardise and stack; NaN and missing sensors are 0, the band mean.

    Args:
        images: Pixels by sensor, physical units.
        spec: Names sensors, bands and patch.
        scales: By sensor, what standardises it.

    Raises:
        GridError: If no image is given, sizes differ or are not whole patches.
        BandError: If a sensor or the number of its bands is not the spec's.
    """
    unknown, known = set(images) - set(spec.sensors), ", ".join(spec.sensors)
    if unknown or not images:
        raise BandError(f"{spec.name} takes {known}, not {', '.join(sorted(unknown)) or 'nothing'}")
    for name, x in images.items():
        bands = spec.sensors[name].bands
        if x.shape[1] != len(bands):
            raise BandError(f"{name} has {x.shape[1]} bands; this encoder needs {len(bands)}: {', '.join(bands)}")
    sizes = {name: tuple(x.shape[-2:]) for name, x in images.items()}
    if any(size != next(iter(sizes.values())) for size in sizes.values()):  # not by a set: traced sizes have no hash
        raise GridError(f"images of different sizes ({sizes}); resample them to one grid")
    like = next(iter(images.values()))
    (h, w), patch = like.shape[-2:], spec.patch_px
    if h % patch or w % patch or not h or not w:
        raise GridError(f"images are {h} x {w} px; height and width must be multiples of the {patch} px patch")
    parts = [
        scales[name](images[name]) if name in images else like.new_zeros(len(like), len(sensor.bands), h, w)
        for name, sensor in spec.sensors.items()
    ]
    return torch.cat(parts, dim=1)


class StackedEncoder(DenseEncoder):
    """Pixels of all sensors, standardised and stacked, to a vector per patch.

    A sensor that is missing, or whose patch is not fed, counts as its band means; a patch is fed if any sensor's is.

    Args:
        spec: ``arguments["position"]`` is ``sincos`` (squeezed beyond ``arguments["reach"]`` patches per side), or
            ``alibi``, where only distances between patches enter.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scales = nn.ModuleDict({name: Standardize(s.mean, s.std) for name, s in spec.sensors.items()})
        self.is_alibi = spec.arguments["position"] == "alibi"
        self.slopes = alibi_slopes(int(spec.arguments["heads"]))

    @property
    def bands(self) -> int:
        """Channels of the stacked image."""
        return sum(len(sensor.bands) for sensor in self.spec.sensors.values())

    def normalize(self, images: Images) -> Float[Tensor, "b c h w"]:
        """Standardise and stack; see ``stack``."""
        return stack(images, self.spec, self.scales)

    def grid(self, x: Float[Tensor, "b c h w"]) -> tuple[int, int]:
        """Rows and columns of patches."""
        return x.shape[-2] // self.spec.patch_px, x.shape[-1] // self.spec.patch_px

    @abstractmethod
    def forward(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b k"] | None = None) -> Float[Tensor, "b k d"]:
        """Encode what ``normalize`` gave.

        Args:
            x: Standardised, stacked pixels.
            ids: Patches that are fed, row-major, in any order; None = all. The others influence nothing.

        Returns:
            One vector per fed patch, in the order of ``ids``.
        """

    def table(self, grid: tuple[int, int], ids: Tensor | None, like: Tensor) -> Float[Tensor, "*b k d"] | None:
        """Absolute positions to add to the tokens of ``ids``; None with ALiBi."""
        if self.is_alibi:
            return None
        table = sincos_positions(*grid, self.spec.dim, int(self.spec.arguments["reach"])).to(like)
        return table if ids is None else table[ids]

    def positions(self, grid: tuple[int, int], ids: Tensor | None, device: torch.device) -> Positions | None:
        """Distances between the tokens of ``ids``, which bias attention; None with absolute positions."""
        if not self.is_alibi:
            return None
        where = grid_coordinates(*grid).to(device)
        where = where if ids is None else where[ids]
        return Positions(where, where, self.slopes)

    def tokens(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b gh gw d"]:
        """See DenseEncoder."""
        return self.encode(images, kept)[0]

    def pooled(self, images: Images, kept: Kept | None = None) -> Float[Tensor, "b d"]:
        """See DenseEncoder; the mean of the tokens."""
        return self.encode(images, kept)[1]

    def encode(self, images: Images, kept: Kept | None) -> tuple[Tensor, Tensor]:
        """Tokens on the grid and their means; whole samples in one batch, partly fed ones each alone.

        So a partly fed sample's result cannot depend on the rest of the batch.
        """
        kept = kept or {}
        x = self.normalize({name: only_kept(pixels, kept.get(name)) for name, pixels in images.items()})
        grid = self.grid(x)
        fed = x.new_zeros(len(x), grid[0] * grid[1], dtype=torch.bool)
        for name in images:
            fed |= kept[name].flatten(1) if name in kept else True
        tokens = x.new_full((*fed.shape, self.spec.dim), torch.nan)
        pooled = x.new_full((len(x), self.spec.dim), torch.nan)
        whole = fed.all(dim=1)
        rows = [whole.nonzero()[:, 0]] + [row[None] for row in (fed.any(dim=1) & ~whole).nonzero()[:, 0]]
        for row in rows:
            if len(row):
                ids = None if whole[row].all() else fed[row].nonzero()[:, 1][None]
                found = self(x[row], ids)
                where = torch.arange(fed.shape[1], device=x.device)[None] if ids is None else ids
                tokens[row[:, None], where] = found.to(tokens)
                pooled[row] = found.to(pooled).mean(dim=1)
        return tokens.unflatten(1, grid), pooled


def only_kept(pixels: Float[Tensor, "b c h w"], kept: Bool[Tensor, "b gh gw"] | None) -> Float[Tensor, "b c h w"]:
    """Pixels of fed patches; the others are NaN."""
    if kept is None or bool(kept.all()):
        return pixels
    seen = enlarge(kept, pixels.shape[-1] // kept.shape[-1])
    return pixels.masked_fill(~seen[:, None], torch.nan)
