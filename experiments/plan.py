"""What the studies need: each run once, by what it is, and whether it is there already."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from diffrec_jax.config import DataConfig, RunConfig
from diffrec_jax.data import DataError, Dataset
from diffrec_jax.registry import MODELS

from .config import new_run_config
from .runs import parse_train_flags
from .store import identity
from .studies import RELEASED_EMBEDDINGS
from .study import DATA, QUICK, Study

QUICK_SEEDS = (1,)
QUICK_TRAINING = ("--epochs=3", "--eval_every=1", "--batch_size=50", "--patience=0")


@dataclass(frozen=True)
class Planned:
    """A run that a study needs."""

    study: Study
    data: str
    variant: str
    flags: tuple[str, ...]
    """Of experiments.train, but for the run directory."""
    config: RunConfig
    identity: str
    """Of ``store.identity``."""


_LOADED: dict[str, Dataset] = {}


def _load(data: DataConfig) -> Dataset:
    """The dataset, read once."""
    if repr(data) not in _LOADED:
        _LOADED[repr(data)] = data.load()
    return _LOADED[repr(data)]


def datasets_of(study: Study, *, quick: bool, data: Collection[str] = ()) -> tuple[str, ...]:
    """Names of ``studies.DATA``; of those in ``data`` alone where there are any."""
    return (QUICK,) if quick else tuple(name for name in study.data if not data or name in data)


def variants_of(study: Study, *, quick: bool) -> tuple[str, ...]:
    """Names of its variants, in their order."""
    return (study.quick or tuple(study.variants)[:2]) if quick else tuple(study.variants)


def plan(studies: Iterable[Study], *, quick: bool, data: Collection[str] = ()) -> tuple[list[Planned], dict[str, str]]:
    """The runs of studies, on some data or all, and of each dataset that is missing, how to make it."""
    planned: list[Planned] = []
    missing: dict[str, str] = {}
    for study in studies:
        for name in datasets_of(study, quick=quick, data=data):
            if name not in missing:
                try:
                    planned += _of_study(study, name, quick=quick)
                except DataError as error:
                    missing[name] = str(error)
    return planned, missing


def flags_of(study: Study, variant: str, *, quick: bool) -> tuple[str, ...]:
    """Of experiments.train, for a variant on any data and with any seed."""
    given = study.variants[variant]
    if not quick:
        return given
    family = MODELS[next(flag.partition("=")[2] for flag in given if flag.startswith("--model="))]
    own = tuple(flag for flag in given if not flag.startswith("--preset=") and flag != RELEASED_EMBEDDINGS)
    return own + QUICK_TRAINING if family.is_trained else own


def _of_study(study: Study, data: str, *, quick: bool) -> list[Planned]:
    found = []
    for variant in variants_of(study, quick=quick):
        given = *DATA[data].flags, *flags_of(study, variant, quick=quick)
        for seed in QUICK_SEEDS if quick else study.seeds:
            flags = (*(flag.format(seed=seed) for flag in given), f"--seed={seed}")
            config = new_run_config(parse_train_flags(list(flags)))
            of = identity(config.to_dict(_load(config.data)))
            found.append(Planned(study, data, variant, (*flags, "--per_user", "--nobaseline"), config, of))
            if not config.uses_seed:
                break
    return found
