"""The studies of the paper (arXiv:2304.04971) and of what it leaves open: what is trained, and what is claimed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from diffrec_jax.registry import MODELS

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
    """Flags of experiments.train, by the name that tables and plots show."""
    against: str
    """The variant that the others are compared with."""
    data: tuple[str, ...] = (CLEAN,)
    seeds: tuple[int, ...] = THREE_SEEDS
    axis: str | None = None
    """What the variants are values of; None where they are no points on a line."""
    data_axis: str | None = None
    """What the datasets are values of; None where they are no points on a line."""
    costs: tuple[str, ...] = ("best epoch",)
    """Shown beside accuracy: names of ``findings.COSTS``."""
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


def also_noisy(*claims: Claim) -> tuple[Claim, ...]:
    """Claims, and the same with natural noise."""
    return *claims, *(replace(claim, text=f"{claim.text}, with natural noise", data=NOISY) for claim in claims)


PLAIN, T_PLAIN, LT_PLAIN = ((f"--model={name}", "--preset=plain") for name in ("diffrec", "t_diffrec", "lt_diffrec"))
L_RELEASED = ("--model=l_diffrec", "--preset=released")
"""The paper's models: networks alone, with our settings, and the trained autoencoders as released."""
RELEASED_EMBEDDINGS = "--item_embeddings=item_emb.npy"
"""Of the authors' LightGCN, a file beside their splits: what their L-DiffRec groups items by."""
TITLES = {family.title: (f"--model={name}",) for name, family in MODELS.items() if not family.needs_ratings}
OF_RATINGS = ("--model=diffrec", "--lr=1e-3", "--batch_size=100", "--epochs=100", "--eval_every=5", "--patience=20")
OF_RESIDUALS = (
    *OF_RATINGS, "--row_values=residuals", "--metric=rmse", "--dims=50", "--dropout=0.8",
    "--unobserved_error_weight=0.1", "--observed_error_weight=0",
)  # fmt: skip

OF_SEQUENCES = (
    "--embedding_size=128", "--num_heads=2", "--max_length=50", "--dropout=0.5", "--num_negatives=2048",
    "--batch_size=128", "--lr=1e-3", "--weight_decay=0.5", "--ema_decay=0.998", "--future_horizon=0",
    "--epochs=60", "--eval_every=5", "--patience=10", "--metric=ndcg@10",
)  # fmt: skip
"""Chosen on the validation of Beauty."""

NOT_DIFFUSING = "CDAE", "MultiVAE", "LightGCN"
"""Models of the paper's comparison that are tested with random noise."""
NUM_STEPS = 2, 5, 10, 40, 100
NO_MORE_STEPS = Claim("Beyond some T, more steps do not help: 10 against 100", "10", "100", at_least=True)
PUBLISHED_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")

