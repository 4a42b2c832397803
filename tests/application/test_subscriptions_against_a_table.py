"""Subscriptions do what a plain table does."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given, settings, strategies as st

from spalloc_server.application.commands import Key, Kind
from spalloc_server.application.subscriptions import Subscriptions

Names = set[int | str] | None


class Recorder:
    def __init__(self) -> None:
        self.heard: set[int | str] = set()

    def hear(self, _kind: Kind, names: Collection[int | str]) -> None:
        self.heard.update(names)


steps = st.lists(
    st.tuples(
        st.sampled_from(["watch", "unwatch", "forget", "drop"]),
        st.sampled_from("abc"),
        st.one_of(st.none(), st.integers(0, 3)),
    )
)


@settings(max_examples=200)
@given(steps=steps, keys=st.sets(st.integers(0, 3)))
def test_subscriptions_do_what_a_plain_table_does(steps: list[tuple[str, str, int | None]], keys: set[int]) -> None:
    subscriptions, ears = Subscriptions(), {"a": Recorder(), "b": Recorder(), "c": Recorder()}
    table: dict[str, Names] = {"a": set(), "b": set(), "c": set()}
    for action, name, key in steps:
        recorder, held = ears[name], table[name]
        if action == "forget":
            subscriptions.forget(recorder)
            table[name] = set()
        elif action == "drop":
            subscriptions.publish(Kind.JOB, [], ended=[] if key is None else [key])
            table = {each: watched and watched - {key} for each, watched in table.items()}
        elif action == "watch":
            subscriptions.subscribe(recorder, Key(Kind.JOB, key))
            table[name] = None if key is None or held is None else held | {key}
        else:
            subscriptions.unsubscribe(recorder, Key(Kind.JOB, key))
            table[name] = set() if key is None else None if held is None else held - {key}
    for name, held in table.items():
        names = subscriptions.subscribed(ears[name], Kind.JOB)
        assert names is None if held is None else set(names or ()) == held
    subscriptions.publish(Kind.JOB, keys)
    assert {name: recorder.heard for name, recorder in ears.items()} == {
        name: keys if held is None else keys & held for name, held in table.items()
    }
