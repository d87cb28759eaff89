"""The gate and the proof of arrival, against a real Prometheus, Alertmanager, relay and receiver on loopback."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom.monitoring import gate, inspection, proof, targets
from ansible.module_utils.greenroom.monitoring.prometheus import ApiError, Prometheus

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "plugins" / "module_utils"


class Page:
    """A metrics page on loopback whose text a test may change."""

    def __init__(self):
        page = self
        self.text = "steady 5\nother 1\nbroken NaN\ncount_total 1\n"

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page.text.encode())

            def log_message(self, *_args):
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def page():
    page = Page()
    yield page
    page.server.shutdown()


def answers(url):
    with urllib.request.urlopen(url, timeout=2) as answer:
        return answer.read()


def run_server(argv, ready, folder, env=None):
    """A process that answers at `ready`; yields, then ends it."""
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log, env={**os.environ, **(env or {})})
    try:
        until = time.monotonic() + 30
        while True:
            assert process.poll() is None, (folder / "server.log").read_text()
            try:
                answers(ready)
                break
            except OSError:
                assert time.monotonic() < until, (folder / "server.log").read_text()
                time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def free_port():
    with http.server.socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        return server.server_address[1]


@pytest.fixture(scope="module")
def prometheus(page, tmp_path_factory):
    """A Prometheus that scrapes the page every 0.2 s, and a target where nobody listens."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    jobs = [
        {"job_name": "page", "static_configs": [{"targets": [f"127.0.0.1:{page.port}"], "labels": {"host": "here"}}]},
        {"job_name": "nobody", "static_configs": [{"targets": ["127.0.0.1:9"], "labels": {"host": "there"}}]},
    ]
    config = {"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    argv = ["prometheus", f"--web.listen-address=127.0.0.1:{port}", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    for _ in run_server(argv, f"http://127.0.0.1:{port}/-/ready", folder):
        client = Prometheus(f"http://127.0.0.1:{port}")
        until = time.monotonic() + 20
        while not client.query("count_over_time(steady[1m]) > 10", time.time()):
            assert time.monotonic() < until
            time.sleep(0.2)
        yield client


def check(query, expect, **more):
    return {"id": "load.p95", "name": query, "query": query, "expect": expect, "judged": "max", "step_s": 0.2, "samples_min": 4,
            "series_min": 1, **more}  # fmt: skip


def one(prometheus, *asked, **how):
    return gate.run(prometheus, [check(*asked, **how)], 1.5, None, 0)[0]


def test_a_threshold_that_holds_passes_with_its_figures(prometheus):
    found = one(prometheus, "steady", {"le": 5})
    assert (found["status"], found["observed"]) == ("pass", 5.0)
    assert found["detail"]["samples"] >= 4


def test_one_that_does_not_hold_fails_and_says_which_series(prometheus):
    found = one(prometheus, "steady", {"lt": 5})
    assert found["status"] == "fail"
    assert "host=here" in found["reason"]
    assert "is 5, not < 5" in found["reason"]


@pytest.mark.parametrize(
    ("query", "how", "why"),
    [
        ("renamed_metric", {}, "0 series of 1"),
        ("broken", {}, "0 samples of 4 and"),
        ("steady / (other - 1) * 0", {}, "that are no number"),
        ("steady", {"samples_min": 1000}, "samples of 1000"),
        ("steady", {"series_min": 2}, "1 series of 2"),
    ],
)
def test_absent_nan_and_too_few_are_no_evidence(prometheus, query, how, why):
    found = one(prometheus, query, {"ge": 0}, **how)
    assert found["status"] == "no_evidence"
    assert why in found["reason"]


def test_a_wrong_query_and_a_prometheus_that_is_away_are_errors(prometheus):
    found = one(prometheus, "rate(", {"ge": 0})
    assert found["status"] == "error"
    assert "parse error" in found["reason"]
    found = one(Prometheus("http://127.0.0.1:9", timeout_s=1), "steady", {"ge": 0})
    assert (found["status"], "connection refused" in found["reason"]) == ("error", True)


def test_what_hangs_is_cut_and_what_is_no_prometheus_is_named(page):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = one(Prometheus(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.5), "steady", {"ge": 0})
    assert found["status"] == "error"
    assert "no answer within 0.5 s" in found["reason"]
    found = one(Prometheus(f"http://127.0.0.1:{page.port}"), "steady", {"ge": 0})
    assert found["status"] == "error"
    assert "without JSON" in found["reason"]


def test_the_window_begins_at_the_switch_and_is_waited_for(prometheus, page):
    since = time.time() + 0.1
    found = gate.run(prometheus, [check("steady", {"le": 5})], 1.5, since, 10)[0]
    assert found["status"] == "pass"
    assert time.time() >= since + 1.5
    assert found["detail"]["samples"] <= 9  # none of those before
    # Without patience there are too few samples yet.
    assert gate.run(prometheus, [check("steady", {"le": 5})], 1.5, time.time(), 0)[0]["status"] == "no_evidence"


def test_judged_by_minimum_mean_and_last(prometheus):
    grown = "steady + (time() % 1) * 0"
    assert [one(prometheus, grown, {"eq": 5.0}, judged=how)["status"] for how in gate.JUDGED] == ["pass"] * 4


def test_targets_that_are_down_unknown_or_stale_are_named(prometheus, page):
    expected = {
        "page": [{"targets": [f"127.0.0.1:{page.port}"], "labels": {"host": "here"}}],
        "nobody": [{"targets": ["127.0.0.1:9"], "labels": {"host": "there"}}],
        "gone": [{"targets": ["127.0.0.1:10"], "labels": {"host": "elsewhere"}}],
    }
    active = prometheus.targets()
    wrong = {one["job"]: one["why"] for one in targets.target_problems(expected, active, None, time.time(), 30)}
    assert set(wrong) == {"nobody", "gone"}
    assert "connection refused" in wrong["nobody"]
    assert "does not know it" in wrong["gone"]
    late = targets.target_problems({"page": expected["page"]}, active, None, time.time() + 100, 30)
    assert "was scraped 100 s ago" in late[0]["why"]
    # A clock that is behind shows scrapes of the future.
    assert targets.target_problems({"page": expected["page"]}, active, None, time.time() - 100, 30)
    idle = {"nobody": [{"targets": ["127.0.0.1:9"], "labels": {"host": "there", "slot": "green"}}]}
    assert targets.target_problems(idle, active, "blue", time.time(), 30) == []
    assert len(targets.target_problems(idle, active, None, time.time(), 30)) == 1


# --- proof of arrival ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(tmp_path):
    folder, port = tmp_path / "receiver", free_port()
    folder.mkdir()
    argv = [sys.executable, str(ROOT / "roles/sandbox/files/alert_receiver.py"), "--address", "127.0.0.1", "--port", str(port),
            "--records", "records.jsonl"]  # fmt: skip
    for process in run_server(argv, f"http://127.0.0.1:{port}/healthz", folder):
        yield f"http://127.0.0.1:{port}", process, folder / "records.jsonl"


@pytest.fixture
def relay(receiver, tmp_path):
    folder, port = tmp_path / "relay", free_port()
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "greenroom").symlink_to(LIBRARY / "greenroom")  # as the tools lie on a host
    config = {"service": "x", "environment": "test", "spool": str(folder / "spool"), "template": "generic", "url": f"{receiver[0]}/hook",
              "timeout_s": 2, "give_up_s": 600}  # fmt: skip
    (folder / "channel.json").write_text(json.dumps(config))
    argv = [sys.executable, "-m", "greenroom.monitoring.relay", "--config", "channel.json", "--port", str(port)]
    for _ in run_server(argv, f"http://127.0.0.1:{port}/status", folder, {"PYTHONPATH": "lib", "PYTHONDONTWRITEBYTECODE": "1"}):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def alertmanager(relay, tmp_path):
    folder, port = tmp_path / "alertmanager", free_port()
    folder.mkdir()
    route = {"receiver": "relay", "group_by": ["proof"], "group_wait": "0s", "group_interval": "1s"}
    config = {"route": route, "receivers": [{"name": "relay", "webhook_configs": [{"url": f"{relay}/alerts"}]}]}
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    name = shutil.which("prometheus-alertmanager") or "alertmanager"
    argv = [
        name,
        "--config.file=alertmanager.yml",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--storage.path=data",
    ]
    for _ in run_server(argv, f"http://127.0.0.1:{port}/-/ready", folder):
        yield f"http://127.0.0.1:{port}"


