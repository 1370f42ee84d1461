"""``geossl view``: ``server`` answers a browser on this machine, ``session`` holds what it shows."""
