"""The variational autoencoder of L-DiffRec: an encoder per item group, and a decoder over all items.

Reference: arXiv:2304.04971, L-DiffRec, and the settings of its released experiments.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.batching import RowBatch
from diffrec_jax.models.affine import transposed
from diffrec_jax.models.likelihood import decoded_multinomial_nll
from diffrec_jax.models.mlp import ACTIVATIONS, normal_kernel
from diffrec_jax.rows import embed
from diffrec_jax.typing import Array


def split_size(total: int, group_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A layer's width split over the groups in proportion: rounded down, at least 1, the last group takes the rest.

    Raises:
      ValueError: nothing is left for the last group.
    """
    num_items = sum(group_sizes)
    parts = [max(1, total * size // num_items) for size in group_sizes[:-1]]
    rest = total - sum(parts)
    if rest < 1:
        raise ValueError(
            f"a layer of {total} units cannot be split over {len(group_sizes)} item groups of sizes "
            f"{list(group_sizes)}: widen in_dims and out_dims, or choose fewer groups"
        )
    return (*parts, rest)


class GroupedVAE(nn.Module):
    """Encodes each group's part of a row by itself, and decodes the joined latent vector to logits of all items.

    Group c with n_c of the I items has the encoder n_c -> (its share of ``in_dims``, the last one doubled), every layer
    with the activation, also the last: it gives the mean and the log variance of its share l_c of the L = in_dims[-1]
    latent dimensions. Without ``out_dims`` the decoder is one linear layer L -> I; with them group c has its own,
    l_c -> (its share of out_dims) -> n_c, linear at the end.

    The first layer sums kernel rows over the items that a row stores, so no [B, I] block is made. The output layers
    of all groups are one [I, H] table with zeros outside a group's columns, so decoding is one product.
    """

    item_groups: np.ndarray
    """[I] int, in 0..C-1; every group has an item."""
    in_dims: tuple[int, ...] = (300,)
    out_dims: tuple[int, ...] = ()
    activation: str = "tanh"

    def setup(self) -> None:
        """Creates the parameters."""
        groups = np.asarray(self.item_groups)
        self.group_sizes = tuple(int(size) for size in np.bincount(groups))
        num_items = len(groups)
        order = np.argsort(groups, kind="stable")  # items, group by group
        self.place = np.empty(num_items, np.int32)
        """Of an item among all items in group order."""
        self.place[order] = np.arange(num_items)
        encoder_sizes = [split_size(size, self.group_sizes) for size in self.in_dims]
        encoders = []
        for group, size in enumerate(self.group_sizes):
            sizes = [size, *(part[group] for part in encoder_sizes)]
            sizes[-1] *= 2
            encoders.append(self._layers(f"encoder_{group}", sizes))
        self.encoders = encoders
        decoders, latent_sizes = [], encoder_sizes[-1]
        decoder_sizes = [split_size(size, self.group_sizes) for size in self.out_dims]
        if not self.out_dims:
            output_shapes = [(num_items, self.in_dims[-1])]
        else:
            for group, latent_size in enumerate(latent_sizes):
                sizes = [latent_size, *(part[group] for part in decoder_sizes)]
                decoders.append(self._layers(f"decoder_{group}", sizes))
            output_shapes = list(zip(self.group_sizes, decoder_sizes[-1]))
        self.decoders = decoders
        self.latent_sizes = latent_sizes
        # Kept [items, hidden]: rows of one item lie together when the groups' tables are joined.
        self.output_kernels = [
            self.param(f"output_{part}_kernel", transposed(normal_kernel(shape[1])), shape)
            for part, shape in enumerate(output_shapes)
        ]
        self.output_bias = self.param("output_bias", nn.initializers.zeros_init(), (num_items,))

    def _layers(self, name: str, sizes: list[int]) -> list[tuple[Array, Array]]:
        return [
            (
                self.param(f"{name}_{layer}_kernel", normal_kernel(before), (before, after)),
                self.param(f"{name}_{layer}_bias", nn.initializers.zeros_init(), (after,)),
            )
            for layer, (before, after) in enumerate(zip(sizes[:-1], sizes[1:]))
        ]

    def encode(self, batch: RowBatch) -> tuple[Array, Array]:
        """Mean and log variance of the rows' latent vectors, [B, L] each."""
        activation = ACTIVATIONS[self.activation]
        num_items = len(self.place)
        groups = jnp.asarray(self.item_groups).at[batch.item_ids].get(mode="fill", fill_value=-1)
        places = jnp.asarray(self.place).at[batch.item_ids].get(mode="fill", fill_value=num_items)
        means, log_variances, start = [], [], 0
        for group, (size, layers) in enumerate(zip(self.group_sizes, self.encoders)):
            own = jnp.where(groups == group, batch.weights, 0.0)
            (kernel, bias), *others = layers
            rows_of_group = batch._replace(item_ids=places - start, weights=own)
            hidden = activation(embed(rows_of_group, kernel) + bias[None])
            for kernel, bias in others:
                hidden = activation(hidden @ kernel + bias[None])
            mean, log_variance = jnp.split(hidden, 2, axis=1)
            means.append(mean)
            log_variances.append(log_variance)
            start += size
        return jnp.concatenate(means, axis=1), jnp.concatenate(log_variances, axis=1)

    def output_table(self) -> Array:
        """The output layers of all groups as one table [I, H]: H is L, or out_dims[-1]."""
        if not self.out_dims:
            return self.output_kernels[0]
        total, start, padded = self.out_dims[-1], 0, []
        for kernel in self.output_kernels:
            end = start + kernel.shape[1]
            padded.append(jnp.pad(kernel, ((0, 0), (start, total - end))))
            start = end
        return jnp.concatenate(padded)[self.place]

    def decode_hidden(self, z: Array) -> Array:
        """What the output layer reads, [B, H], from latent vectors z [B, L]: z itself where there are no out_dims."""
        if not self.decoders:
            return z
        activation, parts = ACTIVATIONS[self.activation], []
        for part, layers in zip(jnp.split(z, np.cumsum(self.latent_sizes)[:-1], axis=1), self.decoders):
            for kernel, bias in layers:
                part = activation(part @ kernel + bias[None])
            parts.append(part)
        return jnp.concatenate(parts, axis=1)

    def decode(self, z: Array, table: Array | None = None) -> Array:
        """Logits of all items [B, I] from latent vectors z [B, L]; ``table`` is ``output_table()``, made once."""
        table = self.output_table() if table is None else table
        return self.decode_hidden(z) @ table.T + self.output_bias[None]

    def decoded_nll(self, z: Array, batch: RowBatch) -> Array:
        """``multinomial_nll(decode(z), batch)`` [B], without the [B, I] block."""
        return decoded_multinomial_nll(self.decode_hidden(z), self.output_table(), self.output_bias, batch)

    def __call__(self, batch: RowBatch) -> Array:
        """Logits of all items from the rows' mean latent vectors, [B, I]."""
        mean, _ = self.encode(batch)
        return self.decode(mean)
