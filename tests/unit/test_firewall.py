"""firewall: listings are compared without what changes by itself. Loading and going back are tried on hosts (molecule host_base)."""

import json

import pytest
from ansible.module_utils.greenroom import firewall


def listing(*, handle=1, packets=0, comment="dropped", version="1.0.6"):
    rule = {"family": "inet", "table": "greenroom", "chain": "input", "handle": handle, "comment": comment,
            "expr": [{"counter": {"packets": packets, "bytes": packets * 60}}]}  # fmt: skip
    table = {"family": "inet", "name": "greenroom", "handle": handle}
    return json.dumps({"nftables": [{"metainfo": {"version": version}}, {"table": table}, {"rule": rule}]})


def test_counters_handles_and_version_are_no_difference():
    assert firewall.plain(listing()) == firewall.plain(listing(handle=7, packets=99, version="1.1"))


def test_another_rule_is_a_difference():
    assert firewall.as_text(firewall.plain(listing())) != firewall.as_text(firewall.plain(listing(comment="let in")))
    assert firewall.as_text(None) == ""


def test_a_host_without_nft_is_an_error_not_a_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(firewall.FirewallError, match="not installed"):
        firewall.loaded()
    record = firewall.measure(tmp_path / "firewall.nft", "table inet greenroom {}")
    assert (record["id"], record["status"]) == ("prep.network.firewall", "error")
