"""Every flag, typed and in groups. A flag whose default is "from the preset" overrides the preset when it is given."""

import dataclasses
import os
import re
import textwrap
from collections.abc import Callable
from typing import Any

from absl import flags

from diffrec_jax.config import DEFAULT_MATMUL_PRECISION, MatmulPrecision
from diffrec_jax.data import RECENCY_FORMS, GroupingMethod
from diffrec_jax.diffusion import NOISE_LAWS, PredictionType, ScheduleKind
from diffrec_jax.evaluation import DEFAULT_KS, METRICS, AveragingMode
from diffrec_jax.models.mlp import ACTIVATIONS
from diffrec_jax.recommenders.autoencoders import Likelihood
from diffrec_jax.recommenders.diffusing import TimestepSampling
from diffrec_jax.recommenders.l_diffrec import Codec
from diffrec_jax.seeds import MAX_SEED
from diffrec_jax.training.loop import TrainConfig
from diffrec_jax.training.parallel import ParallelKind
from diffrec_jax.training.step import ComputeDtype

FLAGS = flags.FLAGS
GROUPS: dict[str, list[str]] = {}


class IntListParser(flags.ArgumentParser):
    """Integers as ``200,600`` or ``[200,600]``; never evaluated as code."""

    syntactic_help = "integers such as 200,600 or [200,600]"

    def __init__(self, *, may_be_empty: bool = False, least: int = 1):
        super().__init__()
        self.may_be_empty, self.least = may_be_empty, least

    def parse(self, argument: Any) -> tuple[int, ...]:
        """Raises ValueError, which absl shows, for anything but integers in range."""
        if isinstance(argument, list | tuple):
            return tuple(argument)
        text = re.sub(r"^\[(.*)\]$", r"\1", argument.strip())
        if self.may_be_empty and not text.strip():
            return ()
        numbers = [int(part) for part in text.split(",")] if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text) else []
        if not numbers or not self.least <= min(numbers) <= max(numbers) <= MAX_SEED:
            kind = "positive integers" if self.least else "integers from 0 to 2^63 - 1"
            raise ValueError(f"{argument!r} is no list of {kind}: write them as 200,600 or [200,600]")
        return tuple(numbers)

    def flag_type(self) -> str:
        """Shown by --help."""
        return "integers"


class IntListSerializer(flags.ArgumentSerializer):
    """The inverse of IntListParser."""

    def serialize(self, value: Any) -> str:
        """``(200, 600)`` as ``200,600``."""
        return ",".join(map(str, value))


class PathParser(flags.ArgumentParser):
    """A path; ~ is the user's home directory, as in a shell."""

    def parse(self, argument: Any) -> str:
        """The path with ~ expanded."""
        return os.path.expanduser(argument)  # noqa: PTH111 (a Path would change what is no path: ml-1m/)

    def flag_type(self) -> str:
        """Shown by --help."""
        return "path"


Define = Callable[..., None]
"""(kind, name, default, help, ...): defines a flag."""


def _definer(values: flags.FlagValues, group: str) -> Define:
    """Defines flags of a group of --help."""

    def define(kind: str, name: str, default: Any, text: str, **extra: Any) -> None:
        if values is FLAGS:
            GROUPS.setdefault(group, []).append(name)
        extra["flag_values"] = values
        if kind == "ints":
            parser = IntListParser(**{key: extra.pop(key) for key in ("may_be_empty", "least") if key in extra})
            flags.DEFINE(parser, name, default, text, serializer=IntListSerializer(), **extra)
        elif kind == "path":
            flags.DEFINE(PathParser(), name, default, text, **extra)
        elif kind == "seed":
            flags.DEFINE_integer(name, default, text, lower_bound=0, upper_bound=MAX_SEED, **extra)
        elif kind == "enum":
            flags.DEFINE_enum(name, default, extra.pop("values"), text, **extra)
        else:
            getattr(flags, f"DEFINE_{kind}")(name, default, text, **extra)

    return define


