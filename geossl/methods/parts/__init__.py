"""Parts of single methods that are long enough for a file of their own."""
