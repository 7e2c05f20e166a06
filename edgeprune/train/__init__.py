"""What is learned: BAViT's background classifier, detectors that do without the background, and the embedded model."""
