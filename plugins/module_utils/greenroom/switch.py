"""The one switch: a directory in which exactly one file, `blue` or `green`, says which slot users reach.

The gateway looks for the file at every request, so a flip is one rename: no reload, no dropped connection, and it
survives a reboot. It fails closed: no file, both files or an unreadable directory mean the maintenance page.
Standard library only.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .durable import fsync_dir

SLOTS = ("blue", "green")


class SwitchError(Exception):
    """The switch cannot be read or moved; the text names the path, what users see, and what to do."""


def other(slot: str) -> str:
    """The slot that is not `slot`."""
    return "green" if slot == "blue" else "blue"


class Switch:
    """The switch directory, e.g. `/etc/greenroom/<service>/switch`: root's, 0755, not under /run."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)

    def ensure(self) -> bool:
        """Make the directory (0755) if it is absent; True if it was made.

        Raises SwitchError if it is a symlink or no directory, lies under /run (a reboot would empty it), or others may write into it.
        """
        made = False
        if str(self.directory).startswith(("/run/", "/var/run/", "/dev/shm/")):
            raise SwitchError(f"{self.directory}: lies in memory and would be empty after a reboot. Use a folder under /etc/greenroom.")
        if not os.path.lexists(self.directory):
            self.directory.mkdir(mode=0o755, parents=True)
            self.directory.chmod(0o755)  # mkdir's mode is cut by the umask
            fsync_dir(self.directory.parent)
            made = True
        self._inspect()
        return made

    def _inspect(self) -> set[str]:
        """Names of the slots' files. Raises SwitchError when the directory cannot be trusted."""
        try:
            about = os.lstat(self.directory)
            if not stat.S_ISDIR(about.st_mode):
                raise SwitchError(f"{self.directory}: is not a directory. Users see the maintenance page; remove it and deploy again.")
            if stat.S_IMODE(about.st_mode) & 0o022:
                raise SwitchError(
                    f"{self.directory}: mode {stat.S_IMODE(about.st_mode):04o} lets others move the switch. "
                    f"Next: chown root:root {self.directory}; chmod 0755 {self.directory}"
                )
            if about.st_uid not in (0, os.geteuid()):
                raise SwitchError(f"{self.directory}: belongs to uid {about.st_uid}, not to root. Next: chown root:root {self.directory}")
            return {name for name in os.listdir(self.directory) if name in SLOTS}
        except FileNotFoundError as error:
            raise SwitchError(f"{self.directory}: does not exist. Users see the maintenance page; the gateway role makes it.") from error
        except OSError as error:
            raise SwitchError(f"{self.directory}: cannot be read ({error.strerror}). Users see the maintenance page.") from error

    def read(self) -> str | None:
        """`blue`, `green`, or None (closed: maintenance page; also before the first deploy, when the directory is absent).

        Raises SwitchError when both files exist (the gateway stays closed) or the directory cannot be trusted.
        """
        if not os.path.lexists(self.directory):
            return None
        found = self._inspect()
        if len(found) > 1:
            raise SwitchError(
                f"{self.directory}: both blue and green exist, so the gateway stays closed. "
                f"Remove the one that must not serve, e.g. `rm {self.directory}/green`, and look at `greenroom status`; or run with "
                "-e run_adopt=true, which leaves the one that the state says is live."
            )
        return found.pop() if found else None

    def repair(self, slot: str) -> None:
        """Of two files leave `slot`'s; without any make it. Raises SwitchError."""
        self.ensure()
        if len(self._inspect()) > 1:
            os.unlink(self.directory / other(slot))
            fsync_dir(self.directory)
        self.flip(slot)

    def flip(self, slot: str | None) -> bool:
        """Point the switch at `slot` (None closes it); True if it moved.

        One rename, then fsync of the directory: whoever looks for blue, then green, then blue again finds one at every moment.

        Raises SwitchError; the switch then stands where it stood, and the text says where that is.
        """
        if slot is not None and slot not in SLOTS:
            raise SwitchError(f"there is no slot {slot!r}; one of blue, green")
        current = self.read()
        if current == slot:
            return False
        try:
            self.ensure()
            if slot is None:
                os.unlink(self.directory / current)
            elif current is None:
                os.close(os.open(self.directory / slot, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            else:
                os.rename(self.directory / current, self.directory / slot)
            fsync_dir(self.directory)
        except OSError as error:
            # The rename may have happened and its fsync not: say what is true now, not what was meant.
            raise SwitchError(
                f"{self.directory}: could not move from {current or 'closed'} to {slot or 'closed'} for good ({error.strerror}); "
                f"users are on {self.read() or 'the maintenance page'}. Make the file system writable, then try again."
            ) from error
        return True
