"""Makes the project's library importable as Ansible ships it: `ansible.module_utils.greenroom`."""

from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))
