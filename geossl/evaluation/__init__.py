"""How good vectors are: probes, scores with intervals, baselines, and the page that shows them.

What runs them is ``geossl.api.evaluate``.
"""
