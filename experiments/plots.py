"""Pictures of runs, comparisons and datasets, where matplotlib is installed."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffrec_jax.evaluation import goodness
from diffrec_jax.files import atomic_file


def _new_figure(size: tuple[float, float]) -> tuple[Any, Any] | None:
    """A figure that is drawn without a display and its axes; None where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _plain(text: str) -> str:
    """Text in a picture as it is: $ would begin a formula."""
    return text.replace("$", r"\$")


def _save(figure: Any, path: Path, made_of: str) -> None:
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120, metadata={"Description": made_of})


def plot_dataset(popularity: np.ndarray, history_lengths: np.ndarray, title: str, file: IO[bytes]) -> bool:
    """Users of each item by its rank, and the lengths of histories; False where matplotlib is not installed."""
    made = _new_figure((10, 4))
    if made is None:
        return False
    figure = made[0]
    figure.clear()
    left, right = figure.subplots(1, 2)
    left.plot(np.arange(1, len(popularity) + 1), np.maximum(popularity, 0.5), color="tab:blue")
    left.set(xscale="log", yscale="log", xlabel="rank of the item", ylabel="users in train", title="popularity")
    edges = np.unique(np.geomspace(1, max(2, history_lengths.max()) + 1, 30).astype(int))
    right.hist(history_lengths, bins=edges, color="tab:blue")
    right.set(xscale="log", xlabel="interactions of a user in train", ylabel="users", title="lengths of histories")
    figure.suptitle(_plain(title))
    figure.savefig(file, format="png", dpi=120, metadata={"Description": title})
    return True


def plot_comparison(values: Mapping[str, list[float]], metric: str, title: str, path: Path, made_of: str) -> bool:
    """A bar per model, best first, its runs as dots; False where matplotlib is not installed.

    ``made_of`` is kept in the file.
    """
    made = _new_figure((7, 0.6 + 0.32 * max(len(values), 3)))
    if made is None:
        return False
    figure, axes = made
    labels = [_plain(label) for label in values]
    means = [statistics.mean(runs) for runs in values.values()]
    axes.barh(labels, means, color=["tab:orange" if "DiffRec" in label else "tab:blue" for label in labels])
    for place, runs in enumerate(values.values()):
        axes.plot(runs, [place] * len(runs), "k.", markersize=4)
    for place, mean in enumerate(means):
        axes.annotate(f"{mean:.4f}", (0, place), xytext=(4, 0), textcoords="offset points", va="center", color="w")
    axes.invert_yaxis()
    axes.set(xlabel=f"{metric} (bar: mean; dots: seeds)", title=_plain(title))
    _save(figure, path, made_of)
    return True


def plot_learning_curve(records: list[dict[str, Any]], metric: str, title: str, path: Path) -> bool:
    """Validation and test metric and training loss over the epochs; False where matplotlib is not installed."""
    made = _new_figure((7, 4))
    if made is None:
        return False
    figure, axes = made
    evaluations = [record for record in records if record["event"] == "evaluation"]
    epochs = [record for record in records if record["event"] == "epoch"]
    if not evaluations:
        axes.plot([record["epoch"] for record in epochs], [record["loss"] for record in epochs], color="0.5")
        axes.set(xlabel="epoch", ylabel="training loss (log)", yscale="log", title=_plain(title))
        _save(figure, path, f"{title}: metrics.jsonl of {path.parent}")
        return True
    at = [record["epoch"] for record in evaluations]
    marker = "." if len(at) < 60 else ""
    for split, color in (("valid", "tab:blue"), ("test", "tab:orange")):
        axes.plot(
            at, [record[split][metric] for record in evaluations], color=color, marker=marker, label=f"{split} {metric}"
        )
    best = max(evaluations, key=lambda record: goodness(metric, record["valid"][metric]))
    axes.axvline(best["epoch"], color="0.6", linestyle=":", label=f"selected: epoch {best['epoch']:g}")
    axes.set(xlabel="epoch", ylabel=metric, title=_plain(title))
    axes.set_ylim(bottom=0)
    loss_axes = axes.twinx()
    loss_axes.plot(
        [record["epoch"] for record in epochs],
        [record["loss"] for record in epochs],
        color="0.75",
        zorder=0,
        label="training loss",
    )
    loss_axes.set(ylabel="training loss (log)", yscale="log")
    handles = [*axes.get_lines(), *loss_axes.get_lines()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize="small")
    _save(figure, path, f"{title}: metrics.jsonl of {path.parent}")
    return True