# Flags named as the released scripts name them, with the fields they set.
RECOMMENDER_FIELDS = {
    "dims": "dims",
    "steps": "num_timesteps",
    "noise_schedule": "noise_schedule",
    "noise_scale": "noise_scale",
    "noise_min": "noise_min",
    "noise_max": "noise_max",
    "noise_law": "noise_law",
    "beta_fixed": "beta_fixed",
    "mean_type": "prediction_type",
    "reweight": "reweight",
    "timestep_sampling": "timestep_sampling",
    "emb_size": "time_embedding_size",
    "activation": "activation",
    "norm": "normalize",
    "dropout": "dropout",
    "sampling_steps": "num_inference_noise_steps",
    "sampling_noise": "sampling_noise",
    "folded": "folded",
    "noise_sketch": "noise_sketch",
    "item_block": "item_block",
    "gram_error": "gram_error",
    "linear_rank": "linear_rank",
    "linear_l2": "linear_l2",
    "shown_weight": "shown_weight",
    "user_weight_power": "user_weight_power",
    "in_dims": "in_dims",
    "out_dims": "out_dims",
    "encoder_activation": "encoder_activation",
    "encoder_norm": "encoder_normalize",
    "encoder_dropout": "encoder_dropout",
    "reparam": "reparameterize",
    "reconstruct_dropped": "reconstruct_dropped",
    "lamda": "diffusion_loss_weight",
    "lamda_min": "diffusion_loss_weight_min",
    "lamda_epochs": "diffusion_loss_weight_epochs",
    "kl_weight": "kl_weight",
    "kl_weight_steps": "kl_weight_steps",
    "codec": "codec",
    "residual": "residual",
    "likelihood": "likelihood",
    "input_noise": "input_noise",
    "embedding_size": "embedding_size",
    "layers": "num_layers",
    "heads": "num_heads",
    "max_length": "max_length",
    "negatives": "num_negatives",
    "l1": "l1",
    "l2": "l2",
    "l2_exponent": "l2_exponent",
    "candidates": "num_candidates",
    "neighbors": "num_neighbors",
    "shrink": "shrink",
    "alpha": "alpha",
    "beta": "beta",
    "rank": "rank",
    "unobserved_weight": "unobserved_weight",
    "iterations": "num_iterations",
}
RECENCY_FIELDS = {"train_recency": "train", "target_recency": "target", "infer_recency": "infer"}
GROUPS_FIELDS = {
    "num_groups": "num_groups",
    "grouping": "grouping",
    "item_embeddings": "item_embeddings",
    "svd_size": "svd_size",
    "groups_seed": "seed",
}
SYNTHETIC_FIELDS = {
    "synthetic_users": "num_users",
    "synthetic_items": "num_items",
    "synthetic_interactions": "num_interactions",
    "synthetic_seed": "seed",
}
TRAINING_FIELDS = {field.name: field.name for field in dataclasses.fields(TrainConfig)} | {"lr2": "denoiser_lr"}
TRAINING_FIELDS.pop("denoiser_lr")


def define_data_flags(values: flags.FlagValues = FLAGS) -> None:
    """Which data."""
    define = _definer(values, "Data")
    define("path", "dataset", "synthetic",
            "ml-1m, yelp, amazon-book, or any NAME with a folder NAME_SETTING below --data_dir; the path of a folder "
            "with train_list.npy, valid_list.npy and test_list.npy; or synthetic, synthetic-ml-1m, synthetic-yelp, "
            "synthetic-amazon-book.")  # fmt: skip
    define("string", "setting", "clean", "Which folder of the dataset: clean, noisy, ...")
    define("path", "data_dir", None, "Where the dataset folders are (default: $DIFFREC_DATA_DIR, then data).")
    define("boolean", "strict_ids", False, "Refuse a dataset whose ids have gaps; by default ids that never occur are "
            "left out, and counted in a warning.")  # fmt: skip
    define("float", "inner_split", 0.0,
            "To tune with: validate on so large a newest share of the training rows, held out of training, and test on "
            "the validation split; the test split is not looked at. 0 for the dataset's own splits.",
            lower_bound=0.0, upper_bound=0.9)  # fmt: skip
    for name, what in (("users", "users"), ("items", "items"), ("interactions", "interactions")):
        define("integer", f"synthetic_{name}", None, f"Number of {what} of a synthetic dataset.", lower_bound=1)
    define("seed", "synthetic_seed", 0, "Seed of a synthetic dataset.")


