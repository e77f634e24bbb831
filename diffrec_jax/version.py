"""The version of the project: part of what identifies a result."""

__version__ = "0.2.0"
