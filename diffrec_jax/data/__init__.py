"""The host side: reading, checking, making and batching interactions. NumPy and SciPy only."""

from diffrec_jax.data.batching import RowBatch, make_row_batch, steps_per_epoch, training_user_ids
from diffrec_jax.data.interactions import DataError, Dataset, append_rows, csr_from_pairs
from diffrec_jax.data.official import find_dataset_folder, read_official
from diffrec_jax.data.synthetic import NAMED_SPECS, SyntheticSpec, make_synthetic

__all__ = [
    "NAMED_SPECS",
    "DataError",
    "Dataset",
    "RowBatch",
    "SyntheticSpec",
    "append_rows",
    "csr_from_pairs",
    "find_dataset_folder",
    "make_row_batch",
    "make_synthetic",
    "read_official",
    "steps_per_epoch",
    "training_user_ids",
]
