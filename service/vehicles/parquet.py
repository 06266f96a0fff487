"""A program: reads the vehicles of a source, and writes them as a Parquet file.

A line of JSON on its standard input tells what to read; the file goes to its standard
output. At the end, standard error has the number of rows, or what went wrong. Its input
stays open for as long as whoever has started it lives.

It imports little, and nothing of the service: it starts anew for each export.
"""

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
    # numpy takes longer to import than all the rest, and nothing here needs it.
    sys.modules["numpy"] = None  # type: ignore[assignment]

import adbc_driver_postgresql  # type: ignore[import-untyped]
import adbc_driver_sqlite
import pyarrow as pa
import pyarrow.parquet as pq
from adbc_driver_manager import AdbcConnection, AdbcDatabase, AdbcStatement

BLOCK_ROWS: Final = 65_536
"""Rows of SQLite that are read and written together, those left out counted too."""
BATCH_BYTES: Final = 6 * 1024 * 1024
"""PostgreSQL's batches, of about as many."""
AHEAD: Final = 2
"""Blocks that are read while another is written."""
READERS: Final = {"sqlite": AHEAD, "postgresql": 1}
"""Threads that read. PostgreSQL has a process of its own for that."""
NICENESS: Final = 10
"""Who asks for one vehicle is not to wait for those who ask for all."""
MAX_WORDS: Final = 1_000

TEXT: Final = pa.string()
SCHEMA: Final = pa.schema(
    [
        ("vin", TEXT),
        ("make", TEXT),
        ("model", TEXT),
        ("model_year", TEXT),
        ("body_class", TEXT),
        ("fetched_at", pa.timestamp("us", "UTC")),
    ]
)
REPEATED: Final = ["make", "model", "model_year", "body_class"]
"""Columns of few values: each value is written once, and then by its number."""

FROM: Final = "FROM vehicles WHERE source = {source}"
# The plus keeps SQLite from an index by which it would look each row up: the rows lie
# in the order wanted.
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


class Job(NamedTuple):
    """What to read: `service.storage.adbc.Opening`, and whose vehicles."""

    driver: str
    uri: str
    set_up: list[str]
    source: str


class Connection:
    """A connection for the queries of a job."""

    def __init__(self, job: Job, database: AdbcDatabase, **options: str) -> None:
        self._source = _quoted(job.source)
        self._options = options
        self._connection = AdbcConnection(database)
        for sql in job.set_up:
            with AdbcStatement(self._connection) as statement:
                statement.set_sql_query(sql)
                statement.execute_update()

    @contextmanager
    def query(self, sql: str, **vins: str) -> Iterator[pa.RecordBatchReader]:
        """Execute a query, and read what it gives as long as this lasts."""
        # PostgreSQL sends what has parameters in one piece: these are literals.
        values = {name: _quoted(vin) for name, vin in vins.items()}
        with AdbcStatement(self._connection) as statement:
            statement.set_options(**self._options)
            statement.set_sql_query(sql.format(source=self._source, **values))
            stream, _ = statement.execute_query()
            with pa.RecordBatchReader.from_stream(stream) as reader:
                yield reader


Reads = Iterator[Future[pa.Table]]


def main() -> None:
    """Do what standard input tells."""
    os.nice(NICENESS)
    # What a block has taken is given back when it is written.
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        job = Job(**json.loads(sys.stdin.buffer.readline()))
        threading.Thread(target=_end_with_parent, daemon=True).start()
        rows = export(job, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except Exception as error:  # noqa: BLE001 - all of it is for who has started us
        _say(f"{type(error).__name__}: {error}")
        # Not in order: the writer would end the file, as if nothing were missing.
        os._exit(1)
    _say(str(rows))


def export(job: Job, sink: BinaryIO) -> int:
    """Write the vehicles that there are, in the order of their VINs; how many."""
    with ThreadPoolExecutor(READERS[job.driver]) as pool:
        read = _read_sqlite if job.driver == "sqlite" else _read_postgresql
        tables = _in_order(read(job, pool))
        # Whatever fails at once does so before the first byte.
        first = next(tables)
        return _write(chain([first], tables), sink)


def _read_sqlite(job: Job, pool: ThreadPoolExecutor) -> Reads:
    """Blocks, several at once: SQLite takes longer to read than Parquet to write."""
    database = adbc_driver_sqlite.connect(job.uri)
    options = {"adbc.sqlite.query.batch_rows": str(BLOCK_ROWS)}
    finder = Connection(job, database, **options)
    free: SimpleQueue[Connection] = SimpleQueue()
    for _ in range(READERS[job.driver]):
        free.put(Connection(job, database, **options))

    def read(query: str, after: str, end: str) -> pa.Table:
        connection = free.get()
        try:
            with connection.query(query, after=after, end=end) as found:
                return found.read_all().cast(SCHEMA)
        finally:
            free.put(connection)

    after = ""
    while end := _end_of_block(finder, after):
        yield pool.submit(read, BLOCK, after, end)
        after = end
    yield pool.submit(read, ALL + LATER + ORDER, after, "")


def _end_of_block(connection: Connection, after: str) -> str:
    """The last VIN of a whole block after this one; none where less is left."""
    with connection.query(END_OF_BLOCK, after=after) as found:
        table = found.read_all()
    return str(table.column(0)[0]) if table.num_rows else ""


def _read_postgresql(job: Job, pool: ThreadPoolExecutor) -> Reads:
    """Batches of one stream, as the server sends them."""
    database = adbc_driver_postgresql.connect(job.uri)
    options = {"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)}
    is_over = False

    def read() -> pa.Table:
        nonlocal is_over
        batch = None if is_over else next(batches, None)
        is_over = batch is None
        return pa.Table.from_batches([] if batch is None else [batch], SCHEMA)

    with Connection(job, database, **options).query(ALL + ORDER) as found:
        batches = (batch.cast(SCHEMA) for batch in found)
        while not is_over:
            yield pool.submit(read)


def _in_order(reads: Reads) -> Iterator[pa.Table]:
    """What was read, while what follows is being read."""
    waiting: deque[Future[pa.Table]] = deque()
    for read in reads:
        waiting.append(read)
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write(tables: Iterable[pa.Table], sink: BinaryIO) -> int:
    rows = 0
    writer = pq.ParquetWriter(sink, SCHEMA, use_dictionary=REPEATED)
    for table in tables:
        if table.num_rows:
            writer.write_table(table)
            rows += table.num_rows
    writer.close()
    return rows


def _quoted(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def _say(words: str) -> None:
    sys.stderr.write(" ".join(words.split())[:MAX_WORDS] + "\n")
    sys.stderr.flush()


def _end_with_parent() -> None:
    """End when nobody is there any more to read what we write."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
