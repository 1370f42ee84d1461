"""Labelled data sets for ``geossl evaluate``: ``find`` finds one by name, folder or file.

The registry of names is ``DATASETS`` in ``torchgeo``; ``names`` has the line ``geossl list data`` prints for each.
"""
