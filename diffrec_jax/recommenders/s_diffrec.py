"""S-DiffRec: a diffusion over what a user will do, given what the user did, in the order it was done.

x_0 is the decayed set of the items after a place of a row, as the mean z_0 of their vectors. A causal transformer reads
the row up to there; the denoiser predicts from its state and a noised z_t which items they are, as a distribution over
all items. Its mean vector is the prediction of z_0 that the reverse chain goes on with. What a linear model in closed
form expects (WindowRidge) multiplies that distribution.

Reference: our own; DiffRec's x_0-prediction (arXiv:2304.04971) on the latent targets of a sequence model.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.diffusion import NoiseSchedule, ScheduleKind, make_noise_schedule, p_sample_loop, q_sample
from diffrec_jax.models.conditional import ConditionalDenoiser
from diffrec_jax.recommenders.base import Recommender, StepContext
from diffrec_jax.recommenders.diffusing import row_normals, uniform_timesteps
from diffrec_jax.recommenders.sasrec import Places, SASRecConfig, make_sequence_model
from diffrec_jax.recommenders.window_ridge import WindowRidgeConfig, WindowRidgeState, make_window_ridge
from diffrec_jax.rows import fold_each
from diffrec_jax.settings import setting
from diffrec_jax.typing import Array, Key, Params, RowKeys

MOST_WHOLE_ITEMS, USUAL_NEIGHBORS = 6000, 256
"""Items up to which the linear part is whole, whose time grows with their third power, and its neighbours beyond."""
TIMESTEP_PLACE, NOISE_PLACE = 10**6, 10**6 + 1  # of the keys that a place's key is folded with, beside dropout's


@dataclass(frozen=True)
class SDiffRecConfig(SASRecConfig):
    """S-DiffRec: a SASRec's network, the diffusion and the linear part; with T = 0 there is no diffusion."""

    less_memory: ClassVar[str] = "give the linear part neighbours (linear_neighbors 256, say), or linear_weight 0"
    num_timesteps: int = setting(5, "T, diffusion steps.", at_least=0, aliases=("steps",))
    noise_schedule: ScheduleKind = setting("cosine", "How the noise grows with t.")
    noise_scale: float = setting(1.0, "s, scale of the noise, of the schedules that have one.", above=0)
    noise_min: float = setting(0.01, "Noise variance at the first step, before the scale.")
    noise_max: float = setting(0.999, "Noise variance at the last step, before the scale.")
    dims: tuple[int, ...] = setting((256, 256), "Hidden layer sizes of the denoiser.")
    time_embedding_size: int = setting(10, "Size of the timestep embedding.", at_least=1, aliases=("emb_size",))
    sampling_noise: bool = setting(False, "Start from noise, and draw noise in the reverse steps; else from its mean.")
    linear_weight: float = setting(
        0.5, "Power of the linear part's expectation in the product with the network's; 0: no linear part.", at_least=0
    )
    linear_floor: float = setting(5e-4, "What is added to that expectation of every item.", above=0)
    linear_scales: tuple[int, ...] = setting((1, 5, 30), "Recency scales of the linear part, as of window_ridge.")
    linear_horizon: float = setting(2.0, "Its horizon.", above=0)
    linear_l2: float = setting(1000.0, "L2 regularisation of the fitted linear part.", above=0)
    linear_factors: int = setting(0, "Its rank, as of window_ridge; 0: whole, or of neighbours.", at_least=0)
    linear_neighbors: int | None = setting(
        None,
        "Its neighbours, as of window_ridge; 0: from all items. By default from all of up to "
        f"{MOST_WHOLE_ITEMS:,} items, and from {USUAL_NEIGHBORS} of more.",
        at_least=0,
        older=0,
    )

    def __post_init__(self) -> None:
        """Checks every value."""
        super().__post_init__()
        if self.linear_factors and self.linear_neighbors:
            raise ValueError("linear_factors and linear_neighbors are two ways to save memory: set one of them to 0")
        if self.num_timesteps:
            self.make_schedule()

    @property
    def has_linear_part(self) -> bool:
        """Whether a linear part is fitted."""
        return self.linear_weight > 0

    def make_schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        return make_noise_schedule(
            self.noise_schedule,
            num_timesteps=self.num_timesteps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
        )

    def linear_part(self, train: sparse.csr_array) -> WindowRidgeConfig:
        """The linear part's own configuration, for a training split."""
        neighbors = self.linear_neighbors
        if neighbors is None:
            is_large = train.shape[1] > MOST_WHOLE_ITEMS and not self.linear_factors
            neighbors = USUAL_NEIGHBORS if is_large else 0
        return WindowRidgeConfig(
            scales=self.linear_scales,
            horizon=self.linear_horizon,
            l2=self.linear_l2,
            rank=self.linear_factors,
            num_neighbors=neighbors,
        )

    def linear_bytes(self, train: sparse.csr_array) -> int:
        """What fitting the linear part takes at its peak."""
        return make_window_ridge(self.linear_part(train)).fit_bytes(train) if self.has_linear_part else 0


