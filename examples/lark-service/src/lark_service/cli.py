"""`lark-service-cli`: what a person or a deployment does with the service.

Secrets come on standard input, never as an argument (arguments are visible to every user of the host and stay in the shell's history);
no command prints a secret or a token. With --json each command writes exactly one JSON object to standard output, also when it fails.

Exit status: 0 done, 1 something does not work (a dependency, an unexpected error), 2 wrong usage, 3 not found,
4 in conflict with what is there (exists with other content, disabled), 5 refused by Feishu, 78 the configuration is refused.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import orjson
import typer

from lark_service import __version__, logs
from lark_service import template as env_template
from lark_service.broker import UNAVAILABLE as BROKER_UNAVAILABLE
from lark_service.broker import BrokerUnavailable
from lark_service.feishu import CredentialsRefused, FeishuError, FeishuUnreachable, RateLimited
from lark_service.messages import NewMessage
from lark_service.services import Services
from lark_service.settings import EX_CONFIG, ConfigurationError, Settings, load
from lark_service.store import UNAVAILABLE, AlreadyExists, AppDisabled, NotFound

FAILED, NOT_FOUND, CONFLICT, REFUSED = 1, 3, 4, 5
_APP_ID = re.compile(r"cli_[A-Za-z0-9]{4,60}")

cli = typer.Typer(help="Manage Lark Service.", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
apps = typer.Typer(help="Registered Feishu applications.", no_args_is_help=True)
tokens = typer.Typer(help="Access tokens.", no_args_is_help=True)
messages = typer.Typer(help="Messages.", no_args_is_help=True)
cli.add_typer(apps, name="app")
cli.add_typer(tokens, name="token")
cli.add_typer(tokens, name="tokens", hidden=True)
cli.add_typer(messages, name="message")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
AppId = Annotated[str, typer.Argument(help="App ID as Feishu shows it, cli_…")]
Work = Callable[[Services], Awaitable[tuple[dict[str, Any], str]]]


class Unsuccessful(Exception):
    """A command that ran and whose answer is no: `body` says why."""

    def __init__(self, status: int, body: dict[str, Any], text: str) -> None:
        super().__init__(text)
        self.status = status
        self.body = body


def _services() -> Services:
    """Separate, so that tests can put their own in."""
    settings = load()
    logs.configure(
        "WARNING", secrets=settings.secret_values(), release=settings.greenroom_release, slot=settings.greenroom_slot, stream=sys.stderr
    )
    return Services(settings)


def _fail(as_json: bool, status: int, code: str, text: str, body: dict[str, Any] | None = None) -> NoReturn:
    if as_json:
        _print_json({"ok": False, **(body or {}), "error": {"code": code, "message": text}})
    print(f"lark-service-cli: {text}", file=sys.stderr)
    raise typer.Exit(status)


def _print_json(body: dict[str, Any]) -> None:
    print(orjson.dumps(body, default=str).decode())


def _run(work: Work, as_json: bool, *, broker: bool = False) -> None:
    """Opens the services, does `work`, prints what it returns, and turns each kind of failure into its exit status."""

    async def inner() -> tuple[dict[str, Any], str]:
        services = _services()
        await services.store.open()
        try:
            if broker:
                await services.broker.connect()
            return await work(services)
        finally:
            await services.close()

    try:
        body, text = asyncio.run(inner())
    except ConfigurationError as error:
        _fail(as_json, EX_CONFIG, "configuration", str(error))
    except Unsuccessful as error:
        _fail(as_json, error.status, "unsuccessful", str(error), error.body)
    except NotFound as error:
        _fail(as_json, NOT_FOUND, "not_found", str(error))
    except (AlreadyExists, AppDisabled) as error:
        _fail(as_json, CONFLICT, "conflict", str(error))
    except (RateLimited, FeishuUnreachable) as error:
        _fail(as_json, FAILED, "feishu_unavailable", str(error))
    except FeishuError as error:
        code = "credentials_refused" if isinstance(error, CredentialsRefused) else "feishu_refused"
        _fail(as_json, REFUSED, code, str(error), {"feishu_code": error.code})
    except (BrokerUnavailable, *BROKER_UNAVAILABLE, *UNAVAILABLE) as error:
        what = "the broker does not work" if isinstance(error, BrokerUnavailable) else "the database or the broker cannot be reached"
        _fail(as_json, FAILED, "dependency", f"{what}: {type(error).__name__}")
    except Exception as error:
        # A driver's message may quote a value; its type and SQLSTATE are enough to find it.
        _fail(as_json, FAILED, "unexpected", f"{type(error).__name__} {getattr(error, 'sqlstate', '')}".strip())
    if as_json:
        _print_json({"ok": True, **body})
    else:
        print(text)


def _secret_from_stdin() -> str:
    if sys.stdin.isatty():
        print("App Secret (on standard input, end with Enter): ", end="", file=sys.stderr, flush=True)
    secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise typer.BadParameter("no secret on standard input")
    return secret


@apps.command("add")
def app_add(
    app_id: AppId,
    name: Annotated[str, typer.Option(help="A name for people.")],
    update: Annotated[bool, typer.Option(help="Replace name and secret of an application that is registered.")] = False,
    as_json: Json = False,
) -> None:
    """Register an application; its App Secret is read from standard input. The same name and secret again change nothing."""
    if not _APP_ID.fullmatch(app_id):
        raise typer.BadParameter("an App ID looks like cli_ followed by letters and digits")
    secret = _secret_from_stdin()

    async def work(services: Services) -> tuple[dict[str, Any], str]:
        changed = await services.store.add_app(app_id, name, secret, update=update)
        return {"app_id": app_id, "changed": changed}, f"{app_id}: {'registered' if changed else 'unchanged'}"

    _run(work, as_json)


@apps.command("list")
def app_list(as_json: Json = False) -> None:
    """All registered applications."""

    async def work(services: Services) -> tuple[dict[str, Any], str]:
        found = await services.store.apps()
        lines = [f"{app.app_id}  {'enabled ' if app.enabled else 'disabled'}  {app.name}" for app in found]
        return {"apps": [app.public() for app in found], "count": len(found)}, "\n".join(lines) or "no application is registered"

    _run(work, as_json)


@apps.command("show")
def app_show(app_id: AppId, as_json: Json = False) -> None:
    """One application; exit status 3 if it is not registered."""

    async def work(services: Services) -> tuple[dict[str, Any], str]:
        app = await services.store.app(app_id)
        return app.public(), f"{app.app_id}  {'enabled' if app.enabled else 'disabled'}  {app.name}"

    _run(work, as_json)


@apps.command("verify")
def app_verify(app_id: AppId, as_json: Json = False) -> None:
    """Ask Feishu whether the stored App ID and App Secret are right; exit status 5 if not. Stores nothing."""

    async def work(services: Services) -> tuple[dict[str, Any], str]:
        async with services.store.connection() as db, db.transaction():
            secret = await services.store.locked_app(db, app_id)
        issued = await services.feishu.issue_token(app_id, secret)
        return {"app_id": app_id, "expires_in_s": issued.expires_in}, f"{app_id}: credentials accepted by Feishu"

    _run(work, as_json)


def _switch(app_id: str, enabled: bool, as_json: bool) -> None:
    async def work(services: Services) -> tuple[dict[str, Any], str]:
        changed = await services.store.set_enabled(app_id, enabled)
        state = "enabled" if enabled else "disabled"
        return {"app_id": app_id, "enabled": enabled, "changed": changed}, f"{app_id}: {state}{'' if changed else ' (it was before)'}"

    _run(work, as_json)


@apps.command("enable")
def app_enable(app_id: AppId, as_json: Json = False) -> None:
    """Switch an application on."""
    _switch(app_id, True, as_json)


@apps.command("disable")
def app_disable(app_id: AppId, as_json: Json = False) -> None:
    """Switch an application off: no tokens, no messages."""
    _switch(app_id, False, as_json)


@tokens.command("obtain")
def token_obtain(app_id: AppId, kind: Annotated[str, typer.Option(help="tenant or app")] = "tenant", as_json: Json = False) -> None:
    """Make sure that there is a token that can be used now, and say how long it is and when it ends. Never prints it."""
    if kind not in ("tenant", "app"):
        raise typer.BadParameter("kind is tenant or app")

    async def work(services: Services) -> tuple[dict[str, Any], str]:
        token, source = await services.tokens.obtain(app_id, kind)
        body = {**token.public(), "source": source}
        return body, f"{app_id}: {kind} token of {body['length']} characters, valid for {body['expires_in_s']} s (from {source})"

    _run(work, as_json)


@tokens.command("refresh")
def token_refresh(
    app_id: Annotated[str, typer.Argument(help="Only this application, and now, due or not.")] = "",
    as_json: Json = False,
) -> None:
    """Refresh every token that is due (the scheduled process), or one application's now. Also removes old sign-in sessions.

    For one application, `changed` says whether Feishu gave another token: it gives the same one while more than 30 minutes are left.
    """

    async def one(services: Services) -> tuple[dict[str, Any], str]:
        before = await services.store.token(app_id, "tenant")
        token, _ = await services.tokens.obtain(app_id, force=True)
        changed = before is None or before.value != token.value
        body = {**token.public(), "changed": changed}
        return body, f"{app_id}: valid for {body['expires_in_s']} s ({'a new token' if changed else 'the same token'})"

    async def due(services: Services) -> tuple[dict[str, Any], str]:
        result = await services.tokens.refresh_due()
        pruned = await services.store.prune_sessions()
        failed = [{"app_id": app, "kind": kind, "reason": reason} for app, kind, reason in result.failed]
        refreshed = [token.public() for token in result.refreshed]
        body = {"refreshed": len(refreshed), "tokens": refreshed, "failed": failed, "sessions_removed": pruned}
        if failed:
            raise Unsuccessful(FAILED, body, "; ".join(f"{item['app_id']}: {item['reason']}" for item in failed))
        return body, f"{len(refreshed)} refreshed, {pruned} old sessions removed"

    _run(one if app_id else due, as_json)


@messages.command("send")
def message_send(
    app_id: AppId,
    to: Annotated[str, typer.Option(help="The recipient's id.")],
    text: Annotated[str, typer.Option(help="The text.")],
    to_type: Annotated[str, typer.Option(help="open_id, user_id, union_id, email or chat_id")] = "open_id",
    direct: Annotated[bool, typer.Option("--direct", help="Send it from here, without queue and worker.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait until the worker has sent it; 0 does not wait.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Queue a message; with --wait, exit status 1 if it was not sent in that time; --direct does without the worker."""
    try:
        new = NewMessage(receive_id_type=to_type, receive_id=to, text=text)  # type: ignore[arg-type]
    except ValueError:
        raise typer.BadParameter("recipient, its type or text are not acceptable (see --help)") from None

    async def at_once(services: Services) -> tuple[dict[str, Any], str]:
        feishu_id = await services.tokens.send_with_token(app_id, new.receive_id_type, new.receive_id, new.text, str(uuid.uuid4()))
        return {"app_id": app_id, "status": "sent", "feishu_message_id": feishu_id}, f"sent: {feishu_id}"

    async def queued(services: Services) -> tuple[dict[str, Any], str]:
        message_id = await services.messages.accept(app_id, new, request_id=f"cli-{uuid.uuid4().hex[:12]}")
        state: dict[str, Any] = {"id": str(message_id), "status": "queued"}
        end = time.monotonic() + wait
        while time.monotonic() < end:
            state = await services.messages.get(message_id)
            if state["status"] in ("sent", "failed"):
                break
            await asyncio.sleep(0.2)
        if state["status"] == "failed" or (wait and state["status"] != "sent"):
            raise Unsuccessful(FAILED, state, f"message {message_id} is {state['status']}: {state.get('error') or 'not sent in time'}")
        return state, f"{message_id}: {state['status']}"

    _run(at_once if direct else queued, as_json, broker=not direct)


