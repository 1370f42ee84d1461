"""What ``terratorch fit --custom_modules_path`` imports: it registers the backbone ``geossl_encoder``."""

import geossl.integrations.terratorch  # noqa: F401
