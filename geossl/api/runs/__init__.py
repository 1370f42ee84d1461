"""From a recipe to data and method: where the layers of a method meet."""
