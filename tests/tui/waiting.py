"""Waiting for an engine without sleeping: on the snapshots it publishes."""

import threading

PATIENCE = 60


def until(engine, wanted, act=lambda: None):
    """Does `act`, then waits for a snapshot that is `wanted`; returns it."""
    found, seen = threading.Event(), []

    def listen(snapshot):
        if not found.is_set() and wanted(snapshot):
            seen.append(snapshot)
            found.set()

    engine.listeners.append(listen)
    try:
        act()
        if not found.is_set():
            listen(engine.latest)
        assert found.wait(PATIENCE), f"nothing of the kind; the latest is {engine.latest.phase}: {engine.latest.error}"
    finally:
        engine.listeners.remove(listen)
    return seen[0]
