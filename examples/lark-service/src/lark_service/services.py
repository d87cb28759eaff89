"""The parts of the service, put together once for web, worker and CLI; the latter two need no web framework for it."""

from __future__ import annotations

from lark_service.broker import Broker
from lark_service.feishu import FeishuClient
from lark_service.health import Health
from lark_service.messages import Messages
from lark_service.settings import Settings
from lark_service.store import Store
from lark_service.tokens import Tokens


class Services:
    """The parts that requests, messages and commands use. Tests put their own in."""

    def __init__(
        self, settings: Settings, store: Store | None = None, broker: Broker | None = None, feishu: FeishuClient | None = None
    ) -> None:
        self.settings = settings
        self.store = store or Store(settings)
        self.broker = broker or Broker(settings)
        self.feishu = feishu or FeishuClient(settings.feishu_base_url, settings.feishu_timeout_s)
        self.tokens = Tokens(self.store, self.feishu, settings.token_refresh_margin_s)
        self.messages = Messages(self.store, self.broker)
        self.health = Health(settings, self.store, self.broker, self.feishu)

    async def open(self) -> None:
        """Opens what can be opened; nothing here fails because a dependency is away."""
        await self.store.open()
        self.broker.start()

    async def close(self) -> None:
        """Closes everything, the database last."""
        await self.broker.close()
        await self.feishu.close()
        await self.store.close()
