import bz2
import gzip
import json
import lzma

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from diffrec_jax.data import DataError
from diffrec_jax.preparation import lines
from diffrec_jax.preparation.batches import Columns
from diffrec_jax.preparation.formats import FORMATS
from diffrec_jax.preparation.spool import write_spool

NAMED = Columns("user", "item", "rating", "time")


def read(path, format_name, columns=NAMED, *, on_bad_line="error"):
    """(user, item, rating, time) rows and the spool."""
    from pyarrow import parquet

    chosen = FORMATS[format_name]
    batches = chosen.read(path, chosen.columns or columns)
    spool = write_spool(batches, path.parent / "spool.parquet", path, on_bad_line=on_bad_line)
    table = parquet.read_table(spool.path)
    kinds = [kind for kind in ("user", "item", "rating", "time") if kind in table.column_names]
    return list(zip(*(table[kind].to_pylist() for kind in kinds))), spool


ROWS = [("u1", "i 9", 4.0, 10.0), ("u2", "ü", 1.5, -3.0)]


@pytest.mark.parametrize(
    ("format_name", "content", "expected"),
    [
        ("csv", 'time,item,user,rating,x\n10,"i 9",u1,4,\r\n-3,ü,u2,1.5,y\r\n', ROWS),
        ("tsv", "user\titem\trating\ttime\nu1\ti 9\t4\t10\nu2\tü\t1.5\t-3", ROWS),
        ("json-lines", "\n".join(json.dumps(dict(zip(NAMED.named(), row))) for row in ROWS), ROWS),
        ("ml-100k", "u1\ti 9\t4\t10\nu2\tü\t1.5\t-3\n", ROWS),
        ("ml-1m", "u1::i 9::4::10\nu2::ü::1.5::-3\n", ROWS),
        ("ml-20m", "userId,movieId,rating,timestamp\nu1,i 9,4,10\nu2,ü,1.5,-3\n", ROWS),
        ("amazon-ratings", "u1,i 9,4.0,10\nu2,ü,1.5,-3\n", ROWS),
        ("recbole", "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti 9\t4\t10\nu2\tü\t1.5\t-3",
         ROWS),
        ("recbole", "item_id:token\tuser_id:token\ni 9\tu1\nü\tu2\n", [row[:2] for row in ROWS]),
        (
            "amazon-reviews",
            '{"reviewerID": "u1", "asin": "i 9", "overall": 4, "unixReviewTime": 10, "reviewText": "a\\nb"}\n\n'
            '{"reviewerID": "u2", "asin": "\\u00fc", "overall": 1.5, "unixReviewTime": -3}\n',
            ROWS,
        ),
        (
            "yelp",
            '{"user_id": "u1", "business_id": "i 9", "stars": 4, "date": "1970-01-01 00:00:10"}\n'
            '{"user_id": "u2", "business_id": "ü", "stars": 1.5, "date": "1969-12-31T23:59:57Z"}\n',
            ROWS,
        ),
        ("sequences", "7 3 1\n8 3\n7 2\n", [("7", "3"), ("7", "1"), ("8", "3"), ("7", "2")]),
    ],
)  # fmt: skip
def test_every_text_format(tmp_path, format_name, content, expected):
    path = tmp_path / "log"
    path.write_text(content, newline="")
    rows, spool = read(path, format_name)
    assert rows == expected and spool.num_bad == 0
    path.write_bytes(lines.BOM + content.encode())
    assert read(path, format_name)[0] == rows


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_compressed_files_as_they_are_and_cut_off(tmp_path, suffix, pack):
    content = b"user,item\n" + b"".join(b"u%d,i%d\n" % (n, n % 7) for n in range(3000))
    path = tmp_path / f"log.csv{suffix}"
    path.write_bytes(pack(content))
    rows, _ = read(path, "csv", Columns())
    assert len(rows) == 3000 and rows[-1] == ("u2999", "i3")
    path.write_bytes(pack(content)[:-20])
    with pytest.raises(DataError, match=r"log\.csv.* is damaged or cut off"):
        read(path, "csv", Columns())
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="is damaged or cut off"):
        read(path, "csv", Columns())


def test_zstd(tmp_path):
    import pyarrow as pa

    path = tmp_path / "log.csv.zst"
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(b"user,item\na,b\n")
    assert read(path, "csv", Columns())[0] == [("a", "b")]


def test_lightgcn_folders_keep_their_split(tmp_path):
    from pyarrow import parquet

    (tmp_path / "train.txt").write_text("0 5 6\n1 5\n2\n")
    (tmp_path / "test.txt").write_text("0 7\n")
    rows, spool = read(tmp_path / ".", "lightgcn")
    assert [row[:2] for row in rows] == [("0", "5"), ("0", "6"), ("1", "5"), ("0", "7")]
    assert parquet.read_table(spool.path)["part"].to_pylist() == [0, 0, 0, 2]


