"""What pruning costs in accuracy: annotated images, detections and how they are judged."""
