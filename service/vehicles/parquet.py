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
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from queue import SimpleQueue
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
BATCH_BYTES: Final = 6 * 1024 * 1024
"""Size of a batch of PostgreSQL: about as many rows as a block of SQLite."""
BLOCKS_AHEAD: Final = 2
"""Blocks that are read while another is written."""
READERS: Final = {"sqlite": BLOCKS_AHEAD, "postgresql": 1}
"""Threads that read; a server of PostgreSQL reads in a process of its own."""
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

FROM: Final = "FROM vehicles WHERE source = {source}"
# The plus prevents SQLite from using the index of removals: the table itself is already
# in the order of VINs.
ALL: Final = (
    f"SELECT {', '.join(SCHEMA.names)} {FROM} AND is_decoded AND +removed_at IS NULL"
)
ORDER: Final = " ORDER BY vin"
LATER: Final = " AND vin > {after}"
BLOCK: Final = f"{ALL}{LATER} AND vin <= {{end}}{ORDER}"
END_OF_BLOCK: Final = (
    f"SELECT vin {FROM}{LATER} AND removed_at IS NULL{ORDER} "
    f"LIMIT 1 OFFSET {BLOCK_ROWS - 1}"
)


class ExportJob(NamedTuple):
    """`service.storage.adbc.AdbcOptions`, and the source of the vehicles."""

    driver: str
    uri: str
    set_up: list[str]
    source: str


class ExportConnection:
    """Connection for the queries of a job."""

    def __init__(self, job: ExportJob, database: AdbcDatabase, **options: str) -> None:
        self._source = _quoted(job.source)
        self._options = options
        self._connection = AdbcConnection(database)
        for sql in job.set_up:
            with AdbcStatement(self._connection) as statement:
                statement.set_sql_query(sql)
                statement.execute_update()

    @contextmanager
    def query(self, sql: str, **vins: str) -> Iterator[pa.RecordBatchReader]:
        """Execute a query, and yield a reader of its result."""
        # Literals: with parameters, PostgreSQL would not stream the result.
        values = {name: _quoted(vin) for name, vin in vins.items()}
        with AdbcStatement(self._connection) as statement:
            statement.set_options(**self._options)
            statement.set_sql_query(sql.format(source=self._source, **values))
            stream, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                yield reader


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
    with ThreadPoolExecutor(READERS[job.driver]) as pool:
        read = _read_sqlite if job.driver == "sqlite" else _read_postgresql
        tables = _in_order(read(job, pool))
        # A query that cannot run then fails before the first byte is sent.
        first = next(tables)
        return _write(chain([first], tables), sink)


def _read_sqlite(job: ExportJob, pool: ThreadPoolExecutor) -> PendingTables:
    """Read blocks in parallel: reading SQLite is slower than writing Parquet."""
    import adbc_driver_sqlite

    database = adbc_driver_sqlite.connect(job.uri)
    options = {"adbc.sqlite.query.batch_rows": str(BLOCK_ROWS)}
    finder = ExportConnection(job, database, **options)
    free: SimpleQueue[ExportConnection] = SimpleQueue()
    for _ in range(READERS[job.driver]):
        free.put(ExportConnection(job, database, **options))

    def read(query: str, after: str, end: str) -> pa.Table:
        connection = free.get()
        try:
            with connection.query(query, after=after, end=end) as reader:
                return reader.read_all().cast(SCHEMA)
        finally:
            free.put(connection)

    after = ""
    while end := _end_of_block(finder, after):
        yield pool.submit(read, BLOCK, after, end)
        after = end
    yield pool.submit(read, ALL + LATER + ORDER, after, "")


def _end_of_block(connection: ExportConnection, after: str) -> str:
    """Return the last VIN of the next whole block; empty if less is left."""
    with connection.query(END_OF_BLOCK, after=after) as reader:
        table = reader.read_all()
    return str(table.column(0)[0]) if table.num_rows else ""


def _read_postgresql(job: ExportJob, pool: ThreadPoolExecutor) -> PendingTables:
    """Read the batches of one stream, as the server sends them."""
    import adbc_driver_postgresql  # type: ignore[import-untyped]

    database = adbc_driver_postgresql.connect(job.uri)
    options = {"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)}
    # The only reading thread changes it and reads `batches`, so neither needs a lock.
    is_over = False

    def read() -> pa.Table:
        nonlocal is_over
        batch = None if is_over else next(batches, None)
        is_over = batch is None
        return pa.Table.from_batches([] if batch is None else [batch], SCHEMA)

    with ExportConnection(job, database, **options).query(ALL + ORDER) as reader:
        batches = (batch.cast(SCHEMA) for batch in reader)
        while not is_over:
            yield pool.submit(read)


def _in_order(reads: PendingTables) -> Iterator[pa.Table]:
    """Yield tables in their order, while the next ones are read."""
    waiting: deque[Future[pa.Table]] = deque()
    for read in reads:
        waiting.append(read)
        if len(waiting) > BLOCKS_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write(tables: Iterable[pa.Table], sink: BinaryIO) -> int:
    # Threads read the first blocks meanwhile.
    import pyarrow.parquet as pq

    rows = 0
    writer = pq.ParquetWriter(sink, SCHEMA, use_dictionary=DICTIONARY_COLUMNS)
    for table in tables:
        if table.num_rows:
            writer.write_table(table)
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
