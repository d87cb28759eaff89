"""What /health says.

status        "healthy" or "unhealthy", compared as a whole by whoever reads it; HTTP 200 or 503 says the same
dependencies  database and broker decide the status. Feishu is the world outside: if it is away, its own entry says
              "degraded" and the service stays healthy, because restarting or rolling back this service would not mend it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from lark_service import __version__, logs, metrics
from lark_service.broker import Broker, BrokerUnavailable
from lark_service.feishu import FeishuClient
from lark_service.settings import Settings
from lark_service.store import UNAVAILABLE, Store

HEALTHY, UNHEALTHY, DEGRADED = "healthy", "unhealthy", "degraded"
FEISHU_EVERY_S = 15

log = logs.get(__name__)


class Health:
    """Asks the database and the broker when asked; asks Feishu in the background, so that its slowness is not ours."""

    def __init__(self, settings: Settings, store: Store, broker: Broker, feishu: FeishuClient) -> None:
        self._settings = settings
        self._store = store
        self._broker = broker
        self._feishu = feishu
        self._feishu_state: dict[str, Any] = {"status": DEGRADED, "latency_ms": None, "detail": "not asked yet"}
        self._feishu_at = time.monotonic()

    async def report(self) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body) of a health answer. Takes at most some 5 s if everything hangs."""
        database, broker = await asyncio.gather(self._ask(self._store.ping), self._ask(self._broker.ping))
        feishu = {**self._feishu_state, "age_s": round(time.monotonic() - self._feishu_at, 1)}
        dependencies = {"database": database, "broker": broker, "feishu": feishu}
        for name, state in dependencies.items():
            metrics.DEPENDENCY_UP.labels(name).set(state["status"] == HEALTHY)
        healthy = database["status"] == HEALTHY and broker["status"] == HEALTHY
        body = {
            "status": HEALTHY if healthy else UNHEALTHY,
            "service": "lark-service",
            "version": __version__,
            "release": self._settings.greenroom_release,
            "slot": self._settings.greenroom_slot,
            "dependencies": dependencies,
        }
        return (200 if healthy else 503), body

    async def _ask(self, ping: Callable[[], Awaitable[float]]) -> dict[str, Any]:
        try:
            return {"status": HEALTHY, "latency_ms": round(await ping(), 2)}
        except (*UNAVAILABLE, BrokerUnavailable) as error:
            return {"status": UNHEALTHY, "latency_ms": None, "detail": type(error).__name__}
        except Exception as error:  # a refused login, a database that is missing: also a dependency that does not work
            log.warning("dependency_failed", reason=str(error))
            return {"status": UNHEALTHY, "latency_ms": None, "detail": type(error).__name__}

    async def ask_feishu(self) -> None:
        """Asks once whether Feishu can be reached and remembers the answer."""
        started = time.perf_counter()
        reachable = await self._feishu.reachable()
        latency = round((time.perf_counter() - started) * 1000, 2)
        self._feishu_state = (
            {"status": HEALTHY, "latency_ms": latency} if reachable else {"status": DEGRADED, "latency_ms": None, "detail": "unreachable"}
        )
        self._feishu_at = time.monotonic()

    async def watch(self) -> None:
        """Runs for ever: asks Feishu and refreshes the gauges that come from the database."""
        while True:
            await self.ask_feishu()
            try:
                gauges = await self._store.gauges()
            except Exception as error:
                log.debug("gauges_not_read", reason=type(error).__name__)
            else:
                metrics.TOKEN_REMAINING.clear()
                for app_id, kind, left in gauges["tokens"]:
                    metrics.TOKEN_REMAINING.labels(app_id, kind).set(left)
                metrics.MESSAGES.clear()
                for status, count in gauges["messages"].items():
                    metrics.MESSAGES.labels(status).set(count)
            for state, size in self._store.pool_sizes().items():
                metrics.POOL.labels(state).set(size)
            await asyncio.sleep(FEISHU_EVERY_S)
