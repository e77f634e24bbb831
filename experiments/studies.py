"""The studies of the paper (arXiv:2304.04971) and of what it leaves open: what is trained, and what is claimed."""

from diffrec_jax.registry import MODELS

from .study import (
    BOTH,
    CLEAN,
    FIVE_SEEDS,
    ML_100K,
    MOST_NOISE,
    NOISE_RATES,
    NOISY,
    RATED,
    SEQUENCES,
    Claim,
    Study,
    also_on,
    points,
)

PLAIN, T_PLAIN, LT_PLAIN = ((f"--model={name}", "--preset=plain") for name in ("diffrec", "t_diffrec", "lt_diffrec"))
RELEASED = "--model=diffrec", "--preset=released"
L_RELEASED = "--model=l_diffrec", "--preset=released"
"""The paper's models: networks alone with our settings, and as released."""
L_DRAWN = *L_RELEASED, "--groups_seed={seed}"
"""With groups of items that each seed draws anew, as in the released code."""
PAPER_WEIGHTS, PAPER_SUFFIX = ("--w_min=0.1", "--w_max=1"), ", paper's weights"
"""Of the paper's T- and LT-DiffRec: along a row, in training and inference."""
MUCH_NOISE = ("--noise_scale=10",)
"""Variances of .05 to .1, for what noise of 1e-4 cannot tell apart."""
MUCH_NOISE_EVERYWHERE = *MUCH_NOISE, "--steps=5", "--sampling_steps=5"
"""At inference, too."""
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

AS_RELEASED, L_AS_RELEASED = "DiffRec (released settings)", "L-DiffRec (released settings)"
COMPARATORS = "MF", "LightGCN", "CDAE", "MultiDAE", "MultiDAE++", "MultiVAE"
"""Of the paper."""
NOT_DIFFUSING = "CDAE", "MultiVAE", "LightGCN"
"""Those that are trained with random noise."""
NUM_STEPS = 2, 5, 10, 40, 100
NO_MORE_STEPS = Claim("Beyond some T, more steps do not help: 10 against 100", "10", "100", at_least=True)
PUBLISHED_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")