def define_evaluation_flags(values: flags.FlagValues = FLAGS) -> None:
    """How results are measured."""
    define = _definer(values, "Evaluation")
    define("ints", "ks", DEFAULT_KS, "List lengths K of the metrics.")
    define("enum", "mode", "official",
            "official: users without relevant items count as 0; relevant_users: they are left out.",
            values=AveragingMode.__args__)  # fmt: skip
    define("boolean", "test_with_valid_input", False,
            "Feed training and validation items for the test (costs a second pass).")  # fmt: skip
    define("integer", "eval_users", 0, "Evaluate a fixed random sample of so many users; 0 for all.", lower_bound=0)
    define("integer", "eval_batch_size", 400, "Users scored at once.", lower_bound=1)
    define("boolean", "per_user", False, "Write each user's metrics to per_user_{valid,test}.npz.")


def define_model_flags(models: tuple[str, ...], values: flags.FlagValues = FLAGS) -> None:
    """Which model, and what overrides its preset."""
    define = _definer(values, "Model (defaults from the preset)")
    define("string", "model", "diffrec", f"One of {', '.join(models)}.")
    define("enum", "preset", None,
            "released: the settings of the released experiments; tuned: ours, the default where there is one; plain: "
            "ours without a linear part.", values=("released", "tuned", "plain"))  # fmt: skip
    define("ints", "dims", None, "Hidden layer sizes of the way out: 200,600 is items-600-200-600-items.")
    define("integer", "steps", None, "T, diffusion steps.")
    define("enum", "noise_schedule", None, "How the noise grows with t.", values=ScheduleKind.__args__)
    define("float", "noise_scale", None, "s, scale of the noise.")
    define("float", "noise_min", None, "Noise variance at the first step, before the scale.")
    define("float", "noise_max", None, "Noise variance at the last step, before the scale.")
    define("string", "noise_law", None, f"Law of the noise, of variance 1: {', '.join(NOISE_LAWS)}.")
    define("boolean", "beta_fixed", None, "Replace the first beta by 1e-5.")
    define("enum", "mean_type", None, "What the network predicts.", values=PredictionType.__args__)
    define("boolean", "reweight", None, "Weight the loss of step t by SNR(t-1) - SNR(t).")
    define("enum", "timestep_sampling", None, "How t is drawn in training.", values=TimestepSampling.__args__)
    define("integer", "emb_size", None, "Size of the timestep embedding.")
    define("enum", "activation", None, "Of the hidden layers.", values=tuple(ACTIVATIONS))
    define("boolean", "norm", None, "Normalise the input row to length 1.")
    define("float", "dropout", None, "Rate of the input dropout.")
    define("integer", "sampling_steps", None, "T', steps of forward noise at inference; all T are reversed.")
    define("boolean", "sampling_noise", None, "Draw noise in the reverse steps.")
    define("boolean", "folded", None, "Score in the hidden space where that is exact (about 10 times faster).")
    define("integer", "noise_sketch", None,
            "Train with noise hashed from so many normals a user: less time, another law; 0 for noise of each item.",
            lower_bound=0)  # fmt: skip
    define("integer", "item_block", None,
            "Compare so many items at once with the prediction in training: less memory, more time; 0 for all.",
            lower_bound=0)  # fmt: skip
    define("boolean", "gram_error", None,
            "Take the error through the output layer's Gram matrix: less memory, and less time where a device's share "
            "of the batch is far larger than the last layer is wide.")  # fmt: skip
    define("integer", "linear_rank", None,
            "diffrec, t_diffrec: start from a fitted linear denoiser of this rank and learn what it leaves; 0: do not. "
            "The fit takes memory for several numbers for each pair of items.", lower_bound=0)  # fmt: skip
    define("float", "linear_l2", None, "Of the fit of --linear_rank and --codec=linear.")
    define("float", "shown_weight", None,
            "Of squared errors at stored items that dropout left in the row; 0: learn from what it took.")  # fmt: skip
    define("float", "user_weight_power", None,
            "A user of n items weighs n to this power in the loss and in ease, --linear_rank and --codec.")  # fmt: skip

    define = _definer(values, "Latent models (l_diffrec, lt_diffrec; defaults from the preset)")
    define("integer", "num_groups", None, "C, item groups, each with an encoder.", lower_bound=1)
    define("enum", "grouping", None,
            "How items are grouped: kmeans on item embeddings, or on their directions alone (spherical), spectral "
            "co-clustering of interactions, popularity strata, random.", values=GroupingMethod.__args__)  # fmt: skip
    define("path", "item_embeddings", None,
            "What kmeans clusters: svd of the training split, lightgcn trained on it first, or a .npy file [items, "
            "size], looked for as given and in the dataset's folder.")  # fmt: skip
    define("integer", "svd_size", None, "Size of the svd item embeddings.", lower_bound=1)
    define("seed", "groups_seed", None, "Of the grouping; the run's --seed does not change it.")
    define("ints", "in_dims", None, "Encoder layers of all groups together; the last is the latent size.")
    define("ints", "out_dims", None, "Layers of the groups' decoders before the output; empty: one linear one.",
            may_be_empty=True)  # fmt: skip
    define("enum", "encoder_activation", None, "Of the autoencoder's layers.", values=tuple(ACTIVATIONS))
    define("boolean", "encoder_norm", None, "Divide a row by its length before the encoders.")
    define("float", "encoder_dropout", None, "Rate of the dropout of the encoders' input.")
    define("boolean", "reparam", None, "Diffuse a draw from the encoder's distribution, not its mean.")
    define("boolean", "reconstruct_dropped", None, "Reconstruct the row as dropout left it, not the whole.")
    define("enum", "codec", None,
            "The autoencoder: trained, or a fitted linear denoiser that is held.", values=Codec.__args__)  # fmt: skip
    define("boolean", "residual", None, "The latent denoiser adds to what it is given.")
    define("float", "lamda", None,
            "lambda, weight of the diffusion's loss (with --noreweight: of the autoencoder's).")  # fmt: skip
    define("float", "lamda_min", None, "lambda does not fall below.")
    define("integer", "lamda_epochs", None, "lambda falls to 0 in so many epochs; 0 for a constant.")
    define("float", "kl_weight", None, "gamma, weight of the KL divergence.")
    define("integer", "kl_weight_steps", None, "gamma rises from 0 to 1 in so many steps; 0 for a constant.")

    define = _definer(values, "Comparators (defaults from the preset)")
    define("enum", "likelihood", None,
            "Of cdae, multidae, multidae_pp, multivae; of l_diffrec and lt_diffrec: multinomial or gaussian.",
            values=Likelihood.__args__)  # fmt: skip
    define("float", "input_noise", None, "multidae_pp: variance of the noise on the input row.")
    define("integer", "embedding_size", None, "mf, lightgcn, ials, sasrec: size of the vectors.")
    define("integer", "layers", None, "lightgcn: propagations; sasrec: blocks.")
    define("integer", "heads", None, "sasrec: attention heads.")
    define("integer", "max_length", None, "sasrec: newest items of a row that are looked at.")
    define("integer", "negatives", None, "sasrec: sampled items a row in training; 0 for all items.")
    define("float", "l1", None, "slim: of the elastic net.")
    define("float", "l2", None, "mf, lightgcn, ials, ease, t_ease, slim: regularisation.")
    define("float", "l2_exponent", None, "ials: power of a vector's number of pairs in its regularisation.")
    define("integer", "candidates", None, "slim: items, by cosine, that may stand for an item; 0 for all.")
    define("integer", "neighbors", None, "itemknn, rp3beta: neighbours an item.")
    define("float", "shrink", None, "itemknn: added to the cosine's denominator.")
    define("float", "alpha", None, "rp3beta: power of the steps' probabilities; gfcf: weight of the low-pass.")
    define("float", "beta", None, "rp3beta: power of the popularity that is divided by.")
    define("integer", "rank", None, "gfcf: rank of the low-pass filter.")
    define("float", "unobserved_weight", None, "ials: weight of pairs without interaction.")
    define("integer", "iterations", None, "ials: alternations.")

    define = _definer(
        values, "Recency (t_diffrec, lt_diffrec, t_ease and any other model of rows; defaults from the preset)"
    )
    define("string", "train_recency", None, f"Weights of the training rows, in time order: {RECENCY_FORMS}.")
    define("string", "target_recency", None, "Weights of what is to be predicted (default: the training row).")
    define("string", "infer_recency", None, "Weights of the rows scored from (default: as in training).")
    define("float", "w_min", None, "With --w_max: --train_recency and --infer_recency linear from here.")
    define("float", "w_max", None, "Up to here, for the newest interaction.")


