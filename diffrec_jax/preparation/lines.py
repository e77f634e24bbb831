"""Text files as blocks of whole lines, compressed or not, in bounded memory."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from diffrec_jax.data import DataError

BLOCK_BYTES = 8 << 20
LONGEST_LINE = 256 << 20
BOM = b"\xef\xbb\xbf"
OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


class Block(NamedTuple):
    """Whole lines of a file."""

    first: int
    """Number of the first line, from 1."""
    text: bytes
    """Ends with a newline."""

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and content of each line, without its end."""
        for offset, line in enumerate(self.text[:-1].split(b"\n")):
            yield self.first + offset, line.removesuffix(b"\r")


def _open(path: Path) -> IO[bytes]:
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".zst":
            import pyarrow as pa

            return pa.input_stream(str(path), compression="zstd")
    return path.open("rb")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, unpacked if its name ends with .gz, .bz2, .xz or .zst.

    Raises:
      DataError: it is missing, no file, or its compressed content is damaged.
    """
    try:
        with _open(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: give the file of the log") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder: give the file of the log") from None
    except BROKEN as error:
        raise DataError(f"{path} is damaged or cut off ({error}): get the file again") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{path} is damaged or cut off ({error}): get the file again") from None


def read_blocks(path: Path, *, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Blocks of whole lines; the last line is ended if it is not.

    Raises:
      DataError: the file is missing, damaged, UTF-16, or has a line of over 256 MiB.
    """
    with opened(path) as file:
        first, rest = 1, b""
        while True:
            read = file.read(block_bytes)
            if first == 1 and not rest:
                encoding = OTHER_ENCODINGS.get(read[:2])
                if encoding:
                    raise DataError(f"{path} is {encoding}: convert it to UTF-8")
                read = read.removeprefix(BOM) if len(read) > len(BOM) or read != BOM else b""
            if not read:
                break
            rest += read
            end = rest.rfind(b"\n") + 1
            if end:
                block = Block(first, rest[:end])
                first, rest = first + block.text.count(b"\n"), rest[end:]
                yield block
            if len(rest) > LONGEST_LINE:
                raise DataError(f"{path} has a line of over {LONGEST_LINE >> 20} MiB, line {first}: is it a text file?")
        if rest:
            yield Block(first, rest + b"\n")
