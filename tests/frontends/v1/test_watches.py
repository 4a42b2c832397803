"""Who is told of what."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from spalloc_server.frontends.v1.watches import Watches

Watched = set[int] | None


def told(watches: Watches[str, int], keys: set[int]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for client, names in watches.affected(keys):
        found.setdefault(client, set()).update(names)
    return found


steps = st.lists(
    st.tuples(
        st.sampled_from(["watch", "unwatch", "forget", "drop"]),
        st.sampled_from("abc"),
        st.one_of(st.none(), st.integers(0, 3)),
    )
)


@settings(max_examples=200)
@given(steps=steps, keys=st.sets(st.integers(0, 3)))
def test_watches_do_what_a_plain_table_does(steps: list[tuple[str, str, int | None]], keys: set[int]) -> None:
    watches: Watches[str, int] = Watches()
    table: dict[str, Watched] = {"a": set(), "b": set(), "c": set()}
    for action, client, key in steps:
        held = table[client]
        if action == "forget":
            watches.forget(client)
            table[client] = set()
        elif action == "drop":
            watches.drop([] if key is None else [key])
            table = {each: watched and watched - {key} for each, watched in table.items()}
        elif action == "watch":
            watches.watch(client, key)
            table[client] = None if key is None or held is None else held | {key}
        else:
            watches.unwatch(client, key)
            table[client] = set() if key is None else None if held is None else held - {key}
    for client, held in table.items():
        watched = watches.watched(client)
        assert watched is None if held is None else set(watched or ()) == held
    expected = {client: keys if held is None else keys & held for client, held in table.items()}
    assert told(watches, keys) == {client: names for client, names in expected.items() if names}