def define_training_flags(values: flags.FlagValues = FLAGS) -> None:
    """How it is trained."""
    define = _definer(values, "Training (defaults from the preset)")
    define("float", "lr", None, "Learning rate of AdamW (of a latent model's autoencoder: the released lr1).")
    define("float", "lr2", None, "Learning rate of a latent model's denoiser (default: --lr).")
    define("float", "weight_decay", None, "Decoupled weight decay.")
    define("float", "ema_decay", None, "Score with a moving average of the parameters of this decay; 0: without.")
    define("integer", "batch_size", None, "Users a step, over all devices.")
    define("integer", "accumulate_steps", None,
            "Go through a batch in so many parts and add their gradients: the same step in less memory.")  # fmt: skip
    define("enum", "compute_dtype", None,
            "What the factors of products are rounded to, on GPU and TPU; parameters and losses stay float32.",
            values=ComputeDtype.__args__)  # fmt: skip
    define("integer", "epochs", None, "At most so many passes over the users.")
    define("integer", "max_steps", None, "End after so many steps if that comes first; 0 for no limit.")
    define("integer", "eval_every", None, "Epochs between evaluations; each is followed by a checkpoint.")
    define("integer", "checkpoint_every_steps", None, "Further checkpoints every so many steps; 0 for none.")
    define("integer", "patience", None, "Stop after so many epochs without a new best; 0 for never.")
    define("string", "metric", None, f"Validation metric to select by: {', '.join(METRICS)} @K (default: recall at 20, "
            "or at the largest K of --ks).")  # fmt: skip
    define("seed", "seed", 1, "Of everything that is drawn.")
    define(
        "string",
        "prng_impl",
        None,
        "Generator of random bits: threefry2x32, threefry4x32 or rbg (default: what compiles and draws fast on the "
        "JAX in use; a resumed run keeps its own).",
    )


