"""Workers of a Ray pool that die, in the middle of a number or before they are ready."""

import os
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
from ray import cloudpickle

from viewgen.errors import ViewgenError
from viewgen_pipelines.executors import open_executor, ray_pool

# workers cannot import this file
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own code warns
]


@pytest.fixture
def executor(shared_ray):
    with open_executor("ray", max_workers=2, workers=2) as opened:
        yield opened


def dying_once(folder, place):
    """Return a worker whose process ends in the middle of number 3, the first time."""

    def run(number):
        if number == 3 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        return number

    return nullcontext(SimpleNamespace(run=run))


def dying_at_once(place):
    """End the process before there is a worker."""
    os._exit(1)


def test_the_number_of_a_worker_that_dies_is_done_by_another(executor, tmp_path):
    assert sorted(executor.pool(partial(dying_once, tmp_path), range(5))) == [*range(5)]
    assert (tmp_path / "died").exists()


def test_workers_that_never_start_end_the_run(executor, monkeypatch):
    monkeypatch.setattr(ray_pool, "MAX_FAILED_STARTS", 2)
    with pytest.raises(ViewgenError, match="2 workers in a row died while they started"):
        list(executor.pool(dying_at_once, range(3)))
