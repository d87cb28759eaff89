"""All configuration, from environment variables and nowhere else.

A process that cannot be configured does not start: `load()` raises `ConfigurationError` naming each key that is missing or wrong.
No message contains a value, because any of them may be a secret. Every variable is described in `env.template`.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

EX_CONFIG = 78  # sysexits.h: the configuration is at fault, starting again will not help
LOOPBACK = {"", "localhost", "127.0.0.1", "::1"}


class ConfigurationError(Exception):
    """The environment does not describe a service that can run. The message names keys and reasons, never values."""


class Settings(BaseSettings):
    """The environment, checked. Field `database_url` is the variable DATABASE_URL, and so on. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="", extra="ignore", hide_input_in_errors=True, frozen=True)

    database_url: SecretStr
    broker_url: SecretStr
    broker_ca_file: str = ""
    encryption_key: SecretStr = Field(min_length=32)
    api_key: SecretStr = Field(min_length=32)
    feishu_base_url: str

    port: int | None = Field(default=None, ge=1, le=65535)
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    listen_address: str = "0.0.0.0"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    pool_max: int = Field(default=10, ge=1, le=100)
    # Feishu hands out a new token only when the old one has less than 30 minutes left, so a greater margin could never be satisfied.
    token_refresh_margin_s: int = Field(default=600, ge=30, le=1800)
    feishu_timeout_s: float = Field(default=5.0, gt=0, le=60)
    user_cache_ttl_s: int = Field(default=86400, ge=1)
    message_attempts_max: int = Field(default=6, ge=1, le=20)
    drain_deadline_s: int = Field(default=25, ge=1, le=600)

    greenroom_release: str = "unreleased"
    greenroom_version: str = ""
    greenroom_slot: str = "none"

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr) -> SecretStr:
        url = urlsplit(value.get_secret_value())
        if url.scheme not in ("postgresql", "postgres") or not url.path.strip("/"):
            raise ValueError("must look like postgresql://user:password@host:5432/database?sslmode=verify-full&sslrootcert=/path/ca.crt")
        if (url.hostname or "") not in LOOPBACK and parse_qs(url.query).get("sslmode") != ["verify-full"]:
            raise ValueError("must say sslmode=verify-full: the database is on another host")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker_url(cls, value: SecretStr) -> SecretStr:
        url = urlsplit(value.get_secret_value())
        if url.scheme not in ("amqp", "amqps"):
            raise ValueError("must look like amqps://user:password@host:5671/%2Fvhost")
        if url.scheme == "amqp" and (url.hostname or "") not in LOOPBACK:
            raise ValueError("must be amqps://: the broker is on another host")
        return value

    @field_validator("feishu_base_url")
    @classmethod
    def _feishu_base_url(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be an http(s) address such as https://open.feishu.cn")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _ca_file_for_tls(self) -> Settings:
        if self.broker_url.get_secret_value().startswith("amqps://") and not self.broker_ca_file:
            raise ValueError("BROKER_CA_FILE is missing: BROKER_URL is amqps:// and its certificate has to be verified")
        return self

    def secret_values(self) -> list[str]:
        """Every value that must not show up in a log line, longest first (passwords inside the URLs included)."""
        values = {s.get_secret_value() for s in (self.database_url, self.broker_url, self.encryption_key, self.api_key)}
        values |= {urlsplit(s.get_secret_value()).password or "" for s in (self.database_url, self.broker_url)}
        return sorted((v for v in values if len(v) >= 8), key=len, reverse=True)


def load() -> Settings:
    """Reads the environment.

    Raises:
        ConfigurationError: naming every key that is missing or malformed and why; never a value.
    """
    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        problems = []
        for item in error.errors(include_input=False, include_url=False):
            key = ".".join(str(part) for part in item["loc"]).upper()
            reason = "is missing" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
            problems.append(f"{key}: {reason}" if key else reason)
        raise ConfigurationError("configuration refused: " + "; ".join(problems) + " (see env.template)") from None
