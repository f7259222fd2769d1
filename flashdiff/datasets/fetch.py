"""Raw files: the first source that gives them, with the right checksum, wins.

A source is a function that puts files into a scratch folder, or points to where they lie; :func:`fetch` decompresses
what it finds, verifies it, and asks the next source for whatever is still missing. Checksums are those of the
decompressed files, because distributors compress the same bytes differently.
"""

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pooch
from tqdm import tqdm

from flashdiff.messages import say

Source = Callable[[Path, Sequence[str], bool], Path]  # (scratch folder, names, progress) -> folder with NAME or NAME.gz

_SECONDS = 20  # of silence after which a server counts as unreachable, so that it does not hold up the next source


def fetch(folder: str | Path, sha256: Mapping[str, str], sources: Mapping[str, Source], progress: bool = True) -> Path:
    """Put the files named in ``sha256``, decompressed and verified, into ``folder``; returns it.

    Files that are there and whose SHA-256 (hexadecimal, of the decompressed content) is right are kept, a damaged one
    is fetched again. ``sources`` maps the label of each source to the source, in the order in which they are asked;
    OSError with the reason of each when none of them gave a file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for name, expected in sha256.items():
        if (folder / name).is_file():
            if pooch.file_hash(folder / name) == expected:
                continue
            say(f"{folder / name}: damaged (its SHA-256 is not {expected[:12]}...), fetching it again.")
        missing.append(name)
    reasons = []
    for label, source in sources.items():
        if not missing:
            break
        with tempfile.TemporaryDirectory(prefix="flashdiff-") as scratch:
            try:
                found = source(Path(scratch), tuple(missing), progress)
            except Exception as error:  # whatever stops a source (no network, no apt, a bad archive), the next is asked
                reasons.append(f"{label}: {_reason(error)}")
                continue
            for name in tuple(missing):
                try:
                    _accept(found, name, sha256[name], folder)
                except Exception as error:
                    reasons.append(f"{label}: {name}: {_reason(error)}")
                else:
                    missing.remove(name)
                    say(f"{folder / name}: from {label}.")
    if missing:
        raise OSError(
            f"{folder}: no source gave {', '.join(missing)} ({'; '.join(reasons)}); connect to the network and try "
            "again, or put the decompressed files there by hand."
        )
    return folder


def _accept(found: Path, name: str, expected: str, folder: Path) -> None:
    packed = found / f"{name}.gz"
    part = folder / f"{name}.part"
    opener, path = (gzip.open, packed) if packed.is_file() else (open, found / name)
    try:
        with opener(path, "rb") as source, open(part, "wb") as target:
            shutil.copyfileobj(source, target)
        if pooch.file_hash(part) != expected:
            raise OSError("wrong SHA-256")
        os.replace(part, folder / name)
    finally:
        part.unlink(missing_ok=True)


def _download(url: str, scratch: Path, known_hash: str | None, progress: bool) -> Path:
    pooch.get_logger().setLevel("WARNING")  # it would print the hash of every file
    downloader = pooch.HTTPDownloader(progressbar=progress, timeout=_SECONDS)
    return Path(pooch.retrieve(url, known_hash, url.rsplit("/", 1)[1], scratch, downloader=downloader))


def _call(command: list[str], cwd: Path, watch: Callable[[], object] = lambda: None) -> None:
    with tempfile.TemporaryFile("w+") as said:
        environment = {**os.environ, "LC_ALL": "C"}
        with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=said, env=environment) as process:
            try:
                ended = False
                while not ended:  # looks once more when it has ended, so that the bar arrives
                    ended = process.poll() is not None
                    watch()
                    time.sleep(0 if ended else 0.1)
            finally:
                process.kill()  # an interrupted notebook leaves no download behind
        said.seek(0)
        lines = said.read().split("\n")
    if process.returncode:
        errors = [line for line in lines if line.startswith("E:")] or [line for line in lines if line][-1:]  # apt's way
        raise OSError(f"{command[0]}: {' '.join(errors) or f'exit status {process.returncode}'}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def installed_copy(folder: str | Path) -> Source:
    """The files lie in ``folder`` of this machine already, compressed or not."""

    def source(scratch: Path, names: Sequence[str], progress: bool) -> Path:
        if not Path(folder).is_dir():
            raise OSError("not there")
        return Path(folder)

    return source


def debian_package(package: str, files: str, n_bytes: int) -> Source:
    """Debian's ``package``, downloaded and unpacked by the tools of Debian and Ubuntu; nothing is installed.

    files: their folder in the package; n_bytes: about the size of the package, for the progress bar.
    """

    def source(scratch: Path, names: Sequence[str], progress: bool) -> Path:
        limits = [
            f"-oAcquire::http::Timeout={_SECONDS}",
            f"-oAcquire::https::Timeout={_SECONDS}",
            "-oAcquire::Retries=1",
        ]
        with tqdm(desc=package, total=n_bytes, unit="B", unit_scale=True, disable=not progress) as bar:

            def arrived():
                bar.update(sum(deb.stat().st_size for deb in scratch.glob("*.deb")) - bar.n)

            _call(["apt-get", *limits, "download", package], scratch, arrived)
        (deb,) = scratch.glob("*.deb")
        _call(["dpkg-deb", "-x", deb.name, "unpacked"], scratch)
        return scratch / "unpacked" / files

    return source


def debian_mirror(url: str, sha256: str, files: str) -> Source:
    """A Debian package straight from a mirror, for machines without apt.

    sha256: of the .deb itself; files: their folder in it.
    """

    def source(scratch: Path, names: Sequence[str], progress: bool) -> Path:
        archive = _download(url, scratch, f"sha256:{sha256}", progress).read_bytes()
        at = len(b"!<arch>\n")  # a .deb is an ar archive; each member has a header of 60 bytes and an even length
        while not archive[at : at + 16].startswith(b"data.tar"):
            if at >= len(archive):
                raise OSError("the package holds no data.tar")
            size = int(archive[at + 48 : at + 58])
            at += 60 + size + size % 2
        unpacked = scratch / "unpacked"
        unpacked.mkdir()
        with tarfile.open(fileobj=io.BytesIO(archive[at + 60 :])) as tar:
            for member in tar:  # by hand: extractall is safe only from Python 3.11.4 on
                path = PurePosixPath(member.name)
                if member.isfile() and path.parent == PurePosixPath(files):
                    (unpacked / path.name).write_bytes(tar.extractfile(member).read())
        return unpacked

    return source


def http_mirror(url: str) -> Source:
    """``url``/NAME.gz over HTTP; :func:`fetch` checks what arrives, so no checksum of the .gz is needed."""

    def source(scratch: Path, names: Sequence[str], progress: bool) -> Path:
        for name in names:
            _download(f"{url}/{name}.gz", scratch, None, progress)
        return scratch

    return source