def test_sparse_matrices(tmp_path):
    matrix = sparse.csr_array(np.array([[0, 2.5, 0], [1, 0, 3]]))
    path = tmp_path / "m.npz"
    sparse.save_npz(path, matrix)
    assert read(path, "scipy")[0] == [(0, 1, 2.5), (1, 0, 1.0), (1, 2, 3.0)]
    sparse.save_npz(path, sparse.coo_array((np.int8([100, 5, 100]), ([1, 0, 1], [2, 1, 2])), shape=(2, 3)))
    assert read(path, "scipy")[0] == [(1, 2, 100.0), (0, 1, 5.0), (1, 2, 100.0)]  # repeats, in their order
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="damaged or no sparse matrix"):
        read(path, "scipy")


def test_parquet_checks_types_and_missing_values(tmp_path):
    import datetime

    import pyarrow as pa
    from pyarrow import parquet

    path = tmp_path / "log.parquet"
    when = datetime.datetime(1970, 1, 1, 0, 0, 10)
    table = pa.table(
        {
            "user": pa.array(["a", None, "c", "d", ""]).dictionary_encode(),
            "item": pa.array([1, 2, 3, 4, 5], pa.uint16()),
            "rating": pa.array([4.0, 4.0, float("nan"), 2.0, 1.0], pa.float32()),
            "time": pa.array([when, when, when, when, when], pa.timestamp("ms")),
        }
    )
    parquet.write_table(table, path)
    rows, spool = read(path, "parquet", on_bad_line="skip")
    assert rows == [("a", 1, 4.0, 10.0), ("d", 4, 2.0, 10.0)]
    assert spool.num_bad == 3 and str(spool.first_bad) == "line 2 has no user"
    with pytest.raises(DataError, match="line 2 has no user; correct it, or .*--on_bad_line=skip"):
        read(path, "parquet")
    with pytest.raises(DataError, match="no column 'when', only user, item, rating, time: name it with --time_col"):
        read(path, "parquet", Columns(time="when"))
    parquet.write_table(pa.table({"user": [1.5], "item": [1]}), path)
    with pytest.raises(DataError, match="the user is double: give integers or strings"):
        read(path, "parquet", Columns())
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="is damaged or no Parquet file"):
        read(path, "parquet", Columns())


def test_parquet_files_of_several_types_keep_their_ids(tmp_path):
    """'007' is not 7, though another file has integers."""
    import pyarrow as pa
    from pyarrow import parquet

    for name, users in (("a", pa.array([7, 8])), ("b", pa.array(["007", "x"])), ("c", pa.array([2**64 - 1], "uint64"))):
        parquet.write_table(pa.table({"user": users, "item": [1] * len(users)}), tmp_path / f"{name}.parquet")
    rows, spool = read(tmp_path / ".", "parquet", Columns())
    assert [user for user, _ in rows] == ["7", "8", "007", "x", str(2**64 - 1)]
    assert spool.integer_ids == {"user": False, "item": True}


def test_parquet_numbers_and_dates_of_any_type(tmp_path):
    import decimal

    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "user": pa.array(["a", "b"], pa.string_view()),
            "item": [1, 2],
            "rating": pa.array([decimal.Decimal("4.5"), decimal.Decimal("3.0")], pa.decimal128(3, 1)),
            "time": ["1970-01-01T00:00:10", "noon"],
        }
    )
    parquet.write_table(table, tmp_path / "log.parquet")
    rows, spool = read(tmp_path / "log.parquet", "parquet", on_bad_line="skip")
    assert rows == [("a", 1, 4.5, 10.0)] and "no number" in str(spool.first_bad)


