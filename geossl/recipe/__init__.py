"""Recipes: one typed YAML page per run, with ``key=value`` overrides."""

from geossl.recipe.explaining import explain, summary
from geossl.recipe.loading import RECIPES, dump, find, load, names
from geossl.recipe.sections import Probe, Recipe, ScenesRecipe, Section

__all__ = [
    "RECIPES",
    "Probe",
    "Recipe",
    "ScenesRecipe",
    "Section",
    "dump",
    "explain",
    "find",
    "load",
    "names",
    "summary",
]
