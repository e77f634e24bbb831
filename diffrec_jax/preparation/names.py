"""Names of engines, known without any of their packages."""

from typing import Literal

EngineName = Literal["polars", "duckdb", "spark"]
