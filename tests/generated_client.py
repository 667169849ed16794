"""What somebody would write with a client made from /openapi.json: run by tests/http/openapi.rs with its URL."""

import sys

from kiosk import Client
from kiosk.api.items import (
    delete_item,
    get_item,
    get_item_by_query,
    get_items,
    head_item,
    patch_item,
    patch_item_by_query,
    post_item_by_query,
    put_item,
)
from kiosk.api.operation import get_livez, get_readyz, get_version
from kiosk.api.sessions import delete_session, get_session_by_query, patch_session, put_session
from kiosk.models import Documents, Ids, Item, MergePatch, Page, Problem

client = Client(base_url=sys.argv[1])


def expect(response, status, kind=None):
    assert response.status_code == status, (response.status_code, response.content)
    assert kind is None or isinstance(response.parsed, kind), response.parsed
    return response


def item(**members):
    return Item.from_dict(members)


def etag(response):
    return response.headers["ETag"]


# Put, twice: the client says which.
expect(put_item.sync_detailed("7", client=client, body=item(name="Bob")), 201)
put = expect(put_item.sync_detailed("7", client=client, body=item(name="Bob", age=40), ttl=60), 204)

# Get, whole and conditional.
got = expect(get_item.sync_detailed("7", client=client), 200, Item)
assert got.parsed.to_dict() == {"name": "Bob", "age": 40} and etag(got) == etag(put)
expect(get_item.sync_detailed("7", client=client, if_none_match=etag(got)), 304)
expect(head_item.sync_detailed("7", client=client), 200)

# Patch, under a tag; then the tag is old.
change = MergePatch.from_dict({"name": None, "age": 41})
patched = expect(patch_item.sync_detailed("7", client=client, body=change, if_match=etag(got)), 200, Item)
assert patched.parsed.to_dict() == {"age": 41}
refused = expect(patch_item.sync_detailed("7", client=client, body=change, if_match=etag(got)), 412, Problem)
assert refused.parsed.code == "precondition_failed"
expect(put_item.sync_detailed("7", client=client, body=item(), if_none_match="*"), 412, Problem)

# The query form, an id that needs escaping, and a repeat under one key.
odd = "a/b?c=é&_"
for replayed in (None, "true"):
    posted = post_item_by_query.sync_detailed(client=client, id=odd, body=item(n=1), idempotency_key="once-1")
    assert expect(posted, 201).headers.get("Idempotency-Replayed") == replayed
another = post_item_by_query.sync_detailed(client=client, id=odd, body=item(n=2), idempotency_key="once-1")
assert expect(another, 422, Problem).parsed.code == "idempotency_key_reused"
expect(patch_item_by_query.sync_detailed(client=client, id=odd, body=MergePatch.from_dict({"n": 3})), 200, Item)
assert expect(get_item_by_query.sync_detailed(client=client, id=odd), 200, Item).parsed.to_dict() == {"n": 3}

# A page of ids, and a bulk read.
seen, cursor = set(), None
while True:
    more = {"cursor": cursor} if cursor else {}
    page = expect(get_item_by_query.sync_detailed(client=client, limit=1, **more), 200, Page).parsed
    seen.update(entry.id for entry in page.items)
    assert all(entry.ttl > 0 for entry in page.items)
    cursor = page.cursor
    if cursor is None:
        break
assert seen == {"7", odd}, seen
bulk = expect(get_items.sync_detailed(client=client, body=Ids(ids=["7", "none", odd])), 200, Documents)
first, none, last = bulk.parsed.items
assert first.id == "7" and first.etag == etag(patched) and first.item.to_dict() == {"age": 41}
assert none is None and last.item.to_dict() == {"n": 3}

# Delete, twice: a repeat is safe.
for _ in range(2):
    expect(delete_item.sync_detailed("7", client=client), 204)
assert expect(get_item.sync_detailed("7", client=client), 404, Problem).parsed.code == "not_found"
# No body, and no error in the client over that.
expect(head_item.sync_detailed("7", client=client), 404)

# Sessions have operations of their own.
expect(put_session.sync_detailed("s", client=client, body=item(user=1)), 201)
expect(patch_session.sync_detailed("s", client=client, body=MergePatch.from_dict({"user": 2})), 200, Item)
assert expect(get_session_by_query.sync_detailed(client=client, sid="s"), 200, Item).parsed.to_dict() == {"user": 2}
expect(delete_session.sync_detailed("s", client=client), 204)

# What the schema does not allow is refused with a problem.
assert expect(put_item.sync_detailed("7", client=client, body=item(), ttl=0), 400, Problem).parsed.code == "bad_ttl"

assert expect(get_livez.sync_detailed(client=client), 200, str).parsed == "ok"
expect(get_readyz.sync_detailed(client=client), 200, str)
assert get_version.sync(client=client).name == "kioskd"
