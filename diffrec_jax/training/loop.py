"""The training loop: steps, evaluations, checkpoints, early stopping, and going on after an interruption."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from diffrec_jax.data.interactions import Dataset
from diffrec_jax.data.recency import NO_WEIGHTING, RowWeighting
from diffrec_jax.devices import SINGLE_DEVICE, DeviceStrategy, any_stops, from_primary
from diffrec_jax.evaluation.candidates import SampledCandidates
from diffrec_jax.evaluation.ranking import AveragingMode, Evaluator, SplitResult, check_relevant, evaluate_dataset
from diffrec_jax.evaluation.rating_errors import goodness
from diffrec_jax.recommenders.base import Recommender
from diffrec_jax.training.batches import Batches
from diffrec_jax.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    DamagedCheckpointError,
    all_finite,
    bit_sums,
)
from diffrec_jax.training.clock import Clock
from diffrec_jax.training.losses import DivergedError, LossWatch
from diffrec_jax.training.run_directory import OFF_SCHEDULE, RESUME, RunDirectory, RunDirectoryError
from diffrec_jax.training.selection import NOTHING_SELECTED, Selection, best_of, describe_early_stop, select
from diffrec_jax.training.state import TrainState, init_train_state
from diffrec_jax.training.step import StepReport, in_turn, make_train_step
from diffrec_jax.training.train_config import TrainConfig
from diffrec_jax.typing import Key


class StoppedError(RuntimeError):
    """The run was asked to stop, and did so with nothing lost; the message says at which step."""


@dataclass
class Timings:
    """Wall-clock seconds and counts of one process."""

    train_s: float = 0.0
    steps: int = 0
    eval_s: float = 0.0
    evaluations: int = 0
    checkpoint_s: float = 0.0


class Progress:
    """Receives what the training loop reports; this one ignores it."""

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch's last step."""

    def evaluation(self, record: dict[str, Any], improved: bool) -> None:
        """After an evaluation."""

    def batch(self, step: int, total_steps: int) -> None:
        """After training steps, up to this one, were handed to the device."""

    def evaluated(self, num_users: int, total_users: int) -> None:
        """After each batch of an evaluation."""

    def message(self, text: str) -> None:
        """Anything else worth a line."""