def test_each_severity_arrives_and_its_receipt_is_the_evidence(alertmanager, relay, receiver):
    url, _, records = receiver
    found = proof.prove(alertmanager, relay, f"{url}/received?contains={{proof}}", ["critical", "warning", "info"], 20)
    assert [(one["id"], one["status"]) for one in found] == [("alert.channel", "pass"), *[("alert.delivery", "pass")] * 3], found
    assert [one["detail"]["target"] for one in found[1:]] == ["critical", "warning", "info"]
    kept = [json.loads(line)["body"] for line in records.read_text().splitlines()]
    assert sorted(one["severity"] for one in kept if one["event"] == "alertmanager.firing") == ["critical", "info", "warning"]
    assert {one["service"] for one in kept} == {"x"}
    # The proof ends its alerts; the next one is told apart from it.
    until = time.monotonic() + 10
    while not any(json.loads(line)["body"]["event"] == "alertmanager.resolved" for line in records.read_text().splitlines()):
        assert time.monotonic() < until
        time.sleep(0.1)
    again = proof.prove(alertmanager, relay, f"{url}/received?contains={{proof}}", ["info"], 20)
    assert [one["status"] for one in again] == ["pass", "pass"]


def test_a_receiver_that_is_down_is_a_failure_of_both(alertmanager, relay, receiver):
    receiver[1].kill()
    receiver[1].wait()
    found = proof.prove(alertmanager, relay, f"{receiver[0]}/received?contains={{proof}}", ["critical"], 2)
    assert [one["status"] for one in found] == ["fail", "fail"]
    assert "connection refused" in found[0]["reason"]
    assert "did not arrive within 2 s" in found[1]["reason"]
    assert json.loads(answers(f"{relay}/status"))["waiting"] >= 1
    assert b"greenroom_notifications_waiting 1" in answers(f"{relay}/metrics")


