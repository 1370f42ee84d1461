"""Image series and video: ``stacks`` of GeoTIFFs, ``video`` files, SSL4EO seasons, and their ``batches``."""
