"""One command at a time on a folder, whatever the file system."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mxsplicer.errors import InputError
from mxsplicer.system import locks
from mxsplicer.system.locks import find_lock, held, lock_of


def another_holder(folder, *, pid=None, host=None, age_s=0.0):
    """Write the lock of another process; by default one that lives, the parent of this one."""
    import socket

    import psutil

    pid = pid or os.getppid()
    started = psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 0.0
    content = {"host": host or socket.gethostname(), "pid": pid, "since": 0.0, "token": "theirs", "started": started}
    lock_of(folder).write_text(json.dumps(content))
    then = time.time() - age_s
    os.utime(lock_of(folder), (then, then))


def test_a_lock_lies_beside_the_folder_while_it_is_held_and_not_after(tmp_path):
    with held(tmp_path / "a"):
        lock = find_lock(tmp_path / "a")
        assert lock is not None
        assert lock.holder is not None
        assert lock.holder.pid == os.getpid()
        assert not lock.is_stale
        with held(tmp_path / "a"):  # by a function that the holder calls
            pass
        assert find_lock(tmp_path / "a") is not None

    assert find_lock(tmp_path / "a") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_by_who_uses_it(tmp_path):
    another_holder(tmp_path / "a", host="node17", pid=4242, age_s=30)

    with (
        pytest.raises(InputError, match=r"a is in use by process 4242 on node17, last seen 3\d s ago"),
        held(tmp_path / "a"),
    ):
        pass

    assert json.loads(lock_of(tmp_path / "a").read_text())["token"] == "theirs"


@pytest.mark.parametrize(
    "left",
    [
        {"host": "node17", "age_s": 10_000},  # nobody can ask node17, but nobody touched it either
        {"pid": 2**22 + 1},  # no process has this number
    ],
)
def test_a_stale_lock_is_taken_over(tmp_path, left, caplog):
    another_holder(tmp_path / "a", **left)
    assert find_lock(tmp_path / "a").is_stale

    with held(tmp_path / "a"):
        assert find_lock(tmp_path / "a").holder.pid == os.getpid()

    assert "left behind" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_has_by_now_is_no_holder(tmp_path):
    another_holder(tmp_path / "a")
    content = json.loads(lock_of(tmp_path / "a").read_text())
    lock_of(tmp_path / "a").write_text(json.dumps(content | {"started": 1.0}))

    assert find_lock(tmp_path / "a").is_stale


def test_an_empty_lock_is_respected_until_it_is_old(tmp_path):
    lock_of(tmp_path / "a").touch()
    with pytest.raises(InputError, match="an unknown process"), held(tmp_path / "a"):
        pass

    os.utime(lock_of(tmp_path / "a"), (0, 0))

    with held(tmp_path / "a"):
        pass


def test_a_lock_that_another_took_over_is_left_to_it(tmp_path, caplog):
    with held(tmp_path / "a"):
        another_holder(tmp_path / "a")

    assert json.loads(lock_of(tmp_path / "a").read_text())["token"] == "theirs"
    assert "taken over by another command" in caplog.text


def test_the_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)

    with held(tmp_path / "a"):
        os.utime(lock_of(tmp_path / "a"), (0, 0))
        for _ in range(200):
            time.sleep(0.01)
            if find_lock(tmp_path / "a").age_s < 100:
                break
        assert not find_lock(tmp_path / "a").is_stale


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    # Threads of one process stand for processes: each takes the lock by the function below the one that lets a
    # process pass that holds it already.
    another_holder(tmp_path / "a", pid=2**22 + 1)

    def take(_):
        try:
            return locks._take(lock_of(tmp_path / "a"))
        except InputError:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = [one for one in pool.map(take, range(32)) if one]

    assert len(taken) == 1
    assert locks._content(lock_of(tmp_path / "a")) == taken[0]


def test_a_killed_process_leaves_a_lock_that_the_next_takes_over(tmp_path):
    path = str(tmp_path / "a")
    code = f"from mxsplicer.system.locks import held\nwith held({path!r}):\n print('held', flush=True)\n input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"process {process.pid} on"), held(tmp_path / "a"):
            pass
        process.kill()

    with held(tmp_path / "a"):
        pass
