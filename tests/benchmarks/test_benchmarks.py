"""The benchmarks' own checks, at a size that takes seconds; no timing is asserted."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest

os.environ["TORCH_COMPILE_DISABLE"] = "1"  # it takes half a minute, here and in the processes that are started
pytest.importorskip("torch", reason="the peer needs PyTorch: pip install 'diffrec-jax[bench]'")

from benchmarks import (
    evaluation,
    harness,
    latency,
    latent_step,
    new_users,
    prepare_log,
    propagation,
    sampling,
    torch_peer,
    train_step,
)
from diffrec_jax.data import SyntheticSpec, make_synthetic
from diffrec_jax.recommenders import DiffRecConfig
from diffrec_jax.training.train_config import TrainConfig

SHAPE = harness.Shape(
    name="tiny",
    spec=SyntheticSpec(num_users=90, num_items=150, num_interactions=2_000, num_clusters=6),
    recommender=DiffRecConfig(dims=(8, 24), num_timesteps=7, noise_scale=0.1, noise_min=0.001, noise_max=0.01),
    training=TrainConfig(lr=1e-3, batch_size=40),
)
BENCHMARKS = {
    module.BENCHMARK.name: module.BENCHMARK for module in (train_step, sampling, latency, evaluation, propagation)
}


@pytest.fixture(scope="module")
def dataset():
    return make_synthetic(SHAPE.spec)


@pytest.fixture(scope="module")
def params(dataset):
    return harness.init_rankable_params(SHAPE, dataset)


def test_the_loss_history_without_a_loop_is_that_of_the_loop():
    torch = torch_peer.torch
    looped, free = (
        torch_peer.make_peer(SHAPE.recommender, 10, of=of)[0]
        for of in (torch_peer.Diffusion, torch_peer.LoopFreeDiffusion)
    )
    rng = np.random.default_rng(0)
    for _ in range(12):
        t = torch.from_numpy(rng.choice(7, 40, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02]))
        losses = torch.from_numpy(rng.random(40, np.float32))
        looped.update_history(t, losses)
        free.update_history(t, losses)
        assert torch.equal(looped.counts, free.counts)
        full = looped.counts == torch_peer.HISTORY_LENGTH
        assert torch.equal(looped.history[full], free.history[full])
    assert int(full.sum()) >= 5


def test_rows_made_dense_on_the_device_are_the_rows(dataset):
    users = np.array([3, 80, 3, 0])
    rows = torch_peer.DeviceRows(dataset.train, "cpu").batch(torch_peer.torch.from_numpy(users))
    np.testing.assert_array_equal(rows.numpy(), dataset.train[users].toarray())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_sides_agree_and_every_row_is_timed(name, dataset, monkeypatch):
    small = ["--shape=small", *(["--users=40"] if name == "evaluation" else [])]  # of a peer in a process of its own
    monkeypatch.setattr(sys, "argv", ["benchmark", *small])
    measurement = BENCHMARKS[name].measure(SHAPE, dataset, 1)
    assert measurement.notes
    for row in measurement.rows:
        assert len(row.ours_s) == 1 and row.ours_s[0] > 0
        assert len(row.peer_s) <= 1
    assert sum(row.has_memory for row in measurement.rows) == 1


@pytest.mark.parametrize("side", harness.SIDES)
@pytest.mark.parametrize("name", ["sampling", "evaluation"])
def test_either_side_runs_alone(name, side, dataset):
    work = BENCHMARKS[name].make_side(side, SHAPE, dataset)
    first, second = work(), work()
    if name == "sampling":
        users = 40
        assert first.shape == (users, 100) and first.min() >= 0 and first.max() < dataset.num_items
        seen = dataset.train_and_valid
        for user in range(users):
            mine = set(seen.indices[seen.indptr[user] : seen.indptr[user + 1]].tolist())
            unseen = first[user][: dataset.num_items - len(mine)]
            assert len(set(unseen.tolist())) == len(unseen) and not mine & set(unseen.tolist())
        np.testing.assert_array_equal(first, second)
    else:
        assert first == second
        for split in ("valid", "test"):
            assert 0 < first[split]["recall@20"] < first[split]["recall@100"] <= 1


@pytest.mark.once
def test_the_latent_step_is_timed_and_accounts_for_its_state(dataset):
    shape = dataclasses.replace(SHAPE, name="ml-1m")  # whose L-DiffRec it takes
    measurement = latent_step.measure(shape, dataset, 1)
    (row,) = measurement.rows
    assert row.ours_s[0] > 0 < row.peer_s[0]
    assert "GiB less" in measurement.notes[-1]
    for side in harness.SIDES:
        training = latent_step.make_training(side, shape, dataset)
        state_bytes = 3 * 4 * latent_step.num_params(training)  # AdamW's
        assert state_bytes < latent_step.step_bytes(training) < 3 * state_bytes


def test_sides_agree_with_one_hidden_layer():
    recommender = dataclasses.replace(SHAPE.recommender, dims=(24,))
    shape = dataclasses.replace(SHAPE, recommender=recommender)
    dataset = make_synthetic(shape.spec)
    params = harness.init_rankable_params(shape, dataset)
    found = sampling.check_agreement(
        sampling.OurSampling(shape, dataset, params), sampling.PeerSampling(shape, dataset, params)
    )
    assert "scores differ by at most" in found


def test_sampling_notices_other_weights(dataset, params):
    ours, peer = sampling.OurSampling(SHAPE, dataset, params), sampling.PeerSampling(SHAPE, dataset)
    with pytest.raises(harness.DisagreementError, match="scores differ"):
        sampling.check_agreement(ours, peer)


def test_evaluation_notices_other_weights(dataset, params):
    ours, peer = evaluation.OurEvaluation(SHAPE, dataset, params), evaluation.PeerEvaluation(SHAPE, dataset)
    with pytest.raises(harness.DisagreementError, match="differs by"):
        evaluation.check_agreement(ours, peer)


def test_training_notices_another_optimizer(monkeypatch):
    monkeypatch.setattr(train_step.torch.optim, "AdamW", train_step.torch.optim.SGD)
    with pytest.raises(harness.DisagreementError):
        train_step.check_agreement(SHAPE)


def test_peer_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="no such model"):
        torch_peer.make_peer(DiffRecConfig(prediction_type="epsilon"), 10)


def test_the_peer_stays_on_its_device():
    """PyTorch's meta device computes no values but tells, as a GPU would, of a tensor that is elsewhere."""
    where = torch_peer.torch.device("meta")
    t = torch_peer.torch.zeros(3, dtype=torch_peer.torch.int64, device=where)
    assert torch_peer.timestep_embedding(t, 10).device == where
    diffusion, model = torch_peer.make_peer(SHAPE.recommender, 20, "meta")
    x_0 = torch_peer.torch.zeros(3, 20, device=where)
    assert model(x_0, t).device == where
    scores = diffusion.sample(model, x_0)
    assert (scores.device, tuple(scores.shape)) == (where, (3, 20))


