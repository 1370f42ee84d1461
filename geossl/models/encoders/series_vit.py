"""Vision transformer of image series and video: tubelets in space and time, any subset of them.

Papers: Feichtenhofer et al., NeurIPS 2022, arXiv:2205.09113 (SpatioTemporal-MAE); ViT: arXiv:2010.11929.
Differs: positions are a fixed table in space and a function of the date (or the number) of a slot in time, where the
paper learns both; so series of any length and spacing fit. There is no class token.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geossl.errors import BandError, GridError
from geossl.models.encoder import DenseSpec, SeriesEncoder
from geossl.models.layers.dates import join_dates, mean_of
from geossl.models.layers.initialization import xavier
from geossl.models.layers.masking import take
from geossl.models.layers.normalize import VIT_EPS, Standardize
from geossl.models.layers.patches import patchify, sincos_positions, unpatchify
from geossl.models.layers.time_encoding import TimeEncoding
from geossl.models.layers.transformer import Block
from geossl.models.spec import UNSTATED, ImageGeometry, Provenance, dense_spec
from geossl.sensors import SensorSpec

VALID_SHARE = 0.5  # of a tubelet's pixels, from which it is fed


def tubelets(x: Float[Tensor, "b t c h w"], tubelet: int, patch: int) -> Float[Tensor, "b s n p"]:
    """Cut into tubelets: slots of ``tubelet`` frames, patches row-major; inside frame, channel, row, column."""
    b, t = x.shape[:2]
    cut = patchify(x.flatten(0, 1), patch).unflatten(0, (b, t // tubelet, tubelet))
    return cut.transpose(2, 3).flatten(3)


def untubelets(
    x: Float[Tensor, "b s n p"], tubelet: int, patch: int, grid: tuple[int, int]
) -> Float[Tensor, "b t c h w"]:
    """Inverse of ``tubelets`` for a grid of (rows, columns) of patches."""
    frames = x.unflatten(3, (tubelet, -1)).transpose(2, 3).flatten(0, 2)
    return unpatchify(frames, patch, grid).unflatten(0, (x.shape[0], -1))


def valid_shares(pixels: Float[Tensor, "b t c h w"], tubelet: int, patch: int) -> Float[Tensor, "b s n"]:
    """Share of every tubelet's pixels that are finite in all bands."""
    finite = pixels.isfinite().all(dim=2, keepdim=True)
    return tubelets(finite.float(), tubelet, patch).mean(dim=-1)


def series_spec(
    sensors: Mapping[str, SensorSpec],
    geometry: ImageGeometry,
    *,
    patch_px: int,
    tubelet: int = 1,
    time: str = "doy",
    provenance: Provenance = UNSTATED,
    **shape: int,
) -> DenseSpec:
    """Spec of a ``SeriesViT``.

    Args:
        sensors: The one sensor, by name.
        geometry: Its training clips and windows.
        patch_px: Side of a patch.
        tubelet: Frames per slot; 1 for dates, 2 for video.
        time: ``doy``, ``index`` or ``none``.
        provenance: Name, source and licence.
        shape: All of ``dim`` (a multiple of 4 and of ``heads``), ``depth`` and ``heads``.
    """
    dim, depth, heads = (shape[name] for name in ("dim", "depth", "heads"))
    arguments = {
        "depth": depth,
        "heads": heads,
        "tubelet": tubelet,
        "time": time,
        "reach": geometry.patches(patch_px),
    }
    stated = provenance.stated("series_vit")
    return dense_spec("series_vit", arguments, sensors, geometry, stated, dim=dim, patch_px=patch_px)


