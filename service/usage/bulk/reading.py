"""Reading of pieces of the input as batches of messages, in each format."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
from msgspec import UNSET
from numpy.typing import NDArray

from service.upstream import lenient_json
from service.usage.bulk.batches import (
    MAX_CONTENT_CHARACTERS,
    MESSAGES,
    REJECTED,
)
from service.usage.bulk.binary_columns import (
    cut,
    decoded_lengths,
    is_utf8,
    longest_word,
)
from service.usage.bulk.csv_rows import (
    BOM,
    LONG_ROW,
    QuotedSource,
    UnevenRows,
    open_text,
    read_header,
    silent_callbacks,
)
from service.usage.bulk.errors import UnreadablePiece
from service.usage.bulk.inputs import is_compressed, open_file
from service.usage.bulk.model import WHOLE, InputFile, InputFormat, Piece
from service.usage.bulk.workspace import first_line, locate
from service.usage.snapshots.messages import (
    DOT_SEGMENTS,
    MAX_KEY_CHARACTERS,
    Message,
    report_key,
)

BATCH_ROWS: Final = 64 * 1024
BATCH_BYTES: Final = 16 * 1024 * 1024
DECODED_BYTES: Final = 64 * 1024 * 1024
"""Upper bound of a column in a batch whose texts a dictionary may repeat."""
READ_BYTES: Final = 1024 * 1024
"""Size of a read of Parquet: a column is never in memory as a whole."""
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""Upper bound of a line in memory; longer ones are rejected."""
LF: Final = b"\n"
NONE_REJECTED: Final[Sequence[Any]] = ([], [], [])
MANDATORY: Final = ("id", "text", "timestamp")
REPORT_ID: Final = "report_id"
MAX_ID: Final = pa.scalar(2**63 - 1, pa.uint64())
ID: Final = re.compile(rb"-?[0-9]{1,19}")
"""An id in CSV, of at most as many digits as an integer of 64 bits has."""
_UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decoder: Final = msgspec.json.Decoder(Message)


class ReadBatch(NamedTuple):
    """Messages with the schema `MESSAGES`, and rows that are no messages."""

    messages: Any
    rejected: Any
    rows: int
    """Rows or lines of the piece that have been read so far."""


def read_piece(file: InputFile, piece: Piece) -> Iterator[ReadBatch]:
    """Yield the messages of a piece in batches; raises `UnreadablePiece`."""
    try:
        if file.format is InputFormat.PARQUET:
            yield from _read_parquet(file, piece)
        elif file.format is InputFormat.NDJSON:
            yield from _read_ndjson(file, piece)
        else:
            yield from _read_csv(file)
    except (pa.ArrowException, OSError) as error:
        raise UnreadablePiece(first_line(error)) from error


def read_report_keys(file: InputFile, piece: Piece) -> Iterator[Any]:
    """Yield the usable report ids of a piece; raises `UnreadablePiece`."""
    if file.format is not InputFormat.PARQUET:
        for batch in read_piece(file, piece):
            yield batch.messages["report_key"]
        return
    try:
        with _open_parquet(file) as parquet:
            if not _has_reports(parquet.schema_arrow.names):
                return
            for batch in _batches_of(file, piece, parquet, [REPORT_ID]):
                yield to_report_keys(_decode_dictionaries(batch)[REPORT_ID])
    except (pa.ArrowException, OSError) as error:
        raise UnreadablePiece(first_line(error)) from error


def count_unreadable_rows(file: InputFile, piece: Piece) -> int:
    """Return the rows of a piece that cannot be read; 0 where only reading counts them.

    Parquet names them in its end, so that the rows after them keep their numbers.
    """
    if file.format is not InputFormat.PARQUET or piece.end == WHOLE:
        return 0
    try:
        with _open_parquet(file) as parquet:
            groups = map(parquet.metadata.row_group, range(piece.begin, piece.end))
            return sum(each.num_rows for each in groups)
    except (pa.ArrowException, OSError, UnreadablePiece):
        return 0


def _batch(columns: Sequence[Any], rejected: Sequence[Any], rows: int) -> ReadBatch:
    messages = pa.record_batch(list(columns), schema=MESSAGES)
    kept_aside = pa.record_batch(list(rejected), schema=REJECTED)
    return ReadBatch(messages, kept_aside, rows)


