import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from diffrec_jax.data import DataError
from diffrec_jax.preparation import PrepareConfig, download
from diffrec_jax.preparation.download import KNOWN, Known, Source, fetch, options_of, unpack, unpacked

CONTENT = bytes(range(256)) * 400


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT by the way that the path names."""

    requests: list = []  # noqa: RUF012

    def do_GET(self):
        self.requests.append((self.path, self.headers.get("Range")))
        way = self.path.split("/")[1]
        if way in ("404", "500"):
            self.send_error(int(way))
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if way != "ignores-ranges" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        first_time = self.headers.get("Range") is None
        self.wfile.write(body[: len(body) // 2] if way in ("truncates", "ignores-ranges") and first_time else body)

    def log_message(self, *args):
        """Keeps silent."""


@pytest.fixture
def server(monkeypatch):
    Handler.requests.clear()
    found = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    for way in ("whole", "truncates", "ignores-ranges", "404", "500"):
        address = f"http://127.0.0.1:{found.server_port}/{way}/log.csv"
        right = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
        monkeypatch.setitem(KNOWN, way, Known("csv", (Source(address, right),)))
        monkeypatch.setitem(KNOWN, f"{way}-changed", Known("csv", (Source(address, "md5:" + "0" * 32),)))
        monkeypatch.setitem(KNOWN, f"{way}-unknown", Known("csv", (Source(address),)))
    yield found
    found.shutdown()


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetch("whole", tmp_path / "raw")
    assert path.read_bytes() == CONTENT and [file.name for file in path.parent.iterdir()] == ["log.csv"]
    fetch("whole", tmp_path / "raw")
    assert len(Handler.requests) == 1


def test_a_broken_connection_is_gone_on_with(server, tmp_path):
    with pytest.raises(DataError, match=r"broke off after 51,200 of 102,400 bytes: try again"):
        fetch("truncates", tmp_path)
    assert not (tmp_path / "log.csv").exists()
    assert fetch("truncates", tmp_path).read_bytes() == CONTENT
    assert Handler.requests[-1][1] == "bytes=51200-"


def test_a_server_without_ranges_starts_again(server, tmp_path):
    (tmp_path / "log.csv.part").write_bytes(b"something")
    assert fetch("ignores-ranges", tmp_path).read_bytes() == CONTENT


def test_what_is_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "log.csv.part").write_bytes(CONTENT + b"x")
    assert fetch("whole", tmp_path).read_bytes() == CONTENT


def test_a_corrupt_file_is_removed(server, tmp_path):
    with pytest.raises(DataError, match="has the md5 .*, not 000.*: it was removed"):
        fetch("whole-changed", tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_checksum_the_digest_is_told(server, tmp_path):
    told = []
    fetch("whole-unknown", tmp_path, tell=told.append)
    assert told[-1].endswith(hashlib.sha256(CONTENT).hexdigest())


@pytest.mark.parametrize("code", ["404", "500"])
def test_answers_of_the_server_are_named(server, tmp_path, code):
    with pytest.raises(DataError, match=f"the server answers {code} .*--raw=log.csv"):
        fetch(code, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_server_at_all(monkeypatch, tmp_path):
    monkeypatch.setitem(KNOWN, "gone", Known("csv", (Source("http://127.0.0.1:9/log.csv"),)))
    with pytest.raises(DataError, match="cannot be reached"):
        fetch("gone", tmp_path)
    with pytest.raises(DataError, match="yelp cannot be fetched: .*accept its terms"):
        fetch("yelp", tmp_path)
    with pytest.raises(DataError, match="'shop' is no known dataset"):
        fetch("shop", tmp_path)


def test_archives_cannot_write_outside_their_folder(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../evil/u.data", "1\t2\t3\t4\n")
    (tmp_path / "a.zip").write_bytes(packed.getvalue())
    (tmp_path / "in").mkdir()
    assert unpack(tmp_path / "a.zip", "../../evil/u.data", tmp_path / "in") == tmp_path / "in" / "u.data"
    assert not list(tmp_path.parent.glob("evil"))
    with pytest.raises(DataError, match=r"a\.zip holds no ml-100k/u\.data"):
        unpack(tmp_path / "a.zip", "ml-100k/u.data", tmp_path / "in")
    (tmp_path / "a.zip").write_bytes(packed.getvalue()[:40])
    with pytest.raises(DataError, match="is damaged"):
        unpack(tmp_path / "a.zip", "ml-100k/u.data", tmp_path / "in")


@pytest.mark.parametrize(("name", "form"), [("ml-100k", "ml-100k"), ("movies", "ml-100k"), ("shop", "csv")])
def test_an_archive_is_unpacked_beside_nothing(tmp_path, name, form):
    """What lies beside it under the name of the file within is somebody else's."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", "1\t2\t3\t4\n")
        if form == "ml-100k":
            archive.writestr("ml-100k/README", "read")
        archive.writestr("__MACOSX/ml-100k/._u.data", "of a Mac")
    (tmp_path / "u.data").write_text("mine")
    with unpacked(tmp_path / "a.zip", name, form, tmp_path / "out") as log:
        assert log.read_text() == "1\t2\t3\t4\n"
    assert (tmp_path / "u.data").read_text() == "mine" and not list((tmp_path / "out").iterdir())


def test_an_archive_of_several_logs_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "")
        archive.writestr("b.csv", "")
    with pytest.raises(DataError, match=r"holds a\.csv, b\.csv: unpack it"):
        unpacked(tmp_path / "a.zip", "shop", "csv", tmp_path).__enter__()
    with unpacked(tmp_path / "log.csv", "shop", "csv", tmp_path / "no") as log:
        assert log == tmp_path / "log.csv" and not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", list(download.KNOWN))
def test_what_is_known_can_be_prepared(name):
    known = KNOWN[name]
    assert PrepareConfig(format=known.format, **known.settings)
    assert options_of(name)[-1].startswith(f"--name={name} --raw=")
    assert known.sources or known.remedy
