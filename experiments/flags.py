"""Every flag, typed and in groups. A flag whose default is "from the preset" overrides the preset when it is given."""

import dataclasses
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, get_args

from absl import flags

from diffrec_jax.config import (
    DEFAULT_MATMUL_PRECISION,
    EvaluationConfig,
    GroupsConfig,
    MatmulPrecision,
    RecencyConfig,
    part_classes,
)
from diffrec_jax.data import RECENCY_FORMS
from diffrec_jax.devices import ParallelKind
from diffrec_jax.preparation import PrepareConfig
from diffrec_jax.preparation.download import KNOWN
from diffrec_jax.preparation.names import EngineName
from diffrec_jax.recommenders.diffusing import DiffusionConfig
from diffrec_jax.registry import MODELS, load_plugins
from diffrec_jax.seeds import MAX_SEED
from diffrec_jax.settings import Field, Setting, fields_of
from diffrec_jax.training.train_config import TrainConfig

from .flag_parsers import IntListParser, IntListSerializer, PathParser, ResumeParser

load_plugins()
FLAGS = flags.FLAGS
GROUPS: dict[str, list[str]] = {}
ALIASES: dict[str, list[str]] = {}
"""Other names of flags: those of the released scripts."""


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


@dataclasses.dataclass(frozen=True)
class _Flag:
    """What a flag is made of: one setting, or those of the same name of several models."""

    name: str
    kind: type
    choices: tuple[str, ...]
    setting: Setting
    help: str
    default: Any


def _merged(name: str, owners: dict[str, Field], all_models: Iterable[str]) -> _Flag:
    """The flag of a setting of some models; its help names them where the others have no such setting.

    Raises:
      ValueError: they are of several types.
    """
    by_help: dict[str, list[str]] = {}
    for model, field in owners.items():
        by_help.setdefault(field.setting.help, []).append(model)
    kinds = {field.kind for field in owners.values()}
    if len(kinds) > 1:
        raise ValueError(f"setting {name} has different types in {', '.join(owners)}: rename one")
    parts = [f"{', '.join(models)}: {text}" for text, models in by_help.items()]
    texts = list(by_help) if len(by_help) == 1 and set(owners) == set(all_models) else parts
    choices = tuple(dict.fromkeys(value for field in owners.values() for value in field.setting.choices))
    aliases = tuple(dict.fromkeys(alias for field in owners.values() for alias in field.setting.aliases))
    first = next(iter(owners.values()))
    known = dataclasses.replace(first.setting, aliases=aliases)
    return _Flag(name, first.kind, choices, known, " ".join(texts), None)


def _define_setting(define: Define, flag: _Flag, values: flags.FlagValues) -> None:
    """A flag and its other names."""
    known, extra = flag.setting, {}
    if flag.choices:
        kind, extra = "enum", {"values": flag.choices}
    elif flag.kind is tuple:
        kind, extra = "ints", {"may_be_empty": known.may_be_empty}
    elif known.at_most == MAX_SEED:
        kind = "seed"
    else:
        kind = {bool: "boolean", int: "integer", float: "float", str: "path" if known.is_path else "string"}[flag.kind]
    define(kind, flag.name, flag.default, flag.help, **extra)
    for alias in known.aliases:
        if alias not in values:
            flags.DEFINE_alias(alias, flag.name, flag_values=values)
            if values is FLAGS:
                ALIASES.setdefault(flag.name, []).append(alias)


def _define_part(
    title: str, classes: dict[str, type], values: flags.FlagValues, *, shows_default: bool = False
) -> None:
    """The flags of the settings of a part of the configuration, by model, that are not defined yet."""
    owners: dict[str, dict[str, Field]] = {}
    for model, config_class in classes.items():
        for name, field in fields_of(config_class).items():
            owners.setdefault(name, {})[model] = field
    define = _definer(values, title)
    for name, fields in owners.items():
        if name not in values:
            flag = _merged(name, fields, classes)
            default = next(iter(fields.values())).default if shows_default else None
            _define_setting(define, dataclasses.replace(flag, default=default), values)


def settings_given(values: flags.FlagValues, *parts: type) -> dict[str, Any]:
    """The settings that the command line sets: of these parts of a configuration, or of any part of any model."""
    classes = parts or {own for family in MODELS.values() for own in part_classes(family).values()}
    names = {field.name for config_class in classes for field in dataclasses.fields(config_class)}
    return {name: values[name].value for name in sorted(names) if name in values and is_given(values, name)}


