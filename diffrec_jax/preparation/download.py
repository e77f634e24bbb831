"""Known datasets: where they are, their checksums, and a download that resumes and verifies."""

import hashlib
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffrec_jax.data import DataError
from diffrec_jax.files import naming

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
AMAZON = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
LIGHTGCN = "https://raw.githubusercontent.com/kuandeng/LightGCN/master/Data"
TIMEOUT_S = 60
CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A file to fetch."""

    address: str
    checksum: str | None = None
    """``md5:...`` or ``sha256:...`` as its publisher gives it; None where none is published."""

    @property
    def file(self) -> str:
        """Its name."""
        return self.address.rpartition("/")[2]


@dataclass(frozen=True)
class Known:
    """A dataset that is known by its name."""

    format: str
    sources: tuple[Source, ...] = ()
    member: str | None = None
    """The log within a zip archive."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of ``PrepareConfig``, where the command line says nothing else."""
    remedy: str = ""
    """How to get it, where nothing may be fetched."""


POSITIVE = {"min_rating": 4.0}
FIVE_CORE = {"user_core": 5, "item_core": 5}
TEN_CORE = {"user_core": 10, "item_core": 10}
KNOWN: dict[str, Known] = {
    "ml-100k": Known(
        "ml-100k",
        (Source(f"{GROUPLENS}/ml-100k.zip", "md5:0e33842e24a9c977be4e0107933c0723"),),
        "ml-100k/u.data",
        POSITIVE | FIVE_CORE,
    ),
    "ml-1m": Known(
        "ml-1m",
        (Source(f"{GROUPLENS}/ml-1m.zip", "md5:c4d9eecfca2ab87c1945afe126590906"),),
        "ml-1m/ratings.dat",
        POSITIVE | FIVE_CORE,
    ),
    "ml-20m": Known(
        "ml-20m",
        (Source(f"{GROUPLENS}/ml-20m.zip", "md5:cd245b17a1ae2cc31bb14903e1204af3"),),
        "ml-20m/ratings.csv",
        POSITIVE | FIVE_CORE,
    ),
    "amazon-book": Known("amazon-ratings", (Source(f"{AMAZON}/ratings_Books.csv"),), None, POSITIVE | TEN_CORE),
    "beauty": Known("amazon-reviews", (Source(f"{AMAZON}/reviews_Beauty_5.json.gz"),), settings=FIVE_CORE),
    "toys": Known("amazon-reviews", (Source(f"{AMAZON}/reviews_Toys_and_Games_5.json.gz"),), settings=FIVE_CORE),
    "gowalla": Known(
        "lightgcn",
        (Source(f"{LIGHTGCN}/gowalla/train.txt"), Source(f"{LIGHTGCN}/gowalla/test.txt")),
        None,
        {"split": "given"},
    ),
    "yelp": Known(
        "yelp",
        settings=POSITIVE | TEN_CORE,
        remedy="Yelp gives its data to those who accept its terms (https://www.yelp.com/dataset): "
        "fetch and unpack it, then pass --raw=yelp_academic_dataset_review.json",
    ),
}


def known(name: str) -> Known:
    """A known dataset.

    Raises:
      DataError: there is none of this name.
    """
    if name not in KNOWN:
        raise DataError(f"{name!r} is no known dataset ({', '.join(KNOWN)}): give its log with --raw and --format")
    return KNOWN[name]


def fetch(name: str, folder: Path, *, tell: Callable[[str], None] = lambda line: None) -> Path:
    """The log of a known dataset, fetched into a folder where it is not there yet.

    Raises:
      DataError: it is not known, cannot be fetched, or its checksum is another.
    """
    dataset = known(name)
    if not dataset.sources:
        raise DataError(f"{name} cannot be fetched: {dataset.remedy}")
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder
    for source in dataset.sources:
        path = folder / source.file
        if not path.exists():
            tell(f"fetching {source.address}")
            _fetch(source.address, path)
        _verify(path, source, tell)
    if len(dataset.sources) > 1:
        return folder
    return path if dataset.member is None else unpack(path, dataset.member, folder)


