"""Program that reads the vehicles of a source and writes them as a Parquet file.

Standard input has one line of JSON, the job; the file goes to standard output. At the
end, standard error has the number of rows, or an error. The program ends if its
standard input is closed, since its parent has died then.

It starts for each export, so it imports little, and nothing of the service.
"""

import gc
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import BinaryIO, Final, NamedTuple

if __name__ == "__main__":
    # It has few objects of Python, and ends soon.
    gc.disable()
    # pyarrow imports numpy if it can, which would double the time to start.
    sys.modules["numpy"] = None  # type: ignore[assignment]

import pyarrow as pa  # noqa: TID253 - nothing else imports this program
from adbc_driver_manager import AdbcConnection, AdbcDatabase, AdbcStatement

BLOCK_ROWS: Final = 65_536
"""Rows of SQLite in a block, including those that are not decoded."""
SAMPLED_PERCENT: Final = 1
"""Pages of PostgreSQL in which the ends of blocks are found."""
SAMPLED_PAGES_OF_BLOCK: Final = 8
"""Its block is 6 MB on average: about as many rows as a block of SQLite."""
MAX_GROUP_ROWS: Final = 3 * BLOCK_ROWS // 2
"""Rows in a group of the file: a block of PostgreSQL may be larger than the average."""
BLOCKS_AHEAD: Final = 2
"""Blocks that are read while another is written; each in a thread, and by PostgreSQL in
a process of its own."""
NICENESS: Final = 10
"""Look-ups have priority over exports."""
MAX_ERROR_CHARS: Final = 1_000

TEXT_TYPE: Final = pa.string()
SCHEMA: Final = pa.schema(
    [
        ("vin", TEXT_TYPE),
        ("make", TEXT_TYPE),
        ("model", TEXT_TYPE),
        ("model_year", TEXT_TYPE),
        ("body_class", TEXT_TYPE),
        ("fetched_at", pa.timestamp("us", "UTC")),
    ]
)
DICTIONARY_COLUMNS: Final = ["make", "model", "model_year", "body_class"]
"""Columns with few distinct values, which are dictionary-encoded."""

DETAILS: Final = ", CASE WHEN details_at = fetched_at THEN details END AS details"
"""Further column of a query, if the job has fields. Older versions store none."""
SLICE_ROWS: Final = 4_096
"""Rows whose values are objects of Python at once: some 20 MB with all fields."""

FROM: Final = "FROM vehicles WHERE source = {source}"
# The plus prevents SQLite from using the index of removals: the table itself is already
# in the order of VINs. Rows of VINs with a hint are not exported.
ALL: Final = (
    f"SELECT {', '.join(SCHEMA.names)}{{details}} {FROM} "
    "AND is_decoded AND +removed_at IS NULL AND vin_of_hint IS NULL"
)
ORDER: Final = " ORDER BY vin"
LATER: Final = " AND vin > {after}"
BLOCK: Final = f"{ALL}{LATER} AND vin <= {{end}}{ORDER}"
END_OF_BLOCK: Final = (
    f"SELECT vin {FROM}{LATER} AND removed_at IS NULL{ORDER} "
    f"LIMIT 1 OFFSET {BLOCK_ROWS - 1}"
)
SAMPLED: Final = f"vehicles TABLESAMPLE SYSTEM ({SAMPLED_PERCENT}) REPEATABLE (0)"
SAMPLE: Final = (
    "SELECT vin, (ctid::text::point)[0]::bigint AS page "
    f"{FROM.replace('vehicles', SAMPLED)} AND removed_at IS NULL{ORDER}"
)

MAY_IDLE: Final = "SET idle_in_transaction_session_timeout = 0"
"""A slow client makes a transaction wait; the service limits the whole export."""
ONE_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ"
EXPORT_SNAPSHOT: Final = "SELECT pg_export_snapshot()"
IMPORT_SNAPSHOT: Final = "SET TRANSACTION SNAPSHOT "
IN_ORDER: Final = (
    "SET enable_sort = off",
    "SET enable_bitmapscan = off",
    "SET max_parallel_workers_per_gather = 0",
)
"""Settings with which PostgreSQL follows the index of the VINs. To sort a block takes a
third more of its processor time."""


