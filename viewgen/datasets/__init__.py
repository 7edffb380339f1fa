"""Data sets: labelled images addressed by source index, loaded by name."""

from viewgen.datasets.dataset import Attribute, DatasetEntry, DatasetInfo, ImageDataset
from viewgen.datasets.registry import DATASETS, download_dataset, list_datasets, load_dataset
from viewgen.datasets.root import resolve_data_root

__all__ = [
    "DATASETS",
    "Attribute",
    "DatasetEntry",
    "DatasetInfo",
    "ImageDataset",
    "download_dataset",
    "list_datasets",
    "load_dataset",
    "resolve_data_root",
]
