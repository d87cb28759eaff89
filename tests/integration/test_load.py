"""Load tests with a real locust against a real server that is healthy, slow, failing or hanging, and with a generator that is ill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import load_judge, load_samples
from ansible.module_utils.greenroom.load_judge import FIGURES

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from load_fixtures import Generator, explain, server


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch):
    """Where other tests run beside it, a generator wakes late; tests of that check take its real limits back (`undo`)."""
    monkeypatch.setattr(load_judge, "LAG_MS", 1e9)
    monkeypatch.setattr(load_judge, "SENT_SHARE", 0.2)
    return monkeypatch


def test_a_healthy_service_passes_and_every_request_is_accounted_for(tmp_path):
    with server() as url:
        generator = Generator(tmp_path, url)
        generator.wait_for(1)
        seen = load_samples.progress(tmp_path / "run/out", generator.profile)
        result = generator.judged()
    assert result["verdict"] == "pass", explain(result)
    assert {one["status"] for one in result["evidence"].values()} == {"pass"}
    assert seen["of"] == 6 and "users" in seen["text"]
    figures = result["figures"]
    told = json.loads((tmp_path / "run/out" / f"seconds-{generator.senders()[0]}.jsonl").read_text().splitlines()[-1])
    assert told["ended"] and told["names"] == ["/"]
    assert figures["samples"] == figures["names"]["/"]["samples"] > 1000 and figures["failed"] == 0
    assert figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert sum(second["rps"] for second in figures["series"][1:6]) == pytest.approx(figures["rps"] * 5, rel=0.1)
    assert (tmp_path / "run/out/locust.html").stat().st_size > 10_000


@pytest.mark.parametrize(("fails", "percent"), [(2, 0.2), (60, 6)])
def test_errors_above_the_limit_fail(tmp_path, fails, percent):
    with server(fails=fails) as url:
        result = Generator(tmp_path, url).judged()
    assert result["verdict"] == "fail", explain(result)
    record = result["evidence"]["load.error_rate"]
    assert record["status"] == "fail" and record["observed"] == pytest.approx(percent, rel=0.5)
    assert "requests failed" in record["reason"] and "500" in record["reason"]
    assert result["evidence"]["load.p95"]["status"] == "pass"
    assert result["evidence"]["load.baseline"]["status"] == "no_evidence"


def test_a_slow_service_fails_by_latency_and_throughput(tmp_path):
    with server(slow_s=0.25) as url:
        result = Generator(tmp_path, url).judged({"p95_ms": 200})
    assert result["verdict"] == "fail", explain(result)
    assert result["evidence"]["load.p95"]["observed"] >= 250
    assert {result["evidence"][id]["status"] for id in ("load.p95", "load.throughput")} == {"fail"}
    assert result["evidence"]["load.error_rate"]["status"] == "no_evidence", "too few requests to show 0.1 %"


@pytest.mark.parametrize("user", ["FastHttpUser", "HttpUser"])
def test_a_hanging_service_fails_and_its_requests_are_seen(tmp_path, user):
    with server(hang=True) as url:
        result = Generator(tmp_path, url, user=user).judged()
    assert result["verdict"] == "fail", explain(result)
    assert result["figures"]["samples"] >= 12 and result["figures"]["error_percent"] == 100
    assert {result["evidence"][id]["status"] for id in FIGURES} == {"fail"}


def test_a_service_that_is_away_fails(tmp_path):
    with server() as url:
        pass
    result = Generator(tmp_path, url).judged()
    assert result["verdict"] == "fail", explain(result)
    assert result["figures"]["error_percent"] == 100


@pytest.mark.parametrize("whole", [False, True])
def test_a_generator_that_is_killed_is_invalid(tmp_path, whole):
    with server() as url:
        generator = Generator(tmp_path, url)
        generator.wait_for(200)
        if whole:
            os.killpg(generator.process.pid, signal.SIGKILL)
        else:
            os.kill(generator.senders()[0], signal.SIGKILL)
        result = generator.judged()
    assert result["verdict"] == "invalid", explain(result)
    assert "did not live to the end" in "; ".join(result["invalid"])
    assert result["evidence"]["load.executed"]["status"] == "error"
    assert {result["evidence"][id]["status"] for id in FIGURES} == {"no_evidence"}


def test_a_generator_that_is_starved_is_invalid(tmp_path, busy_machine):
    busy_machine.undo()
    with server() as url:  # each task keeps its process busy for longer than the pace leaves it
        result = Generator(tmp_path, url, before="sum(range(600_000))", processes=1).judged()
    assert result["verdict"] == "invalid", explain(result)
    assert any(words in "; ".join(result["invalid"]) for words in ("late (P95)", "of a core", "were sent"))


def test_a_generator_that_stood_still_is_invalid(tmp_path):
    with server() as url:
        generator = Generator(tmp_path, url)
        generator.wait_for(200)
        pid = generator.senders()[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            generator.process.wait(3)
        except subprocess.TimeoutExpired:
            os.kill(pid, signal.SIGCONT)
        result = generator.judged()
    assert result["verdict"] == "invalid", explain(result)
    assert any(words in "; ".join(result["invalid"]) for words in ("stood still for", "was seen in"))


def test_a_locust_file_that_breaks_is_invalid(tmp_path):
    with server() as url:
        result = Generator(tmp_path, url, before="raise KeyError('nothing')").judged()
    assert result["verdict"] == "invalid", explain(result)
    assert "the locust file raised" in "; ".join(result["invalid"]) and "KeyError" in "; ".join(result["invalid"])


def test_a_load_without_samples_of_the_hosts_does_not_pass(tmp_path):
    with server() as url:
        result = Generator(tmp_path, url).judged(hosts={})
    assert result["verdict"] == "no_evidence", explain(result)
    assert {result["evidence"][id]["status"] for id in ("load.cpu", "load.memory")} == {"no_evidence"}