def test_without_a_page_to_read_back_nothing_is_proved(alertmanager, relay):
    found = proof.prove(alertmanager, relay, None, ["warning"], 10)
    assert [one["status"] for one in found] == ["pass", "no_evidence"]
    assert "cannot be read back" in found[1]["reason"]


def test_a_channel_that_loses_messages_is_found(alertmanager, relay, receiver):
    found = proof.prove(alertmanager, relay, f"{receiver[0]}/healthz?{{proof}}", ["warning"], 2)
    assert [one["status"] for one in found] == ["pass", "fail"]
    assert "do not hold it" in found[1]["reason"]


def test_an_alertmanager_that_is_down_is_an_error(relay, receiver):
    found = proof.prove("http://127.0.0.1:9", relay, f"{receiver[0]}/received", ["critical", "info"], 2)
    assert [one["status"] for one in found] == ["error"] * 3


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"alerts": 3, "status": "firing"}', b'{"status": "firing", "alerts": [{"labels": {}}]}'])
def test_the_relay_refuses_what_is_no_webhook(relay, body):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{relay}/alerts", body), timeout=5)
    assert refused.value.code == 400


def test_the_api_says_what_it_could_not_do(prometheus):
    with pytest.raises(ApiError, match=r"HTTP 400: .*parse error"):
        prometheus.query("1 +", time.time())
    with pytest.raises(ApiError, match="HTTP 404"):
        prometheus._data("nothing")


# --- whether it all works -------------------------------------------------------------------------------------------------------------