@cli.command("check")
def check(as_json: Json = False) -> None:
    """Ask every dependency; exit status 1 if database or broker do not work, or Feishu cannot be reached."""

    async def work(services: Services) -> tuple[dict[str, Any], str]:
        with suppress(*BROKER_UNAVAILABLE):  # the report says so
            await services.broker.connect()
        await services.health.ask_feishu()
        status, body = await services.health.report()
        lines = [f"{name}: {state['status']}" for name, state in body["dependencies"].items()]
        if status != 200 or any(state["status"] != "healthy" for state in body["dependencies"].values()):
            raise Unsuccessful(FAILED, body, ", ".join(lines))
        return body, "\n".join(lines)

    _run(work, as_json)


@cli.command("template")
def template(
    check: Annotated[bool, typer.Option("--check", help="Compare it with the variables that this version reads.")] = False,
    as_json: Json = False,
) -> None:
    """Print the environment template of this version; with --check say whether it describes every variable. Needs no environment."""
    content = env_template.text()
    found = env_template.problems(content) if check else []
    if found:
        _fail(as_json, FAILED, "template", "; ".join(found), {"problems": found})
    if as_json:
        _print_json({"ok": True, "variables": len(Settings.model_fields), **({} if check else {"template": content})})
    else:
        print("complete" if check else content)


@cli.command("version")
def version() -> None:
    """The version of this package."""
    print(__version__)


def main() -> None:
    """Entry point of `lark-service-cli`."""
    cli()


if __name__ == "__main__":
    main()
