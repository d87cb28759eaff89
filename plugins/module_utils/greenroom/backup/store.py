"""Places where backups lie: a bucket of an S3-compatible store, or a folder. One interface; keys are relative, `<id>/<file>`.

What is put somewhere is read back and hashed before anybody relies on it: an upload's own answer proves nothing (the ETag of one in
parts is no hash of its content). A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..durable import fsync_dir, write_atomic
from .errors import BackupError, NoSpaceError, no_space

BLOCK = 1 << 20
PARTIAL = ".partial"
STALE_S = 86400  # an upload that nobody has finished for a day is nobody's
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def make(place: Mapping) -> Place:
    """The place that one entry of `places` in backup.json describes. Raises BackupError for one that is not complete."""
    kinds = {"s3": S3Place, "posix": FolderPlace}
    try:
        return kinds[place["type"]](place)
    except KeyError as error:
        raise BackupError(f"place {place.get('name', '?')}: {error} is missing or unknown. Deploy this host again") from error


class Place:
    """What all places can do. Errors are BackupError and name the place; a key that is not there is FileNotFoundError."""

    def __init__(self, place: Mapping):
        self.name: str = place["name"]

    def keys(self) -> list[str]:
        """All keys, of whole files only."""
        raise NotImplementedError

    def _stream(self, key: str) -> contextlib.AbstractContextManager:
        raise NotImplementedError

    def _write(self, path: Path, key: str) -> None:
        raise NotImplementedError

    def put_bytes(self, content: bytes, key: str) -> None:
        """Write a small file, replacing what is there, and read it back."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Remove one file; none there is no error."""
        raise NotImplementedError

    def clean(self) -> list[str]:
        """Remove what interrupted uploads left; what was removed."""
        raise NotImplementedError

    def read(self, key: str) -> bytes:
        """A small file's content."""
        with self._stream(key) as blocks:
            return b"".join(blocks)

    def measure(self, key: str) -> dict:
        """{size, sha256} of what the place hands out now."""
        hasher, size = hashlib.sha256(), 0
        with self._stream(key) as blocks:
            for block in blocks:
                hasher.update(block)
                size += len(block)
        return {"size": size, "sha256": hasher.hexdigest()}

    def put(self, path: Path, key: str, expected: Mapping) -> dict:
        """Store a file under a new key and read it back. expected: its {size, sha256}; also what is returned.

        Raises BackupError if the key exists, the upload fails, or the place hands out something else.
        """
        if not KEY.fullmatch(key):
            raise BackupError(f"{self.name}: {key!r} is no key")
        self._write(path, key)
        found = self.measure(key)
        if found != {"size": expected["size"], "sha256": expected["sha256"]}:
            raise BackupError(
                f"{self.name}: {key} reads back as {found['size']} bytes {found['sha256'][:12]}…, sent were {expected['size']}"
                f" bytes {expected['sha256'][:12]}…. The place or the way to it damages files"
            )
        return found

    def fetch(self, key: str, path: Path) -> dict:
        """Copy a file from the place to `path`: {size, sha256} of it. Half of one never stands under that name."""
        partial = path.with_name(path.name + PARTIAL)
        hasher, size = hashlib.sha256(), 0
        try:
            with self._stream(key) as blocks, open(partial, "wb") as output:
                os.fchmod(output.fileno(), 0o600)
                for block in blocks:
                    hasher.update(block)
                    size += len(block)
                    output.write(block)
            os.replace(partial, path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and no_space(error):
                raise NoSpaceError(f"{path.parent}: the disk is full while {key} came from {self.name}. Free space there") from error
            raise
        return {"size": size, "sha256": hasher.hexdigest()}


class FolderPlace(Place):
    """A folder, e.g. on a disk of its own."""

    def __init__(self, place: Mapping):
        super().__init__(place)
        self.root = Path(place["path"])

    def _failed(self, error: OSError, what: str) -> BackupError:
        if no_space(error):
            return NoSpaceError(f"{self.name}: {self.root} is full, {what}. Free space there, or lower the retention")
        return BackupError(f"{self.name}: {what}: {error.strerror or error} ({error.filename or self.root})")

    def keys(self) -> list[str]:
        if not self.root.is_dir():
            raise BackupError(f"{self.name}: folder {self.root} is not there. Is its disk mounted?")
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in found if KEY.fullmatch(key) and not key.endswith(PARTIAL))

    @contextlib.contextmanager
    def _stream(self, key: str) -> Iterator:
        try:
            with open(self.root / key, "rb") as stream:
                yield iter(lambda: stream.read(BLOCK), b"")
        except FileNotFoundError:
            raise
        except OSError as error:
            if no_space(error):
                raise
            raise self._failed(error, f"{key} cannot be read") from error

    def _write(self, path: Path, key: str) -> None:
        target = self.root / key
        partial = target.with_name(target.name + PARTIAL)
        try:
            if not self.root.is_dir():
                raise BackupError(f"{self.name}: folder {self.root} is not there. Is its disk mounted?")
            target.parent.mkdir(mode=0o750, exist_ok=True)
            if target.exists():
                raise BackupError(f"{self.name}: {key} is there already, and backups are never written over")
            with open(path, "rb") as source, open(partial, "wb") as output:
                os.fchmod(output.fileno(), 0o640)
                shutil.copyfileobj(source, output, BLOCK)
                output.flush()
                os.fsync(output.fileno())
            os.replace(partial, target)
            fsync_dir(target.parent)
            fsync_dir(self.root)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._failed(error, f"{key} cannot be written") from error

    def put_bytes(self, content: bytes, key: str) -> None:
        target = self.root / key
        try:
            target.parent.mkdir(mode=0o750, exist_ok=True)
            write_atomic(target, content, 0o640)
        except OSError as error:
            raise self._failed(error, f"{key} cannot be written") from error

    def delete(self, key: str) -> None:
        target = self.root / key
        try:
            target.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files of the backup are still there
                target.parent.rmdir()
        except OSError as error:
            raise self._failed(error, f"{key} cannot be removed") from error

    def clean(self) -> list[str]:
        found = sorted(self.root.rglob(f"*{PARTIAL}")) if self.root.is_dir() else []
        for path in found:
            path.unlink(missing_ok=True)
        return [path.relative_to(self.root).as_posix() for path in found]