@contextmanager
def unpacked(raw: Path, name: str, form: str, out: Path) -> Iterator[Path]:
    """The log itself: of a zip archive the file in it, unpacked into a folder below ``out`` for as long as it is read.

    Args:
      raw: the log, or an archive with it.
      name: of the dataset; a known one's archive has its log under a name of its own.
      form: the log's format; so has an archive in the format of known ones. Of any other archive it is its only file.
      out: the folder of datasets.

    Raises:
      DataError: the archive is damaged, or has none or several of these.
    """
    if raw.suffix != ".zip":
        yield raw
        return
    own = [KNOWN[name]] if name in KNOWN else [known for known in KNOWN.values() if known.format == form]
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unpacked-") as folder:
        held = _files_in(raw)
        members = [known.member for known in own if known.member in held] or held
        if len(members) != 1:
            told = ", ".join(members[:5]) or "no file"
            raise DataError(f"{raw} holds {told}: unpack it, and give the log as --raw")
        yield unpack(raw, str(members[0]), Path(folder))


def _files_in(archive: Path) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as content:
            files = [entry.filename for entry in content.infolist() if not entry.is_dir()]
            return [name for name in files if not name.startswith("__MACOSX/")]
    except FileNotFoundError:
        raise DataError(f"{archive} does not exist: give the file of the log") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive} is damaged ({error}): get it again") from None


def unpack(archive: Path, member: str, folder: Path) -> Path:
    """One file of a zip archive, under its last name: nothing can land outside the folder.

    Raises:
      DataError: the archive is damaged or has no such file.
    """
    path = folder / Path(member).name
    partial = path.with_name(f"{path.name}.part")
    try:
        with zipfile.ZipFile(archive) as content, content.open(member) as packed, naming(path):
            with partial.open("wb") as file:
                shutil.copyfileobj(packed, file, CHUNK)
            partial.replace(path)
    except KeyError:
        raise DataError(f"{archive} holds no {member}: is it the right archive?") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{archive} is damaged ({error}): remove it and fetch it again") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _verify(path: Path, source: Source, tell: Callable[[str], None]) -> None:
    kind, _, expected = (source.checksum or "sha256:").partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if not expected:
        tell(f"{path.name}: its publisher gives no checksum; sha256 is {found}")
    elif found != expected:
        path.unlink()
        raise DataError(
            f"{path} has the {kind} {found}, not {expected}: it was removed; fetch it again, and if that does not "
            f"help, look whether {source.address} has changed"
        )


def _fetch(address: str, path: Path) -> None:
    """Fetches a file; what an earlier try left is gone on with.

    Raises:
      DataError: the server does not give it, or the connection breaks; what was fetched stays for the next try.
    """
    partial = path.with_name(f"{path.name}.part")
    done = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 (addresses are those of ``KNOWN``)
    again = f"try again, or fetch it yourself and pass it with --raw={path.name}"
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, naming(partial):  # noqa: S310
            resumes = response.status == 206
            expected = response.headers.get("Content-Length")
            received = 0
            with partial.open("ab" if resumes else "wb") as file:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    received += len(chunk)
        if expected is not None and received < int(expected):
            raise DataError(f"{address} broke off after {received:,} of {int(expected):,} bytes: {again} (it goes on)")
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing is missing, or the file has changed
            partial.unlink()
            _fetch(address, path)
            return
        raise DataError(f"{address}: the server answers {error.code} {error.reason}; {again}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"{address} cannot be reached ({reason}): {again}") from None
    partial.replace(path)


def options_of(name: str) -> list[str]:
    """The options of ``experiments.prepare`` that make a known dataset: fetched where it may be, and from a file."""
    dataset = known(name)
    raw = dataset.sources[0].file if dataset.sources else "yelp_academic_dataset_review.json"
    from_file = f"--name={name} --raw={'FOLDER' if len(dataset.sources) > 1 else raw}"
    return ([f"--name={name} --download"] if dataset.sources else []) + [from_file]
