"""How long does a training step of L-DiffRec take, and how much memory, beside one of DiffRec?

Both are ours, with the released settings of the shape, from the users' ids to the updated parameters, and keep the
memory that a step frees, as ``experiments.train`` does. The items are in two random groups of equal size. L-DiffRec's
floor is three products of the decoder's table and three of each layer of its denoiser; its encoders sum embedding rows.
The note says what the compiled steps hold at once by their own account, without compilation and what lies unused.

python -m benchmarks.latent_step --shape=amazon-book
"""

import dataclasses

import jax
import numpy as np

from benchmarks.harness import (
    Benchmark,
    DisagreementError,
    Measurement,
    Row,
    Shape,
    Work,
    released_config,
    run,
    time_interleaved,
)
from benchmarks.train_step import OurTraining
from diffrec_jax.data import Dataset, group_items
from diffrec_jax.devices import SINGLE_DEVICE, DeviceStrategy
from diffrec_jax.memory import GIB
from diffrec_jax.recommenders import make_diffrec, make_l_diffrec

NUM_GROUPS = 2


def make_training(side: str, shape: Shape, dataset: Dataset, devices: DeviceStrategy = SINGLE_DEVICE) -> OurTraining:
    """L-DiffRec is "ours", DiffRec the "peer"."""
    if side == "peer":
        return OurTraining(make_diffrec(shape.recommender, dataset.num_items), shape.training, dataset, devices)
    config = released_config("l_diffrec", shape.name)
    assert config.training is not None
    given = {name: getattr(shape.training, name) for name in ("batch_size", "compute_dtype", "prng_impl")}
    training = dataclasses.replace(config.training, **given)
    groups = group_items("random", NUM_GROUPS, train=dataset.train)
    return OurTraining(make_l_diffrec(config.recommender, groups), training, dataset, devices.for_item_groups(groups))


def make_side(side: str, shape: Shape, dataset: Dataset) -> Work:
    """One step of either model."""
    return make_training(side, shape, dataset).step


def num_params(training: OurTraining) -> int:
    """Size of the parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(training.state.params))


def step_bytes(training: OurTraining) -> int:
    """What the compiled step holds at once: the state, the batch and its temporaries."""
    batch = training.devices.make_batch(
        training.train, training.next_user_ids(), batch_size=training.training.batch_size
    )
    memory = training.train_steps.lower(training.state, (batch,), training.key).compile().memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def measure(shape: Shape, dataset: Dataset, repeats: int) -> Measurement:
    """Times both models in turn."""
    latent, plain = (make_training(side, shape, dataset) for side in ("ours", "peer"))
    seconds = time_interleaved({"ours": latent.step, "peer": plain.step}, repeats)
    for name, training in (("L-DiffRec", latent), ("DiffRec", plain)):
        if not np.isfinite(float(training.state.loss_sum)):
            raise DisagreementError(f"{name}'s loss is {float(training.state.loss_sum)}")
    denoiser = latent.state.params["denoiser"]["params"]
    layers = (dataset.num_items * denoiser["output_layer"]["table"].shape[0], denoiser["input_kernel"].size)
    flops = shape.training.batch_size * 2 * 3 * (sum(layers) + denoiser["output_layer"]["table"].size)
    share = num_params(latent) / num_params(plain)
    latent_gib, plain_gib = (step_bytes(training) / GIB for training in (latent, plain))
    return Measurement(
        rows=[
            Row("a step of L-DiffRec, beside one of DiffRec", seconds["ours"], seconds["peer"], flops, has_memory=True)
        ],
        notes=[
            f"L-DiffRec has {num_params(latent):,} parameters, {share:.0%} of DiffRec's {num_params(plain):,}",
            f"the compiled steps hold {latent_gib:.2f} and {plain_gib:.2f} GiB: {plain_gib - latent_gib:.2f} GiB less",
        ],
    )


BENCHMARK = Benchmark("latent_step", make_side, measure, repeats=5, sides=("L-DiffRec", "DiffRec"), peer_is_ours=True)

if __name__ == "__main__":
    run(BENCHMARK, __doc__)
