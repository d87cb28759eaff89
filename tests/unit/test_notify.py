"""Notifications against a real HTTP channel on loopback: taken, refused, down, slow; nothing is lost, nothing raised, no address shown."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time

import pytest
from ansible.module_utils.greenroom.notify import KEPT, NotifyError, Outbox, announce, as_text, load_config, message

TOKEN = "T0KEN-4f8a91c7"
SECRET = "sign-9d2b7c55"


class Channel:
    """Answers POSTs with `answer` (status, body) after `delay_s`; keeps what it got."""

    def __init__(self):
        self.got, self.answer, self.delay_s = [], (200, b"ok"), 0.0
        channel = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(channel.delay_s)
                channel.got.append((self.path, json.loads(body)))
                self.send_response(channel.answer[0])
                self.end_headers()
                self.wfile.write(channel.answer[1])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/{TOKEN}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def channel():
    made = Channel()
    yield made
    made.close()


@pytest.fixture
def config(tmp_path, channel):
    return {
        "service": "svc", "environment": "test", "spool": str(tmp_path / "spool"), "template": "generic", "timeout_s": 2, "give_up_s": 3600,
        "url": channel.url, "secret": None, "ca_file": None,
    }  # fmt: skip


def one(**facts):
    return message("guard.rolled_back", "critical", "svc went back to 1.0.0", "4 health checks in a row failed", **facts)


def written(tmp_path, config):
    path = tmp_path / "notify.json"
    path.write_text(json.dumps(config))
    return path


def test_a_message_arrives_whole(tmp_path, config, channel):
    done = announce(written(tmp_path, config), one(release="2-1.1.0", nothing=None))
    assert done == {"sent": 1, "waiting": 0, "dropped": 0, "problem": None}
    path, body = channel.got[0]
    assert path == f"/hook/{TOKEN}"
    assert body["event"] == "guard.rolled_back" and body["service"] == "svc" and body["environment"] == "test"
    assert body["facts"] == {"release": "2-1.1.0"}


def test_slack_gets_its_form(config, channel):
    outbox = Outbox({**config, "template": "slack"})
    outbox.put(message("a.b", "warning", "R&D <svc>", "text", host="app1"))
    assert outbox.flush()["sent"] == 1
    assert channel.got[0][1] == {"text": "[WARNING] R&amp;D &lt;svc&gt;\ntext\nhost: app1"}


def test_a_bot_gets_its_form_signed_and_its_refusal_is_seen_behind_the_200(config, channel):
    outbox = Outbox({**config, "template": "feishu", "secret": SECRET})
    outbox.put(one())
    channel.answer = (200, b'{"code": 19021, "msg": "sign match fail"}')
    refused = outbox.flush()
    assert refused["sent"] == 0 and refused["waiting"] == 1 and "19021" in refused["problem"]
    channel.answer = (200, b"<html>")
    assert "else than JSON" in outbox.flush()["problem"]
    channel.answer = (200, b'{"StatusCode": 0}')
    assert outbox.flush()["sent"] == 1
    body = channel.got[-1][1]
    assert body["msg_type"] == "text" and body["content"]["text"].startswith("[CRITICAL] svc went back")
    wanted = hmac.new(f"{body['timestamp']}\n{SECRET}".encode(), b"", hashlib.sha256).digest()
    assert body["sign"] == base64.b64encode(wanted).decode()


@pytest.mark.parametrize("status", [301, 404, 429, 500])
def test_what_is_not_taken_waits_and_arrives_later_in_order(config, channel, status):
    outbox = Outbox(config)
    channel.answer = (status, b"no")
    for number in range(3):
        outbox.put(one(number=number))
    refused = outbox.flush()
    assert (refused["sent"], refused["waiting"]) == (0, 3) and f"HTTP {status}" in refused["problem"]
    assert len(channel.got) == 1, "the first failure ends the flush: the others would meet the same"
    channel.answer = (204, b"")
    assert outbox.flush() == {"sent": 3, "waiting": 0, "dropped": 0, "problem": None}
    assert [body["facts"]["number"] for _path, body in channel.got[1:]] == [0, 1, 2]


def test_a_channel_that_hangs_costs_its_time_limit_and_no_more(config, channel):
    channel.delay_s = 3
    outbox = Outbox({**config, "timeout_s": 0.3})
    outbox.put(one())
    began = time.monotonic()
    done = outbox.flush()
    assert time.monotonic() - began < 2
    assert done["waiting"] == 1 and "no answer within 0.3 s" in done["problem"]


def test_a_channel_that_is_down_loses_nothing_and_raises_nothing(tmp_path, config, channel):
    channel.close()
    done = announce(written(tmp_path, config), one())
    assert done["waiting"] == 1 and "connection refused" in done["problem"]
    made = Channel()
    try:
        assert announce(written(tmp_path, {**config, "url": made.url}), one())["sent"] == 2
    finally:
        made.close()


def test_a_message_is_given_up_after_its_time_and_counted(config, channel):
    channel.answer = (500, b"")
    outbox = Outbox({**config, "give_up_s": 0})
    outbox.put(one())
    assert outbox.flush()["dropped"] == 1
    assert outbox.flush() == {"sent": 0, "waiting": 0, "dropped": 0, "problem": None}


def test_the_spool_is_bounded_and_the_newest_stay(config, monkeypatch):
    monkeypatch.setattr("ansible.module_utils.greenroom.notify.KEPT", 5)
    outbox = Outbox(config)
    for number in range(9):
        outbox.put(one(number=number))
    kept = [json.loads(file.read_bytes())["message"]["facts"]["number"] for file in outbox._waiting()]
    assert kept == [4, 5, 6, 7, 8] and KEPT >= 100


def test_a_file_that_was_cut_does_not_hold_up_the_others(config, channel):
    outbox = Outbox(config)
    outbox.put(one())
    outbox.spool.joinpath("0-cut.json").write_text('{"first_at": 1')
    assert outbox.flush()["sent"] == 1
    assert len(channel.got) == 1


def test_a_spool_that_cannot_be_written_is_said_and_no_more(tmp_path, config):
    (tmp_path / "spool").write_text("a file is in the way")
    done = announce(written(tmp_path, config), one())
    assert "cannot be kept" in done["problem"] and done["sent"] == 0


def test_without_a_channel_nothing_is_kept(tmp_path, config):
    assert announce(written(tmp_path, {**config, "url": None}), one())["problem"] is None
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize("answer", [(500, b""), (200, b'{"code": 1, "msg": "token ' + TOKEN.encode() + b'"}')])
def test_the_address_and_the_secret_are_in_no_text(config, channel, answer):
    channel.answer = answer
    outbox = Outbox({**config, "template": "feishu", "secret": SECRET})
    outbox.put(one())
    shown = json.dumps(outbox.flush())
    assert TOKEN not in shown and SECRET not in shown and "127.0.0.1" in shown


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"service": 1, "url": "http://x/' + TOKEN + '"}'])
def test_a_configuration_that_is_wrong_names_the_file_and_no_value(tmp_path, text):
    path = tmp_path / "notify.json"
    path.write_text(text)
    with pytest.raises(NotifyError) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and TOKEN not in str(caught.value)
    assert announce(path, one())["problem"] == str(caught.value)
    with pytest.raises(NotifyError, match="cannot be read"):
        load_config(tmp_path / "absent.json")


def test_a_severity_is_one_of_three_and_texts_are_for_people():
    with pytest.raises(ValueError, match="severity"):
        message("a", "loud", "b", "c")
    assert as_text(message("a", "info", "b", "", x=1)) == "[INFO] b\nx: 1"


def test_address_and_secret_lie_in_a_file_of_their_own(tmp_path, config, channel):
    secrets_file = tmp_path / "notify.env"
    secrets_file.write_text(f'NOTIFY_URL="{channel.url}"\nNOTIFY_SECRET={SECRET}\n')
    apart = {**{key: value for key, value in config.items() if key not in ("url", "secret")}, "secrets_file": str(secrets_file)}
    assert announce(written(tmp_path, apart), one())["sent"] == 1
    assert load_config(written(tmp_path, apart))["secret"] == SECRET
    secrets_file.write_text(f"NOTIFY_URL {channel.url}\n")
    problem = announce(written(tmp_path, apart), one())["problem"]
    assert str(secrets_file) in problem and TOKEN not in problem
