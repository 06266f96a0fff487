"""`copilot-usage queue`: what an operator sees and changes, on real servers."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable, Coroutine
from typing import Any, Final
from unittest.mock import Mock

import pytest
from msgspec.structs import replace
from nats.aio.client import Client

from service.command_line import main
from service.events.model import Event, EventFailure, Source
from service.events.parsing import EventParser
from service.events.queue import administration
from service.events.queue.connection import connect, discard
from service.events.queue.leases import bucket_of
from service.events.queue.message import (
    QueuedRequest,
    encode,
    partition_of,
    subject_of,
)
from service.events.queue.stream_api import Cluster, Peer, StreamInfo, read_stream
from service.settings import load
from tests.events.conftest import event
from tests.nats_servers import NatsServer, version

STREAM: Final = "commands"
PARTITIONS: Final = 4
APPLICATION: Final = "shop"
TERMINAL_CHARS: Final = 80
PARTITION: Final = partition_of(APPLICATION, PARTITIONS)


class Command:
    """Runs the command line in this process, on a server of its own."""

    def __init__(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        url: str,
    ) -> None:
        self._capsys = capsys
        self.monkeypatch = monkeypatch
        self._environment = {
            "COPILOT_USAGE_EVENTS__QUEUE_URL": url,
            "COPILOT_USAGE_EVENTS__QUEUE_STREAM": STREAM,
            "COPILOT_USAGE_EVENTS__QUEUE_REPLICAS": "1",
            "COPILOT_USAGE_EVENTS__QUEUE_PARTITIONS": str(PARTITIONS),
        }
        for name, value in self._environment.items():
            monkeypatch.setenv(name, value)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return the status, the output and the errors."""
        self.monkeypatch.setattr("sys.argv", ["copilot-usage", "queue", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    def succeed(self, *arguments: str) -> str:
        """Return the output of a command that succeeds."""
        status, out, err = self.run(*arguments)
        assert status == 0, err
        return out

    def fail(self, *arguments: str) -> tuple[int, str]:
        """Return the status and the error of a command that fails in one line."""
        status, out, err = self.run(*arguments)
        assert (out, err.count("\n")) == ("", 1), out + err
        return status, err.removeprefix("copilot-usage: ").strip()

    def state(self) -> dict[str, Any]:
        """Return what `show --json` prints."""
        shown: dict[str, Any] = json.loads(self.succeed("show", "--json"))
        return shown

    def with_client(self, work: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
        """Do work on the server that no command does."""

        async def run() -> None:
            settings = load(environment=self._environment).settings.events
            client = await connect(settings, "test")
            try:
                await work(client)
            finally:
                await discard(client)

        asyncio.run(run())

    def streams(self) -> list[str]:
        """Return the names of all streams, that of the leases among them."""
        found: list[str] = []

        async def work(client: Client) -> None:
            infos = await client.jetstream().streams_info()
            found.extend(str(each.config.name) for each in infos)

        self.with_client(work)
        return found

    def make_leases(self) -> None:
        """Make the bucket of leases, as the first writer does."""

        async def work(client: Client) -> None:
            await client.jetstream().create_key_value(bucket=bucket_of(STREAM))

        self.with_client(work)

    def publish(self, *messages: bytes) -> None:
        """Publish messages of an application, as a collector does."""

        async def work(client: Client) -> None:
            stream = client.jetstream()
            for each in messages:
                await stream.publish(subject_of(STREAM, PARTITION), each)

        self.with_client(work)


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    nats_server: NatsServer,
) -> Command:
    """Return the commands, with an empty stream."""
    made = Command(capsys, monkeypatch, nats_server.url)
    made.succeed("create")
    return made


@pytest.fixture
def message(parser: EventParser) -> bytes:
    """Return a message with a valid event and an invalid one."""
    body = json.dumps([event(id="a"), event(id="b", category="")]).encode()
    items: list[Event | EventFailure] = parser.parse_body(
        body, "application/json", 10, APPLICATION
    )
    return encode(QueuedRequest(APPLICATION, items, request_id="r-1"))


def test_show_tells_what_waits_and_how_much_room_is_left(
    command: Command, message: bytes
) -> None:
    """For a terminal, and as JSON with the same numbers."""
    command.publish(message, message)

    state = command.state()
    text = command.succeed("show")

    assert (state["stream"], state["server_version"]) == (STREAM, version())
    assert state["messages"] == 2
    assert state["bytes"] > 2 * len(message)
    assert state["max_bytes"] == 10_737_418_240
    assert 0 <= state["oldest_age_s"] < 3_600
    assert state["replica_states"] == {
        "current": 1,
        "behind": 0,
        "offline": 0,
        "missing": 0,
    }
    counts = {each["partition"]: each["messages"] for each in state["partitions"]}
    assert counts == dict.fromkeys(range(PARTITIONS), 0) | {PARTITION: 2}
    assert state["differences"] == []
    rows = dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    assert rows["messages"].strip() == "2"
    assert rows["replicas"].strip() == "1: 1 current"
    assert "of 10.0 GiB (0.0%)" in rows["size"]
    assert rows[str(PARTITION)].split() == ["2", "0", "0"]


def test_show_names_what_differs_from_the_settings(command: Command) -> None:
    """After a change of the stream or of the settings, until both agree."""
    command.succeed("resize", "--max-bytes", "1000000")

    assert command.state()["differences"] == [
        "events.queue_max_bytes is 1000000 and not 10737418240"
    ]
    assert "differs" in command.succeed("show")


def test_show_fails_without_a_leader(command: Command) -> None:
    """The stream answers, and acknowledges nothing."""

    async def leaderless(*arguments: Any, **options: Any) -> StreamInfo:
        info = await read_stream(*arguments, **options)
        return replace(info, cluster=Cluster(replicas=(Peer("a"), Peer("b"))))

    command.monkeypatch.setattr(administration, "read_stream", leaderless)
    problem = "no leader: nothing is acknowledged"

    status, out, err = command.run("show")
    assert (status, err) == (1, f"copilot-usage: {problem}\n")
    assert out.count(problem) == 1
    status, out, _ = command.run("show", "--json")
    assert (status, json.loads(out)["problem"]) == (1, problem)


def test_create_changes_no_stream_that_exists(command: Command, message: bytes) -> None:
    """It tells what the stream has."""
    command.publish(message)
    command.monkeypatch.setenv("COPILOT_USAGE_EVENTS__QUEUE_MAX_BYTES", "5000000")

    out = command.succeed("create")

    assert out.splitlines()[-1] == (
        f"Stream {STREAM}: replicas 1, maximum size 10,737,418,240 bytes, messages 1"
    )


def test_resize_keeps_what_it_is_not_told_to_change(command: Command) -> None:
    """Each option changes one value; the messages stay."""
    before = command.state()

    command.succeed("resize", "--max-bytes", "2000000")
    command.succeed("resize", "--max-age", "3600", "--yes")
    command.succeed("resize", "--partitions", "8")

    after = command.state()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"max_bytes", "max_age_s", "partitions", "differences"}
    assert (after["max_bytes"], after["max_age_s"]) == (2_000_000, 3_600)
    assert len(after["partitions"]) == 8


def test_the_duplicate_window_is_within_the_maximum_age(command: Command) -> None:
    """The server refuses a longer one, and a shorter one is no difference for ever."""
    window_s = command.state()["duplicate_window_s"]
    command.succeed("resize", "--max-age", "60", "--yes")
    assert command.state()["duplicate_window_s"] == 60

    command.succeed("resize", "--max-age", "0")
    assert command.state()["duplicate_window_s"] == window_s
    assert command.state()["differences"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--max-age", each) for each in ("inf", "nan", "1e11", "-1", "0.01")),
        ("--max-bytes", str(2**63)),
    ],
)
def test_a_limit_that_nats_cannot_have_is_refused(
    command: Command, arguments: tuple[str, ...]
) -> None:
    """Before anything is sent, with the name of the option."""
    status, out, err = command.run("resize", *arguments, "--yes")
    assert (status, out) == (2, "")
    assert arguments[0] in err
    assert "Traceback" not in err


