"""Fashion-MNIST: 28×28 grey images in IDX files, with 2 black pixels added on each side to 32×32, as RGB.

The files, gzip-compressed or plain, are looked for in ROOT/fashion-mnist, in ROOT, in ROOT/FashionMNIST/raw
(torchvision's place) and in /usr/share/datasets/fashion-mnist (Debian's package dataset-fashion-mnist), then
downloaded. https://github.com/zalandoresearch/fashion-mnist
"""

from pathlib import Path

from viewgen.datasets.idx_dataset import IdxDataset, idx_files

__all__ = ["ENTRY", "FASHION_MNIST"]

NAME = "fashion-mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SITE = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
REPOSITORY = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


FASHION_MNIST = IdxDataset(
    name=NAME,
    summary="70,000 grey pictures of clothes",
    class_names=CLASS_NAMES,
    num_images={"train": 60_000, "test": 10_000},
    source="IDX, Zalando or Debian",
    licence="MIT",
    folders=(".", "FashionMNIST/raw"),
    directories=(DEBIAN,),
    files=idx_files(
        (SITE, REPOSITORY),
        {
            "train": (
                (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            ),
            "test": (
                (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
                (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
            ),
        },
    ),
)
ENTRY = FASHION_MNIST.entry