def define_device_flags(values: flags.FlagValues = FLAGS) -> None:
    """What a script runs on."""
    define = _definer(values, "Devices")
    define("enum", "parallel", "pmap",
            "With several devices: pmap, a copy of the model on each; mesh, one program over a grid of rows and items.",
            values=ParallelKind.__args__)  # fmt: skip
    define("integer", "item_shards", 1, "mesh: parts that everything with an axis of items is split into; the "
            "rows of a batch are split over the other devices.", lower_bound=1)  # fmt: skip
    define("integer", "max_devices", 0, "Use at most so many local devices; 0 for all.", lower_bound=0)
    define("boolean", "distributed", False,
            "One process of a job of several: found by itself in Slurm, Open MPI, Kubernetes and Cloud TPU, elsewhere "
            "by the three flags below. All of them need the same flags, and the same --run_dir in a file system that "
            "they share.")  # fmt: skip
    define("enum", "matmul_precision", DEFAULT_MATMUL_PRECISION,
            "Of float32 products on an accelerator. float32: in full, as on a CPU; tensorfloat32: with factors of 10 "
            "bits on an NVIDIA GPU, of 16 on a TPU; default: the backend's own, on a TPU factors of 8 bits.",
            values=MatmulPrecision.__args__)  # fmt: skip
    define("boolean", "compilation_cache", True, "Keep compiled programs in the user's cache directory for later runs; "
            "$JAX_COMPILATION_CACHE_DIR names another place.")  # fmt: skip
    define("string", "coordinator_address", None, "HOST:PORT of the first process.")
    define("integer", "num_processes", None, "Processes of the job.", lower_bound=1)
    define("integer", "process_id", None, "Of this one, from 0.", lower_bound=0)
    define("float", "watchdog_minutes", 0.0, "End the process, with the stacks of its threads, when no step "
            "and no batch of an evaluation ends for so long (compilation included); 0 for never.",
            lower_bound=0.0)  # fmt: skip


def define_run_flags(values: flags.FlagValues = FLAGS) -> None:
    """Where it goes."""
    define = _definer(values, "Run")
    define("path", "run_dir", None, "Directory of the run (default: a new one below runs/).")
    define("boolean", "resume", False, "Go on with the run in --run_dir.")
    define("boolean", "baseline", True, "Evaluate Popularity beside the model.")


