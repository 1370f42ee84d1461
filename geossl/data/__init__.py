"""Pixels, points, graphs and labels; nothing here knows an encoder.

``sentinel`` reads raster files of any sensor in ``geossl.sensors``, ``stac`` catalogues, ``datasets`` labelled sets for
evaluation, ``labels`` what a user knows of the ground, ``series``, ``images``, ``points``, ``graphs`` and ``synthetic``
what their names say. ``splits`` keeps neighbouring ground in one part; ``resampling`` puts pixels onto a grid.
"""
