"""What a host tells beside its exporters: certificates, waiting logs, the live slot, and when users were taken back."""

import datetime
import json
import subprocess

import pytest
from ansible.module_utils.greenroom.monitoring import host_metrics
from ansible.module_utils.greenroom.probes.metrics import parse
from ansible.module_utils.greenroom.state import empty


@pytest.fixture
def certificate(tmp_path):
    file = tmp_path / "host.crt"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", tmp_path / "k"]
    subprocess.run(["openssl", "req", "-x509", *key, "-days", "30", "-subj", "/CN=x", "-out", file], check=True, capture_output=True)
    return file


@pytest.fixture
def config(tmp_path, certificate):
    (tmp_path / "spool").mkdir()
    (tmp_path / "state").mkdir()
    return {"certificates": [str(certificate), "/nonexistent.crt"], "spool": str(tmp_path / "spool"), "service": "x",
            "state": str(tmp_path / "state"), "page": str(tmp_path / "page.prom")}  # fmt: skip


def values(config, now=1000.0):
    return {(name, *labels.values()): value for name, labels, value in parse(host_metrics.page(config, now))}


def test_certificates_end_and_one_that_cannot_be_read_has_ended(config, certificate):
    found = values(config)
    left = found["greenroom_certificate_not_after_timestamp_seconds", str(certificate)] - datetime.datetime.now(datetime.UTC).timestamp()
    assert 29 * 86400 < left <= 30 * 86400
    assert found["greenroom_certificate_not_after_timestamp_seconds", "/nonexistent.crt"] == 0.0
    assert found["greenroom_host_last_look_timestamp_seconds",] == 1000.0


def test_waiting_logs_are_counted_without_the_notes_beside_them(config, tmp_path):
    assert values(config)["greenroom_log_spool_bytes",] == 0.0
    for name, size in (("greenroom-logs.00000001", 2000), ("greenroom-logs.qi", 50), ("imjournal.state", 70)):
        (tmp_path / "spool" / name).write_bytes(b"x" * size)
    assert values(config)["greenroom_log_spool_bytes",] == 2000.0


def write(config, monkeypatch, live, ledger):
    monkeypatch.setattr(host_metrics, "read_state", lambda _path, _service: {**empty("x"), "live": live})
    lines = [json.dumps({"action": "switched", "release": release, "at": at}) for release, at in ledger]
    with open(f"{config['state']}/ledger.jsonl", "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + '\n{"cut')


def test_before_the_first_deploy_there_is_nothing(config):
    assert not [key for key in values(config) if key[0] == "greenroom_slot_live"]


def test_the_live_slot_and_release(config, monkeypatch):
    write(
        config,
        monkeypatch,
        {"slot": "green", "number": 4, "version": "1.2.0"},
        [("3-1.1.0", "2026-01-01T00:00:00Z"), ("4-1.2.0", "2026-01-02T00:00:00Z")],
    )
    found = values(config)
    assert (found["greenroom_slot_live", "blue"], found["greenroom_slot_live", "green"]) == (0.0, 1.0)
    assert found["greenroom_release_info", "4-1.2.0", "1.2.0"] == 1.0
    assert found["greenroom_last_switch_timestamp_seconds",] == datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC).timestamp()
    assert ("greenroom_last_rollback_timestamp_seconds",) not in found


def test_a_switch_to_a_lower_number_is_a_rollback_whoever_did_it(config, monkeypatch):
    ledger = [
        ("4-1.2.0", "2026-01-02T00:00:00Z"),
        ("3-1.1.0", "2026-01-03T00:00:00Z"),
        (None, "2026-01-04T00:00:00Z"),
        ("3-1.1.0", "2026-01-05T00:00:00Z"),
    ]
    write(config, monkeypatch, {"slot": "blue", "number": 3, "version": "1.1.0"}, ledger)
    found = values(config)
    assert found["greenroom_last_rollback_timestamp_seconds",] == datetime.datetime(2026, 1, 3, tzinfo=datetime.UTC).timestamp()
    assert found["greenroom_last_switch_timestamp_seconds",] == datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC).timestamp()


def test_a_state_that_was_edited_gives_nothing(config):
    with open(f"{config['state']}/state.json", "w", encoding="utf-8") as file:
        file.write('{"service": "x"}')
    assert not [key for key in values(config) if key[0] == "greenroom_slot_live"]


def test_the_page_is_written(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert host_metrics.main(["--config", str(tmp_path / "config.json")]) == 0
    assert "greenroom_log_spool_bytes 0.0" in (tmp_path / "page.prom").read_text()
