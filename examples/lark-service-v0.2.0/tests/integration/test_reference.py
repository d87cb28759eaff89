"""Messages with the caller's own reference, and 0.1.0's statements on this schema."""

import uuid

from lark_service.messages import NewMessage
from tests.unit.conftest import APP


async def test_reference_is_kept(services):
    plain = await services.messages.accept(APP, NewMessage(receive_id="ou_1", text="hello"), "r-1")
    named = await services.messages.accept(APP, NewMessage(receive_id="ou_1", text="hello", reference="order-7"), "r-2")
    assert (await services.messages.get(plain))["reference"] is None
    assert (await services.messages.get(named))["reference"] == "order-7"


async def test_the_previous_release_works_on_this_schema(services, database):
    message_id = uuid.uuid4()
    database.execute(
        "INSERT INTO messages (id, app_id, receive_id_type, receive_id, request_id) VALUES (%s, %s, 'open_id', 'ou_1', 'r')",
        (message_id, APP),
    )
    assert (await services.messages.get(message_id))["reference"] is None
