"""Notifications: one webhook writer with templates, a spool, and bounded retries.

A message is written into the spool first (one small file, fsynced) and delivered from there, now or by the next flush: a channel that is
down, slow or refuses never changes an outcome, never hides the first error and loses nothing. The address is a secret: it stands in a file
of root's and in no text that leaves this file. What is announced is a verified result; saying it early is the caller's mistake.
Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from . import env_file
from .durable import DurableError, locked, write_atomic
from .masking import masked, secret_parts
from .probes.base import Context, ProbeError, network_problem
from .probes.client import ARGS, request
from .state import utc

SEVERITIES = ("info", "warning", "critical")
KEPT = 1000  # messages in the spool; the oldest make room
ANSWER_SHOWN = 200  # characters of a channel's refusal


class NotifyError(Exception):
    """The channel's configuration cannot be used; the text names the file and what to do."""


def message(event: str, severity: str, title: str, text: str, **facts: object) -> dict:
    """One message: what happened (`event`, a dotted word), how bad (one of SEVERITIES), one line, a few lines, and facts by name."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity!r} is none of {', '.join(SEVERITIES)}")
    return {
        "id": secrets.token_hex(8), "at": utc(), "event": event, "severity": severity, "title": title, "text": text,
        "facts": {name: value for name, value in facts.items() if value is not None},
    }  # fmt: skip


def as_text(one: dict) -> str:
    """A message for people: severity and title, text, one line a fact."""
    head = f"[{one['severity'].upper()}] {one['title']}"
    return "\n".join([head, *filter(None, [one["text"]]), *(f"{name}: {value}" for name, value in one["facts"].items())])


def _generic(one: dict, _secret: str | None) -> dict:
    return one


def _slack(one: dict, _secret: str | None) -> dict:
    return {"text": as_text(one).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}


def _feishu(one: dict, secret: str | None) -> dict:
    """A custom bot's text. With a signing secret: base64(HMAC-SHA256(key = seconds + line break + secret, nothing))."""
    body: dict = {"msg_type": "text", "content": {"text": as_text(one)}}
    if secret:
        seconds = str(int(time.time()))
        key = f"{seconds}\n{secret}".encode()
        body |= {"timestamp": seconds, "sign": base64.b64encode(hmac.new(key, b"", hashlib.sha256).digest()).decode()}
    return body


def _accepted(_body: bytes) -> str | None:
    return None


def _accepted_by_feishu(body: bytes) -> str | None:
    """Such a bot refuses with HTTP 200 and a code in the body; None if it took the message."""
    try:
        said = json.loads(body)
        code = said.get("code", said.get("StatusCode"))
    except (ValueError, AttributeError):
        return "answered with something else than JSON"
    return None if code == 0 else f"refused with code {code}: {str(said.get('msg', ''))[:ANSWER_SHOWN]}"


# {template: (message and signing secret -> JSON body, answer's body -> why it was refused or None)}
TEMPLATES: dict[str, tuple[Callable[[dict, str | None], dict], Callable[[bytes], str | None]]] = {
    "generic": (_generic, _accepted),
    "slack": (_slack, _accepted),
    "feishu": (_feishu, _accepted_by_feishu),
}


def load_config(path: str | os.PathLike) -> dict:
    """The channel: {service, environment, spool, template, url, secret, timeout_s, give_up_s, ca_file}; url None: no channel.

    `secrets_file` names an env file with NOTIFY_URL and NOTIFY_SECRET. Raises NotifyError; its text holds no value of a file.
    """
    try:
        config = json.loads(Path(path).read_bytes())
        required = {"service": str, "environment": str, "spool": str, "template": str, "timeout_s": (int, float), "give_up_s": (int, float)}
        wrong = [key for key, kind in required.items() if not isinstance(config.get(key), kind)]
    except (OSError, ValueError, AttributeError) as error:
        why = getattr(error, "strerror", None) or "no JSON object"
        raise NotifyError(f"{path}: cannot be read ({why}). The role guard writes it: run deploy.yml --tags prepare.") from error
    if wrong or config["template"] not in TEMPLATES:
        raise NotifyError(
            f"{path}: {', '.join(wrong) or 'template'} is not as it must be. The role guard writes it: deploy.yml --tags prepare."
        )
    config = {"url": None, "secret": None, "ca_file": None, **config}
    if config.get("secrets_file"):
        entries, problems = env_file.load(config["secrets_file"])
        if problems:
            raise NotifyError("; ".join(map(str, problems)))
        found = {entry.key: entry.value for entry in entries}
        config |= {"url": found.get("NOTIFY_URL"), "secret": found.get("NOTIFY_SECRET")}
    return config