# --- Parquet --------------------------------------------------------------------------


def _read_parquet(file: InputFile, piece: Piece) -> Iterator[ReadBatch]:
    with _open_parquet(file) as parquet:
        names = _check_columns(parquet.schema_arrow)
        rows = 0
        for batch in _batches_of(file, piece, parquet, names):
            places = np.arange(rows, rows + batch.num_rows)
            rows += batch.num_rows
            yield _from_columns(batch, places, NONE_REJECTED, rows)


def _batches_of(
    file: InputFile, piece: Piece, parquet: Any, names: Sequence[str]
) -> Iterator[Any]:
    """Yield the columns of a piece in batches of bounded rows and bytes."""
    end = parquet.num_row_groups if piece.end == WHOLE else piece.end
    groups = range(piece.begin, end)
    size = sum(parquet.metadata.row_group(g).total_byte_size for g in groups)
    count = sum(parquet.metadata.row_group(g).num_rows for g in groups)
    rows = min(BATCH_ROWS, max(1, BATCH_BYTES * count // max(size, 1)))
    texts = [each for each in names if _is_text(_plain_of(parquet, each))]
    options = {"columns": list(names), "use_threads": False}
    if not any(_may_have_long_words(parquet, g, texts, rows) for g in groups):
        yield from parquet.iter_batches(rows, row_groups=groups, **options)
        return
    # The sizes above count a repeated text once.
    with _open_parquet(file, texts) as encoded:
        if not any(_has_long_words(encoded, g, texts, rows) for g in groups):
            yield from parquet.iter_batches(rows, row_groups=groups, **options)
            return
        for batch in encoded.iter_batches(rows, row_groups=groups, **options):
            lengths = np.sum([decoded_lengths(batch[each]) for each in texts], axis=0)
            for first, last in cut(lengths, BATCH_BYTES):
                yield batch.slice(first, last - first)


def _may_have_long_words(
    parquet: Any, group: int, texts: Sequence[str], rows: int
) -> bool:
    """Return whether a dictionary has so many bytes that one word may be long."""
    metadata = parquet.metadata.row_group(group)
    columns = map(metadata.column, range(metadata.num_columns))
    return any(
        each.path_in_schema in texts
        and any("DICTIONARY" in encoding for encoding in each.encodings)
        and each.total_uncompressed_size * min(rows, metadata.num_rows) > DECODED_BYTES
        for each in columns
    )


def _has_long_words(encoded: Any, group: int, texts: Sequence[str], rows: int) -> bool:
    """Return whether a batch of the longest words of a dictionary would be large."""
    # One row comes with the whole dictionary of its row group.
    one = encoded.iter_batches(
        1, row_groups=[group], columns=list(texts), use_threads=False
    )
    first = next(one, None)
    if first is None:
        return False
    rows = min(rows, encoded.metadata.row_group(group).num_rows)
    return any(longest_word(each) * rows > DECODED_BYTES for each in first.columns)


@contextmanager
def _open_parquet(file: InputFile, encoded: Sequence[str] = ()) -> Iterator[Any]:
    """Open a file, with dictionaries of these columns; raises `UnreadablePiece`."""
    with open_file(file) as source:
        try:
            parquet = pq.ParquetFile(
                source,
                pre_buffer=False,
                buffer_size=READ_BYTES,
                read_dictionary=list(encoded),
            )
        except UnicodeDecodeError as error:
            raise UnreadablePiece("the name of a column is not UTF-8") from error
        yield parquet


def _check_columns(schema: Any) -> list[str]:
    """Return the columns to read; raises `UnreadablePiece` without one, or its type."""
    has_reports = _check_names(schema.names)
    for name in MANDATORY:
        kind = _plain(schema.field(name).type)
        if not (pa.types.is_integer(kind) if name == "id" else _is_text(kind)):
            raise UnreadablePiece(f"column {name} has the type {kind}")
    if has_reports:
        kind = _plain(schema.field(REPORT_ID).type)
        # Ids as decimals, as pandas stores them with gaps, would name no report.
        if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise UnreadablePiece(f"column {REPORT_ID} has the type {kind}")
    return [*MANDATORY, REPORT_ID] if has_reports else [*MANDATORY]


def _check_names(names: Sequence[str]) -> bool:
    """Return whether there are report ids; raises `UnreadablePiece`."""
    for name in MANDATORY:
        if names.count(name) != 1:
            raise UnreadablePiece(f"no column {name}, or several of them")
    return _has_reports(names)


def _has_reports(names: Sequence[str]) -> bool:
    if names.count(REPORT_ID) > 1:
        raise UnreadablePiece(f"several columns {REPORT_ID}")
    return REPORT_ID in names


def _plain(kind: Any) -> Any:
    """Return the type of the values; that of a dictionary is the type of its words."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain_of(parquet: Any, name: str) -> Any:
    return _plain(parquet.schema_arrow.field(name).type)


def _is_text(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
    )


def _from_columns(
    batch: Any, places: NDArray[np.int64], rejected: Sequence[Any], rows: int
) -> ReadBatch:
    batch = _decode_dictionaries(batch)
    has_reports = batch.schema.get_field_index(REPORT_ID) >= 0
    reports = batch[REPORT_ID] if has_reports else pa.nulls(len(places))
    columns = [
        pa.array(places),
        _to_ids(batch["id"]),
        _to_binary(batch["text"]),
        _to_binary(batch["timestamp"]),
        to_report_keys(reports),
    ]
    return _batch(columns, rejected, rows)


def _to_ids(column: Any) -> Any:
    """Return ids as integers of 64 bits; null stands for larger ones."""
    if pa.types.is_uint64(column.type):
        column = pc.if_else(pc.less_equal(column, MAX_ID), column, None)
    return column.cast(pa.int64())


def _decode_dictionaries(batch: Any) -> Any:
    for index, field in enumerate(batch.schema):
        if (kind := _plain(field.type)) != field.type:
            batch = batch.set_column(index, field.name, batch[index].cast(kind))
    return batch


def _to_binary(column: Any) -> Any:
    if pa.types.is_string(column.type):
        return column.view(pa.binary())
    return column.cast(pa.string()).view(pa.binary())


def to_report_keys(column: Any) -> Any:
    """Return usable report ids as texts; null stands for the other ones."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if not _is_text(column.type):
        return pa.nulls(len(column), pa.string())
    keys = _to_valid(_to_binary(column))
    lengths = pc.utf8_length(keys)
    usable = pc.and_(pc.greater(lengths, 0), pc.less_equal(lengths, MAX_KEY_CHARACTERS))
    dots = pc.is_in(keys, value_set=pa.array(sorted(DOT_SEGMENTS)))
    return pc.if_else(pc.and_not(usable, dots), keys, None)


def _to_valid(column: Any) -> Any:
    """Return a binary column as texts; null stands for those that are not UTF-8."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array(map(_decode, column.to_pylist()), pa.string())


def _decode(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


# --- NDJSON ---------------------------------------------------------------------------


def _read_ndjson(file: InputFile, piece: Piece) -> Iterator[ReadBatch]:
    rows = 0
    for lines in _read_lines(file, piece):
        yield _decode_lines(lines, rows)
        rows += len(lines)


def _read_lines(file: InputFile, piece: Piece) -> Iterator[list[bytes]]:
    """Yield the lines that begin in a piece, in batches."""
    if is_compressed(file.path):
        with open_text(file.path) as source:
            yield from _lines_of(source, WHOLE)
        return
    system, path = locate(file.path)
    with io.BufferedReader(system.open_input_file(path)) as source:
        at = piece.begin
        if at:
            source.seek(at - 1)
            at += _skip_line(source) - 1  # the end of a line of the piece before
        if piece.end == WHOLE or at < piece.end:
            yield from _lines_of(
                source, piece.end - at if piece.end != WHOLE else WHOLE
            )


def _skip_line(source: Any) -> int:
    """Read to the end of a line, and return how many bytes it had."""
    size = 0
    while block := source.readline(BATCH_BYTES):
        size += len(block)
        if block.endswith(LF):
            break
    return size


def _lines_of(source: Any, size: int) -> Iterator[list[bytes]]:
    rest, read = b"", 0
    while True:
        wanted = BATCH_BYTES if size == WHOLE else min(BATCH_BYTES, size - read)
        block = source.read(wanted) if wanted > 0 else b""
        read += len(block)
        if not block:
            break
        rest += block
        has_more = True
        while has_more:
            *lines, rest = rest.split(LF, BATCH_ROWS)
            if lines:
                yield lines
            has_more = len(lines) == BATCH_ROWS
        # Of a line that is too long, one byte more than the bound shows it.
        rest = rest[: MAX_LINE_BYTES + 1]
    if rest and size != WHOLE:
        rest += source.readline(MAX_LINE_BYTES)
    if rest:
        yield [rest]


def _decode_lines(lines: list[bytes], first: int) -> ReadBatch:
    rows: list[int] = []
    messages: list[Message] = []
    rejected: list[tuple[int, str, str]] = []
    for row, line in enumerate(lines, first):
        if not line or line.isspace():
            continue
        if len(line) > MAX_LINE_BYTES:
            rejected.append((row, f"longer than {MAX_LINE_BYTES // 1024**2} MiB", ""))
            continue
        try:
            messages.append(lenient_json.decode(line.removeprefix(BOM), _decoder))
            rows.append(row)
        except _UNDECODABLE as error:
            shown = line.decode("utf-8", "replace")[:MAX_CONTENT_CHARACTERS]
            rejected.append((row, explain(error, line), shown))
    columns = [
        rows,
        [each.id for each in messages],
        [each.text.encode("utf-8", "surrogatepass") for each in messages],
        [each.timestamp.encode("utf-8", "surrogatepass") for each in messages],
        [
            None if each.report_id is UNSET else report_key(each.report_id)
            for each in messages
        ],
    ]
    kept_aside = [list(each) for each in zip(*rejected, strict=True)]
    return _batch(columns, kept_aside or NONE_REJECTED, first + len(lines))


def explain(error: Exception, line: bytes) -> str:
    """Return the reason for which a line is no message, with the field before it."""
    if not is_utf8(line):
        return "not UTF-8"
    text, _, path = str(error).partition(" - at `$")
    if not text.startswith("JSON"):
        text = text[:1].lower() + text[1:]
    field = path.strip(".`")
    return f"{field}: {text}" if field else text


# --- CSV ------------------------------------------------------------------------------


def _read_csv(file: InputFile) -> Iterator[ReadBatch]:
    header = read_header(file.path)
    if header is None:
        return
    has_reports = _check_names(header.names)
    names = [*MANDATORY, REPORT_ID] if has_reports else [*MANDATORY]
    with open_text(file.path) as source:
        uneven, quoted = UnevenRows(), QuotedSource(source, header.delimiter)
        try:
            with silent_callbacks():
                yield from _parse_csv(quoted, header.delimiter, names, uneven)
        except pa.ArrowInvalid as error:
            reason = uneven.too_many
            if str(error).startswith(LONG_ROW):
                reason = quoted.explain_long_row(BATCH_BYTES)
            if not reason:
                raise
            raise UnreadablePiece(reason) from error


def _parse_csv(
    source: QuotedSource, delimiter: str, names: Sequence[str], uneven: UnevenRows
) -> Iterator[ReadBatch]:
    reader = pc_csv.open_csv(
        pa.PythonFile(source, "r"),
        read_options=pc_csv.ReadOptions(use_threads=False, block_size=BATCH_BYTES),
        parse_options=pc_csv.ParseOptions(
            delimiter=delimiter,
            newlines_in_values=True,
            invalid_row_handler=uneven.skip,
        ),
        # Other columns have any values: Arrow would expect the type of the first ones.
        convert_options=pc_csv.ConvertOptions(
            check_utf8=False,
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=names,
            strings_can_be_null=False,
        ),
    )
    rows = 0
    for batch in reader:
        raw = _to_binary(batch["id"]).to_pylist()
        ids = pa.array(map(_to_id, raw), pa.int64())
        at = batch.schema.get_field_index("id")
        with_ids = batch.set_column(at, "id", ids)
        places = uneven.place(rows, batch.num_rows)
        rows = int(places[-1]) + 1 if len(places) else rows
        yield _from_columns(with_ids, places, uneven.take(rows), rows)
    if rows < uneven.end:
        rows = uneven.end
        yield _batch([[]] * len(MESSAGES), uneven.take(rows), rows)


def _to_id(text: bytes) -> int | None:
    # Python's `int` takes `1_000` and `+1` too.
    if not ID.fullmatch(text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None
