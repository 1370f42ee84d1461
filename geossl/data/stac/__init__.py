"""Scenes of catalogues: ``search`` lists items, ``scenes`` decides all about one, ``ranking`` chooses.

``composite`` reads the chosen scenes (``read_scene`` a single one) and checks their numbers, ``remote`` reads bands
over the network. ``hrefs`` says what may be opened; ``elsewhere`` finds an acquisition in another catalogue.
"""
