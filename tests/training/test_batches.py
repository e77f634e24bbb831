import dataclasses

import numpy as np
import pytest

from diffrec_jax.data.recency import NO_WEIGHTING
from diffrec_jax.devices import SINGLE_DEVICE, DeviceStrategy
from diffrec_jax.training.batches import Batches
from tests.training.small_run import CONFIG, DATASET


def make_batches(tight=False, **changes):
    return Batches(DATASET, NO_WEIGHTING, dataclasses.replace(CONFIG, **changes), SINGLE_DEVICE, tight=tight)


def all_of(batches):
    """The batches of a run as they go to the device."""
    found, step = [], 0
    while step < batches.total_steps:
        found.append(batches.after(step))
        step += len(found[-1])
    return found


@pytest.mark.parametrize("changes", [{}, {"checkpoint_every_steps": 3}, {"max_steps": 6}], ids=str)
@pytest.mark.parametrize("steps_at_once", [1, 2, 3, 99])
def test_steps_at_once_are_the_steps_one_by_one(steps_at_once, changes):
    one_by_one = [batch for (batch,) in all_of(make_batches(**changes))]
    batches = make_batches(steps_at_once=steps_at_once, **changes)
    together = all_of(batches)
    ends = np.cumsum([len(group) for group in together])
    looks = {batches.total_steps, *range(4, batches.total_steps, batches.steps_per_epoch)}
    looks |= set(range(3, batches.total_steps, 3)) if "checkpoint_every_steps" in changes else set()
    assert looks <= set(ends.tolist()) and max(map(len, together)) <= steps_at_once
    for batch, expected in zip([batch for group in together for batch in group], one_by_one, strict=True):
        for own, other in zip(batch, expected):
            np.testing.assert_array_equal(own, other)


class TwoShapes(DeviceStrategy):
    """Every other user's batches have more places."""

    def make_batch(self, matrix, user_ids, **options):
        batch = super().make_batch(matrix, user_ids, **options)
        return batch._replace(item_ids=np.pad(batch.item_ids, (0, 256))) if user_ids[0] % 2 else batch


def test_batches_of_several_shapes_do_not_go_together():
    batches = make_batches(steps_at_once=4)
    batches.devices = TwoShapes()
    shapes = [[batch.item_ids.shape for batch in group] for group in all_of(batches)]
    assert all(len(set(group)) == 1 for group in shapes) and len({group[0] for group in shapes}) > 1
    assert not make_batches(tight=True, steps_at_once=4).tight and make_batches(tight=True).tight


def test_arrays_are_the_rows_of_the_batch():
    batches = make_batches()
    arrays, (batch,) = batches.arrays_of(5), batches.after(5)
    assert np.array_equal(arrays["user_ids"], batch.user_ids[batch.row_mask])
    assert np.array_equal(arrays["item_ids"], batch.item_ids[batch.item_ids < DATASET.num_items])
