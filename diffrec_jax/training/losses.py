"""Watches the losses of steps: those that are no numbers, and those that are far above the usual."""

import statistics
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from diffrec_jax.training.run_directory import RunDirectory

SPIKE, USUAL_STEPS, FEWEST_STEPS = 3.0, 100, 20
"""A loss is a spike if it is so many times the median of so many steps before it, once there are a few."""


class DivergedError(RuntimeError):
    """The loss or the parameters are no longer finite."""


class LossWatch:
    """Looks at one step after the other.

    Args:
      limit: steps that may be left out over the whole run.
      run_directory: gets the batch of a loss that is not finite; knows of the steps left out before.
      batch_of: number of steps done -> arrays of the batch that comes then.
      saved_steps: gives the steps with a checkpoint, for messages.
    """

    def __init__(
        self,
        limit: int,
        run_directory: RunDirectory,
        batch_of: Callable[[int], dict[str, np.ndarray]],
        saved_steps: Callable[[], list[int]],
    ):
        self.limit, self.run_directory, self.batch_of, self.saved_steps = limit, run_directory, batch_of, saved_steps
        self.usual: deque[float] = deque(maxlen=USUAL_STEPS)
        self.num_skipped: int | None = None

    def look(self, step: int, loss: float, *, skipped: bool) -> list[dict[str, Any]]:
        """What is to be noted of a step: ``skipped`` and ``spike`` records.

        Args:
          step: its number, from 1.
          loss: of its batch.
          skipped: whether it was left out.

        Raises:
          DivergedError: the loss is not finite and the step was not left out, or too many were.
        """
        if skipped:
            return [self._skip(step, loss)]
        if not np.isfinite(loss):
            raise DivergedError(
                f"the training loss is {loss} at step {step}; {self._kept(step)}: lower --lr, check --noise_scale, "
                "--noise_min and --noise_max, or leave such steps out with --on_nonfinite=skip"
            )
        median = statistics.median(self.usual) if len(self.usual) >= FEWEST_STEPS else np.inf
        self.usual.append(loss)
        return [{"event": "spike", "step": step, "loss": loss, "usual": median}] if loss > SPIKE * median > 0 else []

    def _skip(self, step: int, loss: float) -> dict[str, Any]:
        if self.num_skipped is None:  # what was left out since the checkpoint a run goes on from happens again
            self.num_skipped = sum(record["event"] == "skipped" for record in self.run_directory.records())
        self.num_skipped += 1
        if self.num_skipped > self.limit:
            raise DivergedError(
                f"{self.num_skipped} steps had a loss or gradients that are not finite, the last is step {step}, and "
                f"--nonfinite_limit is {self.limit}; {self._kept(step)}: lower --lr"
            )
        path = self.run_directory.write_batch(step, self.batch_of(step - 1))
        return {"event": "skipped", "step": step, "loss": repr(loss), "batch": path.name}

    def _kept(self, step: int) -> str:
        """Where the batch lies, and what checkpoints there are."""
        path, saved = self.run_directory.write_batch(step, self.batch_of(step - 1)), self.saved_steps()
        kept = f"the checkpoint of step {saved[-1]} is untouched" if saved else "no checkpoint was written"
        return f"its batch is in {path}, {kept}"

    @staticmethod
    def describe(record: dict[str, Any]) -> str:
        """A record, for people."""
        if record["event"] == "skipped":
            return (
                f"step {record['step']} is left out: its loss is {record['loss']}, or a gradient is not finite; its "
                f"batch is in {record['batch']}"
            )
        return f"step {record['step']} has a loss of {record['loss']:.4g}, usual is {record['usual']:.4g}"
