"""Graphs: ``files`` reads them, ``geometry`` and ``superpixels`` make them, ``batches`` cuts them."""
