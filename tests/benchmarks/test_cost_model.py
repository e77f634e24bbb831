import dataclasses
import math

import jax
import pytest

from benchmarks import cost_model
from benchmarks.cost_model import LARGE, SUMMED, Machine, job_of, machine_of, rate_works

pytestmark = pytest.mark.once

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


def test_gradients_take_their_memory_one_after_the_other():
    parameters, block = 2 * 94_949 * 1000, 400 * 94_949
    assert AMAZON.held_bytes == 4 * (4 * parameters + block)  # both gradients, and x_t for the first layer's
    wide = job_of(4000, 94_949, (1000,))
    assert wide.held_bytes == 4 * (3.5 * parameters + 20 * block)  # one gradient, x_t and the error
    split = dataclasses.replace(AMAZON, data_shards=2, item_shards=2)
    assert split.held_bytes == 4 * (5 * parameters / 2 + block / 4)  # sums of gradients beside the gradients


def test_seconds_add_up_and_forced_devices_share_the_machine():
    split = dataclasses.replace(AMAZON, item_shards=4)
    alone = MACHINE.seconds(AMAZON)
    expected = AMAZON.flops / 1e11 + 400 * 94_949 / 1e9 + AMAZON.device_bytes / 1e10
    assert alone == pytest.approx(expected)
    assert MACHINE.seconds(split) == pytest.approx(alone / 4 + split.link_bytes / 1e9)
    shared = dataclasses.replace(MACHINE, shared_by=4)
    assert shared.seconds(split) == pytest.approx(alone + 4 * split.link_bytes / 1e9)


def test_rates_are_those_of_the_median():
    job = job_of(8, 500, (16,), data_shards=2)
    seconds = {"products": [1, 2, 9], "draws": [4], "pass": [1], "pass anew": [3], "sum": [2]}
    machine = machine_of(seconds, job, shared_by=2)
    assert machine.flops_per_s == 5 * 2 * 4 * 500 * 16 / 2
    assert machine.draws_per_s == 4 * 500 / 4
    assert machine.bytes_per_s == 4 * machine.fresh_bytes_per_s == 2 * 4 * LARGE
    assert machine.link_bytes_per_s == 2 * 4 * SUMMED / 2
    alone = machine_of({name: times for name, times in seconds.items() if name != "sum"}, job_of(8, 500, (16,)))
    assert alone.link_bytes_per_s == math.inf


def test_every_rate_has_a_work(monkeypatch):
    monkeypatch.setattr(cost_model, "LARGE", 1000)
    monkeypatch.setattr(cost_model, "SUMMED", 1000)
    for shards in ({}, {"data_shards": 2}, {"item_shards": 2}):
        job = job_of(8, 500, (16,), **shards)
        works = rate_works(lambda: jax.random.key(0), job)
        for work in works.values():
            work()
            work()
        machine = machine_of({name: [1.0] for name in works}, job)
        assert math.isinf(machine.link_bytes_per_s) == (not shards)
