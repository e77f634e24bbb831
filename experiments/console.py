"""What a script shows on the terminal: progress while it goes, a table at the end."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.table import Table

from diffrec_jax.evaluation import RATING_METRICS
from diffrec_jax.training.loop import Progress

from .machines import NO_WATCHDOG, Watchdog

SECONDS_BETWEEN_PLAIN_LINES = 60.0


def make_console(*, quiet: bool = False, on_errors: bool = False) -> Console:
    """A terminal keeps its own width; a file or pipe gets lines that are not folded. Text is never taken for markup.

    ``on_errors``: on the standard error, where the output is for another program.
    """
    # Names of folders and datasets are shown as they are: [x] in them is no markup, :x: no picture.
    is_terminal = (sys.stderr if on_errors else sys.stdout).isatty()
    width = None if is_terminal else 140
    return Console(markup=False, emoji=False, quiet=quiet, width=width, highlight=is_terminal, stderr=on_errors)


class ConsoleProgress(Progress):
    """Bars on a terminal, plain lines elsewhere. Shows validation only: the test is for the end.

    ``watchdog`` is told of every step and every batch of an evaluation, from the first one on.
    """

    def __init__(self, console: Console, metric: str, watchdog: Watchdog = NO_WATCHDOG):
        self.console, self.watchdog = console, watchdog
        self.metrics = list(dict.fromkeys([metric, "recall@20", "ndcg@20", "rmse"]))
        self.loss = "-"  # until an epoch ends here: a resumed run may first have an evaluation to make
        self.last_line = self.started = time.perf_counter()
        self.bars = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self.bars = RichBars(*columns, console=console, transient=True)
            self.training = self.bars.add_task("training steps", total=None)
            self.evaluating = self.bars.add_task("evaluating users", total=None, visible=False)

    def __enter__(self) -> "ConsoleProgress":
        """Starts the bars."""
        self.watchdog.alive()
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Clears the bars."""
        self.watchdog.stop()
        if self.bars:
            self.bars.stop()

    def message(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text)
        self.last_line = time.perf_counter()

    def _plain(self, text: str) -> None:
        if time.perf_counter() - self.last_line >= SECONDS_BETWEEN_PLAIN_LINES:
            self.message(f"[{time.perf_counter() - self.started:7.0f} s] {text}")

    def epoch(self, record: dict[str, Any]) -> None:
        """Remembers the loss for the next evaluation's line."""
        self.loss = f"{record['loss']:.4g}"
        if not self.bars:
            self._plain(f"epoch {record['epoch']:g}, loss {record['loss']:.5g}")

    def batch(self, step: int, total_steps: int) -> None:
        """Moves the bar."""
        self.watchdog.alive()
        if self.bars:
            self.bars.update(self.training, completed=step, total=total_steps)
        else:
            self._plain(f"step {step}")

    def evaluated(self, num_users: int, total_users: int) -> None:
        """Moves the bar of the evaluation."""
        self.watchdog.alive()
        if self.bars:
            self.bars.update(self.evaluating, completed=num_users, total=total_users, visible=num_users < total_users)
        else:
            self._plain(f"evaluated {num_users:,} of {total_users:,} users")

    def evaluation(self, record: dict[str, Any], improved: bool) -> None:
        """A line per evaluation."""
        values = "  ".join(f"{name} {record['valid'][name]:.4f}" for name in self.metrics if name in record["valid"])
        elapsed, best = time.perf_counter() - self.started, "  best" if improved else ""
        self.message(f"[{elapsed:7.0f} s] epoch {record['epoch']:<5g} loss {self.loss:<9} valid  {values}{best}")


def table_title(results: dict[str, Any]) -> str:
    """Of what data and split results.json tells."""
    inner, noise = results.get("tuning_holdout"), results.get("random_noise")  # results of before have none
    parts = [f"{100 * noise:g}% random noise"] if noise else []
    parts.append(f"tuning holdout {inner:g} (the valid split, not the test)" if inner else "test split")
    dataset = Path(results["dataset"])  # a folder of its own has no settings
    name = dataset.name if dataset.is_absolute() else f"{dataset} {results['setting']}"
    least = results.get("min_relevant_rating")
    relevant = [] if least is None else [f"relevant from a rating of {least:g}"]
    return ", ".join([name, *parts, f"{results['mode']} mode", *relevant])


def results_table(title: str, rows: Mapping[str, Mapping[str, float]], ks: tuple[int, ...]) -> Table:
    """A table of recall and NDCG at the first two K, MRR, precision and hit rate at the second, and errors of ratings
    where a model predicts them; a row per model."""
    shown = ks[:2]
    columns = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in shown]
    columns += [f"{metric}@{shown[-1]}" for metric in ("precision", "mrr", "map", "hit_rate")]
    columns += [metric for metric in RATING_METRICS if any(metric in values for values in rows.values())]
    table = Table(title=title)
    table.add_column("model")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(name, *(f"{values[column]:.4f}" if column in values else "-" for column in columns))
    return table
