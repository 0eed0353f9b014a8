"""The one-machine broker: a message is there whole, once, or not at all."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kombu import Connection, Queue

from panel import broker

broker.install()


def connection(folder: Path) -> Connection:
    options = {
        "data_folder_in": str(folder / "queue"), "data_folder_out": str(folder / "queue"),
        "control_folder": str(folder / "control"), "polling_interval": 0.001,
    }  # fmt: skip
    return Connection("filesystem://", transport_options=options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "queue").mkdir()
    (tmp_path / "control").mkdir()
    return tmp_path


def drain(folder: Path, queue: str = "regia") -> list[object]:
    found = []
    with connection(folder) as c:
        simple = c.SimpleQueue(Queue(queue, routing_key=queue))
        while len(simple.queue.channel._waiting()):
            try:
                message = simple.get(block=False)
            except simple.Empty:
                break
            found.append(message.payload)
            message.ack()
    return found


def put(folder: Path, *payloads: object, queue: str = "regia") -> None:
    with connection(folder) as c:
        simple = c.SimpleQueue(queue)
        for payload in payloads:
            simple.put(payload)


def test_what_was_put_arrives_once_and_in_order(folder: Path) -> None:
    put(folder, 1, 2, 3)
    put(folder, "other", queue="terminate")
    assert drain(folder) == [1, 2, 3]
    assert drain(folder) == []
    assert drain(folder, "terminate") == ["other"]


def test_a_broken_message_is_dropped_and_the_next_one_read(folder: Path) -> None:
    (folder / "queue" / "0_broken.regia.msg").write_text("")
    put(folder, "whole")
    assert drain(folder) == ["whole"]


def test_two_quick_readers_get_each_message_once(folder: Path) -> None:
    writer = (
        "from tests.panel.test_broker import put; from pathlib import Path; import sys;"
        "put(Path(sys.argv[1]), *range(300))"
    )
    process = subprocess.Popen([sys.executable, "-c", writer, str(folder)])
    got: list[object] = []

    def read() -> None:
        while process.poll() is None:
            got.extend(drain(folder))

    readers = [threading.Thread(target=read) for _ in range(2)]
    [r.start() for r in readers]
    [r.join() for r in readers]
    got.extend(drain(folder))
    assert process.returncode == 0
    assert sorted(got) == list(range(300))


def test_a_folder_that_was_removed_is_made_anew(folder: Path) -> None:
    shutil.rmtree(folder / "queue")
    shutil.rmtree(folder / "control")
    put(folder, "after")
    assert drain(folder) == ["after"]
