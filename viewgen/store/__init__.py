"""The cache of views: a plain Zarr v3 group in which a shard exists once its commit record is written."""

from viewgen.store.cache import RUN_FOLDER, create_cache, read_spec
from viewgen.store.columns import ANCHOR_W_PLUS, W_PLUS, Column
from viewgen.store.commits import (
    Fault,
    ShardCommit,
    commit_shard,
    list_commits,
    pending_shards,
    read_commit,
)
from viewgen.store.compaction import compact_commits, drop_commits
from viewgen.store.location import cache_folder, cache_folders, file_name, inversions_name, inversions_url
from viewgen.store.reader import CacheReader
from viewgen.store.shards import write_plain_copies, write_shard
from viewgen.store.spec import (
    ArrayLayout,
    CacheSpec,
    default_shard_images,
)
from viewgen.store.storage import (
    LocalStorage,
    ObjectExistsError,
    Storage,
    open_storage,
    parse_storage_options,
)
from viewgen.store.summary import summarise_cache
from viewgen.store.verification import VerifyReport, repair_cache, verify_cache

__all__ = [
    "ANCHOR_W_PLUS",
    "RUN_FOLDER",
    "W_PLUS",
    "ArrayLayout",
    "CacheReader",
    "CacheSpec",
    "Column",
    "Fault",
    "LocalStorage",
    "ObjectExistsError",
    "ShardCommit",
    "Storage",
    "VerifyReport",
    "cache_folder",
    "cache_folders",
    "commit_shard",
    "compact_commits",
    "create_cache",
    "default_shard_images",
    "drop_commits",
    "file_name",
    "inversions_name",
    "inversions_url",
    "list_commits",
    "open_storage",
    "parse_storage_options",
    "pending_shards",
    "read_commit",
    "read_spec",
    "repair_cache",
    "summarise_cache",
    "verify_cache",
    "write_plain_copies",
    "write_shard",
]
