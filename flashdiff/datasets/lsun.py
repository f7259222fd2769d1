"""LSUN (Yu et al. 2015, arXiv:1506.03365): one database per category, or the webp files that were exported from it.

bedroom_train_lmdb/ holds data.mdb, from keys of 40 hexadecimal digits to webp files whose shorter side has 256 pixels.
The authors' ``data.py export`` writes KEY.webp, or with one folder for each of the key's first six characters
k/e/y/0/1/2/KEY.webp. The lists of the published latent diffusion models name the images as KEY.webp.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from flashdiff.datasets.collection import Collection, by_key, folder_of
from flashdiff.datasets.folder import image_names


def lsun(entry: Mapping, field: str) -> Collection:
    """The images of an LMDB folder or of exported files, in the order of their keys."""
    folder = folder_of(entry, field)
    if (folder / "data.mdb").is_file():
        return _database(folder, field)
    names = by_key(folder, image_names(folder), _key, field)
    return Collection(field, str(folder), {key: names[key] for key in sorted(names)}, _key, folder.joinpath)


def _key(name: str) -> str:
    return PurePosixPath(name).stem


def _database(folder: Path, field: str) -> Collection:
    try:
        import lmdb
    except ImportError:
        raise ValueError(
            f"{field}.images: {folder} is an LMDB, and the package that reads it is not installed; run "
            "`pip install lmdb`, or export the images with LSUN's data.py and give their folder."
        ) from None

    def opened() -> lmdb.Environment:
        # Without locks nothing is written beside a data set that may be read-only. Opened for each image: a process may
        # have a database open only once, and two lists may choose from the same one.
        return lmdb.open(str(folder), readonly=True, lock=False)

    def content(key: str) -> bytes:
        with opened() as environment, environment.begin() as transaction:
            return transaction.get(key.encode())

    try:
        with opened() as environment, environment.begin() as transaction:
            size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            if (folder / "data.mdb").stat().st_size < size:  # the end is mapped all the same: a read there would crash
                raise OSError("the file is cut off")
            keys = [key.decode() for key in transaction.cursor().iternext(values=False)]
    except (lmdb.Error, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{field}.images: {folder} cannot be read as an LMDB ({error}); download and unpack it again."
        ) from None
    return Collection(field, str(folder), dict(zip(keys, keys, strict=True)), _key, content)