class ExportJob(NamedTuple):
    """`service.storage.adbc.AdbcOptions`, and the vehicles and columns of the file."""

    driver: str
    uri: str
    set_up: list[str]
    source: str
    fields: Sequence[str] = ()
    """Further columns, by vPIC's names."""
    dictionaries: Mapping[str, str] = MappingProxyType({})
    """Files of the dictionaries of compressed rows, by their numbers."""


class ExportConnection:
    """Connection for the queries of a job."""

    def __init__(self, job: ExportJob, database: AdbcDatabase, **options: str) -> None:
        self._source = _quoted(job.source)
        self._details = DETAILS if job.fields else ""
        self._options = options
        self._connection = AdbcConnection(database)
        for sql in job.set_up:
            self.execute(sql)

    def execute(self, sql: str) -> None:
        """Execute a statement without a result."""
        with AdbcStatement(self._connection) as statement:
            statement.set_sql_query(sql)
            statement.execute_update()

    def read(self, sql: str, **vins: str) -> pa.Table:
        """Execute a query, and return its result."""
        # Literals: with parameters, PostgreSQL would not stream the result.
        values = {name: _quoted(vin) for name, vin in vins.items()}
        with AdbcStatement(self._connection) as statement:
            statement.set_options(**self._options)
            values |= {"source": self._source, "details": self._details}
            statement.set_sql_query(sql.format(**values))
            stream, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                return reader.read_all()


class BlockReader:
    """Reads blocks in threads, each by one of the connections."""

    def __init__(
        self, pool: ThreadPoolExecutor, *connections: ExportConnection
    ) -> None:
        self._pool = pool
        self._free: SimpleQueue[ExportConnection] = SimpleQueue()
        for each in connections:
            self._free.put(each)

    def read(self, ends: Iterable[str]) -> "PendingTables":
        """Yield the blocks before each end, and the one after the last of them."""
        after = ""
        for end in ends:
            yield self._pool.submit(self._read, BLOCK, after, end)
            after = end
        yield self._pool.submit(self._read, ALL + LATER + ORDER, after, "")

    def _read(self, query: str, after: str, end: str) -> pa.Table:
        connection = self._free.get()
        try:
            return _cast(connection.read(query, after=after, end=end))
        finally:
            self._free.put(connection)


PendingTables = Iterator[Future[pa.Table]]


