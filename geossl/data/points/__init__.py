"""Point clouds: ``las`` reads scans, ``objects`` whole shapes, ``blocks`` cuts scans, ``batches`` draws."""
