from __future__ import annotations

import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune.data.record_store import ENTRY, FLUSH_EVERY, KEY_BYTES, RecordStore, record_key
from finetune.errors import StorageError

SHAPE = (5, 3)


def store(folder: Path, limit: float = float("inf")) -> RecordStore:
    return RecordStore(folder, shape=SHAPE, dtype=np.float32, limit_bytes=limit)


def record(number: int) -> np.ndarray:
    return np.random.default_rng(number).random(SHAPE).astype(np.float32)


def key(number: int) -> bytes:
    return record_key("photo", number)


def test_records_come_back_as_they_were_put(tmp_path: Path) -> None:
    with store(tmp_path / "s") as first:
        for number in range(FLUSH_EVERY + 3):
            first.put(key(number), record(number))
        order = [FLUSH_EVERY + 2, 0, 7]
        assert np.array_equal(first.read([key(n) for n in order]), [record(n) for n in order])
    with store(tmp_path / "s") as again:
        assert len(again) == FLUSH_EVERY + 3
        assert np.array_equal(again.read([key(7)])[0], record(7))


def test_a_key_that_is_not_there_is_a_key_error(tmp_path: Path) -> None:
    with store(tmp_path / "s") as opened:
        assert key(1) not in opened
        with pytest.raises(KeyError):
            opened.read([key(1)])


def test_a_record_of_another_shape_is_refused(tmp_path: Path) -> None:
    with store(tmp_path / "s") as opened, pytest.raises(ValueError, match="a record is"):
        opened.put(key(1), np.zeros((5, 4), np.float32))


def test_keys_of_different_parts_differ() -> None:
    keys = {record_key("a", "b"), record_key("ab"), record_key("a", None), record_key("a")}
    assert len(keys) == 4
    assert all(len(k) == KEY_BYTES for k in keys)


def test_the_limit_is_kept_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limit = 10 * 5 * 3 * 4
    with store(tmp_path / "s", limit) as opened:
        for number in range(3 * FLUSH_EVERY):
            opened.put(key(number), record(number))
        assert opened.full
        assert len(opened) == 10
    assert (tmp_path / "s" / "records.bin").stat().st_size == limit
    said = [r.message for r in caplog.records]
    assert len(said) == 1
    assert said[0].endswith("are decoded each time. Raise it with --cache-gb.")
    with store(tmp_path / "s", limit) as again:
        assert again.full


def test_a_half_written_record_is_written_over(tmp_path: Path) -> None:
    with store(tmp_path / "s") as first:
        first.put(key(0), record(0))
    # What a process leaves that is killed between data and key, and in the middle of a key.
    with (tmp_path / "s" / "records.bin").open("ab") as file:
        file.write(b"\xff" * 17)
    with (tmp_path / "s" / "index.bin").open("ab") as file:
        file.write(b"\xee" * 5)
    with store(tmp_path / "s") as again:
        again.put(key(1), record(1))
        again.flush()
    with store(tmp_path / "s") as third:
        assert len(third) == 2
        assert np.array_equal(third.read([key(0), key(1)]), [record(0), record(1)])


def _cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def _noise(file: Path, start: int, length: int) -> None:
    content = bytearray(file.read_bytes())
    content[start : start + length] = np.random.default_rng(0).bytes(length)
    file.write_bytes(content)


def _flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)


def _swap(file: Path, size: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[size : 2 * size] + content[:size] + content[2 * size :])


RECORD_BYTES = 5 * 3 * 4

