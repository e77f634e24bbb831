"""The host side: reading, checking, making and batching interactions. NumPy and SciPy only."""

from diffrec_jax.data.batching import RowBatch, make_row_batch, steps_per_epoch, training_user_ids
from diffrec_jax.data.clustering import EMBEDDING_GROUPINGS, GroupingMethod, group_items
from diffrec_jax.data.embeddings import normalised_interactions, read_item_embeddings, svd_item_embeddings
from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.logs import from_interactions
from diffrec_jax.data.matrices import DataError, append_rows, csr_from_pairs, item_counts, item_shares
from diffrec_jax.data.noise import add_random_noise
from diffrec_jax.data.official import find_dataset_folder, read_official
from diffrec_jax.data.recency import NO_RECENCY, NO_WEIGHTING, RECENCY_FORMS, Recency, RowWeighting, parse_recency
from diffrec_jax.data.splits import hold_out_users, split_by_time, split_dataset
from diffrec_jax.data.synthetic import NAMED_SPECS, SyntheticSpec, make_synthetic

__all__ = [
    "EMBEDDING_GROUPINGS",
    "NAMED_SPECS",
    "NO_RECENCY",
    "NO_WEIGHTING",
    "RECENCY_FORMS",
    "DataError",
    "Dataset",
    "GroupingMethod",
    "Recency",
    "RowBatch",
    "RowWeighting",
    "SyntheticSpec",
    "add_random_noise",
    "append_rows",
    "csr_from_pairs",
    "find_dataset_folder",
    "from_interactions",
    "group_items",
    "hold_out_users",
    "item_counts",
    "item_shares",
    "make_row_batch",
    "make_synthetic",
    "normalised_interactions",
    "parse_recency",
    "read_item_embeddings",
    "read_official",
    "split_by_time",
    "split_dataset",
    "steps_per_epoch",
    "svd_item_embeddings",
    "training_user_ids",
]
