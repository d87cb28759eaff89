"""Tokens come from the store while they can be used, from Feishu otherwise, and are refreshed before they end."""

import httpx
import pytest

from lark_service.feishu import CredentialsRefused
from lark_service.store import AppDisabled, NotFound

from .conftest import APP


async def test_first_from_feishu_then_from_the_store(registered, feishu):
    first, source = await registered.tokens.obtain(APP)
    assert (source, first.public()["length"], first.refreshes) == ("feishu", len("t-token-number-1"), 0)
    again, source = await registered.tokens.obtain(APP)
    assert (source, again.value) == ("store", first.value)
    assert first.value not in repr(first)
    assert first.value not in str(first.public())


async def test_a_token_about_to_end_is_not_handed_out(registered, feishu):
    feishu.expire = 20
    await registered.tokens.obtain(APP)
    _, source = await registered.tokens.obtain(APP)
    assert (source, feishu.issued) == ("feishu", 2)


async def test_disabled_unknown_and_refused(registered, feishu):
    await registered.tokens.obtain(APP)
    await registered.store.set_enabled(APP, False)
    with pytest.raises(AppDisabled):
        await registered.tokens.obtain(APP)
    with pytest.raises(NotFound):
        await registered.tokens.obtain("cli_unknown")
    await registered.store.add_app(APP, "Example", "another secret", update=True)
    with pytest.raises(CredentialsRefused):
        await registered.tokens.obtain(APP, force=True)


async def test_refresh_takes_what_is_due_once(registered, feishu):
    assert [t.app_id for t in (await registered.tokens.refresh_due()).refreshed] == [APP]
    assert (await registered.tokens.refresh_due()).refreshed == []
    feishu.expire = 300
    await registered.tokens.obtain(APP, force=True)
    result = await registered.tokens.refresh_due()
    assert [t.refreshes for t in result.refreshed] == [2]


async def test_one_failure_does_not_stop_the_others(registered, feishu):
    await registered.store.add_app("cli_aaaa0001", "Wrong", "wrong secret")
    result = await registered.tokens.refresh_due()
    assert [t.app_id for t in result.refreshed] == [APP]
    assert [(app, kind) for app, kind, _ in result.failed] == [("cli_aaaa0001", "tenant")]
    assert "10014" in result.failed[0][2]


async def test_a_token_that_is_not_accepted_is_replaced_once(registered, feishu):
    await registered.tokens.obtain(APP)
    feishu.answers = [httpx.Response(400, json={"code": 99991663, "msg": "Invalid access token"})]
    assert await registered.tokens.send_with_token(APP, "open_id", "ou_1", "hello", "u1") == "om_1"
    assert feishu.issued == 2