STUDIES = (
    Study(
        "models",
        "All models",
        "How accurate are the models, and what do they cost?",
        TITLES,
        against="SASRec",
        data=(CLEAN, NOISY, ML_100K),
        seeds=FIVE_SEEDS,
        costs=("best epoch", "training s", "s / 1,000 users", "parameters", "peak GiB"),
        claims=also_noisy(
            *(
                Claim(f"DiffRec is more accurate than {other}", "DiffRec", other)
                for other in ("MF", "LightGCN", "CDAE", "MultiDAE", "MultiVAE")
            ),
            Claim("L-DiffRec is about as accurate as DiffRec", "L-DiffRec", "DiffRec", at_least=True),
            Claim("T-DiffRec, with recency weights, is more accurate than DiffRec", "T-DiffRec", "DiffRec"),
            Claim("LT-DiffRec, with recency weights, is more accurate than L-DiffRec", "LT-DiffRec", "L-DiffRec"),
        ),
        quick=("DiffRec", "L-DiffRec", "EASE", "Popularity"),
        protocols=True,
    ),
    Study(
        "time-free",
        "Without time",
        "Which model is the most accurate of those that do not know when an item was added?",
        {title: TITLES[title] for title in ("GiffCF", "FlowCF", "L-DiffRec", "DiffRec", "EASE")},
        against="L-DiffRec",
        data=BOTH,
        seeds=FIVE_SEEDS,
        costs=("best epoch", "training s", "parameters"),
        published={
            CLEAN: {
                "GiffCF, its newest checkpoint": (0.1166, 0.1977, 0.1002, 0.1272),
                "GiffCF, its paper's checkpoint": (0.1108, 0.1901, 0.0962, 0.1221),
            },
        },
    ),
    Study(
        "sequences",
        "Short sequences",
        "Which model predicts the next item best where users have few items? All items are ranked but those that the "
        "user has already. Of the last item of each user recall@10 is HR@10; 8:1:1 splits each user's items by time.",
        {
            "S-DiffRec": (
                "--model=s_diffrec", *OF_SEQUENCES, "--num_timesteps=0", "--linear_weight=0.8",
                "--linear_neighbors=256", "--linear_horizon=3", "--linear_l2=100", "--linear_scales=1,5",
            ),
            "SASRec": ("--model=sasrec", *OF_SEQUENCES),
            "WindowRidge": ("--model=window_ridge", "--num_neighbors=256", "--l2=100", "--scales=1,5"),
            "Popularity": ("--model=popularity",),
        },
        against="SASRec",
        data=tuple(f"{name} {split}" for split in ("last items", "8:1:1") for name in SEQUENCES),
        seeds=FIVE_SEEDS,
        costs=("best epoch", "training s", "parameters"),
        quick=("SASRec", "Popularity"),
    ),
    Study(
        "published",
        "Beside the published checkpoints",
        "Do the released settings, trained here, reach the figures of the released checkpoints, and do ours?",
        {
            "DiffRec (tuned)": ("--model=diffrec",),
            "DiffRec (released settings)": ("--model=diffrec", "--preset=released"),
            "L-DiffRec (tuned)": ("--model=l_diffrec",),
            "L-DiffRec (released settings)": (*L_RELEASED, RELEASED_EMBEDDINGS),
        },
        against="DiffRec (released settings)",
        data=BOTH,
        seeds=FIVE_SEEDS,
        costs=("best epoch", "parameters"),
        claims=also_noisy(
            Claim(
                "As released, L-DiffRec has fewer parameters than DiffRec",
                "L-DiffRec (released settings)", "DiffRec (released settings)", metric="parameters",
            ),
            Claim(
                "As released, L-DiffRec is about as accurate as DiffRec",
                "L-DiffRec (released settings)", "DiffRec (released settings)", at_least=True,
            ),
        ),
        published={
            CLEAN: {
                "DiffRec, published checkpoint": (0.1058, 0.1787, 0.0901, 0.1148),
                "L-DiffRec, published checkpoint": (0.1060, 0.1809, 0.0868, 0.1122),
            },
            NOISY: {
                "DiffRec, published checkpoint": (0.0658, 0.1236, 0.0488, 0.0703),
                "L-DiffRec, published checkpoint": (0.0665, 0.1272, 0.0493, 0.0710),
            },
        },
    ),
    Study(
        "random-noise",
        "Random noise",
        "How much accuracy is lost when random items are added to the rows? Presets of the clean data.",
        {title: TITLES[title] for title in ("DiffRec", "L-DiffRec", "EASE", "MultiVAE", "CDAE", "LightGCN")},
        against="DiffRec",
        data=(CLEAN, *NOISE_RATES),
        data_axis="random items for each interaction",
        claims=tuple(
            Claim(f"With {data} items DiffRec is more accurate than {other}", "DiffRec", other, data=data)
            for data in ("10% random", "30% random", MOST_NOISE)
            for other in NOT_DIFFUSING
        )
        + tuple(
            Claim(f"DiffRec loses less than {one} by 50% random items", "DiffRec", one, data=MOST_NOISE, since=CLEAN)
            for one in NOT_DIFFUSING
        ),
        quick=("DiffRec", "EASE"),
    ),
    Study(
        "l-and-t",
        "Latent space and recency, apart",
        "What do the latent space (L) and the recency weights (T) do, each without our linear part? DiffRec and "
        "L-DiffRec have the settings of T-DiffRec and LT-DiffRec, but for the weights.",
        {
            "DiffRec": (*T_PLAIN, "--infer_recency=none"),
            "T-DiffRec": T_PLAIN,
            "L-DiffRec": (*LT_PLAIN, "--infer_recency=none"),
            "LT-DiffRec": LT_PLAIN,
        },
        against="DiffRec",
        data=BOTH,
        costs=("best epoch", "parameters", "s / epoch", "peak GiB"),
        claims=also_noisy(
            Claim("The network alone gains by recency weights", "T-DiffRec", "DiffRec"),
            Claim("The latent network alone gains by recency weights", "LT-DiffRec", "L-DiffRec"),
        ),
    ),
    Study(
        "timesteps",
        "Importance sampling of timesteps",
        "Does drawing t by its loss give steadier losses, earlier and better optima?",
        points("timestep_sampling", "importance", "uniform", of=PLAIN),
        against="uniform",
        data=BOTH,
        costs=("best epoch", "loss jitter"),
        claims=also_noisy(
            Claim("Importance sampling is more accurate than uniform sampling", "importance", "uniform"),
            Claim("Importance sampling makes the loss vary less", "importance", "uniform", metric="loss jitter"),
        ),
    ),
    Study(
        "noise-scale",
        "Scale of the noise",
        "How much noise is best? s = 0 is a denoising autoencoder: no diffusion, so T = 1.",
        {"0": (*PLAIN, "--noise_scale=0", "--steps=1")}
        | points("noise_scale", 0.0001, 0.001, 0.005, 0.05, 0.5, 2, of=PLAIN),
        against="0",
        data=BOTH,
        axis="s",
        # A little is what the split's preset has, which validation chose.
        claims=(
            Claim("A little noise (s = .005) is better than none", "0.005", "0"),
            Claim("Much noise (s = 2) is worse than a little", "0.005", "2"),
            Claim("A little noise (s = .5) is better than none, with natural noise", "0.5", "0", data=NOISY),
            Claim("Much noise (s = 2) is worse than a little, with natural noise", "0.5", "2", data=NOISY),
        ),
        quick=("0", "0.005"),
    ),
    Study(
        "steps",
        "Diffusion steps T",
        "How many steps are needed? Training stops after 60 epochs without a better one.",
        points("steps", *NUM_STEPS, of=(*PLAIN, "--patience=60")),
        against="10",
        axis="T",
        costs=("best epoch", "s / 1,000 users"),
        claims=(NO_MORE_STEPS,),
    ),
    Study(
        "steps-noisy",
        "Diffusion steps T, with natural noise",
        "How many steps are needed? All train for 300 epochs: on noisy rows a long chain first loses what it had "
        "learnt of popularity, and one that is stopped in that dip has its first epochs selected.",
        points("steps", *NUM_STEPS, of=(*PLAIN, "--patience=0", "--epochs=300", "--eval_every=10")),
        against="10",
        data=(NOISY,),
        axis="T",
        costs=("best epoch", "s / 1,000 users"),
        claims=also_noisy(NO_MORE_STEPS)[1:],
    ),
    Study(
        "inference-steps",
        "Noise at inference, T'",
        "Should the row be noised before the reverse steps, of which there are 10? The paper and its code say: hardly, "
        "T' = 0.",
        points("sampling_steps", 0, 1, 2, 5, 10, of=(*PLAIN, "--steps=10")),
        against="0",
        data=BOTH,
        axis="T'",
        claims=also_noisy(
            Claim("Inference without noise is at least as good as with all of it", "0", "10", at_least=True),
        ),
    ),
    Study(
        "recency",
        "Recency weights of T-DiffRec",
        "Which weights from w_min to 1, along a row in time order, in training and inference, as in the paper?",
        {
            f"{w_min}": ("--model=t_diffrec", "--preset=plain", f"--w_min={w_min}", "--w_max=1")
            for w_min in (0, 0.1, 0.3, 0.5, 1)
        },
        against="1",
        data=BOTH,
        axis="w_min",
        claims=also_noisy(Claim("Smaller weights of older items help: w_min .1 against 1", "0.1", "1")),
        quick=("0.1", "1"),
    ),
    Study(
        "recency-newest",
        "Recency weight of the newest item",
        "How far should the weights of T-DiffRec rise, from w_min = .1 for the oldest item of a row?",
        {
            f"{w_max}": ("--model=t_diffrec", "--preset=plain", "--w_min=0.1", f"--w_max={w_max}")
            for w_max in (0.2, 0.5, 1, 2, 5)
        },
        against="1",
        axis="w_max",
        quick=("0.2", "1"),
    ),
    Study(
        "time-embedding",
        "Size of the timestep embedding",
        "Does it matter?",
        points("emb_size", 2, 10, 50, of=PLAIN),
        against="10",
        data=BOTH,
        axis="size",
    ),
    Study(
        "hidden-size",
        "Hidden size",
        "How wide should the network be? One hidden layer.",
        points("dims", 50, 100, 200, 400, 1000, of=PLAIN),
        against="200",
        data=BOTH,
        axis="hidden units",
        costs=("best epoch", "parameters", "s / epoch"),
        quick=("50", "200"),
    ),
    Study(
        "clusters",
        "Item groups of L-DiffRec",
        "What do C groups of items cost and save?",
        {"1": (*L_RELEASED, "--num_groups=1")}
        | points("num_groups", *range(2, 9), of=(*L_RELEASED, RELEASED_EMBEDDINGS)),
        against="1",
        data=BOTH,
        axis="C",
        costs=("best epoch", "parameters", "s / epoch", "peak GiB"),
        claims=also_noisy(
            Claim("Two groups have fewer parameters than one", "2", "1", metric="parameters"),
            Claim("Two groups are about as accurate as one", "2", "1", at_least=True),
        ),
        quick=("1", "2"),
    ),
    Study(
        "prediction",
        "Predicting x_0 or the noise",
        "What should the network predict?",
        points("mean_type", "x0", "epsilon", of=PLAIN),
        against="x0",
        data=BOTH,
        claims=also_noisy(Claim("Predicting x_0 is better than predicting the noise", "x0", "epsilon")),
    ),
    Study(
        "reweight",
        "Weights of the loss",
        "Should the loss of step t be weighted by SNR(t-1) - SNR(t)?",
        {"weighted": (*PLAIN, "--reweight"), "not weighted": (*PLAIN, "--noreweight")},
        against="not weighted",
        data=BOTH,
    ),
    Study(
        "noise-law",
        "Other noise than Gaussian",
        "Left open by the paper: does another law of the noise serve better?",
        points("noise_law", "gaussian", "laplace", "student_t", "rademacher", of=PLAIN)
        | {"bernoulli": (*PLAIN, "--noise_law=bernoulli", "--noise_scale=10", "--nobeta_fixed")},
        against="gaussian",
        data=BOTH,
        claims=also_noisy(
            *(
                Claim(f"{name} noise is better than Gaussian noise", law, "gaussian")
                for law, name in {"laplace": "Laplace", "student_t": "Student's t", "bernoulli": "Bernoulli"}.items()
            )
        ),
        is_open=True,
    ),
    Study(
        "grouping",
        "How items are grouped",
        "Left open by the paper: are groups from a graph better than k-means on embeddings?",
        {
            "k-means (SVD)": (*L_RELEASED, "--item_embeddings=svd"),
            "k-means (LightGCN)": (*L_RELEASED, "--item_embeddings=lightgcn"),
            "k-means (released LightGCN)": (*L_RELEASED, RELEASED_EMBEDDINGS),
            "spherical k-means (SVD)": (*L_RELEASED, "--grouping=spherical_kmeans"),
            "spectral co-clustering": (*L_RELEASED, "--grouping=spectral"),
            "Leiden communities": (*L_RELEASED, "--grouping=leiden"),
            "popularity": (*L_RELEASED, "--grouping=popularity"),
            "random": (*L_RELEASED, "--grouping=random"),
        }
        # The run's seed leaves the groups as they are: how far two draws of them are apart is seen here alone.
        | {
            f"{label}, draw {seed + 1}": (*L_RELEASED, *flags, f"--groups_seed={seed}")
            for label, flags in {"k-means (SVD)": (), "random": ("--grouping=random",)}.items()
            for seed in (1, 2)
        },
        against="k-means (SVD)",
        data=BOTH,
        claims=also_noisy(
            Claim("Groups by k-means are better than random ones", "k-means (SVD)", "random"),
            Claim(
                "Communities of a graph are as good as k-means",
                "Leiden communities", "k-means (SVD)", at_least=True,
            ),
        ),
        is_open=True,
        quick=("k-means (SVD)", "random"),
    ),
    Study(
        "ratings",
        "Explicit feedback",
        "Left open by the paper: x_0 made of ratings. Does diffusion predict ratings, and does it rank by them? "
        "Items rated 4 or more are relevant; errors are of all ratings of the test.",
        {
            "DiffRec, ones": (*OF_RATINGS, "--dims=300"),
            "DiffRec, ratings": (*OF_RATINGS, "--dims=300", "--row_values=ratings"),
            "DiffRec, residuals": OF_RESIDUALS,
            "DiffRec, residuals, s = 0": (*OF_RESIDUALS, "--num_timesteps=1", "--noise_scale=0"),
            "DiffRec, residuals, rated items alone": (*OF_RESIDUALS, "--unobserved_error_weight=0"),
            "EASE, ones": ("--model=ease", "--l2=200"),
            "EASE, ratings": ("--model=ease", "--l2=100", "--row_values=ratings"),
            "EASE, residuals": ("--model=ease", "--l2=200", "--row_values=residuals"),
            "Biases": ("--model=biases",),
            "Global mean": ("--model=global_mean",),
        },
        against="DiffRec, ones",
        data=(RATED,),
        claims=(
            Claim(
                "Rows of ratings rank better than rows of ones",
                "DiffRec, ratings", "DiffRec, ones", data=RATED,
            ),
            Claim(
                "Diffusion of residuals predicts ratings better than biases",
                "DiffRec, residuals", "Biases", metric="rmse", data=RATED,
            ),
            Claim(
                "Diffusion of residuals predicts ratings better than EASE",
                "DiffRec, residuals", "EASE, residuals", metric="rmse", data=RATED,
            ),
            Claim(
                "Diffusion of residuals predicts ratings better than its network without diffusion",
                "DiffRec, residuals", "DiffRec, residuals, s = 0", metric="rmse", data=RATED,
            ),
        ),
        is_open=True,
        quick=("DiffRec, ones", "EASE, ones"),
    ),
)  # fmt: skip

NOT_TESTABLE = (
    ("The accuracy on Amazon-book and Yelp, of all four models", "the released splits of these two are not here"),
    ("L-DiffRec takes less memory than DiffRec", "at ML-1M's size most of a process's memory is that of its libraries"),
    ("Less memory and faster steps than MultiVAE at 100,000 items", "at ML-1M's size other things decide"),
    ("The figures of the authors' implementations of the comparators", "these are ours, tuned with our budget"),
)
"""Claims of the paper that the data here say nothing of, and why."""
