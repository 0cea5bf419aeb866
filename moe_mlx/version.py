"""The version of moe-mlx, read by the build and by the manifest writer."""

__version__ = "0.1.0"
