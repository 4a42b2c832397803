"""Crowds are served in slices, and their replies leave together."""

from __future__ import annotations

import asyncio
from functools import partial

from spalloc_server.frontends.v1.turns import LEAVING_AT_LEAST, TURN_CLIENTS, TURN_LEAVING, TURN_SECONDS, Turns


class Crowd:
    """Clients each of whom takes a quarter of a turn; `told` are those that had theirs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[int] = []
        self.turns = Turns(asyncio.get_running_loop(), lambda: self.now)

    def serve(self, client: int) -> None:
        self.now += TURN_SECONDS / 4
        self.told.append(client)

    async def come(self, clients: int) -> None:
        for client in range(clients):
            self.turns.put(partial(self.serve, client))

    def send(self, client: int) -> None:
        self.told.append(client)


async def test_a_crowd_is_served_in_order_and_the_event_loop_comes_around_meanwhile() -> None:
    crowd = Crowd()
    await crowd.come(12)
    served = []
    while len(crowd.told) < 12:
        await asyncio.sleep(0)
        served.append(len(crowd.told))
    assert served == [5, 10, 12]
    assert crowd.told == list(range(12))


async def test_those_who_leave_go_a_few_at_a_time_and_after_all_others() -> None:
    crowd = Crowd()
    for client in range(TURN_LEAVING + 1):
        crowd.turns.leave(partial(crowd.send, client))
    crowd.turns.put(partial(crowd.send, -1))
    await asyncio.sleep(0)
    assert crowd.told == [-1, *range(TURN_LEAVING)]
    await asyncio.sleep(0)
    assert crowd.told[-1] == TURN_LEAVING


async def test_some_may_leave_however_long_others_take() -> None:
    crowd = Crowd()
    await crowd.come(100)
    for client in range(100, 100 + TURN_LEAVING):
        crowd.turns.leave(partial(crowd.send, client))
    await asyncio.sleep(0)
    assert crowd.told == [*range(5), *range(100, 100 + LEAVING_AT_LEAST)]


async def test_some_are_served_however_long_replies_to_others_take() -> None:
    crowd = Crowd()
    for client in range(3 * TURN_CLIENTS):
        crowd.turns.send(partial(crowd.send, client))
    crowd.turns.put(partial(crowd.send, -1))
    crowd.turns.put(partial(crowd.send, -2))
    for _ in range(2):
        await asyncio.sleep(0)
    assert crowd.told[0] == -1
    assert -2 in crowd.told


async def test_who_comes_while_others_stand_in_line_stands_behind_them() -> None:
    crowd = Crowd()
    await crowd.come(1)
    await asyncio.sleep(0)
    assert not crowd.turns.over()
    await crowd.come(1)
    assert crowd.turns.over()


async def test_every_client_is_served_where_more_ask_than_can_be_answered_in_a_turn() -> None:
    crowd, clients = Crowd(), 2 * TURN_CLIENTS
    waiting: set[int] = set()

    def answer(client: int) -> None:
        waiting.discard(client)
        crowd.turns.send(partial(crowd.send, client))

    for _ in range(50):
        for client in range(clients):  # all ask again, in the same order
            if client not in waiting and not crowd.turns.over():
                answer(client)
            elif client not in waiting:
                waiting.add(client)
                crowd.turns.put(partial(answer, client))
        await asyncio.sleep(0)
    answers = [crowd.told.count(client) for client in range(clients)]
    assert max(answers) - min(answers) <= 1


async def test_those_who_ask_and_those_who_want_more_have_half_of_the_time_each() -> None:
    crowd = Crowd()
    for client in range(100, 106):
        crowd.turns.more(partial(crowd.serve, client))
    await crowd.come(6)
    await asyncio.sleep(0)
    assert crowd.told == [0, 1, 2, 100, 101]
    await asyncio.sleep(0)
    assert crowd.told[5:] == [3, 4, 5, 102, 103]
    await asyncio.sleep(0)
    assert crowd.told[10:] == [104, 105]


async def test_a_turn_is_over_after_its_time_and_the_next_begins_with_the_next_cycle_of_the_event_loop() -> None:
    crowd = Crowd()
    assert not crowd.turns.over(), "nobody has had one yet"
    crowd.now += 1.5 * TURN_SECONDS
    assert crowd.turns.over()
    await asyncio.sleep(0)
    assert not crowd.turns.over()
    crowd.now += 1.5 * TURN_SECONDS
    assert not crowd.turns.over(), "nobody waits for the event loop, which has come around since for all that is known"
    crowd.now += 1.5 * TURN_SECONDS
    assert crowd.turns.over()


async def test_replies_to_a_crowd_leave_together_once_all_of_its_turn_are_answered() -> None:
    crowd = Crowd()
    for client in (1, 2, 1):
        crowd.turns.send(partial(crowd.send, client))
    crowd.turns.put(partial(crowd.serve, 0))
    assert crowd.told == []
    await asyncio.sleep(0)
    assert crowd.told == [0, 1, 2, 1]


async def test_only_so_many_are_answered_in_a_turn() -> None:
    crowd = Crowd()
    await crowd.come(1)
    await asyncio.sleep(0)
    for client in range(TURN_CLIENTS):
        assert not crowd.turns.over()
        crowd.turns.send(partial(crowd.send, client))
    assert crowd.turns.over()


async def test_replies_to_a_great_crowd_leave_in_slices() -> None:
    crowd, sent = Crowd(), []
    for client in range(3 * TURN_CLIENTS):
        crowd.turns.send(partial(crowd.send, client))
    for _ in range(3):
        await asyncio.sleep(0)
        sent.append(len(crowd.told))
    assert sent == [TURN_CLIENTS, 2 * TURN_CLIENTS, 3 * TURN_CLIENTS]


async def test_replies_to_one_who_asks_alone_leave_at_once() -> None:
    crowd = Crowd()
    alone = partial(crowd.send, 1)
    crowd.turns.send(alone)
    await asyncio.sleep(0)
    crowd.turns.send(alone)
    assert crowd.told == [1, 1]


def broken() -> None:
    raise ZeroDivisionError


async def test_a_defect_in_the_turn_of_one_client_does_not_cost_others_theirs() -> None:
    crowd = Crowd()
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    crowd.turns.put(broken)
    await crowd.come(2)
    crowd.turns.send(broken)
    crowd.turns.send(partial(crowd.send, 2))
    for _ in range(3):
        await asyncio.sleep(0)
    assert crowd.told == [0, 1, 2]
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError] * 2
