"""Sensors: bands, units, storage rules, colours and published statistics; the one place for a new sensor.

``SENSORS`` has an entry per sensor, and everything that reads, trains on, maps or draws a sensor asks its entry. A new
sensor is a new entry: it becomes a keyword of ``geossl.Rasters``, an option of the shell, a folder of a training set
and a key of ``encoder.sensors``. No torch and no GDAL here.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SensorSpec:
    """The input an encoder expects of one sensor.

    Args:
        bands: ESA band names in the order the first layer was trained on.
        unit: ``reflectance`` (0 to 1), ``dB`` or ``m``.
        level: Processing level, e.g. ``L2A`` or ``GRD sigma0``.
        mean: Per band, in ``unit``, frozen at training time.
        std: Per band, in ``unit``, all positive.
        optional: Bands that images may lack, since the encoder was trained without them at times: NaN then.
    """

    bands: tuple[str, ...]
    unit: str
    level: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    optional: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that statistics and bands match."""
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(f"{len(self.bands)} bands, {len(self.mean)} means, {len(self.std)} stds; need one each")
        if not all(isinstance(band, str) for band in self.bands):
            raise ValueError(f"every band by its name, got {list(self.bands)}")
        if len(set(self.bands)) < len(self.bands):
            raise ValueError(f"every band once, got {', '.join(self.bands)}")
        if not all(math.isfinite(s) and s > 0 for s in self.std):
            raise ValueError(f"std must be positive for every band, got {list(self.std)}")
        if not all(math.isfinite(m) for m in self.mean):
            raise ValueError(f"mean must be a number for every band, got {list(self.mean)}")
        if not set(self.optional) < set(self.bands):
            raise ValueError(f"optional {', '.join(self.optional)} must be some of {', '.join(self.bands)}, not all")


@dataclass(frozen=True)
class QualityBand:
    """A band of bit flags that comes with the pixels.

    Args:
        name: Name of the band, or ending of its file's name.
        bits: Number of each bit, from 0, by what it says.
        unusable: The bits that make a pixel unusable.
        required: Whether a file without it deserves a warning.
    """

    name: str
    bits: Mapping[str, int]
    unusable: tuple[str, ...]
    required: bool = True

    @property
    def mask(self) -> int:
        """Bits that make a pixel unusable, as one number."""
        return sum(1 << self.bits[name] for name in self.unusable)


@dataclass(frozen=True)
class Product:
    """How the files of one product hold a sensor's numbers: value = number * gain + offset.

    Args:
        title: Name of the product, which is also its processing level.
        gain: Unit per number.
        offset: Value of the number 0; None = every file says so itself; for Sentinel-2
            ``geossl.data.sentinel.offset`` decides by processing baseline.
        dtype: Type of the stored numbers, by which products of one sensor are told apart where names do not.
        fill: Number that stands for no data in any band; None = only 0 in all bands does.
        quality: Bands of bit flags.
        files: Pattern of the names of its single-band files, with groups ``scene``, ``band`` and, where names hold one,
            ``date``.
        date: Form of the date in those names.
        mixed: Whether its files may differ in pixel size, have any prefix, and lie in folders of their sizes.
        beside: Pattern of the names of its other files, which are passed over.
    """

    title: str
    gain: float
    offset: float | None = 0.0
    dtype: str = "uint16"
    fill: float | None = None
    quality: tuple[QualityBand, ...] = ()
    files: str = ""
    date: str = "%Y%m%d"
    mixed: bool = False
    beside: str = ""