class S3Place(Place):
    """A bucket of an S3-compatible store, over TLS."""

    def __init__(self, place: Mapping):
        super().__init__(place)
        self.endpoint, self.bucket, self.prefix = place["endpoint"], place["bucket"], place["prefix"].strip("/")
        self.region, self.ca_file, self.uri_style = (
            place.get("region") or "us-east-1",
            place.get("ca_file"),
            place.get("uri_style") or "path",
        )
        self.credentials_file, self.timeout_s = place["credentials_file"], float(place.get("timeout_s") or 60)
        self._made = None

    def _credentials(self) -> dict:
        try:
            found = json.loads(Path(self.credentials_file).read_text(encoding="utf-8"))
            return {"aws_access_key_id": found["key_id"], "aws_secret_access_key": found["secret"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            kind = error.strerror if isinstance(error, OSError) else "is not {key_id, secret}"
            raise BackupError(f"{self.name}: {self.credentials_file}: {kind}. Deploy this host again") from None

    @property
    def _client(self):
        if self._made is None:
            import boto3
            from botocore.config import Config

            settings = Config(
                # Many stores know only the checksums that S3 always had.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                signature_version="s3v4",
                connect_timeout=min(10.0, self.timeout_s),
                read_timeout=self.timeout_s,
                retries={"total_max_attempts": 3, "mode": "standard"},
                s3={"addressing_style": "path" if self.uri_style == "path" else "virtual"},
            )
            verify = {"verify": self.ca_file} if self.ca_file else {}
            session = boto3.session.Session(**self._credentials(), region_name=self.region)
            self._made = session.client("s3", endpoint_url=self.endpoint, config=settings, **verify)
        return self._made

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Errors of the store in words: what failed, why, what to do."""
        import boto3.exceptions
        from botocore import exceptions

        try:
            yield
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code in ("NoSuchKey", "404", "NotFound"):
                raise FileNotFoundError(what) from error
            raise self._refused(what, code, status) from error
        except boto3.exceptions.S3UploadFailedError as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, exceptions.ClientError):
                status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                raise self._refused(what, str(cause.response.get("Error", {}).get("Code", "")), status) from error
            raise BackupError(f"{self.name}: {what}: the upload was cut ({error}). Nothing of it counts; try again") from error
        except exceptions.SSLError as error:
            raise BackupError(
                f"{self.name}: {what}: the certificate of {self.endpoint} is not trusted ({error}). Give its authority as "
                "service.backup.store.ca"
            ) from error
        except (exceptions.ReadTimeoutError, exceptions.ConnectTimeoutError) as error:
            raise BackupError(
                f"{self.name}: {what}: {self.endpoint} did not answer within {self.timeout_s:g} s. Is the store overloaded?"
            ) from error
        except (exceptions.HTTPClientError, exceptions.BotoCoreError) as error:
            raise BackupError(f"{self.name}: {what}: {self.endpoint} cannot be reached or broke off ({error}). Is the store up?") from error

    def _refused(self, what: str, code: str, status: int | None) -> BackupError:
        if code in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "403") or status in (401, 403):
            return BackupError(
                f"{self.name}: {what}: the store refuses the key in {self.credentials_file} ({code or status}). Correct it, or its rights"
            )
        if code == "NoSuchBucket":
            return BackupError(f"{self.name}: {what}: there is no bucket {self.bucket}. Make it, or correct service.backup.store.bucket")
        if status == 507 or "Insufficient" in code or "Quota" in code or "StorageFull" in code:
            return NoSpaceError(f"{self.name}: {what}: the store is full ({code or status})")
        return BackupError(f"{self.name}: {what}: the store says {code or 'no reason'} (status {status})")

    def keys(self) -> list[str]:
        found = []
        prefix = f"{self.prefix}/" if self.prefix else ""
        with self._named("listing"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                found += [item["Key"][len(prefix) :] for item in page.get("Contents") or []]
        return sorted(key for key in found if KEY.fullmatch(key))

    @contextlib.contextmanager
    def _stream(self, key: str) -> Iterator:
        with self._named(key):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._full(key))
            with contextlib.closing(answer["Body"]) as body:

                def blocks() -> Iterator[bytes]:
                    while block := body.read(BLOCK):
                        yield block

                yield blocks()

    def _write(self, path: Path, key: str) -> None:
        from boto3.s3.transfer import TransferConfig

        with contextlib.suppress(FileNotFoundError), self._named(key):
            self._client.head_object(Bucket=self.bucket, Key=self._full(key))
            raise BackupError(f"{self.name}: {key} is there already, and backups are never written over")
        settings = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=32 << 20, max_concurrency=2)
        with self._named(key):
            self._client.upload_file(str(path), self.bucket, self._full(key), Config=settings)

    def put_bytes(self, content: bytes, key: str) -> None:
        with self._named(key):
            self._client.put_object(Bucket=self.bucket, Key=self._full(key), Body=content)
        if self.read(key) != content:
            raise BackupError(f"{self.name}: {key} reads back differently. The place or the way to it damages files")

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._named(key):
            self._client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def clean(self) -> list[str]:
        """Abort uploads in parts that were begun a day ago and never ended; a store without that command has none."""
        limit = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=STALE_S)  # noqa: UP017
        removed = []
        with contextlib.suppress(BackupError, FileNotFoundError), self._named("listing of unfinished uploads"):
            found = self._client.list_multipart_uploads(Bucket=self.bucket, Prefix=self._full("")).get("Uploads") or []
            for upload in found:
                if upload["Initiated"] < limit:
                    self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    removed.append(upload["Key"])
        return removed