def test_resize_discards_no_events(command: Command, message: bytes) -> None:
    """The server would drop the oldest messages of a stream that is made smaller."""
    command.publish(message, message)
    size = command.state()["bytes"]

    status, reason = command.fail("resize", "--max-bytes", str(size - 1))

    assert (status, reason.split(":")[0]) == (1, f"the stream has {size} bytes")
    assert command.state()["messages"] == 2
    command.succeed("resize", "--max-bytes", str(size))
    assert command.state()["messages"] == 2


def test_partitions_change_only_without_messages(
    command: Command, message: bytes
) -> None:
    """Events of an application would otherwise be in two partitions."""
    command.publish(message)

    status, reason = command.fail("resize", "--partitions", "8")

    assert status == 1
    assert reason.endswith("drain it first")
    assert len(command.state()["partitions"]) == PARTITIONS


def test_resize_needs_a_value_and_a_confirmation_for_an_age(command: Command) -> None:
    """A maximum age discards events that are not stored."""
    status, _, err = command.run("resize")
    assert (status, "name at least one value" in err) == (2, True)
    assert command.fail("resize", "--max-age", "60")[0] == 2
    assert command.state()["max_age_s"] == 0


def test_replicas_that_the_servers_do_not_have_are_refused(command: Command) -> None:
    """A single server would accept them, and keep one copy all the same."""
    status, reason = command.fail("resize", "--replicas", "3")

    assert (status, "start a cluster" in reason) == (1, True)
    assert command.state()["replicas"] == 1


