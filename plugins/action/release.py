"""Action of the module `release`: before state `leased`, takes the lease over a channel that lives as long as this ansible-playbook."""

from __future__ import annotations

import getpass
import os
import socket
from pathlib import Path

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

_LIBRARY = str(Path(__file__).resolve().parents[1] / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:  # Ansible ships the library to hosts; on the control node nobody adds it for an action
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.greenroom import lease_keeper

# Of its own: the connection that Ansible shares among its tasks is closed and opened as Ansible likes.
OWN_CHANNEL = ["-o", "ControlMaster=no", "-o", "ControlPath=none"]


class ActionModule(ActionBase):
    """All other states run the module, and nothing else."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        told = {}
        if arguments.get("state") == "leased" and not self._task.check_mode:
            told = self._hold(arguments, task_vars or {})
            if "refused" in told:
                return {**result, "failed": True, "msg": told["refused"], "greenroom_exit": told["exit_status"], "holder": told["holder"]}
            arguments["fencing"] = told["fencing"]
        done = self._execute_module(module_args=arguments, task_vars=task_vars)
        return {**result, **done, **({"taken_over": told.get("taken_over")} if told else {})}

    def _hold(self, arguments: dict, task_vars: dict) -> dict:
        """The gateway's answer: {fencing, taken_over} or {refused, holder, exit_status}."""
        service = arguments["service"]
        request = {
            "service": service,
            "directory": arguments.get("directory") or f"/var/lib/greenroom/{service}",
            "switch": arguments.get("switch") or f"/etc/greenroom/{service}/switch",
            "owner": f"{getpass.getuser()}@{socket.gethostname()}",
            "pid": lease_keeper.control_process(),
            "wait_s": float(arguments.get("wait_s") or 0),
            "again": None,
            **{key: arguments.get(key) for key in ("run_id", "version", "step")},
        }
        host_vars = task_vars.get("ansible_delegated_vars", {}).get(self._task.delegate_to, task_vars)
        python = self._templar.template(host_vars.get("ansible_python_interpreter") or "/usr/bin/python3")
        argv, first = self._channel(lease_keeper.remote_command(python))
        return lease_keeper.start(argv, first, request, request["pid"])

    def _channel(self, command: str) -> tuple[list[str], str]:
        """(command line that runs `command` on the host as the task would, what it must read first), by the connection's own options."""
        connection, first = self._connection, ""
        if connection.become:
            first = connection.become.get_option("become_pass", playcontext=self._play_context) or ""
            command = connection.become.build_become_command(command, connection._shell)
        if connection.transport == "local":
            return ["/bin/sh", "-c", command], first and first + "\n"
        if connection.transport != "ssh":
            raise AnsibleActionFail(f"the lease needs a connection by ssh to the gateway, not by {connection.transport}")
        if connection.get_option("password"):
            raise AnsibleActionFail(
                "the lease needs a key for the gateway: with a password its channel could not be made again when it breaks"
            )
        host = connection.get_option("host") or self._play_context.remote_addr
        words = [os.fsdecode(word) for word in connection._build_command(connection.get_option("ssh_executable"), "ssh", host, command)]
        return [words[0], *OWN_CHANNEL, *words[1:]], first and first + "\n"