def is_given(values: flags.FlagValues, name: str) -> bool:
    """Whether the command line sets a flag, under this name or another."""
    return bool(values[name].present)


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
    define("float", "tuning_holdout", 0.0,
            "To tune with: validate on so large a newest share of the training rows, held out of training, and test on "
            "the validation split; the test split is not used. 0 for the dataset's own splits.",
            lower_bound=0.0, upper_bound=0.9)  # fmt: skip
    define("float", "random_noise", 0.0,
            "Random items for each interaction of train and valid (paper: 0.1 to 0.5), which the user has in no split; "
            "the test stays as it is. A tuning holdout is taken first.", lower_bound=0.0)  # fmt: skip
    define("seed", "random_noise_seed", 0, "Seed of the random items; the run's seed does not change them.")
    define("boolean", "ratings", False, "Read the ratings of the dataset too: for --row_values, --min_relevant_rating "
            "and RMSE.")  # fmt: skip
    define("float", "min_relevant_rating", None, "With --ratings: least rating in valid and test that is relevant to "
            "a ranking (default: all that is there).")  # fmt: skip
    for name, what in (("users", "users"), ("items", "items"), ("interactions", "interactions")):
        define("integer", f"synthetic_{name}", None, f"Number of {what} of a synthetic dataset.", lower_bound=1)
    define("seed", "synthetic_seed", 0, "Seed of a synthetic dataset.")


def define_evaluation_flags(values: flags.FlagValues = FLAGS) -> None:
    """How results are measured."""
    _define_part("Evaluation", {"": EvaluationConfig}, values, shows_default=True)
    _definer(values, "Evaluation")("boolean", "per_user", False,
            "Write each user's metrics to per_user_{valid,test}.npz.")  # fmt: skip


def define_model_flag(values: flags.FlagValues = FLAGS) -> None:
    """Which model, and which preset."""
    define = _definer(values, "Model")
    define("string", "model", "diffrec", f"One of {', '.join(MODELS)}.")
    define("string", "preset", None,
            "released: the settings of the released experiments; tuned: ours, the default where there is one; plain: "
            "ours without a linear part.")  # fmt: skip


def define_setting_flags(values: flags.FlagValues = FLAGS) -> None:
    """What overrides the preset of a model."""
    classes = {name: family.config_class for name, family in MODELS.items()}
    diffusion = {name: own for name, own in classes.items() if issubclass(own, DiffusionConfig)}
    others = {name: own for name, own in classes.items() if name not in diffusion}
    shared = {name for own in others.values() for name in fields_of(own)} & {
        name for own in diffusion.values() for name in fields_of(own)
    }
    for name in sorted(shared - {"seed"}):
        owners = {model: fields_of(own)[name] for model, own in classes.items() if name in fields_of(own)}
        _define_setting(
            _definer(values, "Settings of several models (defaults from the preset)"),
            _merged(name, owners, classes),
            values,
        )
    _define_part(f"Settings of diffusion models: {', '.join(diffusion)} (defaults from the preset)", diffusion, values)
    grouped = {name: GroupsConfig for name, family in MODELS.items() if family.has_item_groups}
    _define_part(f"Item groups of {', '.join(grouped)} (defaults from the preset)", grouped, values)
    _define_part("Settings of other models (defaults from the preset)", others, values)
    title = "Rows of any model that reads them: values and recency weights (defaults from the preset)"
    _define_part(title, {"": RecencyConfig}, values)
    define = _definer(values, title)
    define("float", "w_min", None, "With --w_max: --train_recency and --infer_recency linear from here.")
    define("float", "w_max", None, "Up to here, for the newest interaction.")


def define_training_flags(values: flags.FlagValues = FLAGS) -> None:
    """How it is trained."""
    _define_part("Training (defaults from the preset)", {"": TrainConfig}, values)


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
    define("integer", "heartbeat_seconds", 60, "After so long without a sign of life a process of the job counts as "
            "gone, and the others end.", lower_bound=1)  # fmt: skip
    define("float", "watchdog_minutes", 0.0, "End the process, with the stacks of its threads, when no step "
            "and no batch of an evaluation ends for so long (compilation included); 0 for never.",
            lower_bound=0.0)  # fmt: skip


