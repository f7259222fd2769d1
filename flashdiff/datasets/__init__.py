"""Clean images: fetch them, verify them, split them, hand them out.

Whatever the source, a study sees the same three files: ``train.npy``, ``validation.npy`` and ``test.npy``
(:mod:`.splits`). A data set with a name (:mod:`.mnist`) is one function with the signature of :func:`fashion_mnist` and
one line in :data:`DATASETS`; images that the user has (:mod:`.own_images`) lie in one of the :data:`LAYOUTS`. All of
them yield one image at a time, so that a source larger than the memory is split in the same way.
"""

from flashdiff.datasets.collection import Collection
from flashdiff.datasets.folder import IMAGE_SUFFIXES, image_names
from flashdiff.datasets.images import ImageFile, read_image, read_images
from flashdiff.datasets.layouts import LAYOUTS, open_collection
from flashdiff.datasets.mnist import FASHION_MNIST, SOURCES, fashion_mnist, fetch_fashion_mnist, idx_parts, read_idx
from flashdiff.datasets.own_images import image_folder, train_and_test
from flashdiff.datasets.splits import SPLITS, Images, Parts, Split, open_split, to_float, write_splits
from flashdiff.datasets.study_data import DATASETS, prepare

__all__ = [
    "DATASETS",
    "FASHION_MNIST",
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "SOURCES",
    "SPLITS",
    "Collection",
    "ImageFile",
    "Images",
    "Parts",
    "Split",
    "fashion_mnist",
    "fetch_fashion_mnist",
    "idx_parts",
    "image_folder",
    "image_names",
    "open_collection",
    "open_split",
    "prepare",
    "read_idx",
    "read_image",
    "read_images",
    "to_float",
    "train_and_test",
    "write_splits",
]