def main() -> None:
    """Run the job of standard input."""
    os.nice(NICENESS)
    # The default pool would keep the memory of a block after it is written.
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        job = ExportJob(**json.loads(sys.stdin.buffer.readline()))
        threading.Thread(target=_end_with_parent, daemon=True).start()
        rows = export(job, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except Exception as error:  # noqa: BLE001 - the parent process reports it
        _report(f"{type(error).__name__}: {error}")
        # At once: an orderly exit would complete the file as if no row were missing.
        os._exit(1)
    _report(str(rows))


def export(job: ExportJob, sink: BinaryIO) -> int:
    """Write all vehicles in the order of their VINs; return their number."""
    with ThreadPoolExecutor(BLOCKS_AHEAD) as pool:
        read = _read_sqlite if job.driver == "sqlite" else _read_postgresql
        tables = _in_order(read(job, pool))
        # A query that cannot run then fails before the first byte is sent.
        first = next(tables)
        return _write(chain([first], tables), sink, job)


def _read_sqlite(job: ExportJob, pool: ThreadPoolExecutor) -> PendingTables:
    """Read blocks in parallel: reading SQLite is slower than writing Parquet."""
    import adbc_driver_sqlite

    database = adbc_driver_sqlite.connect(job.uri)
    options = {"adbc.sqlite.query.batch_rows": str(BLOCK_ROWS)}
    finder, *readers = (
        ExportConnection(job, database, **options) for _ in range(1 + BLOCKS_AHEAD)
    )
    # Each end is found while the blocks before it are read.
    yield from BlockReader(pool, *readers).read(_ends_of_blocks(finder))


def _ends_of_blocks(connection: ExportConnection) -> Iterator[str]:
    """Yield the last VIN of each whole block of SQLite."""
    after = ""
    while (table := connection.read(END_OF_BLOCK, after=after)).num_rows:
        yield (after := str(table.column(0)[0]))


def _read_postgresql(job: ExportJob, pool: ThreadPoolExecutor) -> PendingTables:
    """Read blocks in parallel, which two processes of the server send."""
    import adbc_driver_postgresql  # type: ignore[import-untyped]

    database = adbc_driver_postgresql.connect(job.uri)
    readers = [ExportConnection(job, database) for _ in range(BLOCKS_AHEAD)]
    first, *others = readers
    for each in readers:
        each.execute(MAY_IDLE)
        each.execute(ONE_SNAPSHOT)
    snapshot = _quoted(str(first.read(EXPORT_SNAPSHOT).column(0)[0]))
    for each in others:
        each.execute(IMPORT_SNAPSHOT + snapshot)
    ends = _sampled_ends(first.read(SAMPLE))
    for each in readers:
        for setting in IN_ORDER:
            each.execute(setting)
    yield from BlockReader(pool, *readers).read(ends)


def _sampled_ends(sample: pa.Table) -> list[str]:
    """Return VINs between which blocks are about equally large."""
    # Sizes need not be exact, and the end of a block need not exist any more.
    pages = len(sample.column("page").unique())
    step = max(1, sample.num_rows * SAMPLED_PAGES_OF_BLOCK // max(1, pages))
    ends: list[str] = sample.column("vin")[step::step].to_pylist()
    return ends


def _in_order(reads: PendingTables) -> Iterator[pa.Table]:
    """Yield tables in their order, while the next ones are read."""
    waiting: deque[Future[pa.Table]] = deque()
    for read in reads:
        waiting.append(read)
        if len(waiting) > BLOCKS_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _cast(table: pa.Table) -> pa.Table:
    """Return the result of a query with the types of the file."""
    basic = table.select(SCHEMA.names).cast(SCHEMA)
    if table.num_columns == len(SCHEMA):
        return basic
    packed = table.column("details")
    # SQLite gives no type to a column without values.
    is_empty = packed.null_count == table.num_rows
    nulls = pa.nulls(table.num_rows, pa.binary())
    return basic.append_column("details", nulls if is_empty else packed)


class DetailsReader:
    """Makes columns of compressed rows (see `service.vehicles.details`)."""

    def __init__(self, job: ExportJob) -> None:
        self._names = job.fields
        self._files = {int(number): file for number, file in job.dictionaries.items()}
        self._unpack: dict[int, Callable[[bytes], bytes]] = {}

    def expand(self, table: pa.Table) -> pa.Table:
        """Return a table with a column for each field, in place of `details`."""
        if not self._names:
            return table
        starts = range(0, table.num_rows, SLICE_ROWS)
        return pa.concat_tables(
            [self._expand(table.slice(start, SLICE_ROWS)) for start in starts]
        )

    def _expand(self, table: pa.Table) -> pa.Table:
        rows = [self._read(each) for each in table.column("details").to_pylist()]
        table = table.drop_columns(["details"])
        for name in self._names:
            values = pa.array([row.get(name) for row in rows], TEXT_TYPE)
            table = table.append_column(name, values)
        return table

    def _read(self, packed: bytes | None) -> dict[str, str]:
        if not packed:
            return {}
        unpack = self._unpack.get(packed[0]) or self._open(packed[0])
        details: dict[str, str] = json.loads(unpack(packed[1:]))
        return details

    def _open(self, number: int) -> Callable[[bytes], bytes]:
        # Most exports have no such columns.
        import zstandard  # noqa: PLC0415

        file = Path(self._files[number])
        dictionary = zstandard.ZstdCompressionDict(file.read_bytes())
        unpack = zstandard.ZstdDecompressor(dict_data=dictionary).decompress
        self._unpack[number] = unpack
        return unpack


def _write(tables: Iterable[pa.Table], sink: BinaryIO, job: ExportJob) -> int:
    # Threads read the first blocks meanwhile.
    import pyarrow.parquet as pq

    rows, details = 0, DetailsReader(job)
    schema = pa.schema([*SCHEMA, *((name, TEXT_TYPE) for name in job.fields)])
    dictionaries = [*DICTIONARY_COLUMNS, *job.fields]
    writer = pq.ParquetWriter(sink, schema, use_dictionary=dictionaries)
    for table in tables:
        if table.num_rows:
            writer.write_table(details.expand(table), MAX_GROUP_ROWS)
            rows += table.num_rows
    writer.close()
    return rows


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def _report(text: str) -> None:
    sys.stderr.write(" ".join(text.split())[:MAX_ERROR_CHARS] + "\n")
    sys.stderr.flush()


def _end_with_parent() -> None:
    """Exit when the parent process has closed standard input."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
