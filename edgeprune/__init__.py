"""edgeprune: token-pruned vision encoders for edge devices."""

__version__ = "0.2.0"
