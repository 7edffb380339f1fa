"""Batches that go on in the middle of an epoch, for every rank."""

from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader

import viewgen
from viewgen.errors import UsageError


def sampler(data=23, batch_size=4, **options):
    return viewgen.ResumableBatchSampler(data, batch_size, **options)


def test_an_epoch_has_every_position_once_in_another_order_each_time():
    one = sampler(24)
    first, second = list(one), list(one)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(24))
    assert first != second
    assert one.epoch == 2
    again = sampler(24)
    again.set_epoch(1)
    assert list(again) == second
    assert list(sampler(8, shuffle=False)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert list(sampler(24, seed=1)) != first


@pytest.mark.parametrize(("world_size", "drop_last"), [(1, True), (2, True), (2, False), (3, False)])
def test_ranks_take_batches_of_one_size(world_size, drop_last):
    ranks = [list(sampler(rank=r, world_size=world_size, drop_last=drop_last)) for r in range(world_size)]
    sizes = [[len(batch) for batch in rank] for rank in ranks]
    assert all(one == sizes[0] for one in sizes)
    found = [position for rank in ranks for batch in rank for position in batch]
    assert len(set(found)) == len(found)
    step = 4 * world_size
    rest = 0 if drop_last else 23 % step // world_size * world_size
    assert len(found) == 23 // step * step + rest
    assert len(ranks[0]) == len(sampler(rank=0, world_size=world_size, drop_last=drop_last))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loop_goes_on_where_it_was(num_workers):
    """Whatever the loader's workers have drawn ahead."""
    data = torch.arange(24)
    whole = [batch.tolist() for batch in DataLoader(data, batch_sampler=sampler(data, seed=3))]
    one = sampler(data, seed=3)
    context = "fork" if num_workers else None
    loader = DataLoader(data, batch_sampler=one, num_workers=num_workers, multiprocessing_context=context)
    for done, batch in enumerate(loader, start=1):
        assert batch.tolist() == whole[done - 1]
        if done == 5:
            state = one.state_dict(done)
            break
    other = sampler(data, seed=3)
    other.load_state_dict(state)
    assert len(other) == 1
    assert list(other) == whole[5:]
    assert (other.epoch, len(other)) == (1, 6)
    done_all = one.state_dict(6)
    other.load_state_dict(done_all)
    assert (other.epoch, len(other)) == (1, 6)


def test_another_number_of_ranks_reads_the_rest():
    one = sampler(24, batch_size=4)
    taken = next(iter(one))
    rest = []
    for rank in range(2):
        other = sampler(24, batch_size=5, rank=rank, world_size=2)
        other.load_state_dict(one.state_dict(1))
        rest += chain(*other)
    assert sorted(taken + rest) == list(range(24))


def test_other_states_and_numbers_are_refused():
    state = sampler(seed=1).state_dict()
    with pytest.raises(UsageError, match="seed is 1 there and 0 here"):
        sampler().load_state_dict(state)
    with pytest.raises(UsageError, match="the state has"):
        sampler().load_state_dict({"epoch": 0})
    with pytest.raises(UsageError, match="do not fill a batch of 30"):
        sampler(batch_size=30)
    with pytest.raises(UsageError, match="rank is 2"):
        sampler(rank=2, world_size=2)
    with pytest.raises(UsageError, match="give both"):
        sampler(rank=0)
