"""age's keys on the control node: what is made can be used, what is no key is refused without being shown."""

import shutil
import subprocess

import pytest
from ansible.module_utils.greenroom.backup import keys


def test_a_new_identity_is_another_each_time_and_has_a_recipient():
    first, second = keys.new_identity(), keys.new_identity("ignored")
    assert first != second and keys.IDENTITY.fullmatch(first)
    assert keys.RECIPIENT.fullmatch(keys.recipient_of(first)) and keys.recipient_of(f"{first}\n") == keys.recipient_of(first)
    assert keys.recipient_of(first) != keys.recipient_of(second)


def test_age_itself_says_the_same(tmp_path):
    program = shutil.which("age-keygen")
    assert program, "age is not installed; run scripts/install_test_servers"
    identity = keys.new_identity()
    file = tmp_path / "identity"
    file.touch(mode=0o600)
    file.write_text(identity + "\n")
    told = subprocess.run([program, "-y", str(file)], capture_output=True, text=True, check=True).stdout.strip()
    assert told == keys.recipient_of(identity)


@pytest.mark.parametrize("bad", ["", "AGE-SECRET-KEY-1" + "Q" * 58, "age1" + "q" * 58, "a-password-of-somebody"])
def test_what_is_no_identity_is_refused_and_not_shown(bad):
    with pytest.raises(ValueError, match="no private key of age") as caught:
        keys.recipient_of(bad)
    assert not bad or bad not in str(caught.value)
