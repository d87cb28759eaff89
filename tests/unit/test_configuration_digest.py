"""The digest moves with what a release is configured with, and with nothing else."""

from ansible.module_utils.greenroom.configuration_digest import configuration_digest

SERVICE = {"ports": {"blue": 8101, "green": 8102}}


def test_the_configuration_digest_moves_with_configuration_and_units_only(tmp_path):
    (tmp_path / "web.service.j2").write_text("[Service]\n")
    digest = configuration_digest(SERVICE, str(tmp_path))
    assert digest == configuration_digest({**SERVICE, "source": {"ref": "v2"}, "thresholds": {"p95_ms": 1}}, str(tmp_path))
    assert digest != configuration_digest({**SERVICE, "ports": {"blue": 1, "green": 2}}, str(tmp_path))
    (tmp_path / "web.service.j2").write_text("[Service]\nNice=5\n")
    assert digest != configuration_digest(SERVICE, str(tmp_path))