def define_run_flags(values: flags.FlagValues = FLAGS) -> None:
    """Where it goes."""
    define = _definer(values, "Run")
    define("path", "run_dir", None, "Directory of the run (default: a new one below runs/).")
    flags.DEFINE_flag(
        flags.Flag(
            ResumeParser(), None, "resume", "never",
            "auto, or --resume alone: go on with the run in --run_dir, or start it; must: only go on, from a "
            "checkpoint; never: only start.", boolean=True,
        ),
        flag_values=values,
    )  # fmt: skip
    if values is FLAGS:
        GROUPS.setdefault("Run", []).append("resume")
    define("float", "wait_minutes", 0.0, "Wait up to so many minutes for another process to leave the run directory.",
            lower_bound=0.0)  # fmt: skip
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
    define("integer", "sampled_negatives", 0, "Rank each user's relevant items among so many sampled unseen ones; 0: "
            "among all. Figures of the two cannot be compared.", lower_bound=0)  # fmt: skip


def define_source_flags(values: flags.FlagValues = FLAGS) -> None:
    """Which trained model."""
    define = _definer(values, "Model")
    define("path", "run_dir", None, "A finished or interrupted run of experiments.train.")
    define("path", "saved", None, "A folder that diffrec_jax.save wrote.")
    define("path", "dataset", None, "Where the run's dataset is now: a name below --data_dir, or a folder.")
    define("string", "setting", None, "Which folder of the dataset: clean, noisy, ...")
    define("path", "data_dir", None, "Where the dataset folders are, if not where they were for the run.")
    define("boolean", "compilation_cache", True, "Keep compiled programs in the user's cache directory for later runs.")


def define_export_flags(values: flags.FlagValues = FLAGS) -> None:
    """What the exported file is like."""
    define_source_flags(values)
    define = _definer(values, "Export")
    define("path", "out", None, "The file: .stablehlo or .onnx.", required=True)
    define("integer", "k", 20, "Items a user.", lower_bound=1)
    define("integer", "max_history", None, "Items of a history (default: as the longest training row).", lower_bound=1)
    define("boolean", "exclude_seen", True, "Leave out what a history holds.")
    define("integer", "batch_size", None, "Histories a call (default: any in StableHLO, 1 in ONNX).", lower_bound=1)
    define("list", "platforms", [], "Where StableHLO will run: cpu, cuda, rocm, tpu (default: as here).")


def define_recommend_flags(values: flags.FlagValues = FLAGS) -> None:
    """What recommends, to whom, and where the lists go."""
    define_source_flags(values)
    define = _definer(values, "Recommendations")
    define("path", "out", None, "File of the lists: .parquet, .csv or .jsonl.", required=True)
    define("path", "users", "all", "all, or a file with a user's id a line.")
    define(
        "path", "histories", None, "A file with a user and its items a line: for users that the model need not know."
    )
    define("integer", "k", 20, "Items a user.", lower_bound=1)
    define("boolean", "exclude_seen", True, "Leave out what a user has already.")
    define("float", "min_score", None, "Recommend nothing below this score.")
    define("integer", "batch_size", 400, "Users scored at once.", lower_bound=1)


def define_sweep_flags(values: flags.FlagValues = FLAGS) -> None:
    """What a sweep runs and shows."""
    define = _definer(values, "Sweep")
    define("path", "sweep_dir", None, "Directory of the sweep's run directories.", required=True)
    define("multi_string", "grid", [], "NAME=VALUE|VALUE...: a flag of experiments.train; with --trials also "
            "NAME=LOW..HIGH.")  # fmt: skip
    define("integer", "trials", 0, "Train so many combinations, chosen by Optuna from what was found; 0: all of them.",
            lower_bound=0)  # fmt: skip
    define("ints", "seeds", (1,), "Seeds of every combination.", least=0)
    define("list", "show_metrics", [], "Metrics to show; the first one ranks (default: recall and ndcg at 20, "
            "or at the largest K of --ks).")  # fmt: skip
    define("boolean", "show_test", False, "Show the test too: for the one combination that was chosen.")


def define_compare_flags(values: flags.FlagValues = FLAGS) -> None:
    """What is compared, and how."""
    define = _definer(values, "Comparison")
    define("list", "runs", [], "Run directories, or folders of them, made with --per_user.")
    define("list", "models", [], "Models to train and evaluate first, with their presets.")
    define("ints", "seeds", (1, 2, 3), "Seeds of those models; deterministic models are run once.", least=0)
    define("path", "compare_dir", "runs/compare", "Where those runs and the table are written.")
    define("string", "metric", None, "Test metric, at any K, that sorts and is tested for significance (default: "
            "recall at 20, or at the largest K of --ks).")  # fmt: skip
    define("string", "against", None, "The model, as the table calls it, that others are compared with "
            "(default: the best).")  # fmt: skip


