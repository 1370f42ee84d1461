"""One architecture per file; ``ARCHITECTURES`` in ``geossl.models.files`` finds them."""
