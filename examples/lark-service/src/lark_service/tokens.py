"""Access tokens: obtained when needed, refreshed before they end, by one process at a time.

The lock is the application's row: whoever asks while another process talks to Feishu waits for it and takes its result;
the scheduled refresher passes over rows that are locked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lark_service import logs
from lark_service.feishu import FeishuClient, FeishuError, InvalidToken
from lark_service.store import Store, StoredToken

USABLE_S = 30  # a token with less than this left is not handed out: it could end on the way

log = logs.get(__name__)


@dataclass
class RefreshResult:
    """What one run of the refresher did. `failed` holds (app_id, kind, reason)."""

    refreshed: list[StoredToken] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)


class Tokens:
    """Tokens of registered applications."""

    def __init__(self, store: Store, feishu: FeishuClient, margin_s: int) -> None:
        self._store = store
        self._feishu = feishu
        self._margin_s = margin_s

    async def obtain(self, app_id: str, kind: str = "tenant", *, force: bool = False) -> tuple[StoredToken, str]:
        """A token that can be used now, and where it came from: "store" or "feishu". `force` asks Feishu in any case.

        Raises:
            NotFound, AppDisabled, and what `FeishuClient.issue_token` raises.
        """
        before = await self._store.token(app_id, kind)
        if before and before.app_enabled and before.remaining_s > USABLE_S and not force:
            return before, "store"
        async with self._store.connection() as db, db.transaction():
            secret = await self._store.locked_app(db, app_id)
            now = await self._store.token(app_id, kind, db)
            if now and now.remaining_s > USABLE_S and now.refreshes != (before.refreshes if before else -1):
                return now, "store"  # another process was faster
            return await self._issue(db, app_id, kind, secret), "feishu"

    async def refresh_due(self) -> RefreshResult:
        """Refreshes every token that ends within the margin, and obtains the first one of applications that have none.
        One application's failure does not keep the others from being refreshed."""
        result = RefreshResult()
        seen: list[str] = []
        while True:
            async with self._store.connection() as db, db.transaction():
                due = await self._store.next_due(db, self._margin_s, seen)
                if due is None:
                    return result
                app_id, kind, secret = due
                seen.append(f"{app_id}/{kind}")
                # The search for what is due saw the tokens as they were before the lock was had; another process may have been faster.
                current = await self._store.token(app_id, kind, db)
                if current and current.remaining_s >= self._margin_s:
                    continue
                try:
                    result.refreshed.append(await self._issue(db, app_id, kind, secret))
                except FeishuError as error:
                    log.error("token_refresh_failed", app_id=app_id, kind=kind, code=error.code, reason=str(error))
                    result.failed.append((app_id, kind, str(error)))

    async def send_with_token(self, app_id: str, receive_id_type: str, receive_id: str, text: str, uuid: str) -> str:
        """Sends a text message; a token that Feishu no longer accepts is replaced once. Returns Feishu's message id."""
        token, _ = await self.obtain(app_id)
        try:
            return await self._feishu.send_text(token.value, receive_id_type, receive_id, text, uuid)
        except InvalidToken:
            log.warning("token_not_accepted", app_id=app_id, kind=token.kind)
            token, _ = await self.obtain(app_id, force=True)
            return await self._feishu.send_text(token.value, receive_id_type, receive_id, text, uuid)

    async def _issue(self, db: object, app_id: str, kind: str, secret: str) -> StoredToken:
        issued = await self._feishu.issue_token(app_id, secret, kind)
        token = await self._store.save_token(db, app_id, kind, issued.value, issued.expires_in)
        log.info(
            "token_stored", app_id=app_id, kind=kind, expires_in_s=issued.expires_in, length=len(issued.value), refreshes=token.refreshes
        )
        return token
