"""From a log to a dataset folder that says how it was made: readers, steps over Narwhals frames, engines, writing.

``diffrec_jax.preparation.pipeline.prepare`` does it all; it needs the extra ``data``.
"""

from diffrec_jax.preparation.config import PrepareConfig
from diffrec_jax.preparation.formats import FORMATS

__all__ = ["FORMATS", "PrepareConfig"]