class Outbox:
    """The spool of one service's channel. Nothing here raises for what the channel, the network or the disk do."""

    def __init__(self, config: dict):
        self.config = config
        self.spool = Path(config["spool"])
        self._secrets = secret_parts([value for value in (config["url"], config["secret"]) if value])
        if config["url"]:  # the path is the credential of a webhook
            self._secrets += [part for part in urlsplit(config["url"]).path.split("/") if len(part) >= 6]

    def put(self, one: dict) -> str | None:
        """Keep a message until it is delivered; None, or why it could not be kept. Without a channel nothing is kept."""
        if not self.config["url"]:
            return None
        try:
            self.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            waiting = self._waiting()
            for old in waiting[: max(0, len(waiting) - KEPT + 1)]:
                old.unlink(missing_ok=True)
            about = {**one, "service": self.config["service"], "environment": self.config["environment"]}
            text = json.dumps({"first_at": time.time(), "message": about}, ensure_ascii=False, default=str)
            write_atomic(self.spool / f"{time.time_ns():020d}-{one['id']}.json", text.encode(), 0o600)
        except OSError as error:
            return f"{self.spool}: the message {one['event']} cannot be kept ({error.strerror}). Make room, or make it writable."
        return None

    def _waiting(self) -> list[Path]:
        return sorted(self.spool.glob("[0-9]*-*.json"))

    def flush(self, budget_s: float = 10.0) -> dict:
        """Deliver what waits, oldest first, within `budget_s` seconds; stops at the first failure, for the next would fail as well.

        Returns {sent, waiting, dropped, problem}: counts, and why something waits (without the address) or None. A message that waited
        longer than `give_up_s` is dropped, and counted. One flush at a time: a second one finds nothing to do.
        """
        sent = dropped = 0
        problem = None
        if not self.config["url"] or not self._waiting():
            return {"sent": 0, "waiting": 0, "dropped": 0, "problem": None}
        deadline = time.monotonic() + budget_s
        with contextlib.suppress(DurableError), locked(self.spool / ".lock", 0):
            for file in self._waiting():
                left = deadline - time.monotonic()
                if left <= 0:
                    problem = f"no time left within {budget_s:g} s"
                    break
                try:
                    kept = json.loads(file.read_bytes())
                    late = time.time() - kept["first_at"] > self.config["give_up_s"]
                    problem = self._deliver(kept["message"], min(left, self.config["timeout_s"]))
                except (OSError, ValueError, KeyError, TypeError):
                    late, problem = True, f"{file}: cannot be read"
                if problem is None:
                    sent += 1
                elif late:
                    dropped += 1
                else:
                    break
                with contextlib.suppress(OSError):
                    file.unlink()
        return {"sent": sent, "waiting": len(self._waiting()), "dropped": dropped, "problem": problem}

    def _deliver(self, one: dict, timeout_s: float) -> str | None:
        """Send one message; None, or why it was not taken. A whole exchange ends within `timeout_s`."""
        make, refused = TEMPLATES[self.config["template"]]
        args = {key: spec.default for key, spec in ARGS.items()}
        args |= {
            "url": self.config["url"],
            "method": "POST",
            "ca_file": self.config["ca_file"],
            "headers": {"Content-Type": "application/json"},
        }
        body = json.dumps(make(one, self.config["secret"]), ensure_ascii=False, default=str).encode()
        try:
            answer = request(args, Context(timeout_s), body)
        except (OSError, http.client.HTTPException, ProbeError, ValueError) as error:
            why = str(error) if isinstance(error, ProbeError) else network_problem(error, timeout_s)
        else:
            why = refused(answer.body) if 200 <= answer.status < 300 else f"answered HTTP {answer.status}"
        return why and masked(f"the channel at {urlsplit(self.config['url']).hostname}: {why}", self._secrets)


def announce(config_path: str | os.PathLike, one: dict | None, budget_s: float = 10.0) -> dict:
    """Keep one message (None: no new one) and deliver what waits: {sent, waiting, dropped, problem}.

    Never raises for the channel; a problem is a text to show beside the outcome.
    """
    try:
        outbox = Outbox(load_config(config_path))
    except NotifyError as error:
        return {"sent": 0, "waiting": 0, "dropped": 0, "problem": str(error)}
    kept = outbox.put(one) if one else None
    done = outbox.flush(budget_s)
    return {**done, "problem": kept or done["problem"]}
