"""Files people use: ``cog`` writes any raster, ``raster`` a map, ``class_maps`` classes.

Tables, STAC, styles and pictures have files of their own; ``furniture`` is what every picture says of itself.
"""
