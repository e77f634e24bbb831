import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax import products
from diffrec_jax.data.batching import make_row_batch
from diffrec_jax.data.synthetic import SyntheticSpec, make_synthetic
from diffrec_jax.devices import DeviceStrategy, MeshStrategy, PmapStrategy, make_strategy
from diffrec_jax.diffusion.timesteps import HISTORY_LENGTH
from diffrec_jax.evaluation import Evaluator, evaluate_dataset
from diffrec_jax.recommenders import (
    EaseConfig,
    GFCFConfig,
    IALSConfig,
    ItemKNNConfig,
    LDiffRecConfig,
    PopularityConfig,
    RP3betaConfig,
    SlimConfig,
    WindowRidgeConfig,
    fit_linear_factors,
    make_diffrec,
    make_ease,
    make_gfcf,
    make_ials,
    make_item_knn,
    make_l_diffrec,
    make_popularity,
    make_rp3beta,
    make_slim,
    make_window_ridge,
)
from diffrec_jax.rows import to_dense
from tests.training.small_run import DATASET, MODEL, make_trainer

NUM_ITEMS = DATASET.num_items
WAYS = {
    "pmap": PmapStrategy(4),
    "mesh 4x1": MeshStrategy(4, 1, NUM_ITEMS),
    "mesh 2x2": MeshStrategy(2, 2, NUM_ITEMS),
    "mesh 1x4": MeshStrategy(1, 4, NUM_ITEMS),
    "mesh 1x3": MeshStrategy(1, 3, NUM_ITEMS),  # 40 items are padded to 42
}


@pytest.fixture(scope="module")
def run_of_one(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("one") / "run", epochs=4, eval_every=1)
    return trainer, trainer.run()


def assert_same_run(trainer, state, run_of_one):
    """Every draw belongs to a user and a step, so that only rounding differs."""
    expected_trainer, expected = run_of_one
    for left, right in zip(jax.tree.leaves(trainer.devices.fetch(state.params)), jax.tree.leaves(expected.params)):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-5)
    history = trainer.devices.fetch(state.model_state)
    np.testing.assert_allclose(history.losses, expected.model_state.losses, rtol=1e-3)
    records = expected_trainer.run_directory.records(), trainer.run_directory.records()
    for left, right in zip(*records, strict=True):
        if left["event"] == "epoch":
            np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-4)
        else:
            np.testing.assert_allclose(
                list(left["valid"].values()), list(right["valid"].values()), rtol=1e-2, atol=5e-3
            )


@pytest.mark.parametrize(
    "way", [way if way in ("pmap", "mesh 2x2") else pytest.param(way, marks=pytest.mark.once) for way in WAYS]
)
def test_several_devices_give_the_run_of_one(tmp_path, way, run_of_one):
    trainer = make_trainer(tmp_path / "run", devices=WAYS[way], epochs=4, eval_every=1)
    assert_same_run(trainer, trainer.run(), run_of_one)


CLOSED_FORMS = {
    # Its scores are those of the items alone: the compiler is free to split what follows from them.
    "popularity": make_popularity(PopularityConfig()),
    "itemknn": make_item_knn(ItemKNNConfig(num_neighbors=10)),
    "rp3beta": make_rp3beta(RP3betaConfig(num_neighbors=10)),
    "ease": make_ease(EaseConfig(l2=10.0)),
    "slim": make_slim(SlimConfig()),
    "gfcf": make_gfcf(GFCFConfig(rank=8)),
    "window_ridge": make_window_ridge(WindowRidgeConfig(scales=(1, 4), l2=3.0)),
    "window_ridge of rank 8": make_window_ridge(WindowRidgeConfig(scales=(1, 4), l2=3.0, rank=8)),
    "window_ridge from neighbors": make_window_ridge(WindowRidgeConfig(scales=(1, 4), l2=3.0, num_neighbors=8)),
    "ials": make_ials(IALSConfig(embedding_size=24, num_iterations=2)),
}


