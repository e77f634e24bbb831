import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data import Recency, RowWeighting, group_items
from diffrec_jax.evaluation import ScoresError
from diffrec_jax.recommenders import LDiffRecConfig, fit_linear_factors, make_diffrec, make_l_diffrec
from diffrec_jax.training.checkpoints import CheckpointError, Checkpoints, DamagedCheckpointError
from diffrec_jax.training.clock import KINDS, PROGRESS, where_time_went
from diffrec_jax.training.loop import Progress, StoppedError
from diffrec_jax.training.losses import DivergedError
from diffrec_jax.training.run_directory import RunDirectoryError
from tests.training.small_run import DATASET, MODEL, make_trainer


class Interrupt(Progress):
    """Stops the run after a number of steps, as an exception the loop knows nothing of."""

    def __init__(self, at_step):
        self.at_step = at_step

    def batch(self, step, total_steps):
        if step == self.at_step:
            raise KeyboardInterrupt


class Turns(Progress):
    """Notes how many steps went to the device at once."""

    def __init__(self):
        self.before, self.sizes = 0, []

    def message(self, text):
        if text.startswith("resuming"):
            self.before = int(text.split("step ")[1].split()[0])

    def batch(self, step, total_steps):
        self.sizes.append(step - self.before)
        self.before = step


def final_records(trainer):
    return [json.dumps(record, sort_keys=True) for record in trainer.run_directory.records()]


def assert_equal_states(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("runs") / "whole")
    return trainer, trainer.run()


def test_what_is_compiled_does_not_depend_on_the_seed(tmp_path):
    texts = set()
    for seed in (1, 2):
        trainer = make_trainer(tmp_path / f"{seed}", seed=seed)
        state = trainer.init_state()
        batch = trainer.devices.make_batch(trainer.batches.rows, np.arange(16), batch_size=16)
        lowered = trainer._train_steps.lower(state, (batch,), trainer._key), trainer._init_state.lower(trainer._key)
        texts.add(tuple(part.as_text() for part in lowered))
    assert len(texts) == 1


@pytest.mark.parametrize("steps_at_once", [2, 50])
def test_steps_given_to_the_device_together_make_the_same_run(tmp_path, uninterrupted, steps_at_once):
    """Also with checkpoints between them, and interrupted: the shortest epoch bounds how many go together."""
    trainer, best = uninterrupted
    run = {"steps_at_once": steps_at_once, "checkpoint_every_steps": 3}
    stopped = iter([False] * 4)
    with pytest.raises(StoppedError):
        make_trainer(tmp_path / "run", should_stop=lambda: next(stopped, True), **run).run()
    together = make_trainer(tmp_path / "run", progress=Turns(), **run)
    assert_equal_states(together.run(), best)
    events = [[json.loads(line) for line in final_records(done)] for done in (trainer, together)]
    whole, parts = ([record for record in found if record["event"] in ("epoch", "evaluation")] for found in events)
    assert parts == whole
    assert max(together.progress.sizes) == min(steps_at_once, 3, trainer.steps_per_epoch)
    assert together.timings.steps == sum(together.progress.sizes)


LATENT = LDiffRecConfig(
    dims=(6,),
    num_timesteps=3,
    noise_scale=0.1,
    noise_min=0.01,
    noise_max=0.1,
    in_dims=(8,),
    kl_weight_steps=30,
    diffusion_loss_weight_epochs=8,
    sampling_noise=True,
)
TEMPORAL = RowWeighting(
    train=Recency("linear", w_min=0.0), target=Recency("exp", scale=4.0), infer=Recency("exp", scale=4.0)
)


LINEAR = dataclasses.replace(
    LATENT,
    autoencoder="linear",
    encoder_activation="identity",
    reparameterize=False,
    residual=True,
    likelihood="gaussian",
    linear_l2=5.0,
)


def make_latent_trainer(path, config=LATENT, **changes):
    """LT-DiffRec with two optimisers; both annealings are under way when it ends."""
    groups = group_items("random", 2, train=DATASET.train)
    recommender = make_l_diffrec(config, groups, functools.partial(fit_linear_factors, DATASET.train))
    return make_trainer(path, recommender=recommender, weighting=TEMPORAL, denoiser_lr=3e-3, **changes)