STUDIES = (
    Study(
        "published",
        "As released",
        "Do the released settings, trained here, reach the figures of the published checkpoints, and are they ahead of "
        "the paper's comparators? The comparators, and ours beside them, have our presets, which validation chose.",
        {
            AS_RELEASED: RELEASED,
            L_AS_RELEASED: (*L_DRAWN, RELEASED_EMBEDDINGS),
            "DiffRec (ours)": TITLES["DiffRec"],
            "L-DiffRec (ours)": TITLES["L-DiffRec"],
        }
        | {title: TITLES[title] for title in COMPARATORS},
        against=AS_RELEASED,
        data=BOTH,
        seeds=FIVE_SEEDS,
        costs=("best epoch", "parameters"),
        claims=(
            *also_on(
                *(Claim(f"As released, DiffRec is more accurate than {one}", AS_RELEASED, one) for one in COMPARATORS),
                Claim(
                    "As released, L-DiffRec has fewer parameters than DiffRec",
                    L_AS_RELEASED, AS_RELEASED, metric="parameters",
                ),
                Claim(
                    "As released, L-DiffRec is about as accurate as DiffRec",
                    L_AS_RELEASED, AS_RELEASED, at_least=True,
                ),
            ),
            Claim(
                "As released, L-DiffRec is more accurate than DiffRec, with natural noise",
                L_AS_RELEASED, AS_RELEASED, data=NOISY,
            ),
        ),
        published={
            CLEAN: {
                "DiffRec, published checkpoint": (0.1058, 0.1787, 0.0901, 0.1148),
                "DiffRec, released code run again, one seed": (0.1007, 0.1697, 0.0862, 0.1094),
                "L-DiffRec, published checkpoint": (0.1060, 0.1809, 0.0868, 0.1122),
            },
            NOISY: {
                "DiffRec, published checkpoint": (0.0658, 0.1236, 0.0488, 0.0703),
                "DiffRec, released code run again, one seed": (0.0627, 0.1215, 0.0461, 0.0680),
                "L-DiffRec, published checkpoint": (0.0665, 0.1272, 0.0493, 0.0710),
            },
        },
    ),
    Study(
        "models",
        "All models",
        "How accurate are the models, and what do they cost? All have our presets. DiffRec and L-DiffRec start from a "
        "linear model in closed form there, and the recency weights of T- and LT-DiffRec are ours: exponential, and at "
        "inference alone. The paper's own settings are in the studies that follow.",
        TITLES,
        against="SASRec",
        data=(CLEAN, NOISY, ML_100K),
        seeds=FIVE_SEEDS,
        costs=("best epoch", "training s", "s / 1,000 users", "parameters", "peak GiB"),
        claims=also_on(
            *(Claim(f"Our DiffRec is more accurate than {other}", "DiffRec", other) for other in COMPARATORS),
            Claim("Our L-DiffRec is about as accurate as our DiffRec", "L-DiffRec", "DiffRec", at_least=True),
            Claim("Our T-DiffRec is more accurate than our DiffRec", "T-DiffRec", "DiffRec"),
            Claim("Our LT-DiffRec is more accurate than our L-DiffRec", "LT-DiffRec", "L-DiffRec"),
            data=(NOISY, ML_100K),
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
        "random-noise",
        "Random noise",
        "How much accuracy is lost when random items are added to the rows? Settings are those of the clean data.",
        {title: TITLES[title] for title in ("DiffRec", "L-DiffRec", "EASE", "MultiVAE", "CDAE", "LightGCN")}
        | {AS_RELEASED: RELEASED},
        against="DiffRec",
        data=(CLEAN, *NOISE_RATES),
        data_axis="random items for each interaction",
        claims=tuple(
            claim
            for named, variant in (("As released, DiffRec", AS_RELEASED), ("Our DiffRec", "DiffRec"))
            for claim in (
                *(
                    Claim(f"{named} is more accurate than {other} with {data} items", variant, other, data=data)
                    for data in ("10% random", "30% random", MOST_NOISE)
                    for other in NOT_DIFFUSING
                ),
                *(
                    Claim(
                        f"{named} loses less than {other} by 50% random items",
                        variant, other, data=MOST_NOISE, since=CLEAN,
                    )
                    for other in NOT_DIFFUSING
                ),
            )
        ),
        quick=("DiffRec", "EASE"),
    ),
    Study(
        "l-and-t",
        "Latent space and recency, apart",
        "What do the latent space (L) and the recency weights (T) do, each without our linear part? All have our "
        "settings. The paper's weights rise along a row from .1 to 1, in training and inference; ours are exponential, "
        "and at inference alone.",
        {
            "DiffRec": (*T_PLAIN, "--infer_recency=none"),
            "T-DiffRec": T_PLAIN,
            f"T-DiffRec{PAPER_SUFFIX}": (*T_PLAIN, *PAPER_WEIGHTS),
            "L-DiffRec": (*LT_PLAIN, "--infer_recency=none"),
            "LT-DiffRec": LT_PLAIN,
            f"LT-DiffRec{PAPER_SUFFIX}": (*LT_PLAIN, *PAPER_WEIGHTS),
        },
        against="DiffRec",
        data=BOTH,
        costs=("best epoch", "parameters", "s / epoch", "peak GiB"),
        claims=also_on(
            *(
                Claim(f"{name} is more accurate with {weights} recency weights", f"{variant}{suffix}", name)
                for weights, suffix in (("the paper's", PAPER_SUFFIX), ("our", ""))
                for name, variant in (("DiffRec", "T-DiffRec"), ("L-DiffRec", "LT-DiffRec"))
            )
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
        claims=also_on(
            Claim("Importance sampling is more accurate than uniform sampling", "importance", "uniform"),
            Claim("Importance sampling makes the loss vary less", "importance", "uniform", metric="loss jitter"),
            Claim("Importance sampling has its best epoch sooner", "importance", "uniform", metric="best epoch"),
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
        "How many steps are needed? All train for 300 epochs: on noisy rows the validation of a long chain rises "
        "slowly and unevenly, so that patience stops some runs too early.",
        points("steps", *NUM_STEPS, of=(*PLAIN, "--patience=0", "--epochs=300", "--eval_every=10")),
        against="10",
        data=(NOISY,),
        axis="T",
        costs=("best epoch", "s / 1,000 users"),
        claims=also_on(NO_MORE_STEPS)[1:],
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
        claims=also_on(
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
        "What do C groups of items cost and save? They are drawn once for all seeds.",
        {"1": (*L_RELEASED, "--num_groups=1")}
        | points("num_groups", *range(2, 9), of=(*L_RELEASED, RELEASED_EMBEDDINGS)),
        against="1",
        data=BOTH,
        axis="C",
        costs=("best epoch", "parameters", "s / epoch", "peak GiB"),
        claims=also_on(
            Claim("Two groups have fewer parameters than one", "2", "1", metric="parameters"),
            Claim("Two groups are about as accurate as one", "2", "1", at_least=True),
        ),
        quick=("1", "2"),
    ),
    Study(
        "prediction",
        "Predicting x_0 or the noise",
        "What should the network predict? Our settings have little noise, and none at inference; with much noise it is "
        "in the row at inference, too.",
        points("mean_type", "x0", "epsilon", of=PLAIN)
        | {
            f"{mean_type}, much noise": (*PLAIN, *MUCH_NOISE_EVERYWHERE, f"--mean_type={mean_type}")
            for mean_type in ("x0", "epsilon")
        },
        against="x0",
        data=BOTH,
        claims=also_on(
            Claim("Predicting x_0 is better than predicting the noise", "x0", "epsilon"),
            Claim(
                "Predicting x_0 is better than predicting the noise, where there is much",
                "x0, much noise", "epsilon, much noise",
            ),
        ),
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
        "Left open by the paper: does another law of the noise serve better? All have variances at which the law can "
        "matter: .05 to .1 (of Bernoulli noise, the share of entries that are drawn anew). Of Gaussian and Bernoulli "
        "noise posterior and marginals are exact. Laplace, Student's t and Rademacher noise have the exact mean and "
        "variance of x_t; their posterior is its best linear mean, and their loss weights are no variational bound. "
        "Scoring draws no noise, so a law changes what is trained.",
        points("noise_law", "gaussian", "laplace", "student_t", "rademacher", of=(*PLAIN, *MUCH_NOISE))
        | {"bernoulli": (*PLAIN, *MUCH_NOISE, "--noise_law=bernoulli", "--nobeta_fixed")},
        against="gaussian",
        data=BOTH,
        claims=also_on(
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
        "Left open by the paper: are groups from a graph better than k-means on embeddings? Each seed draws its own "
        "groups.",
        {
            "k-means (SVD)": (*L_DRAWN, "--item_embeddings=svd"),
            "k-means (LightGCN)": (*L_DRAWN, "--item_embeddings=lightgcn"),
            "k-means (released LightGCN)": (*L_DRAWN, RELEASED_EMBEDDINGS),
            "spherical k-means (SVD)": (*L_DRAWN, "--grouping=spherical_kmeans"),
            "spectral co-clustering": (*L_DRAWN, "--grouping=spectral"),
            "Leiden communities": (*L_DRAWN, "--grouping=leiden"),
            "popularity": (*L_RELEASED, "--grouping=popularity"),
            "random": (*L_DRAWN, "--grouping=random"),
        },
        against="k-means (SVD)",
        data=BOTH,
        claims=also_on(
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
    (
        "L-DiffRec takes less memory than DiffRec",
        "at ML-1M's size most of a process's memory is that of its libraries; at the size of Amazon-book "
        "`python -m benchmarks.latent_step --shape=amazon-book` measures it, on rows made up",
    ),
    ("Less memory and faster steps than MultiVAE at 100,000 items", "at ML-1M's size other things decide"),
    ("The figures of the authors' implementations of the comparators", "these are ours, tuned with our budget"),
    ("More accurate than CODIGEM, and with recency than ACVAE", "these two are not implemented here"),
)
"""Claims of the paper that the data here say nothing of, and why."""
