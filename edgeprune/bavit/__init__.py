"""BAViT: a classifier that tells foreground patches from background, trained, and judged in front of a detector."""