def test_peer_schedule_is_ours():
    ours, (peer, _) = SHAPE.recommender.make_schedule(), torch_peer.make_peer(SHAPE.recommender, 10)
    for our_table, peer_table in (
        (ours.sqrt_alphas_cumprod, peer.sqrt_abar),
        (ours.sqrt_variances, peer.sqrt_one_minus),
        (ours.posterior_coef_x0, peer.mean_x0),
        (ours.posterior_coef_xt, peer.mean_xt),
        (ours.x0_loss_weights, peer.loss_weights),
    ):
        np.testing.assert_allclose(our_table, peer_table, rtol=1e-5, atol=1e-12)


def test_peer_history_keeps_the_last_ten_losses():
    peer, _ = torch_peer.make_peer(SHAPE.recommender, 10)
    losses = train_step.torch.arange(25.0)
    peer.update_history(losses.long() % 2, losses)
    np.testing.assert_array_equal(peer.history[0], [6, 8, 10, 12, 14, 16, 18, 20, 22, 24])
    np.testing.assert_array_equal(peer.counts, [10, 10, 0, 0, 0, 0, 0])


def test_peer_metrics_by_hand():
    # One hit at rank 2 of two relevant items; a user without relevant items counts as 0.
    means = torch_peer.ranking_metrics([[4, 1, 3], [0, 1, 2]], [{1, 9}, set()], (2,))
    assert means["precision@2"] == pytest.approx(0.5 / 2)
    assert means["recall@2"] == pytest.approx(0.5 / 2)
    assert means["mrr@2"] == pytest.approx(0.5 / 2)
    discount = 1 / np.log2(3)
    assert means["ndcg@2"] == pytest.approx(discount / (1 + discount) / 2)


def test_named_shapes_are_the_released_runs():
    shape = harness.make_shape("ml-1m")
    assert (shape.recommender.dims, shape.recommender.num_timesteps) == ((200, 600), 40)
    assert shape.training.batch_size == 400
    assert shape.forward_flops == 2 * (2810 * 600 + 600 * 200 + 200 * 600 + 600 * 2810)
    one_step = dataclasses.replace(shape, recommender=dataclasses.replace(shape.recommender, num_timesteps=1))
    assert one_step.folded_flops == 2 * (600 * 200 + 200 * 600 + 600 * 2810)


def test_records_hold_what_the_table_shows():
    measurement = harness.Measurement([harness.Row("a", [2.0, 1.0, 3.0], [8.0, 6.0, 7.0], 4.0, True)], [])
    (record,) = harness._records(measurement, rate=4.0, memory={"ours": 2**30, "peer": 2**31})
    assert (record["ratio"], record["ratio_of_minima"]) == (3.5, 6.0)
    assert (record["floor_s"], record["ours_per_floor"]) == (1.0, 2.0)
    assert (record["ours_peak_bytes"], record["peer_peak_bytes"]) == (2**30, 2**31)
    assert json.loads(json.dumps(record)) == record
    assert harness.make_table("title", [record]).row_count == 1


def test_matmul_rate_is_a_rate():
    assert harness.matmul_rate(SHAPE, repeats=1) > 1e6


def test_new_users_get_the_lists_that_known_users_would():
    """Popularity hardly depends on a fifth of the users."""
    dataset = make_synthetic(SyntheticSpec(num_users=200, num_items=40, num_interactions=3000))
    held_out = np.arange(0, 200, 5)
    measured = new_users.of_users(dataset, held_out)
    assert measured.num_users == 40 and measured.test.nnz
    new, known = new_users.compare("popularity", dataset, held_out, None)
    assert known > 0 and abs(new / known - 1) < 0.1


@pytest.mark.once
def test_pandas_writes_the_arrays_that_the_engines_write(tmp_path):
    log = tmp_path / "log.parquet"
    prepare_log.make_log(log, 4000)
    found = [prepare_log.measured(side, log) for side in ("polars", "duckdb", "pandas")]
    assert len({result["digest"] for result in found}) == 1 and all(result["bytes"] > 1e7 for result in found)
