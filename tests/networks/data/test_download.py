"""Downloads from a server of our own: whole, cut, wrong and missing files."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from nclib.networks import __main__
from nclib.networks.__main__ import main
from nclib.networks.data import download
from nclib.networks.data import load as data
from nclib.networks.data.archives import CorruptData
from nclib.networks.data.download import DownloadError, fetch
from nclib.networks.data.load import DataSet, Official, available
from tests.networks.data.made import PACK, idx, md5, random_bytes, write


class Server:
    """A server on this computer.

    Attributes:
        url: Its address.
        files: What it has, by name.
        claims: By name the length that it claims, where that is not the right one.
        asked: The names it was asked for.
    """

    def __init__(self):
        self.files, self.claims, self.asked = {}, {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                outer.asked.append(name)
                if name not in outer.files:
                    self.send_error(404)
                    return
                content = outer.files[name]
                if content is None:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", outer.claims.get(name, str(len(content))))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def official(server, tmp_path, monkeypatch):
    """A made data set of two files, and the empty folder that it is fetched into."""
    root = tmp_path / "root"
    root.mkdir()
    server.files = {f"{i}.gz": random_bytes(1000, seed=i).tobytes() for i in range(2)}

    def refuse(path):
        raise CorruptData(f"{path} is not the official file.")

    entries = tuple(
        Official(f"{server.url}/{name}", f"made/{name}", md5(content), refuse)
        for name, content in server.files.items()
    )
    monkeypatch.setattr(data, "DATASETS", {"made": DataSet((), entries)})
    monkeypatch.setattr(download, "DATASETS", data.DATASETS)
    return server.files, root


def contents(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*"))


def test_files_are_fetched_once_and_checked(official, server, capfd):
    files, root = official
    found = fetch("made", root)
    assert found == [root / "made" / "0.gz", root / "made" / "1.gz"]
    assert contents(root) == ["made", "made/0.gz", "made/1.gz"]
    assert [p.read_bytes() for p in found] == list(files.values())
    assert fetch("made", root) == found and server.asked == list(files)
    found[1].write_bytes(b"old")
    with pytest.raises(CorruptData, match=r"1\.gz is not the official file"):
        fetch("made", root)
    assert found[1].read_bytes() == b"old" and server.asked == list(files)
    assert capfd.readouterr() == ("", "")


def test_what_is_there_may_be_packed_by_anybody(mnist, tmp_path, monkeypatch):
    images = data.DATASETS["mnist"].official[0]
    monkeypatch.setattr(download, "DATASETS", {"mnist": DataSet((), (images,))})
    for packing in (PACK[".gz"], PACK[".xz"], PACK[""]):
        path = write(tmp_path / images.place, packing(idx(mnist[0])))
        assert fetch("mnist", tmp_path) == [path]
    write(path, idx(mnist[0])[:-1] + b"?")
    with pytest.raises(CorruptData, match="is not the official file: md5"):
        fetch("mnist", tmp_path)


def test_a_wrong_file_leaves_nothing(official, server):
    files, root = official
    files["0.gz"] = b"another file"
    with pytest.raises(DownloadError, match=r"hash of downloaded file .* does not match") as error:
        fetch("made", root)
    assert contents(root) == []
    assert f"by hand, save {server.url}/0.gz as {root / 'made' / '0.gz'}" in str(error.value)
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(DownloadError, match=r"could not be fetched.* by hand"):
        fetch("made", root)
    assert contents(root) == []


def test_an_interrupted_download_leaves_nothing(official, monkeypatch):
    _, root = official

    def interrupted(self, url, output, pooch):
        Path(output).write_bytes(b"a part")
        assert len(contents(root)) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("made", root)
    assert contents(root) == []


@pytest.mark.parametrize(
    "content, claim, message",
    [
        (bytes(1000), None, None),
        (bytes(400), "1000", "400 bytes read, 600 more expected"),
        ("missing", None, "404"),
        (None, None, "could not be"),
        (bytes(1000), "abc", "could not be"),
    ],
)
def test_a_server_may_fail(content, claim, message, official, server, monkeypatch):
    _, root = official
    whole = bytes(1000)
    server.files = {} if content == "missing" else {"0.gz": content}
    server.claims = {} if claim is None else {"0.gz": claim}
    url = f"{server.url}/0.gz"
    entry = Official(url, "made/0.gz", md5(whole), None)
    monkeypatch.setattr(data, "DATASETS", {"made": DataSet((), (entry,))})
    monkeypatch.setattr(download, "DATASETS", data.DATASETS)
    if message is None:
        assert fetch("made", root)[0].read_bytes() == whole
    else:
        with pytest.raises(DownloadError, match=f"{message}.*To get it by hand, save {url}"):
            fetch("made", root)
        assert contents(root) == []


def test_a_download_needs_a_known_name_and_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("NCLIB_DATA", raising=False)
    with pytest.raises(ValueError, match="one of mnist, cifar10, but it is 'svhn'"):
        fetch("svhn", tmp_path)
    with pytest.raises(ValueError, match="NCLIB_DATA"):
        fetch("mnist")
    with pytest.raises(NotADirectoryError, match="make it first"):
        fetch("mnist", tmp_path / "none")


def test_official_files_are_where_the_reader_looks(tmp_path):
    for name, known in data.DATASETS.items():
        for file in known.official:
            assert file.url.startswith("https://") and file.url.endswith(Path(file.place).name)
            write(tmp_path / file.place, b"")
        assert available(name, tmp_path)
        assert name == "digits" or (known.official and available(name, tmp_path, "test"))


def test_download_on_the_command_line(official, server, monkeypatch, capsys):
    files, root = official
    assert main(["download", "made", str(root)]) == 0
    assert contents(root) == ["made", "made/0.gz", "made/1.gz"]
    monkeypatch.setenv("NCLIB_DATA", str(root))
    assert main(["download", "made"]) == 0 and server.asked == list(files)
    (root / "made" / "0.gz").write_bytes(b"old")
    assert main(["download", "made"]) == 1
    assert capsys.readouterr().err.endswith("0.gz is not the official file.\n")
    assert __main__.main is main
