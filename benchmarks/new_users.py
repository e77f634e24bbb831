"""How good are lists for users that a model was not trained on?

A share of the users is held out. A model trained on the others recommends to them by their items; the same model
trained on all users recommends to them too. Both are measured on the held-out users' test interactions.

python -m benchmarks.new_users --dataset=ml-1m --models=ease,diffrec
"""

import dataclasses

import numpy as np
from absl import flags
from rich.table import Table
from scipy import sparse

import diffrec_jax as dr
from diffrec_jax.config import DataConfig, default_data_dir
from diffrec_jax.data import find_dataset_folder
from diffrec_jax.data.interactions import SPLITS
from diffrec_jax.training.loop import Progress
from experiments.cli import start
from experiments.console import ConsoleProgress, make_console

K = 20
FLAGS = flags.FLAGS


def of_users(dataset: dr.Dataset, users: np.ndarray) -> dr.Dataset:
    """The dataset of some of its users."""
    parts = {split: sparse.csr_array(getattr(dataset, split)[users]) for split in SPLITS}
    return dataclasses.replace(dataset, user_ids=dataset.original_user_ids[users], times=None, **parts)


def recall_of(lists: dict[int, list[int]], dataset: dr.Dataset) -> float:
    """Test recall@K of lists that may still hold valid items, which the protocol leaves out."""
    valid, ids, items = dataset.valid, dataset.original_user_ids, dataset.original_item_ids
    cut = {}
    for row, user in enumerate(ids.tolist()):
        seen = set(items[valid.indices[valid.indptr[row] : valid.indptr[row + 1]]].tolist())
        cut[user] = [item for item in lists[user] if item not in seen][:K]
    return dr.evaluate_lists(cut, dataset, ks=(K,)).mean()[f"recall@{K}"]


def compare(model: str, dataset: dr.Dataset, held_out: np.ndarray, progress: Progress | None) -> tuple[float, float]:
    """Test recall of the held-out users: by their items, and trained on."""
    others = np.setdiff1d(np.arange(dataset.num_users), held_out)
    measured = of_users(dataset, held_out)
    k = K + int(np.diff(measured.valid.indptr).max())
    train, items = measured.train, measured.original_item_ids
    histories = {
        user: items[train.indices[train.indptr[row] : train.indptr[row + 1]]].tolist()
        for row, user in enumerate(measured.original_user_ids.tolist())
    }
    without, trained = (dr.fit(model, part, progress=progress) for part in (of_users(dataset, others), dataset))
    by_items = dr.recommend(without, histories=histories, k=k).lists()
    by_id = dr.recommend(trained, users=list(histories), k=k).lists()
    return recall_of(by_items, measured), recall_of(by_id, measured)


def main() -> None:
    """Prints a row a model."""
    console = make_console()
    folder = find_dataset_folder(FLAGS.dataset, "clean", FLAGS.data_dir or default_data_dir())
    dataset = DataConfig(FLAGS.dataset, "clean", str(folder), None).load()
    rng = np.random.default_rng(FLAGS.seed)
    held_out = np.sort(rng.permutation(dataset.num_users)[: int(FLAGS.share * dataset.num_users)])
    table = Table("model", f"recall@{K} by their items", "trained on", "ratio", title=f"{len(held_out):,} new users")
    for model in FLAGS.models:
        with ConsoleProgress(console, f"recall@{K}") as progress:
            new, known = compare(model, dataset, held_out, progress)
        table.add_row(model, f"{new:.4f}", f"{known:.4f}", f"{new / known:.3f}")
    console.print(table)


if __name__ == "__main__":
    flags.DEFINE_string("dataset", "ml-1m", "Name below --data_dir, or a folder.")
    flags.DEFINE_string("data_dir", None, "Folder of the datasets (DIFFREC_DATA_DIR).")
    flags.DEFINE_list("models", ["ease", "diffrec"], "Names of models.")
    flags.DEFINE_float("share", 0.2, "Of the users that are held out.")
    flags.DEFINE_integer("seed", 0, "Of the users that are held out.")
    start(main, __doc__ or "")
