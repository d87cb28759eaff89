"""Load on the read routes, for `locust --headless`.

    LARK_API_KEY      the service's API_KEY
    LARK_APP_ID       a registered application
    LARK_USERS        how many different users are asked for (default 200; they come from Feishu once, then from the cache)

No think time: the profile is limited by the number of users given with -u. Any answer that is not 200 with "ok": true is a failure.
"""

import os
import random

from locust import FastHttpUser, constant, task

APP_ID = os.environ["LARK_APP_ID"]
USERS = int(os.environ.get("LARK_USERS", "200"))


class Reader(FastHttpUser):
    """A caller that reads users, sometimes the list of applications."""

    wait_time = constant(0)
    default_headers = {"X-API-Key": os.environ["LARK_API_KEY"]}  # noqa: RUF012  (locust's own way)

    @task(20)
    def user(self) -> None:
        """The cached read route."""
        self._get(f"/v1/users/{APP_ID}/ou_load{random.randrange(USERS):05d}", "/v1/users/{app_id}/{open_id}")

    @task(1)
    def apps(self) -> None:
        """A list."""
        self._get("/v1/apps", "/v1/apps")

    def _get(self, path: str, name: str) -> None:
        with self.client.get(path, name=name, catch_response=True) as answer:
            body = answer.json() if answer.status_code == 200 else {}
            if body.get("ok") is not True:
                answer.failure(f"HTTP {answer.status_code}")
