"""What ``geobenchv2`` does not say of the sets of GEO-Bench 2, and why some of them are not read.

Simumba et al., GEO-Bench-2, arXiv:2511.15658. Layer orders, units and labels are those that the library's generating
scripts and statistics show; where its names contradict them, the names are wrong; see data_cards/geobench2.md.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from geossl.data.datasets.base import RGB_IMAGES, Bands
from geossl.sensors import S1_BANDS, S2_BANDS, SENSORS

RADAR_BANDS = Bands(S1_BANDS, SENSORS["s1"].unit, "GRD sigma0")
TEN = tuple(band for band in S2_BANDS if band not in ("B01", "B09"))
HLS = ("B02", "B03", "B04", "B8A", "B11", "B12")
COLOURS = ("red", "green", "blue")


class Layers(NamedTuple):
    """Layers of one sensor.

    Args:
        key: Its entry of the library's samples.
        modality: Its name where the library is asked for bands; empty = the set has one kind of image only.
        theirs: Bands as the library names them.
        bands: What they are, in the same order.
        scale: Numbers per unit.
        is_power: Whether numbers are linear backscatter, which become decibels.
    """

    key: str
    modality: str
    theirs: tuple[str, ...]
    bands: Bands
    scale: float = 1.0
    is_power: bool = False


class Source(NamedTuple):
    """A set.

    Args:
        kind: Its class in ``geobench_v2.datasets``.
        task: ``classify``, ``segment`` or ``regress``.
        layers: By our sensors.
        gsd_m: Ground sampling distance.
        options: For its class.
        first: Label in the library's masks of the first class; smaller ones are not labelled.
        classes: Number of classes used, where it is not all of the library's from ``first`` on.
        labels: Column with the labels of images.
        amount: Numbers of the library per unit of an amount.
        note: What a reader of scores should know.
    """

    kind: str
    task: str
    layers: Mapping[str, Layers]
    gsd_m: float
    options: Mapping[str, Any] = {}
    first: int = 0
    classes: int | None = None
    labels: str = "labels"
    amount: float = 1.0
    note: str = ""


def optical(key: str, modality: str, names: tuple[str, ...], scale: float = 10000.0, level: str = "L2A") -> Layers:
    """Sentinel-2's bands under their own names."""
    return Layers(key, modality, names, Bands(names, "reflectance", level), scale)


def colours(key: str, modality: str, theirs: tuple[str, ...] = COLOURS) -> Layers:
    """Red, green and blue in 8 bits."""
    return Layers(key, modality, theirs, RGB_IMAGES["rgb"], 255.0)


SETS: dict[str, Source] = {
    "benv2": Source(
        "GeoBenchBENV2",
        "classify",
        {"s1": Layers("image_s1", "s1", ("VH", "VV"), RADAR_BANDS), "s2": optical("image_s2", "s2", S2_BANDS)},
        10.0,
        note="its files hold VH before VV, which geobenchv2 names the other way round; geossl takes them as they are",
    ),
    "so2sat": Source(
        "GeoBenchSo2Sat",
        "classify",
        {"s2": optical("image_s2", "s2", TEN, 1.0, "not stated")},
        10.0,
        note="its radar is the real part of complex numbers, no backscatter, and is left out",
    ),
    "treesatai": Source(
        "GeoBenchTreeSatAI",
        "classify",
        {
            "rgb": colours("image_aerial", "aerial", ("nir", "green", "blue")),  # its first layer is near infrared
            "s1": Layers("image_s1", "s1", ("vv", "vh"), RADAR_BANDS),
            "s2": optical("image_s2", "s2", S2_BANDS),
        },
        10.0,
        labels="species_labels",
        note="radar and optical images are 6 x 6 px; use --image-px",
    ),
    "forestnet": Source("GeoBenchForestnet", "classify", {"rgb": colours("image", "", ("B04", "B03", "B02"))}, 15.0),
    "burn_scars": Source(
        "GeoBenchBurnScars", "segment", {"s2": optical("image", "", HLS, 1.0, "HLS")}, 30.0, classes=2
    ),
    "cloudsen12": Source("GeoBenchCloudSen12", "segment", {"s2": optical("image", "", S2_BANDS)}, 10.0),
    "fotw": Source(
        "GeoBenchFieldsOfTheWorld",
        "segment",
        {
            "s2": Layers(
                "image_a",
                "",
                (*COLOURS, "nir"),
                Bands(("B04", "B03", "B02", "B08"), "reflectance", "L2A"),
                10000.0,
            )
        },
        10.0,
        {"return_window": ("win_a",)},
        note="the first of its two dates is used",
    ),
    "kuro_siwo": Source(
        "GeoBenchKuroSiwo",
        "segment",
        {"s1": Layers("image_post", "sar", ("vv", "vh"), RADAR_BANDS, is_power=True)},
        10.0,
        {"time_step": ("post",)},
        first=1,
        note="the image after the flood is used, without the two before it",
    ),
    "pastis": Source(
        "GeoBenchPASTIS",
        "segment",
        {
            "s1": Layers("image_s1_asc", "s1_asc", ("VV_asc", "VH_asc"), RADAR_BANDS),
            "s2": optical("image_s2", "s2", TEN),
        },
        10.0,
        {"num_time_steps": 12, "temporal_aggregation": "median"},
        classes=19,  # the last is "void"
        note="images are the median of 12 dates, radar of ascending orbits",
    ),
    "flair2": Source("GeoBenchFLAIR2", "segment", {"rgb": colours("image_aerial", "aerial")}, 0.2),
    "spacenet7": Source("GeoBenchSpaceNet7", "segment", {"rgb": colours("image", "")}, 4.0, first=1),
    "biomassters": Source(
        "GeoBenchBioMassters",
        "regress",
        {
            "s1": Layers("image_s1", "s1", ("VV_asc", "VH_asc"), RADAR_BANDS),
            "s2": optical("image_s2", "s2", TEN),
        },
        10.0,
        amount=1 / 289.89,  # its statistics: t/ha of one unit
        note="the first of its twelve months is used, radar of ascending orbits",
    ),
}
BOXES = "it holds boxes around objects, and geossl scores classes and amounts"
REFUSED = {
    "caffe": "it has one grey band of several radars, which no encoder here takes",
    "dynamic_earthnet": "the order of its Sentinel-2 bands contradicts the statistics that geobenchv2 states for them",
    "everwatch": BOXES,
    "nzcattle": BOXES,
    "spacenet2": "its WorldView bands are stored numbers without a unit",
    "spacenet6": "its airborne radar has other bands than Sentinel-1",
    "spacenet8": "its classes are changes between two images",
    "substation": BOXES,
}
