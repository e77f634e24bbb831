"""What a study is: variants of models to train, on which data, and what is claimed of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

CLEAN, NOISY, ML_100K, RATED = "ml-1m clean", "ml-1m noisy", "ml-100k", "ml-100k ratings"
SEQUENCES = ("beauty", "toys", "yelp")
"""Files of a line for each user, items in the order of time."""
QUICK = "synthetic"
BOTH = CLEAN, NOISY
NOISE_RATES = {f"{rate:.0%} random": rate for rate in (0.1, 0.2, 0.3, 0.4, 0.5)}
MOST_NOISE = "50% random"
THREE_SEEDS, FIVE_SEEDS = (1, 2, 3), (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Data:
    """A dataset that studies are done on."""

    flags: tuple[str, ...]
    """Of experiments.train."""
    prepared_by: str = ""
    """The command that makes it, after ``experiments.prepare``."""


DATA = {
    CLEAN: Data(("--dataset=ml-1m",)),
    NOISY: Data(("--dataset=ml-1m", "--setting=noisy")),
    **{name: Data(("--dataset=ml-1m", f"--random_noise={rate}")) for name, rate in NOISE_RATES.items()},
    ML_100K: Data(("--dataset=ml-100k",), "--name=ml-100k --download"),
    RATED: Data(
        ("--dataset=ml-100k-ratings", "--ratings", "--min_relevant_rating=4"),
        "--name=ml-100k-ratings --raw=u.data --format=ml-100k --user_core=5 --item_core=5",
    ),
    **{
        f"{name} last items": Data(
            (f"--dataset={name}-loo", "--test_with_valid_input"),
            f"--name={name}-loo --raw={name}.txt --format=sequences --split=leave_one_out",
        )
        for name in SEQUENCES
    },
    **{
        f"{name} 8:1:1": Data(
            (f"--dataset={name}-811",), f"--name={name}-811 --raw={name}.txt --format=sequences --ratios=8:1:1"
        )
        for name in SEQUENCES
    },
    QUICK: Data(
        ("--dataset=synthetic", "--synthetic_users=200", "--synthetic_items=120", "--synthetic_interactions=5000"),
    ),
}


@dataclass(frozen=True)
class Claim:
    """Something to confirm, as two variants of a study to compare.

    Confirmed if ``better`` is significantly above ``worse`` in the test metric, over users and seeds, after Holm's
    correction for all such claims of a table; with ``at_least`` if it is hardly below, whatever the draw of users and
    seeds. Of a cost, if it is smaller with every seed.
    """

    text: str
    better: str
    worse: str
    metric: str = "recall@20"
    at_least: bool = False
    data: str = CLEAN
    since: str | None = None
    """A dataset: the claim is about what the metric changes by, from there to ``data``."""


@dataclass(frozen=True)
class Study:
    """One question, answered by training variants of models over seeds on some data."""

    name: str
    title: str
    question: str
    variants: Mapping[str, tuple[str, ...]]
    """Flags of experiments.train, by the name that tables and plots show; ``{seed}`` in one is the run's."""
    against: str
    """The variant that the others are compared with."""
    data: tuple[str, ...] = (CLEAN,)
    seeds: tuple[int, ...] = THREE_SEEDS
    axis: str | None = None
    """What the variants are values of; None where they are no points on a line."""
    data_axis: str | None = None
    """What the datasets are values of; None where they are no points on a line."""
    costs: tuple[str, ...] = ("best epoch",)
    """Shown beside accuracy: names of ``measured.COSTS``."""
    claims: tuple[Claim, ...] = ()
    is_open: bool = False
    """Whether the paper leaves the question open: its claims are ours."""
    quick: tuple[str, ...] = ()
    """Variants of ``--quick``; the first two by default."""
    protocols: bool = False
    """Whether its first seed is measured by other protocols, too."""
    published: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    """By dataset and label: figures from elsewhere, of ``PUBLISHED_METRICS``, that stand beside ours."""


def points(flag: str, *values: str | float, of: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """A variant for each value of a flag, beside the flags ``of`` all."""
    return {f"{value}": (*of, f"--{flag}={value}") for value in values}


ALSO_ON = {NOISY: "with natural noise", ML_100K: "on ML-100K, where nothing is tuned"}
"""How claims name data other than the first."""


def also_on(*claims: Claim, data: tuple[str, ...] = (NOISY,)) -> tuple[Claim, ...]:
    """Claims, and the same on other data."""
    others = (replace(claim, text=f"{claim.text}, {ALSO_ON[name]}", data=name) for name in data for claim in claims)
    return *claims, *others
