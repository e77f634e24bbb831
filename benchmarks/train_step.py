"""How long does one training step take, from the users' ids to the updated parameters, beside plain PyTorch?

Ours: ids of the batch's items, scattered on the device, and the jitted step of ``diffrec_jax.training``. The peer:
dense rows from a DataLoader, loss, backward, loss history, AdamW. The floor is five products over all items: two
forward, two for the weights' gradients and one for the hidden layer's; the input needs no gradient. With sketched noise
(``models.noise_sketch``) two of the five are gone.

Our side keeps the memory that a step frees, as ``experiments.train`` does; the peer, in a process of its own, has what
PyTorch does by itself. --peer_keeps_memory gives it the same. A second peer is PyTorch at its best: rows as CSR on the
device, ``torch.compile``, fused AdamW, no Python loop, and the freed memory kept.

python -m benchmarks.train_step --shape=amazon-book
"""

import dataclasses
import statistics
import time

import jax
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from benchmarks.harness import (
    Benchmark,
    DisagreementError,
    Measurement,
    OwnProcess,
    Row,
    Shape,
    Work,
    run,
    time_interleaved,
)
from benchmarks.torch_peer import DeviceRows, LoopFreeDiffusion, endless, load_weights, make_loader, make_peer
from diffrec_jax.data import Dataset, SyntheticSpec, make_synthetic, steps_per_epoch, training_user_ids
from diffrec_jax.devices import SINGLE_DEVICE, DeviceStrategy
from diffrec_jax.recommenders import Recommender, make_diffrec
from diffrec_jax.training.state import init_train_state
from diffrec_jax.training.step import in_turn, make_train_step
from diffrec_jax.training.train_config import TrainConfig

BEST_PEER = "best_peer"
MAX_LOADING_SHARE = 0.05
MAX_SKETCH_SIZE = 1024
MAX_UPDATE_DIFFERENCE = 0.01
CHECK_SPEC = SyntheticSpec(num_users=400, num_items=500, num_interactions=12_000)


class OurTraining:
    """A training run of the library, as ``diffrec_jax.training.loop`` drives it, waiting after every step."""

    def __init__(
        self, recommender: Recommender, training: TrainConfig, dataset: Dataset, devices: DeviceStrategy = SINGLE_DEVICE
    ):
        self.train, self.training, self.devices = dataset.train, training, devices
        self.recommender = recommender
        optimizer = training.make_optimizer(recommender.denoiser_params, num_users=dataset.num_users)
        shapes = jax.eval_shape(lambda: (recommender.init_params(training.make_key()), recommender.init_model_state()))
        train_step = make_train_step(
            recommender,
            optimizer,
            steps_per_epoch=steps_per_epoch(dataset.num_users, training.batch_size),
            compute_dtype=training.compute_dtype,
            axis_name=devices.axis_name,
            true_shapes=lambda kept: devices.unpad(kept, shapes),
        )
        self.train_steps = devices.compile(in_turn(train_step), in_place=True)
        self.key = devices.make(training.make_key)()
        self.state = devices.make(lambda key: init_train_state(recommender, optimizer, key))(self.key)
        self.steps_done = 0
        self.loading_s: list[float] = []

    def next_user_ids(self) -> np.ndarray:
        """The users of the next step."""
        return training_user_ids(
            self.train.shape[0], self.training.batch_size, seed=self.training.seed, step=self.steps_done
        )

    def step(self) -> None:
        """``steps_at_once`` steps; ``loading_s`` gets the seconds spent on the host before the device has work."""
        started, batches = time.perf_counter(), []
        for _ in range(self.training.steps_at_once):
            users = self.next_user_ids()
            batches.append(self.devices.make_batch(self.train, users, batch_size=self.training.batch_size))
            self.steps_done += 1
        self.loading_s.append(time.perf_counter() - started)
        self.state, _ = jax.block_until_ready(self.train_steps(self.state, tuple(batches), self.key))


def make_ours(shape: Shape, dataset: Dataset) -> OurTraining:
    """Of DiffRec, with the shape's settings."""
    return OurTraining(make_diffrec(shape.recommender, dataset.num_items), shape.training, dataset)


class PeerTraining:
    """A training run of the peer."""

    def __init__(self, shape: Shape, dataset: Dataset, device: str = "cpu"):
        self.device = device
        self.diffusion, self.model = make_peer(shape.recommender, dataset.num_items, device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=shape.training.lr, weight_decay=shape.training.weight_decay
        )
        self.batches = endless(make_loader(dataset.train, shape.training.batch_size, shuffle=True))
        self.model.train()

    def step(self) -> None:
        """One step."""
        self.update(next(self.batches).to(self.device))

    def update(self, x_0: Tensor) -> float:
        """One step on given rows; returns the loss."""
        self.optimizer.zero_grad()
        loss = self.diffusion.training_loss(self.model, x_0)
        loss.backward()
        self.optimizer.step()
        return loss.item()


