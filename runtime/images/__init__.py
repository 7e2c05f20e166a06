"""From an image to what a graph is given: resize, crop, tiles."""