@pytest.fixture(scope="module")
def closed_forms():
    """Name -> (fitted state on the host, results of one device)."""
    fitted = {}
    for name, recommender in CLOSED_FORMS.items():
        state = recommender.fit(DATASET.train)
        evaluator = Evaluator(recommender.score_fn, ks=(5, 10), batch_size=8)
        fitted[name] = jax.tree.map(np.asarray, state), evaluate_dataset(evaluator, state, DATASET)
    return fitted


@pytest.mark.once
@pytest.mark.parametrize("way", ["pmap", "mesh 2x2", "mesh 1x3"])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms_rank_as_on_one_device(name, way, closed_forms):
    state, expected = closed_forms[name]
    evaluator = Evaluator(CLOSED_FORMS[name].score_fn, ks=(5, 10), batch_size=8, devices=WAYS[way])
    results = evaluate_dataset(evaluator, WAYS[way].place(state), DATASET)
    for split, result in results.items():
        assert np.mean(result.top_items == expected[split].top_items) > 0.99  # rounding may swap items that are close
        for metric, values in expected[split].per_user.items():
            np.testing.assert_allclose(result.per_user[metric].mean(), values.mean(), atol=5e-3)


@pytest.mark.once
@pytest.mark.parametrize("way", [None, "pmap", "mesh 2x2"])
@pytest.mark.parametrize("parts", [{"accumulate_steps": 2}, {"accumulate_steps": 2, "steps_at_once": 2}])
def test_a_batch_in_parts_gives_the_run_of_the_whole(tmp_path, way, parts, run_of_one):
    devices = WAYS[way] if way else DeviceStrategy()
    trainer = make_trainer(tmp_path / "run", devices=devices, epochs=4, eval_every=1, **parts)
    assert_same_run(trainer, trainer.run(), run_of_one)


@pytest.mark.once
@pytest.mark.parametrize(("way", "parts"), [("pmap", 1), ("mesh 1x3", 1), ("mesh 2x2", 2)])
def test_the_error_by_gram_matrices_gives_the_run_too(tmp_path, way, parts, run_of_one):
    recommender = make_diffrec(dataclasses.replace(MODEL, loss_impl="gram"), NUM_ITEMS)
    trainer = make_trainer(
        tmp_path / "run", devices=WAYS[way], epochs=4, eval_every=1, accumulate_steps=parts, recommender=recommender
    )
    assert_same_run(trainer, trainer.run(), run_of_one)


@pytest.mark.once
def test_as_many_items_as_losses_of_a_timestep_are_no_trouble(tmp_path):
    """The loss history then has an axis that looks like one of items, and is padded where it is stored."""
    dataset = make_synthetic(
        SyntheticSpec(num_users=40, num_items=HISTORY_LENGTH, num_interactions=200, num_clusters=2)
    )
    runs = []
    for name, devices in (("one", DeviceStrategy()), ("mesh", MeshStrategy(1, 3, HISTORY_LENGTH))):
        trainer = make_trainer(tmp_path / name, devices=devices, dataset=dataset, epochs=20, eval_every=20)
        state = trainer.run()
        runs.append((trainer.devices.fetch(state.model_state), trainer.run_directory.records()))
    (one, records), (mesh, mesh_records) = runs
    assert one.counts.max() == HISTORY_LENGTH  # long enough for importance sampling
    np.testing.assert_array_equal(mesh.counts, one.counts)
    np.testing.assert_allclose(mesh.losses, one.losses, rtol=1e-3)
    for left, right in zip(mesh_records, records, strict=True):
        if left["event"] == "epoch":
            np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize(
    ("first", "then"), [("pmap", None), ("mesh 1x3", "pmap"), (None, "mesh 1x3"), ("mesh 2x2", "mesh 1x3")]
)
def test_a_checkpoint_of_one_way_goes_on_in_another(tmp_path, first, then, run_of_one):
    for way, epochs in ((first, 2), (then, 4)):
        devices = WAYS[way] if way else DeviceStrategy()
        trainer = make_trainer(tmp_path / "run", devices=devices, epochs=epochs, eval_every=1)
        state = trainer.run()
    assert trainer.timings.steps == 8  # two epochs more, not four
    assert_same_run(trainer, state, run_of_one)