def test_drain_waits_until_writers_have_stored_everything(
    command: Command, message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its progress goes to standard error, and a time limit ends it."""
    command.publish(message)
    status, _, err = command.run("drain", "--timeout", "0.01")
    assert (status, err.splitlines()[-1]) == (
        1,
        "copilot-usage: not finished after 0.01 s",
    )

    reads = 0

    async def read_and_store(client: Client, name: str) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            await client.jetstream().purge_stream(name)
        return await read_stream(client, name)

    monkeypatch.setattr(administration, "read_stream", read_and_store)
    status, out, err = command.run("drain")

    assert (status, out) == (0, "The stream has no messages.\n")
    assert [line.split()[0] for line in err.splitlines()] == ["1", "0"]


def test_messages_are_listed_and_copied_without_being_taken(
    command: Command, message: bytes
) -> None:
    """The copy has the events as they would be stored."""
    command.publish(message, b"\x00 no message", message)

    rows = [line.split() for line in command.succeed("messages").splitlines()]
    lines = command.succeed("messages", "--json", "--limit", "0").splitlines()
    copies = list(map(json.loads, lines))

    assert rows[0][:5] == ["sequence", "partition", "arrived", "application", "events"]
    assert [(row[0], row[1], row[3], row[4]) for row in (rows[1], rows[3])] == [
        ("1", str(PARTITION), APPLICATION, "2"),
        ("3", str(PARTITION), APPLICATION, "2"),
    ]
    first, broken, last = copies
    assert [each["id"] for each in first["events"]] == ["a"]
    assert [json.loads(each)["id"] for each in first["failed"]] == ["b"]
    assert (first["application"], first["request_id"]) == (APPLICATION, "r-1")
    assert broken["message"] == "ACBubyBtZXNzYWdl"
    assert broken["error"]
    assert last["events"] == first["events"]
    assert command.state()["messages"] == 3


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"source": Source(["text"], 7)}, id="no such text"),  # type: ignore[list-item]
        pytest.param({"source": Source(None, 0), "data": "{"}, id="no JSON"),
    ],
)
def test_an_event_without_a_text_hides_no_others(
    command: Command, parser: EventParser, message: bytes, fields: dict[str, Any]
) -> None:
    """Another program may publish any fields; the copy has the whole message."""
    event_ = parser.parse(json.dumps(event(id="a")).encode(), APPLICATION)
    assert isinstance(event_, Event)
    foreign = encode(QueuedRequest(APPLICATION, [replace(event_, **fields)]))
    command.publish(foreign, message)

    rows = command.succeed("messages").splitlines()[1:]
    lines = command.succeed("messages", "--json", "--limit", "0").splitlines()

    assert [row.split()[0] for row in rows] == ["1", "2"]
    first, second = map(json.loads, lines)
    assert first["error"].startswith("an event has no text: ")
    assert b64decode(first["message"]) == foreign
    assert [each["id"] for each in second["events"]] == ["a"]


def test_a_copy_has_a_line_for_each_message(
    command: Command, parser: EventParser
) -> None:
    """Also of a client that sends JSON with line feeds, whose numbers stay exact."""
    body = json.dumps(event(id="a"), indent=2).replace(
        '"data": {', '"data": {"n": 1.10,'
    )
    items: list[Event | EventFailure] = parser.parse_body(
        body.encode(), "application/json", 10, APPLICATION
    )
    command.publish(encode(QueuedRequest(APPLICATION, items, request_id="r-1")))

    (line,) = command.succeed("messages", "--json").splitlines()

    assert json.loads(line)["events"][0]["id"] == "a"
    assert '"n":1.10' in line


def test_messages_of_one_partition(command: Command, message: bytes) -> None:
    """Others are left out; a partition that does not exist is an error."""
    command.publish(message, message, message)
    other = (PARTITION + 1) % PARTITIONS

    own = command.succeed("messages", "--partition", str(PARTITION), "--limit", "2")

    assert len(own.splitlines()) == 3
    assert max(len(line.rstrip()) for line in own.splitlines()) <= TERMINAL_CHARS
    assert len(command.succeed("messages", "--partition", str(other)).splitlines()) == 1
    assert command.fail("messages", "--partition", "4") == (
        2,
        "the partitions are 0 to 3",
    )


def test_what_discards_events_asks_for_the_name_of_the_stream(
    command: Command, message: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal it needs --yes; a wrong name changes nothing."""
    command.publish(message)

    for arguments in (("discard", "--all"), ("delete", "--with-events")):
        status, reason = command.fail(*arguments)
        assert (status, reason.endswith("this needs --yes")) == (2, True)
        with monkeypatch.context() as terminal:
            terminal.setattr("sys.stdin", Mock(isatty=lambda: True))
            terminal.setattr("typer.prompt", lambda _text: "another")
            assert command.fail(*arguments)[0] == 2

    assert command.state()["messages"] == 1


def test_one_message_is_discarded_or_all_of_a_partition(
    command: Command, message: bytes
) -> None:
    """The others stay; what has already left is an error."""
    command.publish(message, message, message)

    assert command.succeed("discard", "--sequence", "2", "--yes") == (
        "Messages discarded: 1\n"
    )
    assert command.fail("discard", "--sequence", "2", "--yes") == (
        1,
        "there is no message 2: a writer has stored it, or it is discarded",
    )
    rows = command.succeed("messages").splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["1", "3"]
    partition = ("--partition", str(PARTITION), "--yes")
    assert command.succeed("discard", *partition) == "Messages discarded: 2\n"
    assert command.run("discard", "--yes")[0] == 2
    assert command.run("discard", "--all", "--sequence", "1", "--yes")[0] == 2


def test_delete_keeps_a_stream_with_events(command: Command, message: bytes) -> None:
    """Unless they are to be lost."""
    command.publish(message)

    status, reason = command.fail("delete", "--yes")

    assert (status, reason.endswith("drain it first")) == (1, True)
    command.make_leases()
    assert len(command.streams()) == 2
    assert command.succeed("delete", "--yes", "--with-events").endswith("it: 1\n")
    assert command.streams() == []
    status, reason = command.fail("show")
    assert status == 1
    assert reason.startswith(
        "stream not found: `copilot-usage queue create` creates it"
    )


@pytest.mark.parametrize(
    "url, status, reason",
    [
        ("", 2, "events.queue_url is empty: there is no queue"),
        ("nats://127.0.0.1:1", 1, "cannot connect to 127.0.0.1:1: "),
        ("nats://user:secret@127.0.0.1:1", 1, "cannot connect to 127.0.0.1:1: "),
        ("nats://nats.invalid:4222", 1, "cannot connect to nats.invalid:4222: "),
        ("http://127.0.0.1:4222", 2, "events.queue_url: "),
        ("127.0.0.1:4222", 2, "events.queue_url: "),
        ("nats://127.0.0.1:99999", 2, "events.queue_url: "),
    ],
)
def test_a_wrong_address_is_one_line_without_passwords(
    command: Command, url: str, status: int, reason: str
) -> None:
    """It names the setting, or the server that does not answer."""
    command.monkeypatch.setenv("COPILOT_USAGE_EVENTS__QUEUE_URL", url)

    actual, line = command.fail("show")

    assert (actual, line[: len(reason)]) == (status, reason)
    assert "secret" not in line