@dataclass
class Trainer:
    """Trains one recommender on one dataset in one run directory.

    Without validation interactions there is nothing to choose a state by: the run goes through all its epochs, nothing
    is evaluated on the way, and the last state is the result.

    ``run`` starts from the newest whole checkpoint of the run directory, from nothing when there is none, and leaves
    the directory with the best and the newest state. The same call after a kill ends with the same numbers.
    """

    recommender: Recommender
    dataset: Dataset
    evaluator: Evaluator
    config: TrainConfig
    run_directory: RunDirectory
    devices: DeviceStrategy = SINGLE_DEVICE
    weighting: RowWeighting = NO_WEIGHTING
    mode: AveragingMode = "official"
    eval_user_ids: np.ndarray | None = None
    progress: Progress | None = None
    should_stop: Callable[[], bool] = lambda: False
    """Asked after each step (steps at once: after these) and each batch of an evaluation: the run then saves its state
    and ends."""
    clock: Clock | None = None
    must_resume: bool = False
    """Whether a run without a whole checkpoint is an error rather than started anew."""

    def __post_init__(self) -> None:
        """Compiles the functions lazily and checks the batch size."""
        num_parts = self.devices.num_row_shards * self.config.accumulate_steps
        if self.config.batch_size % num_parts:
            raise ValueError(
                f"batch_size {self.config.batch_size} is no multiple of {num_parts}, the devices it is split over "
                "times accumulate_steps"
            )
        check_relevant(self.dataset, self.mode, self.eval_user_ids)
        self.progress = self.progress or Progress()
        self.clock = self.clock or Clock()
        self.timings = Timings()
        self.checkpoints = Checkpoints(self.run_directory.checkpoints, num_newest=self.config.keep_newest)
        self.optimizer = self.config.make_optimizer(
            self.recommender.denoiser_params,
            num_users=self.dataset.learnt.num_users,
            held_params=self.recommender.held_params,
            holds_params=self.recommender.holds_params,
        )
        self.batches = Batches(
            self.dataset, self.weighting, self.config, self.devices, tight=self.recommender.works_on_places
        )
        self.steps_per_epoch, self.total_steps = self.batches.steps_per_epoch, self.batches.total_steps
        self._key = self.devices.make(self.config.make_key)()
        self._init_state = self.devices.make(self._make_state)
        self._bit_sums = self.devices.compile(bit_sums)
        self._inspect = self.devices.compile(
            lambda state: (all_finite((state.params, state.opt_state, state.loss_sum)), bit_sums(state))
        )
        self._prepare_scoring = self.devices.compile(self.recommender.prepare_scoring)
        shapes = self._state_shapes()
        train_step = make_train_step(
            self.recommender,
            self.optimizer,
            steps_per_epoch=self.steps_per_epoch,
            ema_decay=self.config.ema_decay,
            accumulate_steps=self.config.accumulate_steps,
            compute_dtype=self.config.compute_dtype,
            axis_name=self.devices.axis_name,
            on_nonfinite=self.config.on_nonfinite,
            true_shapes=lambda kept: self.devices.unpad(kept, (shapes.params, shapes.model_state)),
        )
        self._train_steps = self.devices.compile(in_turn(train_step), in_place=True)

    def init_state(self) -> TrainState:
        """The state before the first step, placed."""
        state = self._init_state(self._key)
        if self.recommender.warm_start is None:
            return state
        params = self.recommender.warm_start(self.devices.fetch(state.params))
        return state._replace(
            params=self.devices.place(params),
            averaged_params=self.devices.place(params) if state.keeps_average else (),
        )

    def _make_state(self, key: Key) -> TrainState:
        return init_train_state(self.recommender, self.optimizer, key, keep_average=self.config.ema_decay > 0)

    def _state_shapes(self) -> TrainState:
        return jax.eval_shape(lambda: self._make_state(self.config.make_key()))

    def state_bytes(self) -> int:
        """What one state and one gradient take: less than training does, which also holds blocks of rows and items."""
        shapes = self._state_shapes()
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((shapes, shapes.params)))

    def restore(self, step: int) -> TrainState:
        """The state saved at a step, placed.

        Raises:
          DamagedCheckpointError: it is not what was saved.
          CheckpointError: it is of another structure.
        """
        return self._load(step)[0]

    def _load(self, step: int) -> tuple[TrainState, bool]:
        """The same, and whether the evaluation that is due after the step is part of it."""
        like = self._state_shapes()
        found = self.checkpoints.restore(step, like, into=self.devices.checkpoint_target(like))
        state = self.devices.from_checkpoint(found.state)
        sums = self.devices.fetch(self._bit_sums(state))
        wrong = any(stored is not None and stored != int(value) for stored, value in zip(found.bits, sums))
        if from_primary(np.asarray(wrong)):
            raise self.checkpoints.damaged(step, "its arrays are not those that were saved")
        return state, found.evaluated

    def _newest(self, before: int | None = None) -> tuple[TrainState, int, bool] | None:
        """The newest state that is whole, its step and whether it was evaluated; damaged ones are told of."""
        step = self.checkpoints.newest(before=before)
        while step is not None:
            try:
                state, evaluated = self._load(step)
            except DamagedCheckpointError as error:
                self.progress.message(f"passed over: {error}")  # type: ignore[union-attr]
                step = self.checkpoints.newest(before=step)
            else:
                return state, step, evaluated
        return None

    def restore_best(self) -> TrainState:
        """The state with the best validation metric so far, placed.

        Raises:
          CheckpointError: there is no whole checkpoint, or nothing was selected yet, or the best one is damaged.
        """
        newest = self._newest()
        if newest is None:
            raise CheckpointError(f"{self.checkpoints.folder} holds no whole checkpoint: resume the run first")
        state, step, _ = newest
        best_step = int(self.best(state).best_step)
        if best_step == 0:
            raise CheckpointError(f"no evaluation of this run has given a finite {self.config.metric} yet: resume it")
        if best_step == step:
            return state
        del newest, state  # one at a time: each is three times the model
        return self.restore(best_step)

    def best(self, state: TrainState) -> Selection:
        """The best evaluation that a placed state knows of."""
        return best_of(*self.devices.fetch((state.selection, state.last_selection)))

    def scoring_state(self, state: TrainState) -> Any:
        """What the recommender scores with, of a placed state."""
        return self._prepare_scoring(state.scoring_params)

    def evaluate(
        self, state: TrainState, *, test_with_valid_input: bool = False, candidates: SampledCandidates | None = None
    ) -> dict[str, SplitResult]:
        """Validation and test of a placed state, by ``evaluate_dataset``."""
        assert self.progress is not None
        started = time.perf_counter()
        num_users = len(self.dataset.evaluated_users if self.eval_user_ids is None else self.eval_user_ids)
        done = 0

        def on_batch(count: int) -> None:
            nonlocal done
            done += count
            self.progress.evaluated(done, num_users)  # type: ignore[union-attr]
            if jax.process_count() == 1 and self.should_stop():  # several have to agree: they do so between steps
                raise StoppedError("stopped while it evaluated; nothing is lost: go on with --resume")

        with self.clock.measuring("evaluation"):  # type: ignore[union-attr]
            results = evaluate_dataset(
                self.evaluator,
                self.scoring_state(state),
                self.dataset,
                weighting=self.weighting,
                test_with_valid_input=test_with_valid_input,
                user_ids=self.eval_user_ids,
                candidates=candidates,
                on_batch=on_batch,
            )
        self.timings.eval_s += time.perf_counter() - started
        self.timings.evaluations += 1
        return results

    def _check_losses(self, watch: LossWatch, reports: list[tuple[int, StepReport]]) -> None:
        """Looks at the steps since the last time, of which the reports say the first; waits for the device."""
        fetched = self.devices.fetch([report for _, report in reports])
        for (first, _), report in zip(reports, fetched):
            for step, loss, skipped in zip(itertools.count(first), report.loss, report.skipped):
                for record in watch.look(step, float(loss), skipped=bool(skipped)):
                    self.run_directory.log(record)
                    self.progress.message(watch.describe(record))  # type: ignore[union-attr]
        reports.clear()

    def _save(self, state: TrainState, step: int, *, evaluated: bool) -> None:
        started = time.perf_counter()
        with self.clock.measuring("checkpoint"):  # type: ignore[union-attr]
            finite, sums = self.devices.fetch(self._inspect(state))
            if not finite:
                raise DivergedError(
                    f"the parameters are no longer finite at step {step}; the earlier checkpoints are untouched: lower "
                    "--lr"
                )
            self.checkpoints.save(
                step,
                self.devices.to_checkpoint(state),
                like=self._state_shapes(),
                bits=[int(value) for value in sums],
                best_steps=self._best_steps(state),
                evaluated=evaluated,
            )
        self.timings.checkpoint_s += time.perf_counter() - started
        self._log_clock(step, saved=True)

    def _best_steps(self, state: TrainState) -> tuple[int, ...]:
        """The steps of both selections, and of as many of the best evaluations as are to be kept."""
        selections = self.devices.fetch((state.selection, state.last_selection))
        selected = {int(selection.best_step) for selection in selections}
        if self.config.keep_best == 1 or not self.run_directory.writes:
            return tuple(selected)
        values = {record["step"]: self._goodness(record) for record in self._evaluations()}
        ranked = sorted((step for step in values if np.isfinite(values[step])), key=lambda step: -values[step])
        return tuple(selected.union(ranked[: self.config.keep_best]))

    def _evaluations(self) -> list[dict[str, Any]]:
        return [record for record in self.run_directory.records() if record["event"] == "evaluation"]

    def _goodness(self, means: Mapping[str, Any]) -> float:
        """What states are selected by, of an evaluation's means by split."""
        return goodness(self.config.metric, means["valid"][self.config.metric])

    def _log_clock(self, step: int, *, saved: bool = False) -> None:
        self.run_directory.log_clock(step, self.clock.seconds, saved=saved)  # type: ignore[union-attr]

    def check_budget(self) -> None:
        """Raises RunDirectoryError if the run has already done more steps than are asked for."""
        done = max(self.checkpoints.steps(), default=0)
        if done > self.total_steps:
            epoch = done / self.steps_per_epoch
            raise RunDirectoryError(
                f"{self.run_directory.path} has done {done} steps ({epoch:g} epochs), more than the {self.total_steps} "
                "asked for: its result would not be that of a shorter run; raise --epochs (or --max_steps), or choose "
                "another --run_dir"
            )

    def _start(self, before: int | None) -> tuple[TrainState, int, bool, bool]:
        """The state to begin with, its step, whether its evaluation is still due, and whether nothing is left to do."""
        assert self.progress is not None
        self.check_budget()
        newest = self._newest(before)
        if newest is None and self.must_resume:
            raise CheckpointError(f"{self.checkpoints.folder} holds no whole checkpoint to go on from (--resume=must)")
        if newest is None:
            if self.run_directory.records():
                self.run_directory.log({"event": RESUME, "step": 0})
                self.progress.message("no checkpoint to resume from: starting anew")
            return self.init_state(), 0, False, False
        state, step, evaluated = newest
        scheduled, ends_run = self._is_scheduled(step), step >= self.total_steps
        due = not evaluated and (scheduled or ends_run)
        finished = not due and (ends_run or (scheduled and self._stops_early(state, step)))
        self.run_directory.log({"event": RESUME, "step": step} | ({} if finished else {"goes_on": True}))
        self.progress.message(f"resuming from the checkpoint of step {step} (epoch {step / self.steps_per_epoch:g})")
        if not finished:
            # An uninterrupted run would not have stopped here to evaluate.
            state = state._replace(last_selection=self.devices.place(NOTHING_SELECTED))
        return state, step, due, finished

    def _is_scheduled(self, step: int) -> bool:
        """Whether every run evaluates after this step, however long it is."""
        return step > 0 and step % (self.config.eval_every * self.steps_per_epoch) == 0

    def _stops_early(self, state: TrainState, step: int) -> bool:
        best_epoch = float(self.devices.fetch(state.selection.best_epoch))
        return (
            bool(self.config.patience and self.dataset.valid.nnz)
            and step / self.steps_per_epoch - best_epoch >= self.config.patience
        )

    def run(self) -> TrainState:
        """Trains to the end and returns the best state, placed: the one with the largest validation metric.

        Where the best state's checkpoint turns out to be damaged, the run goes back to an earlier one, or to the start.

        Raises:
          DivergedError: the loss or the parameters are not finite; no checkpoint is overwritten.
          StoppedError: ``should_stop`` said so; the state is saved.
          CheckpointError: no state was ever selected.
          RunDirectoryError: the run has already done more steps than are asked for.
          ValueError: the steps would be compiled for ever.
        """
        assert self.progress is not None
        self.config.check_compiles()
        self.checkpoints.finish_moves()
        before = None
        while True:
            self._run(before)
            try:
                return self.restore_best()
            except DamagedCheckpointError as error:
                before = int(self.best(self._newest()[0]).best_step)  # type: ignore[index]
                self.progress.message(f"passed over, so the steps up to the best one are made again: {error}")

    def _run(self, before: int | None) -> None:
        """Trains to the end, from the newest whole checkpoint before a step."""
        assert self.progress is not None and self.clock is not None
        config = self.config
        watch = LossWatch(config.nonfinite_limit, self.run_directory, self.batches.arrays_of, self.checkpoints.steps)
        state, step, due, finished = self._start(before)
        reports: list[tuple[int, StepReport]] = []
        num_unchecked, turns, window_started = 0, itertools.count(), time.perf_counter()
        while not finished:
            if not due:
                with self.clock.measuring("input"):
                    batches = self.batches.after(step)
                with self.clock.measuring("step"):
                    state, report = self._train_steps(state, batches, self._key)
                reports.append((step + 1, report))
                step, num_unchecked = step + len(batches), num_unchecked + len(batches)
                self.progress.batch(step, self.total_steps)

            ends_epoch, ends_run = step % self.steps_per_epoch == 0, step >= self.total_steps
            scheduled = self._is_scheduled(step)
            evaluates = scheduled or ends_run
            saves = bool(config.checkpoint_every_steps) and step % config.checkpoint_every_steps == 0
            stops = any_stops(next(turns), self.should_stop())
            if ends_epoch or evaluates or saves or stops or num_unchecked >= MAX_UNCHECKED_STEPS:
                self.timings.steps, num_unchecked = self.timings.steps + num_unchecked, 0
                with self.clock.measuring("step"):
                    self._check_losses(watch, reports)
                    loss_sum = float(self.devices.fetch(state.loss_sum))
                self.timings.train_s += time.perf_counter() - window_started
                if (ends_epoch or ends_run) and not due:
                    steps_in_epoch = (step - 1) % self.steps_per_epoch + 1
                    record = {
                        "event": "epoch",
                        "step": step,
                        "epoch": step / self.steps_per_epoch,
                        "loss": loss_sum / steps_in_epoch,
                    } | ({} if ends_epoch else OFF_SCHEDULE)
                    self.run_directory.log(record)
                    self._log_clock(step)
                    self.progress.epoch(record)
                if stops:
                    self._stop(state, step)
                if evaluates:
                    try:
                        state = self._evaluate_and_select(state, step, scheduled=scheduled)
                    except StoppedError:
                        self._stop(state, step)
                    finished = ends_run or self._stops_early(state, step)
                    if finished and not ends_run:
                        values = [self._goodness(evaluation) for evaluation in self._evaluations()]
                        epoch = step / self.steps_per_epoch
                        self.progress.message(describe_early_stop(epoch, config.patience, config.metric, values))
                if evaluates or saves:
                    self._save(state, step, evaluated=evaluates)
                due, window_started = False, time.perf_counter()

    def _stop(self, state: TrainState, step: int) -> None:
        """Saves the state, with its evaluation still to be made where one is due, and ends the run.

        Raises:
          StoppedError: always.
        """
        self._save(state, step, evaluated=False)
        raise StoppedError(
            f"stopped at step {step} (epoch {step / self.steps_per_epoch:.4g}), and its checkpoint is saved: go on "
            "with --resume"
        )

    def _evaluate_and_select(self, state: TrainState, step: int, *, scheduled: bool) -> TrainState:
        assert self.progress is not None
        if not self.dataset.valid.nnz:
            latest = Selection(np.float32(step), np.int32(step), np.float32(step / self.steps_per_epoch))
            return state._replace(selection=self.devices.place(latest))
        means = {split: result.mean(self.mode) for split, result in self.evaluate(state).items()}
        epoch = step / self.steps_per_epoch
        before = self.best(state)
        selection = select(before, self._goodness(means), step, epoch)
        record = {"event": "evaluation", "step": step, "epoch": epoch, **means} | ({} if scheduled else OFF_SCHEDULE)
        self.run_directory.log(record)
        improved = selection is not before
        self.progress.evaluation(record, improved=improved)
        if not improved:
            return state
        return state._replace(**{"selection" if scheduled else "last_selection": self.devices.place(selection)})


MAX_UNCHECKED_STEPS = 50
"""Steps after which the loss is checked, so that a long epoch does not train on NaN."""