ITEM_GROUPS = np.searchsorted([11, 23], np.arange(NUM_ITEMS), side="right")  # 11 and 12 items are padded to the same
LATENT = make_l_diffrec(LDiffRecConfig(dims=(8,), in_dims=(6,), num_timesteps=3), ITEM_GROUPS)
WITH_LINEAR_PART = make_diffrec(
    dataclasses.replace(MODEL, linear_rank=5, observed_error_weight=0.0, user_weight_power=0.5),
    NUM_ITEMS,
    functools.partial(fit_linear_factors, DATASET.train),
)


@pytest.mark.once
@pytest.mark.parametrize(
    ("way", "recommender"),
    [("mesh 2x2", LATENT), ("mesh 2x2", WITH_LINEAR_PART), ("pmap", WITH_LINEAR_PART)],
    ids=["latent-mesh", "linear-mesh", "linear-pmap"],
)
def test_every_kind_of_model_gives_the_run_of_one(tmp_path, way, recommender):
    results = []
    for name, devices in (("one", DeviceStrategy()), ("several", WAYS[way].for_item_groups(ITEM_GROUPS))):
        trainer = make_trainer(tmp_path / name, devices=devices, epochs=2, recommender=recommender, ema_decay=0.5)
        results.append(devices.fetch(trainer.run().scoring_params))
    for left, right in zip(*map(jax.tree.leaves, results)):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("way", WAYS)
def test_placing_and_fetching_keep_values(way):
    devices = WAYS[way]
    tree = {"a": np.arange(2.0 * NUM_ITEMS, dtype=np.float32).reshape(2, NUM_ITEMS), "b": np.int32(2)}
    placed = devices.place(tree)
    jax.tree.map(np.testing.assert_array_equal, devices.fetch(placed), tree)
    doubled = devices.compile(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))(placed)
    jax.tree.map(np.testing.assert_array_equal, devices.fetch(doubled), jax.tree.map(lambda leaf: 2 * leaf, tree))
    made = devices.make(lambda: {"a": jnp.arange(float(NUM_ITEMS))})()
    np.testing.assert_array_equal(devices.fetch(made)["a"], np.arange(NUM_ITEMS))


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_arrives_whole(way):
    devices, users = WAYS[way], np.arange(10)
    batch = devices.make_batch(DATASET.train, users, batch_size=12)
    dense = devices.fetch_rows(devices.compile(lambda batch: to_dense(batch, NUM_ITEMS), gives_rows=True)(batch))
    np.testing.assert_array_equal(dense[:10], DATASET.train[users].toarray())


@pytest.mark.parametrize("way", WAYS)
def test_the_best_items_of_the_shares_are_the_best_of_all(way):
    devices = WAYS[way]
    matrix = DATASET.train
    scores = np.random.default_rng(0).integers(0, 9, matrix.shape).astype(np.float32)  # with ties

    def best(batch):
        own = jnp.asarray(scores)[batch.user_ids]
        return devices.top_k(own, 25)

    batch = devices.make_batch(matrix, np.arange(12), batch_size=12)
    values, items = devices.fetch_rows(devices.compile(best, gives_rows=True)(batch))
    expected_values, expected_items = jax.lax.top_k(scores[:12], 25)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(items, expected_items)


