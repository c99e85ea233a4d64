"""rollbridge: zero-downtime deploys and process supervision from one file."""

__version__ = "0.1.0"
