"""Raster files of any sensor in ``geossl.sensors``: which bands, which unit, which offset, on any grid.

``inspection`` looks at what a user names, ``bands`` and ``band_names`` say which band is which, ``offset`` decides on
the 1000 of baseline 04.00, ``raster_file`` reads one file and ``rasters`` many as one source; ``batches`` cuts chips.
"""
