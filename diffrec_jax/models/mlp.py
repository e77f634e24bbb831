"""The MLP denoiser of DiffRec.

Reference: arXiv:2304.04971, section 3.4 and the settings of its released experiments.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.models.affine import Affine
from diffrec_jax.models.dropout import row_dropout
from diffrec_jax.products import product
from diffrec_jax.typing import Array, RowKeys

MAX_PERIOD = 10_000.0
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "identity": lambda x: x,
}


def timestep_embedding(t: Array, size: int) -> Array:
    """Sinusoidal embedding of timesteps t [B], cosines then sines, [B, size]; an odd size ends with a zero."""
    half = size // 2
    frequencies = jnp.asarray(np.exp(-np.log(MAX_PERIOD) * np.arange(half) / max(half, 1)), jnp.float32)
    angles = t[:, None].astype(jnp.float32) * frequencies[None]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return jnp.pad(embedding, ((0, 0), (0, size - 2 * half)))


def normal_kernel(fan_in: int, fan_out: int | None = None):
    """Weights from N(0, 2 / (fan_in + fan_out)) of the whole layer, not of a part; fan_out by default the last axis."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.normal(key, shape, dtype) * np.sqrt(2.0 / (fan_in + (fan_out or shape[-1])))

    return init


class MLPDenoiser(nn.Module):
    """x_0 (or the noise) from [dropout(x_t), Linear(embedding of t)] through an MLP without activation at the end.

    ``dims=(200, 600)`` means D + 10 -> 600 -> 200 -> 600 -> D: the widths of the way out, mirrored on the way in.
    The three stages are methods of their own, for denoisers that run in the space of ``project``'s output:
    ``decode(transform(project(x_t), t))`` is ``__call__(x_t, t)`` without dropout.
    """

    width: int
    """D, columns of x_t: items, or latent dimensions."""
    dims: tuple[int, ...] = (1000,)
    time_embedding_size: int = 10
    activation: str = "tanh"
    normalize: bool = False
    dropout: float = 0.5
    bias_stddev: float = 0.001
    linear_units: int = 0
    """R hidden units beside the MLP: the input times R columns of their own, decoded by R rows of their own."""
    residual: bool = False
    """Predict x_t plus the MLP's output, 0 at the start. What is said of the three stages is then true of the MLP."""

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Widths of the hidden layers in the order of the computation."""
        return (*reversed(self.dims), *self.dims[1:])

    def setup(self) -> None:
        """Creates the parameters; the first layer's kernel is kept in two, for the items and for the time."""
        if not self.dims or min(self.dims) < 1:
            raise ValueError(f"dims must be one or more positive layer sizes, got {self.dims}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is unknown: choose one of {', '.join(ACTIVATIONS)}")
        sizes, time_size = self.layer_sizes, self.time_embedding_size
        bias_init = nn.initializers.normal(self.bias_stddev)
        fan_in = self.width + time_size
        self.time_layer = Affine(time_size, kernel_init=normal_kernel(time_size), bias_init=bias_init)
        first_width = sizes[0] + self.linear_units
        self.input_kernel = self.param("input_kernel", normal_kernel(fan_in), (self.width, first_width))
        self.time_kernel = self.param("time_kernel", normal_kernel(fan_in), (time_size, sizes[0]))
        self.input_bias = self.param("input_bias", bias_init, (sizes[0],))
        self.hidden_layers = [
            Affine(size, kernel_init=normal_kernel(before), bias_init=bias_init)
            for before, size in zip(sizes[:-1], sizes[1:])
        ]
        output_init = nn.initializers.zeros_init() if self.residual else normal_kernel(sizes[-1])
        self.output_layer = Affine(self.width, kernel_init=output_init, bias_init=bias_init, as_table=True)

    def __call__(self, x_t: Array, t: Array, row_keys: RowKeys | None = None) -> Array:
        """Predicts from x_t [B, D] and t [B]; ``row_keys`` [B] turn dropout on. Returns [B, D]."""
        output = self.decode(self.hidden(x_t, t, row_keys))
        return x_t + output if self.residual else output

    def hidden(self, x_t: Array, t: Array, row_keys: RowKeys | None = None) -> Array:
        """All but the output layer: [B, dims[-1] + R]."""
        if x_t.shape[-1] != self.width:
            raise ValueError(f"x_t has {x_t.shape[-1]} columns, the denoiser was made for {self.width}")
        if self.normalize:
            x_t = x_t / jnp.maximum(jnp.linalg.norm(x_t, axis=1, keepdims=True), 1e-12)
        if row_keys is not None:
            x_t = row_dropout(row_keys, x_t, self.dropout)
        return self.transform(self.project(x_t), t)

    def project(self, x_t: Array) -> Array:
        """The items' part of the first layer, linear: [B, D] -> [B, H + R], the linear units last."""
        return product(x_t, self.input_kernel)

    def transform(self, u_t: Array, t: Array) -> Array:
        """From the projection u_t [B, H + R] to the last hidden layer's output [B, dims[-1] + R]."""
        activation = ACTIVATIONS[self.activation]
        embedding = self.time_layer(timestep_embedding(t, self.time_embedding_size))
        u_t, linear = jnp.split(u_t, [self.layer_sizes[0]], axis=1)
        hidden = activation(u_t + embedding @ self.time_kernel + self.input_bias[None])
        for layer in self.hidden_layers:
            hidden = activation(layer(hidden))
        return jnp.concatenate([hidden, linear], axis=1) if self.linear_units else hidden

    def decode(self, hidden: Array) -> Array:
        """The output layer, linear: [B, dims[-1] + R] -> [B, D]."""
        return self.output_layer(hidden)
