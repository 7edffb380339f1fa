"""Data sets that come as one official archive and are decoded once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from viewgen.datasets.dataset import DatasetEntry, DatasetInfo, ImageDataset, canonical_split
from viewgen.datasets.decoded import Blocks, load_decoded, read_decoded
from viewgen.datasets.download import RemoteFile, locate, obtain
from viewgen.settings import Settings

__all__ = ["ArchivedDataset"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedDataset:
    """A data set in one archive.

    Attributes:
        info: its line in ``viewgen datasets``; `info.num_images` names the splits.
        archive: the official file, searched in ROOT/NAME and in ROOT.
        blocks: `(archive path, split) -> Blocks`, the decoder.
        split_aliases: other names for a split.
    """

    info: DatasetInfo
    archive: RemoteFile
    blocks: Callable[[Path, str], Blocks]
    split_aliases: dict[str, str] = field(default_factory=dict)

    @property
    def entry(self) -> DatasetEntry:
        """Registry entry of the data set."""
        return DatasetEntry(
            name=self.info.name,
            summary=self.info.source,
            settings=Settings,
            build=lambda settings, split, root, download: self.load(split, root, download=download),
            info=self.info,
            is_present=self.is_present,
            download=self.download,
        )

    def is_present(self, root: Path) -> bool:
        """True if the archive, or a decoded copy of every split, is under `root`."""
        if locate(self.archive, self._directories(root)) is not None:
            return True
        return all((self._decoded(root, split) / "about.json").is_file() for split in self.info.num_images)

    def download(self, root: Path) -> list[Path]:
        """Fetch and verify the archive."""
        return [obtain(self.archive, self._directories(root), download=True)]

    def load(self, split: str, root: Path, *, download: bool) -> ImageDataset:
        """Load one split, decoding it on first use.

        Raises:
            MissingFileError: the archive is absent and cannot be downloaded.
            CorruptDataError: the archive or the decoded copy is damaged.
        """
        name = self.info.name
        split = canonical_split(name, split, self.info.num_images, self.split_aliases)
        source = {"archive": self.archive.name, "md5": self.archive.md5}
        directory = self._decoded(root, split)
        found = read_decoded(name, split, directory, source)
        if found is not None:
            return found
        archive = obtain(self.archive, self._directories(root), download=download)
        return load_decoded(
            name,
            split,
            directory,
            source,
            lambda: self.blocks(archive, split),
            num_images=self.info.num_images[split],
        )

    def _directories(self, root: Path) -> tuple[Path, Path]:
        return root / self.info.name, root

    def _decoded(self, root: Path, split: str) -> Path:
        return root / self.info.name / "decoded" / split
