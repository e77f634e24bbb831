import dataclasses

import jax
import pytest

from benchmarks.cost_model import Machine, job_of, measure_link, measure_machine

AMAZON = job_of(400, 94_949, (1000,))
MACHINE = Machine(flops_per_s=1e11, draws_per_s=1e9, bytes_per_s=1e10, link_bytes_per_s=1e9)


def test_operations_of_the_released_amazon_book_step():
    """Five products of [400, 94,949] by [94,949, 1,000]."""
    assert AMAZON.flops == 5 * 2 * 400 * 94_949 * 1000
    assert AMAZON.num_params == 2 * 94_949 * 1000
    assert job_of(1, 10, (3, 4)).num_params == 2 * 10 * 4 + 4 * 3 + 3 * 4


def test_splitting_rows_leaves_the_parameters_and_splitting_items_does_not():
    rows = dataclasses.replace(AMAZON, data_shards=4)
    items = dataclasses.replace(AMAZON, item_shards=4)
    assert items.device_bytes == AMAZON.device_bytes / 4
    assert AMAZON.device_bytes / 4 < rows.device_bytes < AMAZON.device_bytes
    # A ring sends every gradient twice but for each device's own part; items' shards send hidden units alone.
    assert AMAZON.link_bytes == 0
    assert rows.link_bytes == pytest.approx(4 * 2 * 3 / 4 * AMAZON.num_params)
    assert items.link_bytes == pytest.approx(4 * 4 * 3 / 4 * 400 * 1000)


def test_seconds_add_up_and_forced_devices_share_the_machine():
    split = dataclasses.replace(AMAZON, item_shards=4)
    alone = MACHINE.seconds(AMAZON)
    expected = AMAZON.flops / 1e11 + 400 * 94_949 / 1e9 + AMAZON.device_bytes / 1e10
    assert alone == pytest.approx(expected)
    assert MACHINE.seconds(split) == pytest.approx(alone / 4 + split.link_bytes / 1e9)
    shared = dataclasses.replace(MACHINE, shared_by=4)
    assert shared.seconds(split) == pytest.approx(alone + 4 * split.link_bytes / 1e9)


def test_rates_are_rates():
    machine = measure_machine(lambda: jax.random.key(0), job_of(8, 500, (16,)))
    assert all(rate > 1e5 for rate in (machine.flops_per_s, machine.draws_per_s, machine.bytes_per_s))
    assert measure_link(2, 1000) > 1e3
