from __future__ import annotations

import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from finetune.data.record_store import FLUSH_EVERY, KEY_BYTES, RecordStore, record_key

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
    with (tmp_path / "s" / "keys.bin").open("ab") as file:
        file.write(b"\xee" * 5)
    with store(tmp_path / "s") as again:
        again.put(key(1), record(1))
        again.flush()
    with store(tmp_path / "s") as third:
        assert len(third) == 2
        assert np.array_equal(third.read([key(0), key(1)]), [record(0), record(1)])


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
    assert (tmp_path / "s" / "keys.bin").stat().st_size == 300 * KEY_BYTES


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
