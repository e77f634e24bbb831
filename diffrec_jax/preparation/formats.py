"""The formats of logs: the reader of each and, where they are always the same, its columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from diffrec_jax.preparation.batches import Batch, Columns
from diffrec_jax.preparation.text_readers import read_delimited, read_json_lines, read_lightgcn, read_lists
from diffrec_jax.preparation.typed_readers import read_parquet, read_scipy

_REVIEW = Columns("user", "item", "rating", "time")
_RATINGS = partial(read_delimited, names=("user", "item", "rating", "time"), quotes=False)


@dataclass(frozen=True)
class Format:
    """A kind of log: its reader and, where they are always the same, its columns."""

    read: Callable[[Path, Columns], Iterator[Batch]]
    columns: Columns | None
    """None: named by the user."""
    is_split: bool = False
    help: str = ""


def _recbole_name(name: str) -> str:
    return name.partition(":")[0]


FORMATS: dict[str, Format] = {
    "csv": Format(read_delimited, None, help="columns divided by commas, named in the first line"),
    "tsv": Format(partial(read_delimited, separator="\t"), None, help="the same, divided by tabs"),
    "json-lines": Format(read_json_lines, None, help="a JSON object a line"),
    "parquet": Format(read_parquet, None, help="a file, or a folder of files"),
    "ml-100k": Format(partial(_RATINGS, separator="\t"), _REVIEW, help="MovieLens u.data"),
    "ml-1m": Format(partial(_RATINGS, separator="::"), _REVIEW, help="MovieLens ratings.dat"),
    "ml-20m": Format(
        read_delimited,
        Columns("userId", "movieId", "rating", "timestamp"),
        help="MovieLens ratings.csv, all newer sets",
    ),
    "amazon-reviews": Format(
        read_json_lines, Columns("reviewerID", "asin", "overall", "unixReviewTime"), help="Amazon reviews, JSON lines"
    ),
    "amazon-ratings": Format(_RATINGS, _REVIEW, help="Amazon ratings only, CSV without a header"),
    "yelp": Format(read_json_lines, Columns("user_id", "business_id", "stars", "date"), help="Yelp review.json"),
    "recbole": Format(
        partial(read_delimited, separator="\t", quotes=False, optional=("rating", "time"), rename=_recbole_name),
        Columns("user_id", "item_id", "rating", "timestamp"),
        help="RecBole .inter",
    ),
    "lightgcn": Format(read_lightgcn, Columns(), is_split=True, help="folder with train.txt and test.txt"),
    "sequences": Format(read_lists, Columns(), help="lines `user item item ...` in time order"),
    "scipy": Format(read_scipy, Columns(), help="sparse matrix [users, items] of scipy.sparse.save_npz"),
}
FormatName = Literal[
    "csv", "tsv", "json-lines", "parquet", "ml-100k", "ml-1m", "ml-20m", "amazon-reviews", "amazon-ratings", "yelp",
    "recbole", "lightgcn", "sequences", "scipy",
]  # fmt: skip
assert get_args(FormatName) == tuple(FORMATS)
