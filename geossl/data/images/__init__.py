"""Images without a place: RGB ``folders``, ``geotiffs`` of any bands, and their ``batches``."""
