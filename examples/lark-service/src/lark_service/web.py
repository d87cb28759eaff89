"""The web process: `lark-service-web`. Listens on PORT (API) and METRICS_PORT (/metrics), stops on SIGTERM after what it has begun."""

from __future__ import annotations

import sys

import uvicorn

from lark_service import logs, metrics
from lark_service.api import create_app
from lark_service.services import Services
from lark_service.settings import EX_CONFIG, ConfigurationError, load


def main() -> None:
    """Runs until SIGTERM. Exit status 78 if the configuration is refused."""
    try:
        settings = load()
        if settings.port is None:
            raise ConfigurationError("configuration refused: PORT: is missing (see env.template)")
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        sys.exit(EX_CONFIG)
    logs.configure(settings.log_level, secrets=settings.secret_values(), release=settings.greenroom_release, slot=settings.greenroom_slot)
    if settings.metrics_port:
        metrics.serve(settings.metrics_port, settings.listen_address, release=settings.greenroom_release, slot=settings.greenroom_slot)
    uvicorn.run(
        create_app(Services(settings)),
        host=settings.listen_address,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        # The gateway keeps connections to us open and must be the one who closes them.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.drain_deadline_s,
    )


if __name__ == "__main__":
    main()
