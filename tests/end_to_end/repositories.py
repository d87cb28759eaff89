"""Git repositories made from the reference service's own, with one fault each."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import ROOT

SOURCE = ROOT / ".greenroom" / "git" / "lark-service.git"

FAILING_MIGRATION = '''"""Fails half way: the first statement is undone with the second."""

import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("messages", sa.Column("half_way", sa.Text()))
    op.execute("SELECT 1 / 0")


def downgrade() -> None:
    op.drop_column("messages", "half_way")
'''


def git(folder: Path, *arguments: str) -> str:
    """Runs git as a nameless author. Raises CalledProcessError."""
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.invalid")
    return subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def checkout(folder: Path, ref: str) -> Path:
    """A clone with a work tree at `ref`."""
    subprocess.run(["git", "clone", "-q", str(SOURCE), str(folder)], check=True, capture_output=True)
    git(folder, "checkout", "-q", ref)
    return folder


def commit(folder: Path, tag: str) -> None:
    """Everything in the folder becomes the tag."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a fault for a test")
    git(folder, "tag", "-f", "-a", tag, "-m", tag)


def dirty(folder: Path) -> Path:
    """A work tree with a change that nobody committed."""
    checkout(folder, "v0.1.0")
    (folder / "README.md").write_text("changed\n")
    return folder


def without_hashes(folder: Path) -> Path:
    """v0.1.1 whose lock file has no hashes."""
    checkout(folder, "v0.1.0")
    version(folder, "0.1.1")
    (folder / "requirements.txt").write_text("fastapi==0.115.0\n")
    commit(folder, "v0.1.1")
    return folder


def other_content(folder: Path, ref: str) -> Path:
    """The tag `ref` moved to other content."""
    checkout(folder, ref)
    (folder / "README.md").write_text("other content under the same version\n")
    commit(folder, ref)
    return folder


def failing_migration(folder: Path, ref: str, head: str) -> Path:
    """v0.3.0: `ref` with a further migration after `head` that fails half way."""
    checkout(folder, ref)
    version(folder, "0.3.0")
    (folder / "migrations" / "versions" / "9999_fails.py").write_text(FAILING_MIGRATION.format(head=head))
    commit(folder, "v0.3.0")
    return folder


def version(folder: Path, wanted: str) -> None:
    """States another version in the package."""
    path = folder / "src" / "lark_service" / "__init__.py"
    lines = [f'__version__ = "{wanted}"' if line.startswith("__version__") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