@pytest.mark.once
@pytest.mark.parametrize("config", [LATENT, LINEAR], ids=["trained autoencoder", "linear autoencoder"])
def test_an_interrupted_latent_run_resumes_bit_for_bit(tmp_path, config):
    others = {"ema_decay": 0.9, "lr_decay_epochs": 5} if config is LINEAR else {}
    whole = make_latent_trainer(tmp_path / "whole", config, **others)
    best = whole.run()
    with pytest.raises(KeyboardInterrupt):
        make_latent_trainer(tmp_path / "run", config, progress=Interrupt(14), checkpoint_every_steps=3, **others).run()
    resumed = make_latent_trainer(tmp_path / "run", config, **others)
    assert_equal_states(resumed.run(), best)
    assert final_records(resumed) == final_records(whole)
    assert_equal_states(resumed.restore(24), whole.restore(24))
    assert np.all(np.asarray(best.model_state.counts) > 0)


def test_training_lowers_the_loss_and_learns(uninterrupted):
    trainer, _ = uninterrupted
    records = trainer.run_directory.records()
    losses = [record["loss"] for record in records if record["event"] == "epoch"]
    recalls = [record["valid"]["recall@20"] for record in records if record["event"] == "evaluation"]
    assert len(losses) == 6 and losses[-1] < 0.8 * losses[0]
    assert max(recalls) > recalls[0]


@pytest.mark.parametrize("at_step", [1, 23])
def test_an_interrupted_run_resumes_bit_for_bit(uninterrupted, tmp_path, at_step):
    """Before the first checkpoint, and in the last epoch (4 steps an epoch)."""
    whole, best = uninterrupted
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", progress=Interrupt(at_step), checkpoint_every_steps=3).run()
    resumed = make_trainer(tmp_path / "run", checkpoint_every_steps=3)
    assert_equal_states(resumed.run(), best)
    assert final_records(resumed) == final_records(whole)
    assert_equal_states(resumed.restore(24), whole.restore(24))


class StopAfter:
    """Says that the run should stop when it was asked so many times: after steps, and after batches of evaluations."""

    def __init__(self, times):
        self.left = times

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.once
@pytest.mark.parametrize("times", [0, 7, 8, 9, 27, 29])
def test_a_run_that_is_told_to_stop_saves_its_last_step_and_resumes_bit_for_bit(uninterrupted, tmp_path, times):
    """At a step, before an evaluation, within one (of 2 batches, after steps 8, 16 and 24) and at the end."""
    whole, best = uninterrupted
    stopped = make_trainer(tmp_path / "run", should_stop=StopAfter(times))
    with pytest.raises(StoppedError, match="stopped .*: go on with --resume"):
        stopped.run()
    done = [record["step"] for record in stopped.run_directory.clocks()]
    assert stopped.checkpoints.steps()[-1] == done[-1] == stopped.timings.steps
    resumed = make_trainer(tmp_path / "run")
    assert_equal_states(resumed.run(), best)
    assert final_records(resumed) == final_records(whole)
    assert_equal_states(resumed.restore(24), whole.restore(24))


@pytest.mark.once
def test_a_run_that_is_stopped_at_every_step_gets_to_the_same_end(uninterrupted, tmp_path):
    whole, best = uninterrupted
    for _ in range(40):
        trainer = make_trainer(tmp_path / "run", should_stop=StopAfter(3))
        try:
            found = trainer.run()
        except StoppedError:
            continue
        break
    assert_equal_states(found, best)
    assert final_records(trainer) == final_records(whole)


def flip_a_bit(trainer, step):
    files = (trainer.checkpoints.folder / str(step) / "state").rglob("*")
    largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))


class Listen(Progress):
    def __init__(self):
        self.said = []

    def message(self, text):
        self.said.append(text)


@pytest.mark.once
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(uninterrupted, tmp_path):
    _, best = uninterrupted
    first = make_trainer(tmp_path / "run", epochs=4)
    first.run()
    flip_a_bit(first, 16)
    listen = Listen()
    assert_equal_states(make_trainer(tmp_path / "run", progress=listen).run(), best)
    assert any("passed over: checkpoint" in text and "16 cannot be used: file" in text for text in listen.said)
    assert "resuming from the checkpoint of step 8 (epoch 2)" in listen.said


