"""Published JSON schemas, each at the path of its address, and validation with nothing else."""

import json
from importlib.resources import files
from pathlib import Path

from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing import Registry, Resource

HERE = Path(__file__).parent
GEOJSON = files("pystac.validation.jsonschemas") / "geojson"


def schema(url):
    path = url.removeprefix("https://").rstrip("#")
    source = GEOJSON / path.rsplit("/")[-1] if path.startswith("geojson.org/") else HERE / path
    return Resource.from_contents(json.loads(source.read_text()))


KNOWN = REGISTRY.combine(Registry(retrieve=schema))


def check(document, url):
    """Validate; a schema that is not here is an error, too."""
    contents = schema(url).contents
    validator_for(contents)(contents, registry=KNOWN).validate(document)
