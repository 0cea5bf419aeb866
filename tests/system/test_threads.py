"""A thread is gone when the system says so: its thread-local memory too."""

import sys
import threading
from pathlib import Path

import pytest

from moe_mlx.system.threads import join_whole

TASKS = Path("/proc/self/task")


@pytest.mark.skipif(not TASKS.is_dir(), reason="the system does not say which threads are left")
def test_no_thread_is_left_that_was_joined():
    for _ in range(200):
        thread = threading.Thread(target=lambda: None)
        thread.start()
        assert join_whole(thread, 5)
        assert not (TASKS / str(thread.native_id)).exists()


def test_a_thread_that_goes_on_is_not_waited_for_longer_than_asked():
    over = threading.Event()
    thread = threading.Thread(target=over.wait, daemon=True)
    thread.start()
    assert not join_whole(thread, 0.01)
    over.set()
    assert join_whole(thread, 5)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="join waits for all of it")
def test_without_a_list_of_threads_there_is_a_pause(monkeypatch, tmp_path):
    paused = []
    monkeypatch.setattr("moe_mlx.system.threads.Path", lambda _: tmp_path / "none")
    monkeypatch.setattr("moe_mlx.system.threads.time.sleep", paused.append)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    assert join_whole(thread, 5)
    assert paused
