"""Names and command lines of a service's units."""

import pytest
from ansible.module_utils.greenroom import units

SERVICE = {
    "name": "things",
    "processes": [
        {"name": "web", "kind": "web", "command": "uvicorn things:app --port ${PORT}"},
        {"name": "worker", "kind": "worker", "command": "things-worker  -x 100%", "count": 2},
        {"name": "refresh", "kind": "scheduled", "command": "things-cli refresh", "every": "60s"},
    ],
}


def test_the_first_word_is_a_program_of_the_slots_environment():
    assert (
        units.exec_start("things", "things-worker  -x 100% %i")
        == "/opt/things/slots/%i/venv/bin/things-worker -x 100%% %%i"
    )
    assert units.exec_start("things", " web ") == "/opt/things/slots/%i/venv/bin/web"


@pytest.mark.parametrize("command", ["/usr/bin/env python", "../x", '"my program" x', "$X"])
def test_another_program_is_refused(command):
    with pytest.raises(ValueError, match="virtual environment"):
        units.exec_start("things", command)


def test_the_names():
    assert [one["name"] for one in units.process_units(SERVICE)] == [
        "things-web",
        "things-worker",
        "things-worker-2",
        "things-refresh",
    ]
    assert units.web_unit(SERVICE, "green") == "things-web@green.service"
    assert units.background_units(SERVICE, "blue") == [
        "things-worker@blue.service",
        "things-worker-2@blue.service",
        "things-refresh@blue.timer",
    ]
    assert units.all_units(SERVICE, "blue")[-1] == "things-refresh@blue.service"


def test_the_other_slot_keeps_its_units():
    known = {"blue": ["things-old@blue.service"], "green": ["things-older@green.service"]}
    assert units.agent_units(SERVICE, "green", known) == {
        "blue": known["blue"],
        "green": units.background_units(SERVICE, "green"),
    }
    assert units.agent_units(SERVICE, "blue", None)["green"] == []
