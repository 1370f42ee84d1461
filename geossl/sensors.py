"""Sensors: bands, units, processing levels and published statistics. No torch and no GDAL here."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SensorSpec:
    """The input an encoder expects of one sensor.

    Args:
        bands: ESA band names in the order the first layer was trained on.
        unit: ``reflectance`` (0 to 1) or ``dB``.
        level: Processing level, e.g. ``L2A`` or ``GRD sigma0``.
        mean: Per band, in ``unit``, frozen at training time.
        std: Per band, in ``unit``, all positive.
    """

    bands: tuple[str, ...]
    unit: str
    level: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that statistics and bands match."""
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(f"{len(self.bands)} bands, {len(self.mean)} means, {len(self.std)} stds; need one each")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive for every band, got {list(self.std)}")


S1_BANDS = ("VV", "VH")
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
BANDS = {"s1": S1_BANDS, "s2": S2_BANDS}

S1 = SensorSpec(S1_BANDS, "dB", "GRD sigma0 or gamma0", (-12.548, -20.192), (5.257, 5.912))
S2 = SensorSpec(  # SSL4EO-S12 L2A statistics, reflectance
    S2_BANDS,
    "reflectance",
    "L2A",
    (
        0.07524,
        0.08843,
        0.114416,
        0.129747,
        0.162491,
        0.219464,
        0.242221,
        0.251776,
        0.258165,
        0.264552,
        0.236851,
        0.180507,
    ),
    (
        0.110803,
        0.115515,
        0.118363,
        0.136811,
        0.137027,
        0.135555,
        0.141651,
        0.147479,
        0.143931,
        0.158228,
        0.145552,
        0.134348,
    ),
)
RGB = SensorSpec(("R", "G", "B"), "0..1", "8 bit", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet

INPUTS: Mapping[str, SensorSpec] = {"s1": S1, "s2": S2, "rgb": RGB}  # bands of training batches, in their order


def numbered_bands(count: int) -> SensorSpec:
    """Bands that have no names, only numbers from 1; their unit is that of the file, their statistics to be measured.

    The sensor of such images is called ``bands``.
    """
    return SensorSpec(
        tuple(str(i + 1) for i in range(count)), "as stored", "not stated", (0.0,) * count, (1.0,) * count
    )
