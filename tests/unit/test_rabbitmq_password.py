"""The filter rabbitmq_password: RabbitMQ's own example, and hashes that are kept or replaced."""

import pytest
from ansible.module_utils.greenroom.rabbitmq_password import rabbitmq_password

KNOWN = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"  # of "test12", from RabbitMQ's documentation of its hashes


def test_a_hash_of_the_password_is_kept():
    assert rabbitmq_password("test12", KNOWN) == KNOWN
    assert rabbitmq_password("pässword", made := rabbitmq_password("pässword")) == made


@pytest.mark.parametrize("known", ["", None, "no base64!", "AAAA", KNOWN[:-4]])
def test_any_other_is_replaced_by_a_salted_one(known):
    one, two = rabbitmq_password("another", known), rabbitmq_password("another", known)
    assert one not in (two, known)
    assert rabbitmq_password("another", one) == one
    assert rabbitmq_password("test12", one) != one


@pytest.mark.parametrize("password", ["", None, 12])
def test_a_password_must_be_given(password):
    with pytest.raises(ValueError):
        rabbitmq_password(password)