@dataclass(frozen=True)
class Sensor:
    """All there is to know of a sensor.

    Args:
        key: Its name in options, folders, cubes and recipes.
        title: Its name in messages.
        spec: Bands in the order of cubes and batches, unit, level, and the statistics an encoder takes by default.
        gsd_m: Ground sampling distance of the common grid in metres.
        flag: Its bit in the layer ``sensors`` of maps: a power of two, not 4.
        meaning: What that bit means, in one word.
        about: Address of its description.
        wavelengths_nm: Centre of each band in nanometres; empty where bands do not differ by wavelength.
        aliases: Other names of bands in files, in capitals, and the band they stand for.
        rgb: Bands shown as red, green and blue; a single one is shown in grey.
        white: Value shown as white.
        black: Value shown as black.
        products: How files hold numbers, most likely product first; empty = in ``spec.unit``.
        zero_is_fill: Whether a pixel of 0 in all bands has no data.
        paired: Sensor it is read together with where a training set has both.
    """

    key: str
    title: str
    spec: SensorSpec
    gsd_m: float
    flag: int
    meaning: str
    about: str
    wavelengths_nm: tuple[float, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    rgb: tuple[str, ...] = ()
    white: float = 1.0
    black: float = 0.0
    products: tuple[Product, ...] = ()
    zero_is_fill: bool = True
    paired: str | None = None

    def __post_init__(self) -> None:
        """Check that the entry is whole."""
        if self.flag.bit_count() != 1 or self.flag == JOINT_FLAG or self.flag > 128:
            raise ValueError(f"flag {self.flag} of {self.key} is not a free bit of 8; use 8, 16, 32, 64 or 128")
        unknown = {*self.rgb, *self.aliases.values()} - {*self.bands}
        if unknown or len(self.wavelengths_nm) not in (0, len(self.bands)):
            raise ValueError(f"sensor {self.key} speaks of bands it does not have: {', '.join(sorted(unknown))}")
        if small := [band for band in self.bands if band != band.upper()]:
            capital = small[0].upper()
            raise ValueError(f"band {small[0]} of {self.key}: names in files are read in capitals; use {capital}")

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in their order."""
        return self.spec.bands

    @property
    def unit(self) -> str:
        """Physical unit of its values."""
        return self.spec.unit

    @property
    def is_radar(self) -> bool:
        """Whether its values are backscatter."""
        return self.unit == "dB"

    @property
    def formula(self) -> str:
        """How stored numbers become its unit, in words."""
        if not self.products:
            return self.unit
        product = self.products[0]
        if product.offset is None:
            return "(number + offset) / 10000, with offset -1000 from processing baseline 04.00 on"
        return f"number x {product.gain:g} {product.offset:+g}"

    def band(self, name: str) -> str:
        """The band that a name in a file stands for; the name itself if it is not an alias."""
        return self.aliases.get(name, name)

    def product_of(self, file: str) -> tuple[Product, re.Match[str]] | None:
        """The product a single-band file belongs to, and what its name says; None if it is not such a file."""
        for product in self.products:
            if product.files and (found := re.fullmatch(product.files, file, re.IGNORECASE)):
                return product, found
        return None


JOINT_FLAG = 4  # of the layer "sensors": the embedding is the joint encoder's
S1_BANDS = ("VV", "VH")
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
S2_NAMES = (  # of STAC's assets, in the order of the bands
    "COASTAL", "BLUE", "GREEN", "RED", "REDEDGE1", "REDEDGE2", "REDEDGE3", "NIR", "NIR08", "NIR09", "SWIR16", "SWIR22",
)  # fmt: skip

S1 = SensorSpec(S1_BANDS, "dB", "GRD sigma0 or gamma0", (-12.548, -20.192), (5.257, 5.912))
S2 = SensorSpec(  # SSL4EO-S12 L2A statistics, reflectance
    S2_BANDS,
    "reflectance",
    "L2A",
    (0.07524, 0.08843, 0.114416, 0.129747, 0.162491, 0.219464,
     0.242221, 0.251776, 0.258165, 0.264552, 0.236851, 0.180507),
    (0.110803, 0.115515, 0.118363, 0.136811, 0.137027, 0.135555,
     0.141651, 0.147479, 0.143931, 0.158228, 0.145552, 0.134348),
)  # fmt: skip
RGB = SensorSpec(("R", "G", "B"), "0..1", "8 bit", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet

LANDSAT_LIKE = ("B01", "B02", "B03", "B04", "B8A", "B11", "B12")  # Sentinel-2 bands at OLI's wavelengths
LANDSAT_BANDS = ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7")
LANDSAT = SensorSpec(  # not measured on Landsat: statistics of the Sentinel-2 bands of nearest wavelength
    LANDSAT_BANDS,
    "reflectance",
    "C2 L2SP",
    tuple(S2.mean[S2_BANDS.index(band)] for band in LANDSAT_LIKE),
    tuple(S2.std[S2_BANDS.index(band)] for band in LANDSAT_LIKE),
)
LANDSAT_NAMES = ("COASTAL", "BLUE", "GREEN", "RED", "NIR08", "SWIR16", "SWIR22")  # of STAC's eo extension

QA_PIXEL = QualityBand(  # USGS LSDS-1619, Landsat 8-9 Collection 2 Level 2 Science Product Guide
    "QA_PIXEL",
    {"fill": 0, "dilated_cloud": 1, "cirrus": 2, "cloud": 3, "shadow": 4, "snow": 5, "clear": 6, "water": 7},
    ("fill", "dilated_cloud", "cirrus", "cloud", "shadow", "snow"),
)
QA_RADSAT = QualityBand(  # the same guide
    "QA_RADSAT",
    {**{f"SR_B{n}": n - 1 for n in range(1, 8)}, "terrain_occlusion": 11},
    (*LANDSAT_BANDS, "terrain_occlusion"),
    required=False,
)
FMASK = QualityBand(  # HLS v2.0 User Guide
    "FMASK",
    {"cloud": 1, "adjacent": 2, "shadow": 3, "snow": 4, "water": 5},
    ("cloud", "adjacent", "shadow", "snow"),
)

SENSORS: dict[str, Sensor] = {  # in the order of cubes, and of a map's flags
    "s1": Sensor(
        "s1",
        "Sentinel-1",
        S1,
        gsd_m=10.0,
        flag=1,
        meaning="radar",
        about="https://sentiwiki.copernicus.eu/web/sentinel-1",
        rgb=("VV",),
        black=-25.0,
        white=0.0,
        products=(Product("GRD", gain=1.0, files=r"(?P<scene>(?:.*[_.-])?)(?P<band>VV|VH)\.tiff?", mixed=True),),
        paired="s2",
    ),
    "s2": Sensor(
        "s2",
        "Sentinel-2",
        S2,
        gsd_m=10.0,
        flag=2,
        meaning="optical",
        about="https://sentiwiki.copernicus.eu/web/sentinel-2",
        wavelengths_nm=(442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1613.7, 2202.4),
        aliases=dict(zip(S2_NAMES, S2_BANDS, strict=True))
        | {"NIR8A": "B8A"}
        | {"REDEDGE071": "B05", "REDEDGE075": "B06", "REDEDGE078": "B07"},  # of STAC's eo extension 2
        rgb=("B04", "B03", "B02"),
        white=0.3,
        products=(
            Product(
                "L2A",
                gain=1e-4,
                offset=None,
                files=r"(?P<scene>(?:.*[_.-])?)(?P<band>B(?:0[1-9]|1[0-2]|8A))(?:_(?P<gsd>[126]0)m)?\.(?:jp2|tiff?)",
                mixed=True,
                beside=r"(?:.*[_.-])?(?:TCI|AOT|WVP|SCL|CLD|SNW|PVI|visual|preview)(?:_[126]0m)?\.(?:jp2|tiff?)",
            ),
        ),
        paired="s1",
    ),
    "landsat": Sensor(
        "landsat",
        "Landsat 8/9",
        LANDSAT,
        gsd_m=30.0,
        flag=8,
        meaning="landsat",
        about="https://www.usgs.gov/landsat-missions/landsat-collection-2-level-2-science-products",
        wavelengths_nm=(443.0, 482.0, 561.5, 654.5, 865.0, 1608.5, 2200.5),
        aliases={
            **{f"B0{n}": f"SR_B{n}" for n in range(1, 8)},
            **dict(zip(LANDSAT_NAMES, LANDSAT_BANDS, strict=True)),
        },
        rgb=("SR_B4", "SR_B3", "SR_B2"),
        white=0.3,
        products=(
            Product(
                "C2 L2",
                gain=0.0000275,
                offset=-0.2,
                fill=0.0,
                quality=(QA_PIXEL, QA_RADSAT),
                files=r"(?P<scene>L[CO]0[89]_L2S[PR]_\d{6}_(?P<date>\d{8})_\d{8}_02_\w\w)_(?P<band>\w+)\.TIFF?",
            ),
            Product(
                "HLS L30",
                gain=0.0001,
                dtype="int16",
                fill=-9999.0,
                quality=(FMASK,),
                files=r"(?P<scene>HLS\.L30\.T\w{5}\.(?P<date>\d{7})T\d{6}\.v\d\.\d)\.(?P<band>\w+)\.TIFF?",
                date="%Y%j",
            ),
        ),
    ),
}


PAIR = tuple(key for key, sensor in SENSORS.items() if sensor.paired)  # what CROMA and the bundled scenes have
RADAR, OPTICAL = PAIR


def by_sensor(names: Sequence[str]) -> dict[str, list[str]]:
    """Bands of images that hold several sensors, in their order: those of radar by name, all others are optical.

    Of images that have bands of radar, what is neither, such as their ratio, is left out.
    """
    radar, optical = SENSORS[RADAR].bands, (*SENSORS[OPTICAL].bands, "B10")
    has_radar = any(name in radar for name in names)
    others = [name for name in names if name not in radar and (name in optical or not has_radar)]
    return {RADAR: [name for name in names if name in radar], OPTICAL: others}


def with_partners(names: Iterable[str]) -> tuple[str, ...]:
    """Sensors and those they are read together with, in the order of ``SENSORS``."""
    wanted = set(names)
    wanted |= {partner for name in wanted if (partner := SENSORS[name].paired)}
    return tuple(key for key in SENSORS if key in wanted)


def batch_spec(name: str) -> SensorSpec | None:
    """Bands of a training batch, in their order; None for images whose bands have numbers only."""
    return SENSORS[name].spec if name in SENSORS else {"rgb": RGB}.get(name)


def numbered_bands(count: int) -> SensorSpec:
    """Bands that have no names, only numbers from 1; their unit is that of the file, their statistics to be measured.

    The sensor of such images is called ``bands``.
    """
    return SensorSpec(
        tuple(str(i + 1) for i in range(count)), "as stored", "not stated", (0.0,) * count, (1.0,) * count
    )