@pytest.mark.once
def test_arrays_that_were_written_wrong_are_found_when_they_are_read(tmp_path, monkeypatch):
    """Files and sums agree, and yet this is not what was in memory."""
    right = Checkpoints.save

    def wrong(self, step, state, **rest):
        state = state._replace(loss_sum=state.loss_sum + 1) if step == 16 else state
        right(self, step, state, **rest)

    monkeypatch.setattr(Checkpoints, "save", wrong)
    trainer = make_trainer(tmp_path / "run", epochs=5)
    trainer.run()
    assert trainer.checkpoints.damage(16) is None
    with pytest.raises(DamagedCheckpointError, match="16 cannot be used: its arrays are not those that were saved"):
        trainer.restore(16)


@pytest.mark.once
def test_a_damaged_best_state_is_made_again(tmp_path):
    whole = make_trainer(tmp_path / "whole", epochs=30, lr=3e-2)
    best = whole.run()
    best_step = int(best.selection.best_step)
    assert best_step < 100  # so it is not among the newest
    flip_a_bit(whole, best_step)
    with pytest.raises(CheckpointError, match=f"{best_step} cannot be used"):
        whole.restore_best()
    listen = Listen()
    again = make_trainer(tmp_path / "whole", epochs=30, lr=3e-2, progress=listen)
    assert_equal_states(again.run(), best)
    assert any("the steps up to the best one are made again" in text for text in listen.said)
    assert_equal_states(again.restore_best(), best)


@pytest.mark.once
def test_as_many_checkpoints_are_kept_as_asked(tmp_path):
    trainer = make_trainer(tmp_path / "run", epochs=12, eval_every=1, keep_newest=1, keep_best=4, lr=3e-2)
    trainer.run()
    records = [record for record in trainer.run_directory.records() if record["event"] == "evaluation"]
    ranked = sorted(records, key=lambda record: -record["valid"]["recall@20"])
    assert trainer.checkpoints.steps() == sorted({48, *(record["step"] for record in ranked[:4])})


@pytest.mark.once
def test_averaged_parameters_are_what_is_scored_and_resume_too(tmp_path):
    whole = make_trainer(tmp_path / "whole", ema_decay=0.8)
    best = whole.run()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", ema_decay=0.8, progress=Interrupt(17)).run()
    resumed = make_trainer(tmp_path / "run", ema_decay=0.8)
    assert_equal_states(resumed.run(), best)
    scored = whole.evaluate(best)["valid"].mean()
    assert scored == whole.evaluate(best._replace(params=best.averaged_params, averaged_params=()))["valid"].mean()
    assert scored != whole.evaluate(best._replace(averaged_params=()))["valid"].mean()


@pytest.mark.once
def test_the_best_state_is_returned_not_the_last(tmp_path):
    trainer = make_trainer(tmp_path / "run", epochs=30, lr=3e-2)
    best = trainer.run()
    evaluations = [r for r in trainer.run_directory.records() if r["event"] == "evaluation"]
    top = max(evaluations, key=lambda record: record["valid"]["recall@20"])
    assert float(best.selection.best_epoch) == top["epoch"] < 30
    again = trainer.evaluate(best)
    assert again["valid"].mean()["recall@20"] == top["valid"]["recall@20"]
    assert again["test"].mean()["ndcg@5"] == top["test"]["ndcg@5"]


def test_patience_ends_a_run_and_a_resume_does_not_go_on(tmp_path):
    listen = Listen()
    trainer = make_trainer(tmp_path / "run", epochs=200, patience=4, lr=3e-2, progress=listen)
    best = trainer.run()
    last = trainer.run_directory.records()[-1]
    assert last["epoch"] == float(best.selection.best_epoch) + 4 < 200
    assert f"stopped after epoch {last['epoch']:g}: no new best for 4 epochs (--patience=4)" in listen.said[-1]
    resumed = make_trainer(tmp_path / "run", epochs=200, patience=4, lr=3e-2)
    assert_equal_states(resumed.run(), best)
    assert resumed.timings.steps == 0


def test_max_steps_ends_within_an_epoch_with_an_evaluation(tmp_path):
    trainer = make_trainer(tmp_path / "run", max_steps=6)
    trainer.run()
    assert [(r["event"], r["step"]) for r in trainer.run_directory.records()] == [
        ("epoch", 4),
        ("epoch", 6),
        ("evaluation", 6),
    ]
    assert trainer.run_directory.records()[-1]["epoch"] == 1.5