def as_params(linear: WindowRidgeState) -> dict[str, Any]:
    """The linear part as parameters: floats all, as gradients want them, in which ids are exact up to 2^24."""
    return {name: value.astype(np.float32) for name, value in linear._asdict().items() if value is not None}


def vector_scale(item_vectors: Array) -> Array:
    """Root of the mean square of the vectors' entries: what latents are divided by to have variance of about 1."""
    return jax.lax.stop_gradient(jnp.sqrt(jnp.mean(jnp.square(item_vectors))) + 1e-8)


def make_s_diffrec(config: SDiffRecConfig, train: sparse.csr_array) -> Recommender:
    """The functions of an S-DiffRec over the items of a training split, whose rows are in time order.

    Raises:
      ValueError: the linear part has more factors than there are users or items.
    """
    num_items, size = train.shape[1], config.embedding_size
    linear_config = config.linear_part(train)
    sequences, linear = make_sequence_model(config, train), make_window_ridge(linear_config)
    denoiser = ConditionalDenoiser(config.dims, config.time_embedding_size)
    diffuses = config.num_timesteps > 0
    schedule = config.make_schedule() if diffuses else None
    most = min(train.shape[0], train.shape[1])
    if linear_config.rank > most:
        raise ValueError(
            f"linear_factors must be at most {most}, the smaller of users and items, got {linear_config.rank}"
        )
    num_scales, num_neighbors = len(config.linear_scales), min(linear_config.num_neighbors, num_items)

    def init_params(key: Key) -> Params:
        params = {"sequence": sequences.init_params(key)}
        if diffuses:
            nothing = jnp.zeros((1, size))
            params["denoiser"] = denoiser.init(jax.random.fold_in(key, 1), nothing, nothing, jnp.zeros(1, jnp.int32))
        if config.has_linear_part:
            params["linear"] = as_params(
                WindowRidgeState(
                    jnp.zeros((num_scales, linear_config.rank or num_items, num_neighbors or num_items)),
                    jnp.zeros((num_items, linear_config.rank)) if linear_config.rank else None,
                    jnp.zeros((num_scales, num_items, num_neighbors)) if num_neighbors else None,
                )
            )
        return params

    def warm_start(params: Params) -> Params:
        return params | {"linear": as_params(linear.fit(train))}

    def denoised(params: Params, hidden: Array, z_t: Array, t: Array) -> Array:
        return denoiser.apply(params["denoiser"], hidden, z_t, t)  # type: ignore[return-value]

    def noised_places(params: Params, places: Places) -> tuple[Array, Array]:
        """z_t [N, D] and t [N], each place's own."""
        assert schedule is not None
        z_0 = jax.lax.stop_gradient(places.targets) / vector_scale(item_vectors_of(params))
        t = uniform_timesteps(fold_each(places.keys, TIMESTEP_PLACE), config.num_timesteps)
        return q_sample(schedule, z_0, t, row_normals(fold_each(places.keys, NOISE_PLACE), size)), t

    def loss_fn(params: Params, model_state: Any, batch: RowBatch, row_keys: RowKeys, context: StepContext):
        del model_state
        places = sequences.read_places(params["sequence"], batch, row_keys)
        hidden = denoised(params, places.hidden, *noised_places(params, places)) if diffuses else places.hidden
        return sequences.losses(params["sequence"], places, hidden, batch, context.key), ()

    def score_fn(params: Params, batch: RowBatch, row_keys: RowKeys) -> Array:
        hidden, item_vectors = sequences.read_rows(params["sequence"], batch), item_vectors_of(params)
        expected = jnp.zeros(())
        if config.has_linear_part:
            state = WindowRidgeState(**params["linear"])
            if state.neighbors is not None:
                state = state._replace(neighbors=state.neighbors.astype(jnp.int32))
            scores = jnp.maximum(linear.score_fn(state, batch, row_keys), 0.0)
            expected = config.linear_weight * jnp.log(scores + config.linear_floor)

        def logits(state: Array) -> Array:
            return state @ item_vectors.T + expected

        if schedule is None:
            return logits(hidden)

        def mean_vectors(z_t: Array, t: Array) -> Array:
            return jax.nn.softmax(logits(denoised(params, hidden, z_t, t)), axis=-1) @ item_vectors / scale

        scale = vector_scale(item_vectors)
        noise_fn = (lambda t: row_normals(fold_each(row_keys, t), size)) if config.sampling_noise else None
        start = noise_fn(jnp.int32(config.num_timesteps)) if noise_fn else jnp.zeros_like(hidden)
        return p_sample_loop(
            schedule,
            mean_vectors,
            start,
            noise_fn=noise_fn,
            final_denoise_fn=lambda z_t, t: logits(denoised(params, hidden, z_t, t)),
        )

    return Recommender(
        init_params=init_params,
        loss_fn=loss_fn,
        score_fn=score_fn,
        warm_start=warm_start if config.has_linear_part else None,
        held_params="linear" if config.has_linear_part else None,
        works_on_places=True,
        item_embeddings=item_vectors_of,
    )


def item_vectors_of(params: Params) -> Array:
    """The items' vectors [I, D]."""
    return params["sequence"]["params"]["item_vectors"]
