"""What is done to a log to make a dataset."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from diffrec_jax.data.splits import SplitName, cumulated_shares
from diffrec_jax.preparation.batches import Columns
from diffrec_jax.preparation.formats import FORMATS, FormatName
from diffrec_jax.preparation.spool import OnBadLine
from diffrec_jax.settings import check_settings, seed_setting, setting

Kept = Literal["first", "last"]
Setting = Literal["clean", "noisy"]
MONOTONE: tuple[SplitName, ...] = ("by_time", "leave_one_out", "global_time", "users")
"""Splits that never put a user's earlier row behind a later one."""


@dataclass(frozen=True)
class PrepareConfig:
    """How a dataset is made of a log. A core of 1 and no ``min_rating`` keep everything.

    Raises:
      ValueError: a value is out of range, or settings contradict each other.
    """

    format: FormatName = setting("csv", "Kind of log.")
    user_col: str = setting("user", "Column of users, in formats without fixed names (csv, tsv, json-lines, parquet).")
    item_col: str = setting("item", "Column of items, likewise.")
    rating_col: str | None = setting(None, "Column of ratings, likewise; without it every row counts the same.")
    time_col: str | None = setting(None, "Column of times, numbers or dates; without it the order of the log is time.")
    on_bad_line: OnBadLine = setting("error", "Lines that are no interaction: an error, or left out and counted.")
    min_rating: float | None = setting(None, "Least rating that counts as an interaction; by default all do.")
    repeats: Kept = setting("first", "Which interaction of a user with the same item stays.")
    user_core: int = setting(1, "Least interactions of a user; applied with item_core until both hold.", at_least=1)
    item_core: int = setting(1, "Least users of an item.", at_least=1)
    split: SplitName = setting(
        "by_time",
        "by_time: each user's rows by time; leave_one_out: each user's newest to test, the one before to valid; "
        "global_time: before two points in time, between, after; random; users: whole users held out; given: as the "
        "log says (lightgcn).",
    )
    ratios: str = setting("7:1:2", "Of train, valid and test; two, such as 8:2, are train and test.")
    input_share: float = setting(
        0.8, "With split users: oldest share of a held-out user's rows that models see.", above=0, below=1
    )
    noise_rate: float = setting(
        0.0,
        "Noisy data: random items for each interaction of train and valid; 0: the ratings below min_rating.",
        at_least=0,
    )
    split_seed: int = seed_setting(0, "Of the random split, of the users held out and of random noise.")
    setting: Setting = setting(
        "clean", "clean, or noisy: train and valid get rows that are no preference, the test stays as it is."
    )

    def __post_init__(self) -> None:
        """Checks every value."""
        check_settings(self)
        cumulated_shares(self.parts)
        if self.has_low_ratings and self.min_rating is None:
            raise ValueError("noisy data are ratings below min_rating: give that, or a noise_rate of random items")
        if self.has_low_ratings and self.split not in MONOTONE:
            raise ValueError(f"low ratings are added by time: with split {self.split} give a noise_rate instead")
        if self.noise_rate and self.setting == "clean":
            raise ValueError("noise_rate is of noisy data: choose setting noisy too")
        if FORMATS[self.format].columns is not None:
            self._check_no_columns()
        if (self.split == "given") != FORMATS[self.format].is_split:
            said = "is split already: choose split given" if self.split != "given" else "is not split: choose a split"
            raise ValueError(f"a log of format {self.format} {said}")

    def _check_no_columns(self) -> None:
        for field in dataclasses.fields(self):
            if field.name.endswith("_col") and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"a log of format {self.format} has columns of its own: leave {field.name} out, or choose csv, "
                    "tsv, json-lines or parquet"
                )

    @property
    def parts(self) -> tuple[float, ...]:
        """The ratios as numbers."""
        try:
            return tuple(float(part) for part in self.ratios.split(":"))
        except ValueError:
            raise ValueError(f"ratios {self.ratios!r} are not understood: write 7:1:2 or 8:2") from None

    @property
    def has_low_ratings(self) -> bool:
        """Whether ratings below the threshold are added to train and valid."""
        return self.setting == "noisy" and not self.noise_rate

    @property
    def columns(self) -> Columns:
        """Names of the columns that are read."""
        fixed = FORMATS[self.format].columns
        return Columns(self.user_col, self.item_col, self.rating_col, self.time_col) if fixed is None else fixed
