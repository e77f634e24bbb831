"""What each training step learns of: a function of the data, the configuration and the step alone."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from diffrec_jax.data.batching import steps_per_epoch, training_user_ids
from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.recency import RowWeighting
from diffrec_jax.devices import DeviceStrategy
from diffrec_jax.training.train_config import TrainConfig


class Batches:
    """The batches of a run.

    Args:
      dataset: its users that are learnt of are gone through once an epoch.
      weighting: of the rows and, where they are others, of what is to be predicted.
      config: sizes and numbers of steps.
      devices: make the batches.
      tight: less padding and more shapes, where the work grows with the places. Not of steps that go to the device
        together, which have one shape.
    """

    def __init__(
        self, dataset: Dataset, weighting: RowWeighting, config: TrainConfig, devices: DeviceStrategy, *, tight: bool
    ):
        learnt, target = dataset.learnt, weighting.target
        self.rows = weighting.rows(learnt, "train", weighting.train)
        self.targets = None if target is None else weighting.rows(learnt, "train", target).data
        self.config, self.devices, self.tight = config, devices, tight and config.steps_at_once == 1
        self.steps_per_epoch = steps_per_epoch(learnt.num_users, config.batch_size)
        self.total_steps = config.total_steps(learnt.num_users)

    def users_of(self, step: int) -> np.ndarray:
        """Of the step after so many."""
        return training_user_ids(self.rows.shape[0], self.config.batch_size, seed=self.config.seed, step=step)

    def arrays_of(self, step: int) -> dict[str, np.ndarray]:
        """What the step after so many steps learns of: the users and their rows, end to end."""
        users = self.users_of(step)
        rows = self.rows[users]
        return {"user_ids": users, "indptr": rows.indptr, "item_ids": rows.indices, "weights": rows.data}

    def after(self, step: int) -> tuple[Any, ...]:
        """Of the steps that are given to the device at once after so many, all of one shape.

        None is beyond where the run looks at the state: the end of an epoch or of the run, and a checkpoint.
        """
        every = self.config.checkpoint_every_steps
        left = min(self.steps_per_epoch - step % self.steps_per_epoch, self.total_steps - step)
        left = min(left, every - step % every) if every else left
        made = self._made(range(step, step + min(left, self.config.steps_at_once)))
        first = next(made)
        return (first, *itertools.takewhile(lambda batch: batch.item_ids.shape == first.item_ids.shape, made))

    def _made(self, steps: range) -> Iterator[Any]:
        for step in steps:
            yield self.devices.make_batch(
                self.rows,
                self.users_of(step),
                batch_size=self.config.batch_size,
                targets=self.targets,
                num_parts=self.config.accumulate_steps,
                tight=self.tight,
            )