def define_study_flags(values: flags.FlagValues = FLAGS) -> Define:
    """Which studies, and where their runs are."""
    define = _definer(values, "Studies")
    define("list", "studies", [], "Names of studies; all by default.")
    define("path", "runs_dir", "runs", "Where new runs go, and finished ones are looked for.")
    define("boolean", "quick", False, "Every kind of study at toy size, on synthetic data.")
    return define


def define_reproduce_flags(values: flags.FlagValues = FLAGS) -> None:
    """Which studies are done, and how."""
    define = define_study_flags(values)
    define("list", "data", [], "On these datasets alone, by the names that the plan shows: 'ml-1m clean'.")
    define("integer", "jobs", 1, "Runs at once, each with its share of the cores.", lower_bound=1)
    define("float", "budget_minutes", 0.0, "Stop after so long; what was begun is saved. 0: go on to the end.",
            lower_bound=0.0)  # fmt: skip
    define("enum", "launch", "here", "here: run; list: print a command for each missing run; slurm: write a job array.",
            values=["here", "list", "slurm"])  # fmt: skip
    define("boolean", "submit", False, "With --launch=slurm: hand it to sbatch.")


def define_report_flags(values: flags.FlagValues = FLAGS) -> None:
    """What is reported, and where to."""
    define = define_study_flags(values)
    define("path", "out", "report", "Folder of report.md, its pictures and report.html.")
    define("path", "findings", None, "Folder that keeps each study's numbers and users' metrics; new ones are added.")
    define("list", "pages", [], "Markdown files whose tables are filled, too.")
    define("boolean", "runs", True, "Measure the runs; --noruns: report what --findings keeps.")


def define_train_flags(values: flags.FlagValues = FLAGS) -> None:
    """All flags of experiments.train."""
    for define in (
        define_model_flag, define_data_flags, define_training_flags, define_setting_flags, define_evaluation_flags,
        define_run_flags, define_device_flags,
    ):  # fmt: skip
        define(values)


def define_prepare_flags(values: flags.FlagValues = FLAGS) -> None:
    """What a dataset is made of, and how."""
    define = _definer(values, "Log and dataset")
    define("string", "name", None, f"Of the dataset. Known ones: {', '.join(KNOWN)}.", required=True)
    define("path", "raw", None, "The log: a file, compressed (.gz, .bz2, .xz, .zst) or not, or a folder.")
    define("boolean", "download", False, "Fetch the log of a known dataset into OUT/raw.")
    define("path", "out", None, "Folder of the datasets (default: $DIFFREC_DATA_DIR, then data).")
    define("enum", "engine", "polars", "What runs the steps. All write the same files. duckdb needs least memory.",
            values=get_args(EngineName))  # fmt: skip
    define("float", "memory_gib", None, "Memory of duckdb before it uses the disk (default: 1.25).", lower_bound=0.25)
    _define_part("Steps", {"prepare": PrepareConfig}, values, shows_default=True)


def define_inspect_flags(values: flags.FlagValues = FLAGS) -> None:
    """What is inspected, and where to."""
    define = _definer(values, "Inspection")
    define("path", "dataset", None, "A NAME with a folder NAME_SETTING below --data_dir, or a folder.", required=True)
    define("string", "setting", "clean", "Which folder of the dataset: clean, noisy, ...")
    define("path", "data_dir", None, "Where the dataset folders are (default: $DIFFREC_DATA_DIR, then data).")
    define("path", "out", None, "Folder for a picture and an HTML page; without it only the table is shown.")


def grouped_help(usage: str) -> str:
    """The text of --help: the usage, then the defined flags by group, those that the program adds itself first."""
    lines = [usage.strip(), ""]
    for group, names in ({"Own flags": _own_flags()} | GROUPS).items():
        if not names:
            continue
        lines.append(f"{group}:")
        for name in names:
            flag = FLAGS[name]
            default = "" if flag.default is None else f" (default: {str(flag.default_as_str).strip(chr(39))})"
            head = ", ".join(f"--[no]{own}" if flag.boolean else f"--{own}" for own in [name, *ALIASES.get(name, [])])
            text = " ".join(f"{head}: {flag.help}{default}".split())  # absl puts an enumeration's values into it
            lines += textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="      ")
        lines.append("")
    return "\n".join(lines)


def _own_flags() -> list[str]:
    """Flags that the started module defines, in its order; absl knows that module by its file."""
    grouped = {name for names in (*GROUPS.values(), *ALIASES.values()) for name in names}
    own = FLAGS.flags_by_module_dict().get(sys.argv[0], [])
    return [flag.name for flag in own if flag.name not in grouped]
