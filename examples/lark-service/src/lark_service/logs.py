"""One JSON object a line on standard output, with the request's id and with secrets masked."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import orjson
import structlog

from lark_service import __version__

MASK = "***"
_SECRET_KEY = re.compile(r"secret|token$|access_token|password|authorization|api_?key|encryption_?key|credential", re.IGNORECASE)
_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")


class Masker:
    """A structlog processor: hides values under telling keys, values known to be secret, bearer tokens, passwords in URLs."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = list(secrets)

    def __call__(self, _logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        return {key: self._clean(key, value) for key, value in event.items()}

    def _clean(self, key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: self._clean(str(k), v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean(key, v) for v in value]
        if isinstance(value, str | bytes) and _SECRET_KEY.search(key):
            return MASK
        if isinstance(value, str):
            return self.text(value)
        return value

    def text(self, value: str) -> str:
        """`value` with every known secret replaced."""
        for secret in self._secrets:
            value = value.replace(secret, MASK)
        return _URL_PASSWORD.sub(rf"\1:{MASK}@", _BEARER.sub(f"Bearer {MASK}", value))


def _dumps(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def configure(level: str, *, secrets: Iterable[str] = (), release: str = "", slot: str = "", stream: TextIO | None = None) -> None:
    """Sends structlog's and the standard library's records (uvicorn, aio-pika) through the same JSON lines.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        secrets: values that are replaced wherever they appear.
        release, slot: stated on every line, so that lines of two slots can be told apart.
        stream: standard output unless given (the CLI logs to standard error, its output is for machines).
    """

    def identity(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.update(service="lark-service", version=__version__, release=release, slot=slot)
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        identity,
    ]
    tail: list[Any] = [structlog.processors.format_exc_info, Masker(secrets)]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *tail,
                structlog.processors.JSONRenderer(serializer=_dumps),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "aiormq", "aio_pika", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    for own in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(own).handlers.clear()
        logging.getLogger(own).propagate = own != "uvicorn.access"


def get(name: str) -> Any:
    """A structlog logger called `name`."""
    return structlog.stdlib.get_logger(name)
