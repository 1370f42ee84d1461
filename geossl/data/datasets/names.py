"""Labelled data sets known by name, a line each; no torch, so that they are listed at once."""

NAMES = {
    "bigearthnet": "BigEarthNet 1: 590 000 images of Europe, 19 land-cover labels each; Sentinel-1 and -2",
    "bigearthnet2": "BigEarthNet 2: 550 000 images of Europe, 19 land-cover labels each; Sentinel-1 and -2",
    "dfc2020": "DFC2020: 8 classes of land cover per pixel; Sentinel-1 and -2",
    "eurosat": "EuroSAT: 27 000 images, 10 classes; Sentinel-2",
    "eurosat100": "EuroSAT100: 100 images of EuroSAT, to try things out",
    "eurosat_spatial": "EuroSAT, split by longitude",
    "geobench:NAME": "GEO-Bench 1: m-eurosat, m-so2sat, m-cashew-plant and nine more; also NAME:PARTITION",
    "geobench2:NAME": "GEO-Bench 2: benv2, so2sat, cloudsen12, kuro_siwo, pastis, biomassters and six more",
    "sen12ms": "SEN12MS: land cover of 180 000 images; Sentinel-1 and -2",
    "so2sat": "So2Sat LCZ42: 400 000 images, 17 local climate zones; Sentinel-1 and -2",
    "sample": "the bundled scenes with their land cover",
}
