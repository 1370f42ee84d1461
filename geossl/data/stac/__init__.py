"""Scenes of catalogues: ``search`` lists items, ``scenes`` decides all about one, ``ranking`` chooses.

``composite`` reads the chosen scenes onto a grid, ``remote`` their bands over the network; ``hrefs`` says what may be
opened, ``elsewhere`` finds the same acquisition in another catalogue.
"""
