"""Views of a cache in loops of PyTorch: map-style, streamed, with workers, pickled, after a fork."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

import viewgen
from viewgen.datasets import load_dataset
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.status import Status
from viewgen.store import open_storage
from viewgen.store.quality import write_scores
from viewgen.testing.caches import small_spec, write_random_cache

STATUS = np.array([1] * 5 + [2, 3] + [1] * 14)  # row 5 did not converge, row 6 failed
USED = np.array([row for row in range(21) if row not in (5, 6)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """(URL, contents) of a cache of 21 rows with scores, in shards of 8."""
    url = str(tmp_path_factory.mktemp("cache") / "views.zarr")
    spec = small_spec(num_views=3)
    contents = write_random_cache(open_storage(url), spec, status=STATUS)
    margin = np.linspace(-1, 1, 63, dtype=np.float32).reshape(21, 3)
    write_scores(open_storage(url), spec, {"label_margin": margin})
    return url, contents | {"label_margin": margin}


def test_a_sample_is_what_the_cache_holds(cache):
    url, contents = cache
    dataset = viewgen.ViewDataset(url, columns=["distance", "label_margin"])
    assert len(dataset) == len(USED) == 19
    assert torch.equal(dataset.labels, torch.from_numpy(contents["label"][USED]))
    for position in (0, 7, -1):
        sample = dataset[position]
        row = USED[position]
        assert set(sample) == {"views", "label", "index", "distance", "label_margin"}
        assert torch.equal(sample["views"], torch.from_numpy(contents["views"][row]))
        assert sample["index"] == row
        assert int(sample["label"]) == contents["label"][row]
        np.testing.assert_array_equal(sample["distance"], contents["distance"][row])
        np.testing.assert_array_equal(sample["label_margin"], contents["label_margin"][row])
    everything = viewgen.ViewDataset(url, use_unconverged=True)
    assert everything.source_index.tolist() == sorted([*USED, 5])


def test_slices_lists_arrays_masks_and_tensors_are_batches(cache):
    url, contents = cache
    dataset = viewgen.ViewDataset(url)
    mask = np.zeros(19, bool)
    mask[[3, 4]] = True
    for index, rows in {
        "slice": (slice(2, 12, 3), USED[2:12:3]),
        "list": ([9, 0, -1, 9], USED[[9, 0, -1, 9]]),
        "array": (np.array([1, 2], np.int32), USED[[1, 2]]),
        "tensor": (torch.tensor([18]), USED[[18]]),
        "mask": (mask, USED[[3, 4]]),
    }.values():
        batch = dataset[index]
        assert torch.equal(batch["views"], torch.from_numpy(contents["views"][rows]))
        assert batch["index"].tolist() == rows.tolist()
    for position in (np.int64(3), np.array(3), torch.tensor(3)):
        assert isinstance(dataset[position]["index"], int)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (19, IndexError, "outside of the 19"),
        (-20, IndexError, "outside"),
        ([0.5], UsageError, "expected integers"),
        ([[1]], UsageError, "expected integers"),
        (slice(3, 3), UsageError, "no position"),
    ],
)
def test_other_positions_are_refused(cache, index, error, message):
    with pytest.raises(error, match=message):
        viewgen.ViewDataset(cache[0])[index]


def test_views_are_chosen(cache):
    url, contents = cache
    two = viewgen.ViewDataset(url, views=[2, 0])[4]["views"]
    assert torch.equal(two, torch.from_numpy(contents["views"][4][[2, 0]]))
    torch.manual_seed(0)
    drawn = viewgen.ViewDataset(url, views=2, columns=["label_margin"])
    pairs = [tuple(drawn[3]["label_margin"].tolist()) for _ in range(60)]
    assert all(first != second for first, second in pairs)
    assert len(set(pairs)) == 6, "all ordered pairs of three views occur"
    for views in (0, 4, [3], []):
        with pytest.raises(UsageError, match="views"):
            viewgen.ViewDataset(url, views=views)


def test_scores_drop_and_weigh(cache):
    """The lowest third of the views is not drawn; weights are exp(γ·q) of the others."""
    url, contents = cache
    options = {"score": "label_margin", "drop_below": 0.4, "score_weight": 1.5}
    dataset = viewgen.ViewDataset(url, columns=["label_margin"], **options)
    batch = dataset[:]
    margin = contents["label_margin"][USED]
    keep = margin >= np.quantile(margin, 0.4)
    q = (margin - margin[keep].mean()) / margin[keep].std(ddof=1)
    np.testing.assert_allclose(batch["weight"], np.where(keep, np.exp(1.5 * q), 0), rtol=1e-4)
    one = viewgen.ViewDataset(url, views=1, **options)
    partly = [i for i in range(19) if 0 < keep[i].sum() < 3]
    assert partly
    for _ in range(20):
        assert bool((one[partly]["weight"] > 0).all())
    with pytest.raises(UsageError, match="need a score"):
        viewgen.ViewDataset(url, drop_below=0.3)
    with pytest.raises(UsageError, match="did you mean 'label_margin'"):
        viewgen.ViewDataset(url, columns=["label_margn"])


def test_scores_that_were_not_measured_are_asked_for(tmp_path):
    url = str(tmp_path / "plain.zarr")
    write_random_cache(open_storage(url), small_spec())
    with pytest.raises(MissingFileError, match="--write-columns"):
        viewgen.ViewDataset(url, columns=["density"])


def test_transform_and_originals(tmp_path):
    digits = load_dataset("digits")
    made_of = {"name": "digits", "split": "train", "digest": digits.digest}
    spec = small_spec(dataset=made_of, height=32, width=32, shard_images=16, num_images=5)
    url = str(tmp_path / "digits.zarr")
    contents = write_random_cache(open_storage(url), spec)
    dataset = viewgen.ViewDataset(url, transform=lambda image: image.float() / 255, originals=True)
    sample = dataset[2]
    assert torch.equal(sample["image"], torch.from_numpy(digits.images([2])[0]).float() / 255)
    assert torch.equal(sample["views"], torch.from_numpy(contents["views"][2]).float() / 255)
    listed = viewgen.ViewDataset(url, transform=lambda image: {"mean": float(image.float().mean())})[1]
    assert [set(view) for view in listed["views"]] == [{"mean"}, {"mean"}]
    again = pickle.loads(pickle.dumps(viewgen.ViewDataset(url, originals=True)))
    assert torch.equal(again[2]["image"], torch.from_numpy(digits.images([2])[0]))
    other = str(tmp_path / "other.zarr")
    write_random_cache(open_storage(other), small_spec(dataset=made_of | {"digest": "sha256:00"}))
    with pytest.raises(DataError):
        viewgen.ViewDataset(other, originals=True)


def test_a_loader_reads_batches_at_once(cache, monkeypatch):
    url, contents = cache
    dataset = viewgen.ViewDataset(url)
    reads = []
    read = dataset.reader.views
    monkeypatch.setattr(dataset.reader, "views", lambda rows, *a: reads.append(len(rows)) or read(rows, *a))
    batches = list(DataLoader(dataset, batch_size=8))
    assert reads == [8, 8, 3]
    views = torch.cat([batch["views"] for batch in batches])
    assert torch.equal(views, torch.from_numpy(contents["views"][USED]))


def test_it_is_pickled(cache):
    url, _ = cache
    for made in (viewgen.ViewDataset(url, views=[1]), viewgen.ViewStream(url, views=[1], shuffle_buffer=0)):
        again = pickle.loads(pickle.dumps(made))
        assert len(again) == 19
        assert torch.equal(next(iter(again))["views"], next(iter(made))["views"])


def test_a_remote_cache_is_opened_anew_after_a_fork():
    url = "memory://view-dataset/views.zarr"
    contents = write_random_cache(open_storage(url), small_spec())
    dataset = viewgen.ViewDataset(url)
    assert not dataset.reader.is_local
    before = dataset.reader
    loader = DataLoader(dataset, batch_size=5, num_workers=2, multiprocessing_context="fork")
    views = torch.cat([batch["views"] for batch in loader])
    assert torch.equal(views, torch.from_numpy(contents["views"]))
    assert dataset.reader is before
    dataset._process -= 1  # as in a forked process
    assert dataset.reader is not before


def rows_of(stream) -> list[int]:
    return [sample["index"] for sample in stream]


def test_a_stream_reads_all_rows_in_another_order_each_epoch(cache):
    url, contents = cache
    stream = viewgen.ViewStream(url, shuffle_buffer=6, seed=3)
    orders = []
    for epoch in (0, 0, 1):
        stream.set_epoch(epoch)
        orders.append(rows_of(stream))
        assert sorted(orders[-1]) == USED.tolist()
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != USED.tolist()
    assert rows_of(viewgen.ViewStream(url, shuffle_buffer=0)) == USED.tolist()
    for sample in stream:
        assert torch.equal(sample["views"], torch.from_numpy(contents["views"][sample["index"]]))


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (2, 1), (2, 3), (3, 2), (5, 4)])
def test_ranks_and_workers_share_the_shards(cache, monkeypatch, world_size, num_workers):
    """Ranks read equally many samples, none of them twice; all but a remainder are read."""
    from types import SimpleNamespace

    from viewgen import view_stream

    url, _ = cache
    found, shards = [], []
    for rank in range(world_size):
        of_rank = []
        for worker in range(num_workers):
            info = SimpleNamespace(id=worker, num_workers=num_workers)
            monkeypatch.setattr(view_stream, "get_worker_info", lambda info=info: info)
            stream = viewgen.ViewStream(url, shuffle_buffer=4, rank=rank, world_size=world_size)

            def read(shard_id, names, read=stream.reader.shard):
                shards.append(shard_id)
                return read(shard_id, names)

            monkeypatch.setattr(stream.reader, "shard", read)
            of_rank += rows_of(stream)
        assert len(of_rank) == len(stream) == 19 // world_size
        found += of_rank
    assert len(set(found)) == len(found) == 19 // world_size * world_size
    assert len(shards) <= 3 + world_size * num_workers - 1, "a process shares its first and last shard alone"


def test_a_stream_that_is_pickled_keeps_its_rank(cache, monkeypatch):
    """A worker that is spawned belongs to no distributed training."""
    stream = viewgen.ViewStream(cache[0], shuffle_buffer=0)
    whole = [sample["index"] for sample in stream]
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "get_rank", lambda: 1)
        patch.setattr(torch.distributed, "get_world_size", lambda: 2)
        pickled = pickle.dumps(stream)
    there = pickle.loads(pickled)
    assert len(there) == 9
    assert [sample["index"] for sample in there] == whole[9:18]


def test_persistent_workers_hear_of_the_next_epoch(cache):
    stream = viewgen.ViewStream(cache[0], shuffle_buffer=4)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        orders.append([sample["index"] for sample in loader])
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == USED.tolist()


def test_a_cache_that_grows_is_read_as_it_was(cache, tmp_path, monkeypatch):
    """A process that opens it anew finds more rows than the labels that were read."""
    dataset, stream = viewgen.ViewDataset(cache[0]), viewgen.ViewStream(cache[0], shuffle_buffer=0)
    monkeypatch.setattr(dataset, "_rows", USED[:5])
    monkeypatch.setattr(stream, "_rows", USED[:5])
    monkeypatch.setattr(stream, "_labels", stream._labels[:5])
    assert dataset[4]["index"] == USED[4]
    assert [sample["index"] for sample in stream] == USED[:5].tolist()


def test_a_stream_in_a_loader_with_workers(cache):
    url, _ = cache
    stream = viewgen.ViewStream(url, shuffle_buffer=4)
    batches = list(DataLoader(stream, batch_size=4, num_workers=2, multiprocessing_context="fork"))
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == USED.tolist()


def test_a_map_style_data_set_takes_samplers(cache):
    dataset = viewgen.ViewDataset(cache[0])
    found = []
    for rank in range(2):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, shuffle=False, drop_last=True)
        found += [batch["index"] for batch in DataLoader(dataset, batch_size=3, sampler=sampler)]
    assert len(set(torch.cat(found).tolist())) == 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle_buffer": -1}, "shuffle_buffer"),
        ({"rank": 0}, "give both"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
    ],
)
def test_impossible_streams_are_refused(cache, options, message):
    with pytest.raises(UsageError, match=message):
        viewgen.ViewStream(cache[0], **options)


def test_an_opened_cache_says_what_it_is(cache):
    url, contents = cache
    reader = viewgen.open(url)
    assert repr(reader) == (
        f"<Cache {url}: wsearch views of digits train, 20 of 21 images × 3 views, 3×4×4, 3 of 3 shards>"
    )
    assert repr(viewgen.ViewDataset(url, views=2)).startswith(
        "ViewDataset(19 samples of 2 views, <CacheReader"
    )
    np.testing.assert_array_equal(reader.array("distance", 3), contents["distance"][3])
    assert int(reader.array("status", np.int64(5))) == Status.NOT_CONVERGED
    with pytest.raises(UsageError, match="row 6 is absent or failed"):
        reader.array("distance", 6)
    with pytest.raises(MissingFileError):
        viewgen.open(url + "-not-there")