BAD = {
    "a,b,nan,1": "has the rating 'nan', which is not a finite number",
    "a,b,inf,1": "has the rating 'inf'",
    "a,b,,1": "has the rating ''",
    "a,b,4,1e300": "has the time '1e300', which is not a finite number or date",
    "a,b,4,yesterday": "has the time 'yesterday'",
    ",b,4,1": "has no user",
    "a,,4,1": "has no item",
    "a,b,4": "has 3 columns, not 4",
    "a,b,4,1,5": "has 5 columns, not 4",
    'a,"b,4,1': "cannot be parsed",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_line_is_named_or_counted(tmp_path, line):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,rating,time\nu,i,5,1\n\n{line}\nv,j,2,3\n")
    with pytest.raises(DataError, match=rf"log\.csv: line 4 {BAD[line][:20]}"):
        read(path, "csv")
    rows, spool = read(path, "csv", on_bad_line="skip")
    assert rows == [("u", "i", 5.0, 1.0), ("v", "j", 2.0, 3.0)]
    assert spool.num_bad == 1 and BAD[line] in str(spool.first_bad) and spool.first_bad.number == 4


def test_lines_that_are_not_utf8(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item\nu,\xe9t\xe9\nv,j\n")
    rows, spool = read(path, "csv", Columns(), on_bad_line="skip")
    assert rows == [("v", "j")] and "line 2 is not UTF-8" in spool.bad_lines()
    path.write_bytes("user,item\nu,i\n".encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16: convert it to UTF-8"):
        read(path, "csv", Columns())


@pytest.mark.parametrize("content", ["", "user,item\n", "user,item", "\n"])
def test_files_without_an_interaction(tmp_path, content):
    path = tmp_path / "log.csv"
    path.write_text(content)
    with pytest.raises(DataError, match="holds no interaction|has no column 'user'"):
        read(path, "csv", Columns())


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.csv", "csv", Columns())
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path / ".", "csv", Columns())


def test_lines_of_a_million_characters(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item,text\nu,i,{'x' * 1_000_000}\nv,j,\n")
    assert read(path, "csv", Columns())[0] == [("u", "i"), ("v", "j")]
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    with pytest.raises(DataError, match="a line of over"):
        list(lines.read_blocks(path, block_bytes=100))


def test_ids_of_a_thousand_bytes_are_no_ids(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"user,item\nu,{'x' * 1000}\nu,{'x' * 1001}\n")
    with pytest.raises(DataError, match="line 3 names its item in over 1,000 bytes"):
        read(path, "csv", Columns())
    assert len(read(path, "csv", Columns(), on_bad_line="skip")[0]) == 1


@pytest.mark.parametrize(
    ("format_name", "content", "rows", "num_bad"),
    [
        ("csv", b'user,item\nv,k\nu,"j\n', [("v", "k")], 1),
        ("csv", b'user,item\nu,"i"x\nv,k\n', [("u", "ix"), ("v", "k")], 0),
        ("csv", b"user,item,title\nu,i,caf\xe9\nv,k,\n", [("u", "i"), ("v", "k")], 0),
        ("csv", b"user,item,title\nu,caf\xe9,x\nv,k,\n", [("v", "k")], 1),
        ("tsv", b"user\titem\ttitle\nv\tk\t\n\t\t\n", [("v", "k")], 1),
    ],
    ids=["open quote", "text after a quote", "Latin-1 elsewhere", "Latin-1", "empty columns"],
)
def test_empty_lines_change_nothing(tmp_path, format_name, content, rows, num_bad):
    """A block with one is read line by line, any other at once."""
    path = tmp_path / "log"
    head = content.index(b"\n") + 1
    for text in (content, content + b"\n\n", b"\n" + content, content[:head] + b"\n" + content[head:]):
        path.write_bytes(text)
        found, spool = read(path, format_name, Columns(), on_bad_line="skip")
        assert (found, spool.num_bad) == (rows, num_bad), text


def test_a_column_that_is_there_twice_is_told(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user,item,user\na,b,c\n")
    with pytest.raises(DataError, match="has 2 columns 'user': which one is meant"):
        read(path, "csv", Columns())
    path.write_text("both\na\n")
    assert read(path, "csv", Columns("both", "both"))[0] == [("a", "a")]


def test_ids_are_integers_only_if_all_are(tmp_path):
    path = tmp_path / "log.csv"
    for text in ("7", "-12", "0", "07", "1.0", "+1", " 1", "9" * 19):
        is_integer = text in ("7", "-12", "0")
        path.write_text(f"user,item\n5,a\n{text},b\n")
        assert read(path, "csv", Columns())[1].integer_ids == {"user": is_integer, "item": False}


IDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=8)
TIMES = st.integers(-(2**53), 2**53)
RATINGS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(IDS, IDS, RATINGS, TIMES), min_size=1, max_size=20), st.booleans(), st.integers(5, 200))
def test_any_ids_ratings_and_times_come_back(tmp_path, rows, crlf, block_bytes):
    """Quoted as CSV says, in blocks of any size."""
    end = "\r\n" if crlf else "\n"
    quoted = [[f'"{str(value).replace(chr(34), chr(34) * 2)}"' for value in row] for row in rows]
    path = tmp_path / "log.csv"
    path.write_bytes(end.join(["user,item,rating,time", *map(",".join, quoted), ""]).encode())
    before, lines.BLOCK_BYTES = lines.BLOCK_BYTES, block_bytes
    try:
        found, _ = read(path, "csv")
    finally:
        lines.BLOCK_BYTES = before
    assert found == [(user, item, rating, float(time)) for user, item, rating, time in rows]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from(["csv", "ml-100k", "ml-1m", "json-lines", "sequences", "recbole"]))
def test_no_bytes_end_in_anything_but_rows_or_a_clear_error(tmp_path, content, format_name):
    path = tmp_path / "log"
    path.write_bytes(content)
    try:
        rows, _ = read(path, format_name, on_bad_line="skip")
    except DataError:
        return
    assert all(user != "" and item != "" for user, item, *_ in rows)
