"""Signatures of manifests with an ed25519 key of SSH (`ssh-keygen -Y`): no library, no format of our own, readable public keys."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from .errors import BackupError
from .pipeline import explain, run

NAMESPACE = "greenroom-backup"


def sign(content: bytes, key_file: str | Path, namespace: str = NAMESPACE) -> bytes:
    """The armoured signature of `content`. Raises BackupError if the key cannot be used (missing, mode not 0600, with a passphrase)."""
    advice = f"The signing key {key_file} must exist, without passphrase, with mode 0600, and be this user's"
    return run("ssh-keygen", "-Y", "sign", "-q", "-f", str(key_file), "-n", namespace, input=content, timeout_s=30, advice=advice).stdout


def verify(content: bytes, signature: bytes, *, allowed_signers_file: str | Path, signer: str, namespace: str = NAMESPACE) -> None:
    """Raise BackupError unless `signature` is one of `content` by a key that the file lists for `signer`."""
    if not Path(allowed_signers_file).is_file():
        raise BackupError(f"{allowed_signers_file}: no list of keys that may sign. The role db_backup writes it: deploy this host again")
    with tempfile.NamedTemporaryFile(prefix="greenroom-", suffix=".sig") as file:
        file.write(signature)
        file.flush()
        arguments = ["-Y", "verify", "-f", str(allowed_signers_file), "-I", signer, "-n", namespace, "-s", file.name]
        done = subprocess.run(["ssh-keygen", *arguments], input=content, capture_output=True, timeout=30, check=False)
    if done.returncode:
        said = explain("ssh-keygen", done.returncode, (done.stderr + b" " + done.stdout).decode(errors="replace"))
        raise BackupError(
            f"the signature does not fit: the manifest was changed, or signed by a key that {allowed_signers_file} lacks ({said})"
        )
