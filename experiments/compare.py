"""Compares models over seeds on the same data: accuracy with significance, beyond accuracy, and cost, in one table.

  python -m experiments.compare --runs=runs/a,runs/b --against=EASE
  python -m experiments.compare --models=diffrec,ease,multivae --seeds=1,2,3 --compare_dir=runs/compare \\
      -- --dataset=ml-1m --data_dir=data

--models makes the runs first, below --compare_dir; what follows -- goes to experiments.train. Runs that are finished
are not run again, interrupted ones go on; a run of another configuration, of other data or of another version of the
project is refused. The table is printed and written as Markdown, CSV, LaTeX and PNG.
"""

from pathlib import Path

from diffrec_jax.comparison import Run, check_comparable, compare_runs, load_run
from diffrec_jax.config import ConfigError, default_k
from diffrec_jax.files import write_atomically
from diffrec_jax.registry import MODELS

from . import flags
from .cli import start
from .config import new_run_config
from .console import make_console, table_title
from .flags import FLAGS
from .measured import measure
from .plots import plot_comparison
from .runs import check_own, cut_train_flags, parse_train_flags, run_all
from .tables import accuracy_metrics, make_columns, to_csv, to_latex, to_markdown, to_terminal


def find_runs(paths: list[str]) -> list[Path]:
    """Run directories, and those in folders of run directories.

    Raises:
      ConfigError: there is none in a path.
    """
    found = []
    for path in (Path(path).expanduser() for path in paths):
        inside = [path] if (path / "config.json").exists() else [file.parent for file in path.glob("*/config.json")]
        if not inside:
            raise ConfigError(f"{path} is no run directory and holds none: give those of experiments.train")
        found += sorted(inside)
    return found


def make_runs(models: list[str], seeds: tuple[int, ...], folder: Path, train_flags: list[str]) -> list[Path]:
    """The run directories of these models, run where they are not finished; deterministic models are run once.

    Raises:
      ConfigError: a model is unknown, or a run failed.
    """
    runs = {}
    if models:
        remedy = "give --models, --seeds and --compare_dir before it"
        check_own(parse_train_flags(train_flags), ("model", "seed", "run_dir", "resume"), remedy)
    for model in models:
        if model not in MODELS:
            raise ConfigError(f"--models: {model} is unknown: choose among {', '.join(MODELS)}")
        for seed in seeds:
            given = [*train_flags, f"--model={model}", f"--seed={seed}"]
            runs[folder / f"{model}_seed={seed}"] = [*given, "--per_user", "--nobaseline"]
            if not new_run_config(parse_train_flags(given)).uses_seed:
                break
    run_all(runs)
    return list(runs)


def provenance(runs: list[Run]) -> str:
    """What the table is made of."""
    listed = ", ".join(str(run.path) for run in runs)
    versions = ", ".join(sorted({run.results["versions"]["diffrec-jax"] for run in runs}))
    return f"Data {runs[0].data_sha256}; diffrec-jax {versions}; runs {listed}."


def main() -> None:
    """Flags to a table."""
    folder, console = Path(FLAGS.compare_dir), make_console()
    if not FLAGS.runs and not FLAGS.models:
        raise ConfigError("nothing to compare: give --runs=DIR,... or --models=NAME,...")
    paths = find_runs(FLAGS.runs) + make_runs(FLAGS.models, FLAGS.seeds, folder, train_flags)
    runs = [load_run(path) for path in dict.fromkeys(paths)]
    ks = runs[0].config.evaluation.ks
    metric = FLAGS.metric or f"recall@{default_k(ks)}"
    check_comparable(runs, accuracy_metrics(ks))
    compared = compare_runs(runs, metric, FLAGS.against)
    measured = measure(compared)
    columns, rows = make_columns(measured), measured.rows
    title, made_of = table_title(runs[0].results), provenance(runs)
    console.print(to_terminal(columns, rows, title))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "comparison.md", to_markdown(columns, rows, title) + f"\n{made_of}\n")
    write_atomically(folder / "comparison.tex", f"% {made_of}\n{to_latex(columns, rows)}")
    write_atomically(folder / "comparison.csv", to_csv(columns, rows))
    bars = {row.label: row.test[metric] for row in rows}
    if not plot_comparison(bars, metric, title, folder / "comparison.png", made_of):
        console.print("no comparison.png: matplotlib is missing (pip install 'diffrec-jax[plot]')")
    console.print(f"the whole table: {folder / 'comparison.md'}, .csv, .tex")


if __name__ == "__main__":
    flags.define_compare_flags()
    train_flags = cut_train_flags()
    start(main, __doc__ or "")