def test_a_longer_budget_goes_on_as_if_it_had_been_there_from_the_start(uninterrupted, tmp_path):
    _, best = uninterrupted
    make_trainer(tmp_path / "run", epochs=2).run()
    longer = make_trainer(tmp_path / "run", epochs=6)
    assert_equal_states(longer.run(), best)


@pytest.mark.once
def test_a_longer_budget_forgets_the_evaluation_at_the_earlier_end(uninterrupted, tmp_path):
    """3 epochs end between the evaluations of every second one; a run that goes on would not have stopped there."""
    whole, best = uninterrupted
    for first in ({"epochs": 3}, {"max_steps": 6}, {"max_steps": 9}):
        path = tmp_path / "-".join(map(str, first.items()))
        make_trainer(path, **first).run()
        longer = make_trainer(path, epochs=6)
        assert_equal_states(longer.run(), best)
        assert_equal_states(longer.restore(24), whole.restore(24))
        assert final_records(longer) == final_records(whole)


def test_the_evaluation_at_the_end_counts_where_the_run_ends(tmp_path):
    """Also after a resume that finds nothing to do, and where it is the best."""
    trainer = make_trainer(tmp_path / "run", epochs=3, eval_every=2)
    best = trainer.run()
    evaluations = [record for record in trainer.run_directory.records() if record["event"] == "evaluation"]
    assert [record["epoch"] for record in evaluations] == [2, 3]
    top = max(evaluations, key=lambda record: record["valid"]["recall@20"])
    assert float(trainer.best(best).best_epoch) == top["epoch"]
    again = make_trainer(tmp_path / "run", epochs=3, eval_every=2)
    assert_equal_states(again.run(), best)
    assert [record for record in again.run_directory.records() if record["event"] == "evaluation"] == evaluations


def test_a_shorter_budget_is_refused_and_nothing_changes(tmp_path):
    make_trainer(tmp_path / "run", epochs=4).run()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"has done 16 steps \(4 epochs\), more than the 8 asked for"):
        make_trainer(tmp_path / "run", epochs=2).run()
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


@pytest.mark.once
def test_averages_of_parameters_in_a_tuple_are_scored(tmp_path):
    """Parameters may be any pytree: a tuple of them is no sign that no average is kept."""
    inner = make_diffrec(MODEL, DATASET.num_items)
    recommender = inner._replace(
        init_params=lambda key: (inner.init_params(key),),
        loss_fn=lambda params, *rest: inner.loss_fn(params[0], *rest),
        prepare_scoring=lambda params: inner.prepare_scoring(params[0]),
    )
    with_tuple = make_trainer(tmp_path / "tuple", recommender=recommender, ema_decay=0.8, epochs=2)
    with_dict = make_trainer(tmp_path / "dict", ema_decay=0.8, epochs=2)
    found, expected = (trainer.evaluate(trainer.run())["valid"].mean() for trainer in (with_tuple, with_dict))
    assert found == expected
    assert with_tuple.init_state().keeps_average and not make_trainer(tmp_path / "x").init_state().keeps_average


def test_weight_decay_that_would_shrink_what_is_held_is_refused(tmp_path):
    linear = dataclasses.replace(MODEL, linear_rank=4)
    recommender = make_diffrec(linear, DATASET.num_items, fit_linear=lambda *_: None)
    with pytest.raises(ValueError, match="weight_decay would shrink the fitted linear part"):
        make_trainer(tmp_path / "run", recommender=recommender, weight_decay=0.1)
    make_trainer(tmp_path / "run", recommender=recommender)
    make_trainer(tmp_path / "other", weight_decay=0.1)


def test_scores_that_are_no_numbers_stop_the_run_and_are_never_the_best(tmp_path):
    healthy = make_diffrec(MODEL, DATASET.num_items)

    def score_fn(state, batch, row_keys):
        scores = healthy.score_fn(state, batch, row_keys)
        return jnp.where(batch.user_ids[:, None] == 7, jnp.nan, scores)

    trainer = make_trainer(tmp_path / "run", recommender=healthy._replace(score_fn=score_fn))
    with pytest.raises(ScoresError, match="7"):
        trainer.run()
    assert trainer.checkpoints.steps() == []