def asked(page, **more):
    rule = {"alert": "Seen", "expr": "steady > 9", "for": "1m", "labels": {"severity": "info"}}
    return {
        "targets": {"page": [{"targets": [f"127.0.0.1:{page.port}"], "labels": {"host": "here"}}]},
        "fresh_s": 30, "rules": {"groups": [{"rules": [rule]}]}, "late_metrics": [], "requirements": {"alert.cpu": "Seen"}, "gaps": [],
        "series": [], "dashboards": {"x.json": [{"title": "Steady", "query": "steady"}]}, "within_s": 0, **more,
    }  # fmt: skip


def statuses(records):
    return {one["id"]: one["status"] for one in records}


def test_a_rule_that_is_not_loaded_is_found(prometheus, page):
    found = inspection.inspect(prometheus, asked(page))
    assert statuses(found) == {"mon.metrics.scraped": "pass", "alert.rules": "fail", "alert.cpu": "fail", "mon.dashboard": "pass"}
    assert "Seen: is not loaded" in found[1]["reason"]


class Loaded(Prometheus):
    """A Prometheus that says it has loaded these rules; the rest of its answers is real."""

    said: tuple = ()

    def rules(self):
        return list(self.said)


def test_a_rule_about_a_metric_that_was_renamed_is_found(prometheus, page):
    client = Loaded(prometheus.url)
    client.said = [{"name": "Seen", "type": "alerting", "health": "ok"}]
    assert set(statuses(inspection.inspect(client, asked(page))).values()) == {"pass"}
    renamed = {"alert": "Seen", "expr": 'rate(renamed{a="b"}[5m]) > 9', "for": "1m", "labels": {"severity": "info"}}
    found = inspection.inspect(client, asked(page, rules={"groups": [{"rules": [renamed]}]}))
    assert (found[1]["status"], found[1]["reason"]) == ("fail", "Seen: there is no renamed")
    late = inspection.inspect(client, asked(page, rules={"groups": [{"rules": [renamed]}]}, late_metrics=["renamed"]))
    assert statuses(late)["alert.rules"] == "pass"
    client.said = [{"name": "Seen", "type": "alerting", "health": "err", "lastError": "many-to-many matching"}]
    found = inspection.inspect(client, asked(page))
    assert "many-to-many matching" in found[1]["reason"]


def test_a_panel_without_data_and_a_watch_over_nothing_are_found(prometheus, page):
    panels = {"x.json": [{"title": "Gone", "query": "renamed"}, {"title": "Odd", "query": "broken"}, {"title": "Wrong", "query": "rate("}]}
    found = inspection.inspect(prometheus, asked(page, dashboards=panels))
    assert "Gone (no data)" in found[-1]["reason"]
    assert "Odd (not a number)" in found[-1]["reason"]
    assert "Wrong (" in found[-1]["reason"]
    assert statuses(inspection.inspect(prometheus, asked(page, targets={})))["mon.metrics.scraped"] == "error"
    nothing = inspection.inspect(prometheus, asked(page, dashboards={}, rules={"groups": []}))
    assert {statuses(nothing)[one] for one in ("alert.rules", "mon.dashboard")} == {"no_evidence"}


def test_the_services_series_are_asked_for(prometheus, page):
    service = {"service": [{"targets": [f"127.0.0.1:{page.port}"], "labels": {"host": "here", "slot": "blue"}}]}
    found = statuses(inspection.inspect(prometheus, asked(page, targets=service)))
    assert (found["mon.metrics.endpoint"], found["mon.metrics.key"]) == ("fail", "no_evidence")
    found = inspection.inspect(prometheus, asked(page, targets=service, series=["steady"]))
    assert "not offered: steady" in found[-1]["reason"]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('100 * (1 - avg by (host) (rate(node_cpu_seconds_total{mode="idle"}[2m])))', {"node_cpu_seconds_total"}),
        ("a:b:c > 1 and on () (time() - max(d) < 24 * 3600)", {"a:b:c", "d"}),
        ("absent(x) or time() - x > 1e6", {"x"}),
        ('(up{job="a b"} == 0) * on (slot) group_left () max by (slot) (live == 1)', {"up", "live"}),
    ],
)
def test_the_metrics_of_an_expression(expression, names):
    assert inspection.metrics_of(expression) == names
