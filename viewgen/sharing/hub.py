"""Caches and weights on Hugging Face's hub: ``hf://datasets/OWNER/NAME`` and ``hf://OWNER/NAME``."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewgen.errors import MissingFileError, StorageError, UsageError
from viewgen.extras import need
from viewgen.files import make_folder
from viewgen.store import LocalStorage

__all__ = ["HubPlace", "download", "hub_place", "upload"]

_PLACE = re.compile(r"hf://(datasets/|models/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?/?")
_STAGE = ".viewgen-pull"


@dataclass(frozen=True, kw_only=True, slots=True)
class HubPlace:
    """A repository of the hub.

    Attributes:
        name: ``"OWNER/NAME"``.
        kind: ``"dataset"`` or ``"model"``.
        revision: branch, tag or commit; None for the main branch.
    """

    name: str
    kind: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


def hub_place(url: str) -> HubPlace | None:
    """Return the repository that a URL names; None for a URL of another protocol.

    Raises:
        UsageError: it is of the hub's protocol, and names no repository.
    """
    if not url.startswith("hf://"):
        return None
    match = _PLACE.fullmatch(url)
    if match is None:
        raise UsageError(f"{url} names no repository; expected hf://datasets/OWNER/NAME or hf://OWNER/NAME")
    kind = "dataset" if match[1] == "datasets/" else "model"
    return HubPlace(name=match[2], kind=kind, revision=match[3])


def upload(
    place: HubPlace, source: LocalStorage, names: list[str], also: dict[str, bytes], *, private: bool
) -> int:
    """Upload files as one commit: a reader sees all of them or none.

    What was uploaded before an interruption is not sent again.

    Args:
        place: the repository, which is made if there is none.
        source: folder of the files.
        names: their paths in it.
        also: further files, path → contents.
        private: True to make a new repository private.

    Returns:
        number of files.

    Raises:
        MissingExtraError: the hub's library is not installed.
        StorageError: the hub refuses, or is out of reach.
    """
    need("hf")
    from huggingface_hub import CommitOperationAdd, HfApi

    add = [CommitOperationAdd(name, source.local_path(name)) for name in names if name not in also]
    add += [CommitOperationAdd(name, data) for name, data in also.items()]
    api = HfApi(endpoint=_endpoint())
    try:
        api.create_repo(place.name, repo_type=place.kind, private=private or None, exist_ok=True)
        api.create_commit(
            place.name,
            add,
            commit_message="Upload with viewgen",
            repo_type=place.kind,
            revision=place.revision,
        )
    except Exception as error:  # the library's errors are of many kinds
        raise StorageError(f"cannot write {place}: {_reason(error)}") from error
    return len(add)


def download(place: HubPlace, target: Path) -> Path:
    """Download a repository beside its target; an interrupted download goes on.

    Args:
        place: the repository.
        target: folder that it will have in the end.

    Returns:
        folder beside the target that holds all files.

    Raises:
        MissingExtraError: the hub's library is not installed.
        MissingFileError: there is no such repository, or it is out of reach.
    """
    need("hf")
    from huggingface_hub import snapshot_download

    make_folder(target.absolute().parent)
    stage = _stage(place, target.absolute())
    try:
        snapshot_download(
            place.name,
            repo_type=place.kind,
            revision=place.revision,
            local_dir=stage,
            endpoint=_endpoint(),
        )
    except Exception as error:  # the library's errors are of many kinds
        raise MissingFileError(f"cannot read {place}: {_reason(error)}") from error
    for own in (".cache", ".gitattributes"):  # the library's and the hub's
        path = stage / own
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return stage


def _stage(place: HubPlace, target: Path) -> Path:
    """Return the folder of an unfinished download; another repository or revision has another one."""
    address = json.dumps([_endpoint(), place.kind, place.name, place.revision])
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    return target.with_name(f".{target.name}-{digest}{_STAGE}")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _reason(error: Any) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    advice = "; check the name, the network, and the token in HF_TOKEN or of `hf auth login`"
    return text[:300] + advice