def unhealthy(at_steps):
    """A recommender whose loss is NaN at some steps, from 0."""
    healthy = make_diffrec(MODEL, DATASET.num_items)

    def loss_fn(params, history, batch, row_keys, context):
        losses, info = healthy.loss_fn(params, history, batch, row_keys, context)
        return jnp.where(jnp.isin(context.step, jnp.array(at_steps)), jnp.nan, losses), info

    return healthy._replace(loss_fn=loss_fn)


def test_a_nan_loss_stops_the_run_and_leaves_the_checkpoints_and_its_batch(tmp_path):
    trainer = make_trainer(tmp_path / "run", recommender=unhealthy([10]))
    with pytest.raises(
        DivergedError,
        match=r"loss is nan at step 11; its batch is in .*batch_of_step_11.npz, the checkpoint of step 8 is untouched: "
        "lower --lr",
    ):
        trainer.run()
    assert trainer.checkpoints.steps() == [8]
    assert trainer.checkpoints.damage(8) is None
    assert not (tmp_path / "run" / "results.json").exists()
    batch = np.load(tmp_path / "run" / "batch_of_step_11.npz")
    assert len(batch["user_ids"]) == 16
    rows = DATASET.train[batch["user_ids"]]
    np.testing.assert_array_equal(batch["item_ids"], rows.indices)
    np.testing.assert_array_equal(batch["indptr"], rows.indptr)


@pytest.mark.once
def test_steps_that_are_not_finite_are_left_out_up_to_a_limit_also_over_a_resume(tmp_path):
    bad = {"recommender": unhealthy([5, 10, 13]), "on_nonfinite": "skip"}
    whole = make_trainer(tmp_path / "whole", **bad)
    best = whole.run()
    skipped = [record for record in whole.run_directory.records() if record["event"] == "skipped"]
    assert [record["step"] for record in skipped] == [6, 11, 14]
    assert (tmp_path / "whole" / skipped[0]["batch"]).exists()
    with pytest.raises(StoppedError):
        make_trainer(tmp_path / "run", should_stop=StopAfter(12), **bad).run()
    with pytest.raises(
        DivergedError, match="3 steps had a loss or gradients .* last is step 14, and --nonfinite_limit"
    ):
        make_trainer(tmp_path / "run", nonfinite_limit=2, **bad).run()
    resumed = make_trainer(tmp_path / "run", nonfinite_limit=3, **bad)
    assert_equal_states(resumed.run(), best)
    assert final_records(resumed) == final_records(whole)


@pytest.mark.once
def test_a_loss_far_above_the_usual_is_told(tmp_path):
    healthy = make_diffrec(MODEL, DATASET.num_items)

    def loss_fn(params, history, batch, row_keys, context):
        losses, info = healthy.loss_fn(params, history, batch, row_keys, context)
        return losses * jnp.where(context.step == 21, 50.0, 1.0), info

    listen = Listen()
    trainer = make_trainer(tmp_path / "run", recommender=healthy._replace(loss_fn=loss_fn), progress=listen)
    trainer.run()
    (spike,) = [record for record in trainer.run_directory.records() if record["event"] == "spike"]
    assert spike["step"] == 22 and spike["loss"] > 10 * spike["usual"] > 0
    assert any("step 22 has a loss of" in text and "usual is" in text for text in listen.said)


def test_where_the_time_went_adds_up_over_processes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", progress=Interrupt(14)).run()  # loses steps 9 to 13
    with pytest.raises(StoppedError):
        make_trainer(tmp_path / "run", should_stop=StopAfter(3)).run()  # loses nothing
    trainer = make_trainer(tmp_path / "run")
    trainer.run()
    earlier, lost = trainer.run_directory.earlier_clocks()
    clocks = trainer.run_directory.clocks()
    assert len(earlier) == 2 and {tuple(one) for one in earlier} == {KINDS}
    at_save = next(clock for clock in clocks if clock["step"] == 8 and clock["saved"])
    known_last = next(clock for clock in clocks if clock["step"] == 12)
    assert lost == pytest.approx(sum(known_last["seconds"][kind] - at_save["seconds"][kind] for kind in PROGRESS))
    found = where_time_went(trainer.clock.seconds, earlier, lost)
    assert found["wall_s"] == pytest.approx(sum(value for name, value in found.items() if name != "wall_s"))
    assert found["lost_s"] == lost > 0 and min(found.values()) >= 0
    assert found["compile_s"] > 0 and found["checkpoint_s"] > 0 and found["evaluation_s"] > 0
