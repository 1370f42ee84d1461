"""Maps: ``engine`` makes them, ``outputs`` writes what people use.

What is asked of a map is in ``at_points``, ``best_places`` and ``change``; ``series``, ``points`` and ``graphs`` embed
other data.
"""
