"""``python -m geossl`` is the command line, where ``geossl`` itself is not on the path."""

from geossl.cli import main

if __name__ == "__main__":
    main()
