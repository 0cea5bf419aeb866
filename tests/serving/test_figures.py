"""What the server says of itself: receipts, metrics, health, log."""

import json

from prometheus_client.parser import text_string_to_metric_families

from tests.serving.running import READBACK, Running, served, until, user


def metrics(running: Running) -> dict[tuple[str, str], float]:
    status, headers, body = running.ask("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[sample.name, ",".join(sample.labels.values())] = sample.value
    return found


def test_metrics_are_what_answers_took(running: Running):
    before = metrics(running)
    answer = running.chat("What is 4 plus 5?", max_tokens=6)
    after = metrics(running)
    receipt = answer["usage"]["moe_mlx"]

    def grown(name: str, label: str = "") -> float:
        return after[name, label] - before.get((name, label), 0.0)

    assert grown("moe_mlx_requests_total", "/v1/chat/completions,200") == 1
    assert grown("moe_mlx_generated_tokens_total") == answer["usage"]["completion_tokens"]
    assert grown("moe_mlx_answered_total") == 1
    for name in ("hits", "misses", "bytes_read", "swapped"):
        assert grown(f"moe_mlx_expert_{name}_total", "decode") == receipt[name]
    assert after["moe_mlx_up", ""] == 1
    assert receipt["misses"] > 0 and receipt["bytes_read"] > 0


def test_a_receipt_stands_in_the_headers_too(running: Running):
    status, headers, body = running.ask("/v1/chat/completions", {"messages": [user("hello")], "max_tokens": 4})
    receipt = json.loads(body)["usage"]["moe_mlx"]
    assert status == 200 and headers["x-moe-mlx-routing"] == "exact"
    assert int(headers["x-moe-mlx-hits"]) == receipt["hits"] and int(headers["x-moe-mlx-misses"]) == receipt["misses"]


def test_an_audit_is_part_of_the_receipt_and_the_log_is_json():
    lossy = ("--routing", "cache-prior", "--decode", "readback")
    with served("--audit", "2", "--log-format", "json", model=lossy) as server:
        answer = server.chat("What is 2 plus 3?", max_tokens=9)
        assert answer["usage"]["moe_mlx"]["audit"]["tokens"] > 0
        until(lambda: any("first_token" in line for line in server.lines), 10)
        row = next(json.loads(line) for line in server.lines if "first_token" in line)
    assert row["status"] == 200 and row["tokens"] == answer["usage"]["completion_tokens"]
    assert "2 plus 3" not in "".join(server.lines)


def test_health_tells_failures_from_life(running: Running):
    health = running.health()
    assert health["status"] == "ok" and health["failed_in_a_row"] == 0 and health["model"] == "demo"
    assert READBACK
