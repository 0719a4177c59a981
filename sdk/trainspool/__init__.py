"""trainspool: a flight recorder for ML training."""

__version__ = "0.1.0"
