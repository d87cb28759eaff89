"""A folder as one sealed file and back: tar -> zstd -> age. age authenticates every chunk and the end, so a cut or changed file is refused.

Sealing needs only the public recipients; opening needs the identity file, which lies on the restore host alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from .errors import BackupError, NoSpaceError, no_space
from .pipeline import Children, run

BLOCK = 1 << 20
LEVEL = 1  # of zstd; on this kind of data higher ones cost time and win a few percent
RECIPIENT = re.compile(r"age1[0-9a-z]{58}")
HEADER = b"age-encryption.org/v1\n"


def key_id(recipient: str) -> str:
    """A short name of a public key (16 hex digits) for manifests."""
    return hashlib.sha256(recipient.encode()).hexdigest()[:16]


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise BackupError unless there is at least one and each is a public key of age."""
    if not recipients:
        raise BackupError("no recipient to seal for: give age's public key (age1…) in seal.recipients")
    for one in recipients:
        if not RECIPIENT.fullmatch(one):
            kind = "a private key (give the public half, age1…)" if one.startswith("AGE-SECRET-KEY") else "no public key of age (age1…)"
            raise BackupError(f"seal.recipients holds {kind}")


class _Pump(threading.Thread):
    """Runs a function aside; `join` raises what it raised."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self.function, self.error = function, None
        self.start()

    def run(self) -> None:
        try:
            self.function()
        except BaseException as error:
            self.error = error

    def result(self) -> None:
        self.join()
        if self.error is not None:
            raise self.error


def pack(folder: Path, target: Path, recipients: Sequence[str], level: int = LEVEL, threads: int = 2) -> dict:
    """Write `folder` sealed into `target` (synced, not renamed).

    {size, sha256, plain_size, plain_sha256}: of the sealed file, and of what age sealed (the compressed archive).
    Raises BackupError, NoSpaceError; `target` may be left half written then.
    """
    import zstandard

    check_recipients(recipients)
    plain, sealed = _Sum(), _Sum()
    arguments = [word for one in recipients for word in ("-r", one)]
    try:
        with open(target, "xb") as output, Children() as children:
            os.fchmod(output.fileno(), 0o600)
            tar = children.start("tar", "-C", str(folder), "--sort=name", "--numeric-owner", "-cf", "-", ".", stdout=subprocess.PIPE)
            age = children.start("age", "-e", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

            def collect() -> None:
                while block := age.stdout.read(BLOCK):
                    sealed.add(block)
                    output.write(block)

            collector = _Pump(collect)
            compressor = zstandard.ZstdCompressor(level=level, threads=threads, write_checksum=True).compressobj()
            try:
                while block := tar.stdout.read(BLOCK):
                    age.stdin.write(plain.add(compressor.compress(block)))
                age.stdin.write(plain.add(compressor.flush()))
                age.stdin.close()
            except BrokenPipeError:
                pass  # age ended early: its return code and words say why
            collector.result()
            children.finish()
            output.flush()
            os.fsync(output.fileno())
    except OSError as error:
        raise _space(error, target) from error
    return {"size": sealed.size, "sha256": sealed.hexdigest(), "plain_size": plain.size, "plain_sha256": plain.hexdigest()}


class _Sum:
    """SHA-256 and size of what passes."""

    def __init__(self) -> None:
        self._hasher, self.size = hashlib.sha256(), 0

    def add(self, block: bytes) -> bytes:
        self._hasher.update(block)
        self.size += len(block)
        return block

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def _space(error: OSError, path: Path) -> BackupError:
    if no_space(error):
        return NoSpaceError(f"{path.parent}: the disk is full while {path.name} was written. Free space there, then try again")
    return BackupError(f"{error.filename or path}: {error.strerror or error}")


def unpack(source: Path, folder: Path, identity_file: Path, expected: dict | None = None) -> None:
    """Open the sealed file `source` into the empty `folder`.

    expected: {plain_size, plain_sha256} of the manifest; compared with what age let out. Raises BackupError for a file that is damaged,
    cut, sealed for another key, or holds something else; what was unpacked until then must not be used.
    """
    import zstandard

    plain = _Sum()
    check_identity(identity_file)
    with Children() as children:
        age = children.start("age", "-d", "-i", str(identity_file), str(source), stdout=subprocess.PIPE)
        tar = children.start("tar", "-C", str(folder), "--no-same-owner", "-xf", "-", stdin=subprocess.PIPE)
        decompressor, broken = zstandard.ZstdDecompressor().decompressobj(), None
        try:
            while block := age.stdout.read(BLOCK):
                tar.stdin.write(decompressor.decompress(plain.add(block)))
            tar.stdin.close()
        except BrokenPipeError:
            pass  # tar ended early: its return code and words say why
        except zstandard.ZstdError as error:
            broken = error
        if age.wait() != 0:
            tar.kill()
            raise BackupError(f"{source}: {age_says(children.stderr_of(age), identity_file)}")
        if broken is not None:
            tar.kill()
            raise BackupError(f"{source}: opened, but holds no whole zstd archive ({broken})")
        children.finish()
        if not decompressor.eof:
            raise BackupError(f"{source}: opened, but its zstd archive ends too early")
    if expected and (plain.size, plain.hexdigest()) != (expected["plain_size"], expected["plain_sha256"]):
        raise BackupError(
            f"{source}: holds other content than its manifest states ({plain.size} bytes instead of {expected['plain_size']})"
        )


def opens(source: Path, identity_file: Path) -> str | None:
    """None if the whole file can be opened with this key; else why not. Nothing is written."""
    check_identity(identity_file)
    with Children() as children:
        age = children.start("age", "-d", "-i", str(identity_file), str(source), stdout=subprocess.DEVNULL)
        return None if age.wait() == 0 else age_says(children.stderr_of(age), identity_file)


def check_identity(identity_file: Path) -> None:
    """Raise BackupError where the private key is not there or may not be read."""
    try:
        text = Path(identity_file).read_text(errors="replace")
    except OSError as error:
        raise BackupError(
            f"{identity_file}: the key that opens backups cannot be read ({error.strerror}). Bring it back from escrow: without it no"
            " sealed backup can be restored"
        ) from error
    if "AGE-SECRET-KEY-1" not in text:
        raise BackupError(f"{identity_file}: holds no private key of age. Bring the right file back from escrow")


def age_says(stderr: str, identity_file: Path) -> str:
    """age's refusal in words of this project."""
    text = " ".join(line for line in stderr.strip().splitlines() if "report unexpected" not in line)
    if "no identity matched" in stderr:
        return f"is sealed for another key than the one in {identity_file}. Find the identity whose key id stands in the manifest"
    if (
        "failed to decrypt" in stderr
        or "unexpected EOF" in stderr
        or "bad header" in stderr
        or "failed to read" in stderr
        or "parsing" in stderr
    ):
        return f"is damaged or cut, age refuses it ({text})"
    return f"cannot be opened: {text or 'age said nothing'}"


def recipient_of(identity_file: Path) -> str:
    """The public half of the key in `identity_file`."""
    return run("age-keygen", "-y", str(identity_file)).stdout.decode().split()[0]
