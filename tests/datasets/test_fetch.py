"""Every source of raw files, tried without a network: a server on this machine, a package made here, a fake apt."""

import gzip
import hashlib
import io
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flashdiff.datasets.fetch import debian_mirror, debian_package, fetch, http_mirror, installed_copy

CONTENT = {"alpha": b"first file " * 500, "beta": b"second"}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
INSIDE = "usr/share/datasets/letters"


def put(folder, suffix=".gz", content=CONTENT):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    return folder


def holds_all(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


@pytest.fixture
def deb(tmp_path):
    """A Debian package with the files: an ar archive whose members have odd lengths, too."""
    put(tmp_path / "payload" / INSIDE)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd"}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        archive.add(tmp_path / "payload", "./")
    members["data.tar.xz"] = tar.getvalue()
    content = b"!<arch>\n"
    for name, data in members.items():
        content += (
            f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    (tmp_path / "letters_1.0_all.deb").write_bytes(content)
    return tmp_path / "letters_1.0_all.deb"


@pytest.fixture
def served(tmp_path):
    """(folder, its URL): a web server on this machine, and the paths that were asked for."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    asked = []
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def refuse(scratch, names, progress):
    raise AssertionError("this source must not be asked")


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_installed_copy(tmp_path, suffix):
    source = installed_copy(put(tmp_path / "installed", suffix))
    assert fetch(tmp_path / "raw", SHA256, {"copy": source, "never": refuse}) == tmp_path / "raw"
    assert holds_all(tmp_path / "raw")


def test_http_mirror(tmp_path, served, capfd):
    folder, url, asked = served
    put(folder)
    fetch(tmp_path / "raw", SHA256, {"site": http_mirror(url)})
    assert holds_all(tmp_path / "raw")
    assert any("alpha.gz" in path for path in asked)
    said = capfd.readouterr().err
    assert "100%" in said  # a progress bar
    assert "from site" in said


def test_no_progress_bar_when_unwanted(tmp_path, served, capfd):
    folder, url, _ = served
    put(folder)
    fetch(tmp_path / "raw", SHA256, {"site": http_mirror(url)}, progress=False)
    assert "%" not in capfd.readouterr().err


def test_debian_mirror(tmp_path, served, deb):
    folder, url, _ = served
    (folder / deb.name).write_bytes(deb.read_bytes())
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    fetch(tmp_path / "raw", SHA256, {"mirror": debian_mirror(f"{url}/{deb.name}", digest, INSIDE)})
    assert holds_all(tmp_path / "raw")
    with pytest.raises(OSError, match="mirror: SHA256 hash of downloaded file"):
        fetch(tmp_path / "other", SHA256, {"mirror": debian_mirror(f"{url}/{deb.name}", "0" * 64, INSIDE)})


def test_debian_mirror_names_a_package_without_data(tmp_path, served):
    folder, url, _ = served
    (folder / "empty.deb").write_bytes(b"!<arch>\n")
    digest = hashlib.sha256(b"!<arch>\n").hexdigest()
    with pytest.raises(OSError, match=r"mirror: the package holds no data\.tar"):
        fetch(tmp_path / "raw", SHA256, {"mirror": debian_mirror(f"{url}/empty.deb", digest, INSIDE)})


def fake_tools(tmp_path, monkeypatch, **scripts):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in scripts.items():
        path = tools / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin")


def test_debian_package(tmp_path, monkeypatch, deb, capfd):
    """The bar arrives, though the program ends before anybody looks."""
    fake_tools(
        tmp_path,
        monkeypatch,
        apt_get=f'for last; do :; done; test "$last" = letters && cp "{deb}" . && echo "W: unsandboxed" >&2',
        dpkg_deb=f'test "$1" = -x && test -f "$2" && cp -r "{tmp_path}/payload" "$3"',
    )
    fetch(tmp_path / "raw", SHA256, {"Debian": debian_package("letters", INSIDE, deb.stat().st_size)})
    assert holds_all(tmp_path / "raw")
    assert "100%" in capfd.readouterr().err


def test_next_source_is_asked_and_every_reason_is_named(tmp_path, monkeypatch, served):
    _, url, _ = served
    fake_tools(
        tmp_path, monkeypatch, apt_get='echo "W: a warning" >&2; echo "E: Unable to locate package" >&2; exit 100'
    )
    useless = {
        "copy": installed_copy(tmp_path / "nowhere"),
        "Debian": debian_package("letters", INSIDE, 1),
        "site": http_mirror(url),  # answers 404
        "no host": http_mirror("http://127.0.0.1:1"),
    }
    with pytest.raises(OSError, match="no source gave alpha, beta") as caught:
        fetch(tmp_path / "raw", SHA256, useless, progress=False)
    sentence = str(caught.value)
    for reason in ("copy: not there", "Debian: apt-get: E: Unable to locate package", "site: 404", "no host: HTTP"):
        assert reason in sentence
    assert "a warning" not in sentence
    assert "\n" not in sentence
    assert not list((tmp_path / "raw").iterdir())
    fetch(tmp_path / "raw", SHA256, {**useless, "last": installed_copy(put(tmp_path / "last"))}, progress=False)
    assert holds_all(tmp_path / "raw")


def test_missing_tool_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"Debian: .*apt-get"):
        fetch(tmp_path / "raw", SHA256, {"Debian": debian_package("letters", INSIDE, 1)}, progress=False)


def test_wrong_file_of_one_source_comes_from_the_next(tmp_path):
    partly = put(tmp_path / "partly", content={**CONTENT, "alpha": b"something else"})
    asked = []

    def rest(scratch, names, progress):
        asked.extend(names)
        return put(tmp_path / "whole")

    fetch(tmp_path / "raw", SHA256, {"partly": installed_copy(partly), "rest": rest})
    assert asked == ["alpha"]
    assert holds_all(tmp_path / "raw")
    with pytest.raises(OSError, match=r"no source gave alpha \(partly: alpha: wrong SHA-256\)"):
        fetch(tmp_path / "again", SHA256, {"partly": installed_copy(partly)})


def test_archive_cut_off_leaves_nothing_behind(tmp_path):
    copy = put(tmp_path / "copy")
    (copy / "alpha.gz").write_bytes((copy / "alpha.gz").read_bytes()[:-9])
    with pytest.raises(OSError, match="copy: alpha: Compressed file ended"):
        fetch(tmp_path / "raw", SHA256, {"copy": installed_copy(copy)})
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["beta"]


def test_verified_files_are_kept_and_damaged_ones_fetched_again(tmp_path, capfd):
    raw = put(tmp_path / "raw", "")
    fetch(raw, SHA256, {"never": refuse})
    (raw / "beta").write_bytes(b"secand")
    before = (raw / "alpha").stat().st_mtime_ns
    fetch(raw, SHA256, {"copy": installed_copy(put(tmp_path / "copy"))})
    assert holds_all(raw)
    assert (raw / "alpha").stat().st_mtime_ns == before
    assert "beta: damaged" in capfd.readouterr().err