class BestPeerTraining(PeerTraining):
    """The peer at its best: rows as CSR on the device, a compiled loss, fused AdamW, a loss history without a loop.

    On a GPU products are in TF32, as ours are by default.
    """

    def __init__(self, shape: Shape, dataset: Dataset, device: str = "cpu"):
        super().__init__(shape, dataset, device)
        torch.set_float32_matmul_precision("high")
        self.diffusion, self.model = make_peer(shape.recommender, dataset.num_items, device, of=LoopFreeDiffusion)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=shape.training.lr, weight_decay=shape.training.weight_decay, fused=True
        )
        self.batches = DeviceRows(dataset.train, device).endless(shape.training.batch_size)
        self.diffusion.losses = torch.compile(self.diffusion.losses, dynamic=False)
        self.model.train()


def check_agreement(shape: Shape, of: type[PeerTraining] = PeerTraining, num_steps: int = 3) -> None:
    """Asserts that both sides train alike where nothing is drawn: T = 1, no dropout, noise too small to change a float.

    Raises:
      DisagreementError: losses differ by more than 1e-4 of themselves, or parameters by more than 1% of their change.
    """
    exact = dataclasses.replace(
        shape.recommender, num_timesteps=1, dropout=0.0, noise_scale=1e-27, noise_min=1e-3, beta_fixed=False
    )
    # One step an epoch: the state's running sum of losses is then the step's.
    training = dataclasses.replace(shape.training, batch_size=CHECK_SPEC.num_users)
    exact_shape = dataclasses.replace(shape, spec=CHECK_SPEC, recommender=exact, training=training)
    dataset = make_synthetic(CHECK_SPEC)
    ours, peer = make_ours(exact_shape, dataset), of(exact_shape, dataset)
    load_weights(peer.model, ours.state.params)
    before = parameters_to_vector(peer.model.parameters()).detach()
    for _ in range(num_steps):
        x_0 = torch.from_numpy(dataset.train[ours.next_user_ids()].toarray())
        ours.step()
        our_loss, peer_loss = float(ours.state.loss_sum), peer.update(x_0)
        if not np.isclose(our_loss, peer_loss, rtol=1e-4):
            raise DisagreementError(f"step {ours.steps_done}: our loss is {our_loss}, the peer's {peer_loss}")
    peer_after = parameters_to_vector(peer.model.parameters()).detach()
    load_weights(peer.model, ours.state.params)
    our_after = parameters_to_vector(peer.model.parameters()).detach()
    difference = float((our_after - peer_after).norm() / (peer_after - before).norm())
    if not difference < MAX_UPDATE_DIFFERENCE:
        raise DisagreementError(f"after {num_steps} steps the parameters differ by {difference:.2%} of their change")


def make_side(side: str, shape: Shape, dataset: Dataset) -> Work:
    """One step of either side."""
    return {"ours": make_ours, "peer": PeerTraining, BEST_PEER: BestPeerTraining}[side](shape, dataset).step


def measure(shape: Shape, dataset: Dataset, repeats: int) -> Measurement:
    """Checks that the sides agree, and times them."""
    for of in (PeerTraining, BestPeerTraining):
        check_agreement(shape, of)
    sketch_size = min(MAX_SKETCH_SIZE, dataset.num_items)
    sketched_recommender = dataclasses.replace(shape.recommender, noise_sketch=sketch_size)
    ours, peer = make_ours(shape, dataset), OwnProcess(BENCHMARK.name, "peer")
    best = OwnProcess(BENCHMARK.name, BEST_PEER)
    sketched = make_ours(dataclasses.replace(shape, recommender=sketched_recommender), dataset)
    seconds = time_interleaved({"ours": ours.step, "peer": peer, "best": best, "sketched": sketched.step}, repeats)
    peer.close()
    best.close()
    if not np.isfinite(float(ours.state.loss_sum)):
        raise DisagreementError(f"our loss is {float(ours.state.loss_sum)}")
    first, *others = shape.layer_products
    flops = shape.training.batch_size * 2 * (2 * first + 3 * sum(others))
    # Sketched noise takes the products of the first layer away: K rows instead of all items.
    lean_flops = flops - shape.training.batch_size * 4 * (first - sketch_size * shape.recommender.dims[-1])
    loading = ours.loading_s[-repeats:]
    share = statistics.median(loading) / statistics.median(seconds["ours"])
    verdict = "under" if share < MAX_LOADING_SHARE else "NOT under"
    return Measurement(
        rows=[
            Row("training step", seconds["ours"], seconds["peer"], flops, has_memory=True),
            Row("the same, beside the peer at its best", seconds["ours"], seconds["best"], flops),
            Row(f"--noise_sketch={sketch_size}", seconds["sketched"], seconds["peer"], lean_flops),
            Row(
                f"--noise_sketch={sketch_size}, beside the peer at its best",
                seconds["sketched"],
                seconds["best"],
                lean_flops,
            ),
            Row("of it: our loading and batching", loading),
        ],
        notes=[f"our loading and batching is {share:.2%} of our step: {verdict} {MAX_LOADING_SHARE:.0%}"],
    )


BENCHMARK = Benchmark("train_step", make_side, measure, repeats=5, more_sides=(BEST_PEER,))

if __name__ == "__main__":
    run(BENCHMARK, __doc__)