@pytest.mark.once
def test_each_device_holds_its_share_of_weights_and_moments(tmp_path):
    trainer = make_trainer(tmp_path / "run", devices=WAYS["mesh 1x4"], epochs=1)
    state = trainer.run()
    adam = state.opt_state[0]
    for tree in (state.params, adam.mu, adam.nu):
        kernels = tree["params"]["input_kernel"], tree["params"]["output_layer"]["table"]
        for kernel in kernels:
            assert {shard.data.shape for shard in kernel.addressable_shards} == {(NUM_ITEMS // 4, 8)}
            assert len({shard.device for shard in kernel.addressable_shards}) == 4


@pytest.mark.once
def test_each_device_holds_its_share_of_every_group(tmp_path):
    devices = WAYS["mesh 1x3"].for_item_groups(ITEM_GROUPS)
    state = make_trainer(tmp_path / "run", devices=devices, recommender=LATENT).init_state()
    params = state.params["autoencoder"]["params"]
    for group, share in enumerate((4, 5, 6)):  # of 11, 12 and 17 items
        for kernel in (params[f"encoder_{group}_0_kernel"], params[f"output_{group}_table"]):
            assert {shard.data.shape[0] for shard in kernel.addressable_shards} == {share}
    np.testing.assert_array_equal(
        [len(devices.fetch(params[f"output_{group}_bias"])) for group in range(3)], np.bincount(ITEM_GROUPS)
    )


@pytest.mark.once
def test_padding_stays_zero(tmp_path):
    """It is updated with the rest: a checkpoint of another way would find what came up there."""
    state = make_trainer(tmp_path / "run", devices=WAYS["mesh 1x3"], epochs=2).run()
    adam = state.opt_state[0]
    for tree in (state.params, adam.mu, adam.nu):
        table = np.asarray(tree["params"]["output_layer"]["table"])
        assert table.shape[0] == NUM_ITEMS + 2
        assert np.all(table[NUM_ITEMS:] == 0)
        assert np.all(np.any(table[:NUM_ITEMS] != 0, axis=1))


@pytest.mark.once
@pytest.mark.parametrize("way", [None, "pmap", "mesh 1x4", "mesh 1x3"])
def test_a_step_takes_the_memory_of_the_state_it_was_given(tmp_path, way):
    devices = WAYS[way] if way else DeviceStrategy()
    trainer = make_trainer(tmp_path / "run", devices=devices)
    state = trainer.init_state()
    batch = devices.make_batch(trainer.batches.rows, np.arange(16), batch_size=16)
    trainer._train_steps(state, (batch,), trainer._key)
    kernel = state.params["params"]["input_kernel"]
    assert kernel.is_deleted()


@pytest.mark.parametrize(("way", "expected"), [(None, False), ("pmap", False), ("mesh 1x4", True)])
def test_only_a_mesh_multiplies_axes_whole(way, expected):
    devices, seen = WAYS[way] if way else DeviceStrategy(), []

    def function(array):
        seen.append(products._whole.get())
        return array

    for in_place in (False, True):
        devices.compile(function, in_place=in_place)(devices.place(np.ones(3, np.float32)))
    assert set(seen) == {expected} and not products._whole.get()


def test_shards_of_a_batch_made_apart_fit_together():
    users = np.arange(16)
    whole = make_row_batch(DATASET.train, users, batch_size=16, num_shards=4)
    for first in (0, 2):
        part = make_row_batch(DATASET.train, users, batch_size=16, num_shards=4, own_shards=range(first, first + 2))
        for left, right in zip(part[:5], whole[:5]):
            np.testing.assert_array_equal(left, right[first : first + 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "tpu"}, "is unknown"),
        ({"kind": "pmap", "item_shards": 2}, "--item_shards needs --parallel=mesh"),
        ({"kind": "mesh", "item_shards": 3}, "does not divide the 4 devices"),
    ],
)
def test_wrong_ways_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(**arguments, num_items=10)


def test_one_device_needs_no_way():
    assert make_strategy(num_items=10, max_devices=1) == DeviceStrategy()
    assert make_strategy(num_items=10) == PmapStrategy(4)
    assert make_strategy("mesh", num_items=10, item_shards=2) == MeshStrategy(2, 2, 10)