DAMAGE: dict[str, Callable[[Path], object]] = {
    "half of the records is noise": lambda s: _noise(s / "records.bin", 0, 10 * RECORD_BYTES),
    "one bit of a record": lambda s: _flip(s / "records.bin", 7 * RECORD_BYTES + 1),
    "records cut within one": lambda s: _cut(s / "records.bin", 0.33),
    "records cut between two": lambda s: _cut(s / "records.bin", 0.5),
    "no records": lambda s: (s / "records.bin").unlink(),
    "empty records": lambda s: (s / "records.bin").write_bytes(b""),
    "two records swapped": lambda s: _swap(s / "records.bin", RECORD_BYTES),
    "one bit of a key": lambda s: _flip(s / "index.bin", 3 * ENTRY.size + 2),
    "one bit of a checksum": lambda s: _flip(s / "index.bin", 3 * ENTRY.size + KEY_BYTES),
    "index cut within an entry": lambda s: _cut(s / "index.bin", 0.33),
    "two entries swapped": lambda s: _swap(s / "index.bin", ENTRY.size),
    "index is noise": lambda s: _noise(s / "index.bin", 0, 20 * ENTRY.size),
    "no index": lambda s: (s / "index.bin").unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_records_count_as_missing_and_are_made_again(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [key(n) for n in range(20)]
    with store(tmp_path) as first:
        for number in range(20):
            first.put(keys[number], record(number))
    DAMAGE[kind](tmp_path)
    with store(tmp_path) as damaged:
        damaged.drop_damaged(keys)
        missing = [number for number in range(20) if keys[number] not in damaged]
        assert missing
        for number in set(range(20)) - set(missing):
            assert np.array_equal(damaged.read([keys[number]])[0], record(number))
        for number in missing:
            damaged.put(keys[number], record(number))
    lost = kind in ("no index", "index cut within an entry")
    assert (
        [r.message for r in caplog.records] == []
        if lost
        else [f"The cache {tmp_path} has damaged records; these are made again from the photos."]
    )
    with store(tmp_path) as repaired:
        repaired.drop_damaged(keys)
        assert np.array_equal(repaired.read(keys), [record(n) for n in range(20)])


def test_a_store_without_checksums_is_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "records.bin").write_bytes(record(0).tobytes() * 9)
    (tmp_path / "keys.bin").write_bytes(b"".join(key(n) for n in range(9)))
    with store(tmp_path) as opened:
        assert len(opened) == 0
        opened.put(key(3), record(3))
    assert not (tmp_path / "keys.bin").exists()
    assert [r.message for r in caplog.records] == [
        f"The cache {tmp_path} of an earlier version has no checksums and is built again."
    ]
    with store(tmp_path) as again:
        assert np.array_equal(again.read([key(3)])[0], record(3))
        assert len(again) == 1


def test_a_record_that_is_damaged_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        opened.put(key(0), record(0))
        opened.flush()
        _flip(tmp_path / "records.bin", 3)
        with pytest.raises(StorageError, match="has just been damaged"):
            opened.read([key(0)])


def _fill(folder: Path, start: int) -> None:
    with store(folder) as opened:
        for number in range(start, start + 200):
            opened.put(key(number), record(number))


def test_two_processes_fill_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(tmp_path / "s", n)) for n in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    with store(tmp_path / "s") as opened:
        assert len(opened) == 300
        got = opened.read([key(n) for n in range(300)])
        assert np.array_equal(got, [record(n) for n in range(300)])
    assert (tmp_path / "s" / "index.bin").stat().st_size == 300 * ENTRY.size


def test_a_store_learns_what_another_has_put(tmp_path: Path) -> None:
    with store(tmp_path / "s") as one, store(tmp_path / "s") as other:
        one.put(key(1), record(1))
        one.flush()
        assert key(1) not in other
        other.refresh()
        assert np.array_equal(other.read([key(1)])[0], record(1))


def test_kills_lose_no_record_that_has_a_key(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from finetune.data.record_store import RecordStore, record_key\n"
        "s = RecordStore(Path(sys.argv[1]), shape=(5, 3), dtype=np.float32, limit_bytes=1e12)\n"
        "print('ready', flush=True)\n"
        "n = len(s)\n"
        "while True:\n"
        "    r = np.random.default_rng(n).random((5, 3)).astype(np.float32)\n"
        "    s.put(record_key('photo', n), r); n += 1\n"
    )
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with store(tmp_path / "s") as opened:
        count = len(opened)
        assert count >= FLUSH_EVERY
        got = opened.read([key(n) for n in range(count)])
        assert np.array_equal(got, [record(n) for n in range(count)])


def test_a_store_travels_to_another_process_without_open_files(tmp_path: Path) -> None:
    with store(tmp_path / "s") as opened:
        opened.put(key(3), record(3))
        copy = pickle.loads(pickle.dumps(opened))  # noqa: S301 - our own bytes
        assert np.array_equal(copy.read([key(3)])[0], record(3))
        copy.close()


def test_threads_may_put_and_read_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(start: int) -> None:
        try:
            for number in range(start, start + 150):
                opened.put(key(number), record(number))
                assert np.array_equal(opened.read([key(number)])[0], record(number))
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            errors.append(error)

    with store(tmp_path / "s") as opened:
        threads = [threading.Thread(target=work, args=(n * 150,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(opened) == 600


def test_a_folder_that_cannot_be_written_costs_the_cache_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with store(tmp_path / "file" / "s") as opened:
        opened.put(key(0), record(0))
        opened.flush()
        assert opened.full
        assert key(0) not in opened
    assert "cannot grow" in caplog.text
