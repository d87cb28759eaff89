"""All filters of the project: functions of the library, with their errors as Ansible shows them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import ansible.module_utils
from ansible.errors import AnsibleFilterError

_LIBRARY = str(Path(__file__).resolve().parents[1] / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:  # Ansible ships the library to hosts; on the control node nobody adds it for a filter
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.greenroom import (
    catalogue,
    check_plan,
    configuration_digest,
    env_file,
    observation_plan,
    preflight_plan,
    rabbitmq_password,
    rollback,
    scratch,
    topology,
    units,
)
from ansible.module_utils.greenroom.backup import keys
from ansible.module_utils.greenroom.monitoring import inspection, rules, targets


def _filter(name: str, function: Callable) -> Callable:
    """`function` as the filter `name`: what is wrong with which key or host, never a value of a secret."""

    @functools.wraps(function)
    def called(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except KeyError as error:
            raise AnsibleFilterError(f"{name}: there is no {error}") from None
        except (ValueError, OSError) as error:
            raise AnsibleFilterError(f"{name}: {error}") from None

    return called


FUNCTIONS = {
    # {{ groups['all'] | host_addresses(hostvars) | resolved_addresses }}, {{ groups | addresses_of(addresses, 'app', 'gateway') }}
    "host_addresses": topology.host_addresses,
    "resolved_addresses": topology.resolved,
    "addresses_of": topology.addresses_of,
    # {{ contract | firewall_rules(groups, addresses, inventory_hostname) }}
    "firewall_rules": topology.firewall_rules,
    "firewall_probes": topology.firewall_probes,
    # {{ service | exporters_of(groups, inventory_hostname) }}, {{ service | scrape_targets(groups, addresses) }}
    "exporters_of": topology.exporters_of,
    "scrape_targets": targets.scrape_targets,
    "probe_targets": targets.probe_targets,
    # {{ data | alert_rules(service, groups, 'docs/alerts.md') }}, {{ service | threshold_gaps }}
    "alert_rules": rules.alert_rules,
    "threshold_gaps": rules.threshold_gaps,
    # {{ paths | fitting_dashboards(service, groups) }}
    "fitting_dashboards": inspection.dashboards,
    # {{ contract | preflight_host_probes(groups, inventory_hostname, settings, secrets, now) }}
    "preflight_host_probes": preflight_plan.host_probes,
    # {{ contract | preflight_control_probes(groups, settings) }}, {{ contract | dependency_probes(groups, addresses, secrets, 5) }}
    "preflight_control_probes": preflight_plan.control_probes,
    "dependency_probes": preflight_plan.dependency_probes,
    # {{ {host: result} | preflight_blockers }}, {{ {host: result} | wheel_target }}
    "wheel_target": preflight_plan.wheel_target,
    "preflight_blockers": preflight_plan.blockers,
    # {{ contract | not_applicable(paths of the catalogues) }}
    "not_applicable": catalogue.not_applicable_in,
    # {{ contract | configuration_digest(folder of the unit templates) }}
    "configuration_digest": configuration_digest.configuration_digest,
    # {{ values | env_file_sha256('Made by …') }}
    "env_file_sha256": env_file.rendered_sha256,
    # {{ password | rabbitmq_password(hash the broker has) }}
    "rabbitmq_password": rabbitmq_password.rabbitmq_password,
    # {{ service | process_units }}, {{ service | web_unit('blue') }}, {{ service | agent_units('blue', known) }}
    "process_units": units.process_units,
    "web_unit": units.web_unit,
    "background_units": units.background_units,
    "all_units": units.all_units,
    "agent_units": units.agent_units,
    # {{ service | slot_probes('blue', {'version': '1.2.0', 'release': '3-1.2.0'}) }}
    "start_probes": check_plan.start_probes,
    "slot_probes": check_plan.slot_probes,
    "system_probes": check_plan.system_probes,
    # {{ service | gateway_probes(release, '10.0.0.11', '/etc/greenroom/ca.crt') }}
    "gateway_probes": check_plan.gateway_probes,
    "configure_steps": check_plan.configure_steps,
    "cli_probes": check_plan.cli_probes,
    "worker_probes": check_plan.worker_probes,
    "log_probes": check_plan.log_probes,
    "server_log_probes": check_plan.server_log_probes,
    "slot_runner": check_plan.runner,
    # {{ manifest | schema_way(current, target) }}
    "schema_way": rollback.schema_way,
    # {{ run_id | run_started }}
    "run_started": check_plan.run_started,
    # {{ service | observation_config('3-1.2.0', 'http://127.0.0.1:9090', globs, folder) }}
    "observation_config": observation_plan.config,
    # {{ vault_db_backup_identity | age_recipient }}, {{ none | new_age_identity }}
    "age_recipient": keys.recipient_of,
    "new_age_identity": keys.new_identity,
    # {{ service.name | scratch_names(run_id) }}, {{ service | scratch_environment(vault_service_env, names) }}
    "scratch_names": scratch.names,
    "scratch_environment": scratch.environment,
}


class FilterModule:
    """The filters, as Ansible finds them."""

    def filters(self) -> dict:
        """{name: function}."""
        return {name: _filter(name, function) for name, function in FUNCTIONS.items()}