def define_evaluate_run_flags(values: flags.FlagValues = FLAGS) -> None:
    """Which run is evaluated, on what, and from which rows."""
    define = _definer(values, "Run")
    define("path", "run_dir", None, "Directory of the run.", required=True)
    define("path", "dataset", None, "Where the run's dataset is now: a name below --data_dir, or a folder.")
    define("string", "setting", None, "Which folder of the dataset: clean, noisy, ...")
    define("path", "data_dir", None, "Where the dataset folders are, if not where they were for the run.")
    define(
        "string",
        "infer_recency",
        None,
        f"Weights of the rows scored from, if not those of the run: {RECENCY_FORMS}.",
    )


def define_recommend_flags(values: flags.FlagValues = FLAGS) -> None:
    """What recommends, to whom, and where the lists go."""
    define = _definer(values, "Recommendations")
    define("path", "run_dir", None, "A finished or interrupted run of experiments.train.")
    define("path", "saved", None, "A folder that diffrec_jax.save wrote.")
    define("path", "dataset", None, "Where the run's dataset is now: a name below --data_dir, or a folder.")
    define("string", "setting", None, "Which folder of the dataset: clean, noisy, ...")
    define("path", "data_dir", None, "Where the dataset folders are, if not where they were for the run.")
    define("path", "out", None, "File of the lists: .parquet, .csv or .jsonl.", required=True)
    define("path", "users", "all", "all, or a file with a user's id a line.")
    define(
        "path", "histories", None, "A file with a user and its items a line: for users that the model need not know."
    )
    define("integer", "k", 20, "Items a user.", lower_bound=1)
    define("boolean", "exclude_seen", True, "Leave out what a user has already.")
    define("float", "min_score", None, "Recommend nothing below this score.")
    define("integer", "batch_size", 400, "Users scored at once.", lower_bound=1)
    define("boolean", "compilation_cache", True, "Keep compiled programs in the user's cache directory for later runs.")


def define_sweep_flags(values: flags.FlagValues = FLAGS) -> None:
    """What a sweep runs and shows."""
    define = _definer(values, "Sweep")
    define("path", "sweep_dir", None, "Directory of the sweep's run directories.", required=True)
    define("multi_string", "grid", [], "NAME=VALUE|VALUE...: a flag of experiments.train.")
    define("ints", "seeds", (1,), "Seeds of every combination.", least=0)
    define("list", "show_metrics", [], "Metrics to show; the first one ranks (default: recall and ndcg at 20, "
            "or at the largest K of --ks).")  # fmt: skip
    define("boolean", "show_test", False, "Show the test too: for the one combination that was chosen.")


def define_compare_flags(values: flags.FlagValues = FLAGS) -> None:
    """What is compared, and how."""
    define = _definer(values, "Comparison")
    define("list", "runs", [], "Run directories, or folders of them, made with --per_user.")
    define("list", "models", [], "Models to train and evaluate first, with their presets.")
    define("ints", "seeds", (1, 2, 3), "Seeds of those models; what draws nothing runs once.", least=0)
    define("path", "compare_dir", "runs/compare", "Where those runs and the table are written.")
    define("string", "metric", None, "Test metric that sorts and is tested for significance (default: recall at 20, or "
            "at the largest K of --ks).")  # fmt: skip
    define("string", "against", None, "The model, as the table calls it, that others are compared with "
            "(default: the best).")  # fmt: skip


def define_train_flags(models: tuple[str, ...], values: flags.FlagValues = FLAGS) -> None:
    """All flags of experiments.train."""
    define_model_flags(models, values)
    for define in (
        define_data_flags, define_training_flags, define_evaluation_flags, define_run_flags, define_device_flags,
    ):  # fmt: skip
        define(values)


def grouped_help(usage: str) -> str:
    """The text of --help: the usage, then the defined flags by group."""
    lines = [usage.strip(), ""]
    for group, names in GROUPS.items():
        lines.append(f"{group}:")
        for name in names:
            flag = FLAGS[name]
            default = "" if flag.default is None else f" (default: {str(flag.default_as_str).strip(chr(39))})"
            head = f"--[no]{name}" if flag.boolean else f"--{name}"
            text = " ".join(f"{head}: {flag.help}{default}".split())  # absl puts an enumeration's values into it
            lines += textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="      ")
        lines.append("")
    return "\n".join(lines)
