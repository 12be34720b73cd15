"""One command at a time on a folder, whatever the file system."""

import os
import socket
import subprocess
import sys
import time

import pytest

from mxsplicer.errors import InputError
from mxsplicer.system import locks
from mxsplicer.system.locks import find_lock, folder_lock, lock_path


def another_holder(folder, *, pid=None, host=None, age_s=0.0):
    """Write the lock of another process; by default one that is alive, the parent of this one."""
    lines = [
        "filelock/2",
        f"pid={pid or os.getppid()}",
        f"host={host or own_host(folder)}",
        "mode=lease",
        "token=theirs",
        f"duration={locks.STALE_SECONDS!r}",
    ]
    new = lock_path(folder).with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in lines))
    os.utime(new, (time.time() - age_s,) * 2)
    new.replace(lock_path(folder))


def own_host(folder):
    """Return this machine as filelock names it, which includes the container."""
    with folder_lock(folder.with_name("other")):
        lines = lock_path(folder.with_name("other")).read_text().splitlines()
    return next(line for line in lines if line.startswith("host=")).removeprefix("host=")


def is_free(folder):
    try:
        with folder_lock(folder):
            return True
    except InputError:
        return False


@pytest.fixture
def impatient(monkeypatch):
    """Make locks stale after a fraction of a second."""
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)


def test_a_lock_lies_next_to_the_folder_while_it_is_held_and_not_after(tmp_path):
    with folder_lock(tmp_path / "a"):
        lock = find_lock(tmp_path / "a")
        assert (lock.pid, lock.host, lock.is_stale) == (os.getpid(), socket.gethostname(), False)
        with folder_lock(tmp_path / "a"):  # by a function that the holder calls
            pass
        assert find_lock(tmp_path / "a") is not None

    assert find_lock(tmp_path / "a") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_with_the_name_of_its_user(tmp_path):
    another_holder(tmp_path / "a", host="node17", pid=4242, age_s=30)

    with (
        pytest.raises(InputError, match=r"a is in use by process 4242 on node17, last seen 3\d s ago.*remove .*lock"),
        folder_lock(tmp_path / "a"),
    ):
        pass

    assert "token=theirs" in lock_path(tmp_path / "a").read_text()


def test_a_process_that_has_ended_on_this_machine_loses_its_lock_at_once(tmp_path, caplog):
    another_holder(tmp_path / "a", pid=2**22 + 1)  # no process has this number
    assert find_lock(tmp_path / "a").is_stale

    with folder_lock(tmp_path / "a"):
        assert find_lock(tmp_path / "a").pid == os.getpid()

    assert "left behind by process 4194305" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_nobody_touches_is_taken_over_from_another_machine(tmp_path, impatient, caplog):
    another_holder(tmp_path / "a", host="node17", age_s=10_000)
    assert find_lock(tmp_path / "a").is_stale

    with folder_lock(tmp_path / "a"):
        assert find_lock(tmp_path / "a").pid == os.getpid()

    assert "left behind" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_looks_old_but_is_touched_is_respected(tmp_path, impatient):
    another_holder(tmp_path / "a", host="node17", age_s=10_000)  # by a clock that is slow
    touch = (
        "import os, sys, time\n"
        "for n in range(10**6): os.utime(sys.argv[1], (n, n)); print(flush=n == 0); time.sleep(0.05)"
    )

    with subprocess.Popen(
        [sys.executable, "-c", touch, str(lock_path(tmp_path / "a"))], stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        assert not is_free(tmp_path / "a")
        holder.kill()


def test_an_empty_lock_is_respected(tmp_path):
    lock_path(tmp_path / "a").touch()

    with pytest.raises(InputError, match="an unknown process"), folder_lock(tmp_path / "a"):
        pass


def test_a_lock_of_an_earlier_version_is_taken_over_when_it_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE_SECONDS", 3.0)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.5)
    lock_path(tmp_path / "a").write_text('{"host": "node17", "pid": 4242, "since": 0.0, "token": "theirs"}')
    assert not is_free(tmp_path / "a")

    os.utime(lock_path(tmp_path / "a"), (0, 0))

    assert is_free(tmp_path / "a")


def test_a_lock_that_another_took_over_is_left_to_it(tmp_path, caplog):
    with folder_lock(tmp_path / "a"):
        another_holder(tmp_path / "a", host="node17")

    assert "token=theirs" in lock_path(tmp_path / "a").read_text()
    assert "taken over by another command" in caplog.text


def test_the_holder_touches_its_lock(tmp_path, impatient):
    with folder_lock(tmp_path / "a"):
        os.utime(lock_path(tmp_path / "a"), (0, 0))
        until = time.monotonic() + 10
        while find_lock(tmp_path / "a").age_s > 100 and time.monotonic() < until:
            time.sleep(0.01)
        assert find_lock(tmp_path / "a").age_s < 100


CONTENDER = """
import sys, time
from mxsplicer.errors import InputError
from mxsplicer.system.locks import folder_lock
sys.stdin.readline()
try:
    with folder_lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
except InputError:
    print("refused", flush=True)
"""


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    another_holder(tmp_path / "a", pid=2**22 + 1)
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "a")]
    contenders = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]

    for contender in contenders:
        contender.stdin.write("\n")
        contender.stdin.flush()
    answers = [contender.stdout.readline().strip() for contender in contenders]
    for contender in contenders:
        contender.communicate("\n")

    assert sorted(answers) == ["held", "refused", "refused", "refused"]
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_lock_that_the_next_takes_over(tmp_path):
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {process.pid} on"), folder_lock(tmp_path / "a"):
            pass
        process.kill()

    assert is_free(tmp_path / "a")
