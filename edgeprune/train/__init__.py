"""What is learned: BAViT's background classifier, and detectors that do without the background."""