class SeriesViT(SeriesEncoder):
    """Pixels of several dates in, a vector per patch or per series out.

    Args:
        spec: From ``series_spec``.
    """

    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.spec = spec
        (self.sensor,) = spec.sensors
        sensor, arguments = spec.sensors[self.sensor], spec.arguments
        self.tubelet = int(arguments["tubelet"])
        self.scale = Standardize(sensor.mean, sensor.std)
        self.embed = nn.Linear(self.tubelet * len(sensor.bands) * spec.patch_px**2, spec.dim)
        self.time = TimeEncoding(str(arguments["time"]), spec.dim)
        heads = int(arguments["heads"])
        self.blocks = nn.ModuleList(
            Block(spec.dim, heads, qkv_bias=True, eps=VIT_EPS) for _ in range(int(arguments["depth"]))
        )
        self.norm = nn.LayerNorm(spec.dim, VIT_EPS)
        self.apply(xavier)

    def normalize(self, pixels: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Standardise with the spec's fixed statistics; NaN takes the band mean, 0.

        Raises:
            GridError: If sizes are not whole patches and tubelets.
            BandError: If the number of bands is not the spec's.
        """
        _, t, c, h, w = pixels.shape
        bands, patch = self.spec.sensors[self.sensor].bands, self.spec.patch_px
        if c != len(bands):
            raise BandError(f"series has {c} bands; {self.spec.name} needs {len(bands)}: {', '.join(bands)}")
        if h % patch or w % patch or not h or not w:
            raise GridError(f"images are {h} x {w} px; height and width must be multiples of the {patch} px patch")
        if t % self.tubelet or not t:
            raise GridError(f"series has {t} frames; {self.spec.name} needs a multiple of {self.tubelet}")
        return self.standardized(pixels)

    def standardized(self, pixels: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Standardised pixels, of whatever size."""
        return self.scale(pixels.flatten(0, 1)).unflatten(0, (-1, pixels.shape[1]))

    def slots(self, days: Float[Tensor, "b t"]) -> Float[Tensor, "b s"]:
        """Day of every slot: the mean of its frames'."""
        return days.unflatten(1, (-1, self.tubelet)).mean(dim=2)

    def places(self, grid: tuple[int, int], days: Float[Tensor, "b s"]) -> Float[Tensor, "b m d"]:
        """Position of every token, slot by slot: that of its patch plus that of its time."""
        table = sincos_positions(*grid, self.spec.dim, int(self.spec.arguments["reach"])).to(days)
        return (table + self.time(days)[:, :, None]).flatten(1, 2)

    def forward(
        self, x: Float[Tensor, "b t c h w"], days: Float[Tensor, "b s"], ids: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b k d"]:
        """Encode what ``normalize`` gave.

        Args:
            x: Standardised pixels.
            days: Day of every slot, since 1 January 2015.
            ids: Tokens that are fed, slot by slot and row-major, in any order; None = all. Others influence nothing.

        Returns:
            One vector per fed token, in the order of ``ids``.
        """
        patch = self.spec.patch_px
        cut = tubelets(x, self.tubelet, patch).flatten(1, 2)
        where = self.places((x.shape[-2] // patch, x.shape[-1] // patch), days)
        tokens = self.embed(cut if ids is None else take(cut, ids)) + (where if ids is None else take(where, ids))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def tokens(
        self, pixels: Float[Tensor, "b t c h w"], days: Float[Tensor, "b t"], dates: str = "mean"
    ) -> Float[Tensor, "b gh gw e"]:
        """One vector per patch from its valid dates; NaN where there is none.

        Args:
            pixels: Physical units, bands in the spec's order, NaN = invalid; a tubelet less than half valid is
                not fed and influences nothing.
            days: Since 1 January 2015; unused where time is not ``doy`` and ``dates`` is ``mean``.
            dates: ``mean`` (d numbers), ``season`` (4 d) or ``each`` (s d); see ``layers.dates.join_dates``.
        """
        found, fed = self.encode(pixels, days)
        patch = self.spec.patch_px
        joined = join_dates(found, fed, self.slots(days), dates)
        return joined.unflatten(1, (pixels.shape[-2] // patch, pixels.shape[-1] // patch))

    def pooled(self, pixels: Float[Tensor, "b t c h w"], days: Float[Tensor, "b t"]) -> Float[Tensor, "b d"]:
        """One vector per series: the mean of its tokens; NaN where nothing is valid."""
        found, fed = self.encode(pixels, days)
        return mean_of(found.flatten(1, 2), fed.flatten(1), dim=1)

    def encode(
        self, pixels: Float[Tensor, "b t c h w"], days: Float[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b s n d"], Bool[Tensor, "b s n"]]:
        """Tokens, and which were fed; whole series in one batch, partly valid ones each alone with their own tokens.

        So a series' result depends neither on the rest of the batch nor on dates without data.
        """
        x, slots = self.normalize(pixels), self.slots(days)
        shares = valid_shares(pixels, self.tubelet, self.spec.patch_px)
        fed = (shares >= VALID_SHARE).flatten(1)
        tokens = x.new_zeros(*fed.shape, self.spec.dim)
        whole = fed.all(dim=1)
        rows = [whole.nonzero()[:, 0]] + [row[None] for row in (fed.any(dim=1) & ~whole).nonzero()[:, 0]]
        for row in rows:
            if len(row):
                ids = None if whole[row].all() else fed[row].nonzero()[:, 1][None]
                found = self(x[row], slots[row], ids)
                where = torch.arange(fed.shape[1], device=x.device)[None] if ids is None else ids
                tokens[row[:, None], where] = found.to(tokens)
        return tokens.unflatten(1, shares.shape[1:]), fed.unflatten(1, shares.shape[1:])
