"""Placement by brute force: slow, plain, and independent of the bit sets that it is to check."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations

from spalloc_server.configuration import Machine
from spalloc_server.coordinates import Board, board_down_link, link_to_vector
from spalloc_server.core.messages import Request
from spalloc_server.links import Links

BlockAt = tuple[int, int, int, int]


def boards_of(machine: Machine, block: BlockAt) -> set[Board]:
    x, y, width, height = block
    return {
        ((x + i) % machine.width, (y + j) % machine.height, z)
        for i in range(width)
        for j in range(height)
        for z in range(3)
    }


def works(machine: Machine, board: Board, link: Links) -> bool:
    x, y, z, _ = board_down_link(*board, link, machine.width, machine.height)
    return not {(*board, link), (x, y, z, link.opposite)} & machine.dead_links


def reached(machine: Machine, block: BlockAt, usable: Collection[Board]) -> set[Board]:
    """Boards of a block that its bottom-left one reaches over working links, through usable boards only."""
    inside = boards_of(machine, block)
    found: set[Board] = set()
    stack = [(block[0], block[1], 0)]
    while stack:
        board = stack.pop()
        if board in found or board not in inside or board not in usable:
            continue
        found.add(board)
        stack += [
            board_down_link(*board, link, machine.width, machine.height)[:3]
            for link in Links
            if works(machine, board, link)
        ]
    return found


def dead_links_in(machine: Machine, block: BlockAt, boards: Collection[Board], *, with_wraps: bool) -> int:
    x, y, width, height = block
    dead = 0
    for x1, y1, z1, link in machine.dead_links:
        dx, dy, _ = link_to_vector[z1, link]
        inside = 0 <= (x1 - x) % machine.width + dx < width and 0 <= (y1 - y) % machine.height + dy < height
        other = board_down_link(x1, y1, z1, link, machine.width, machine.height)[:3]
        dead += (x1, y1, z1) in boards and other in boards and (inside or with_wraps)
    return dead


def goes_around(machine: Machine, block: BlockAt, boards: Collection[Board]) -> bool:
    """Whether a block spans an axis, with a working link from each of its columns (or rows) to the next."""
    _, _, width, height = block
    for axis, spans, size in ((0, width == machine.width, width), (1, height == machine.height, height)):
        steps = set()
        for board in boards:
            for link in Links:
                other = board_down_link(*board, link, machine.width, machine.height)[:3]
                if link_to_vector[board[2], link][axis] == 1 and other in boards and works(machine, board, link):
                    steps.add(board[axis])
        if spans and len(steps) == size:
            return True
    return False


def blocks(machine: Machine, request: Request) -> Iterator[BlockAt]:
    """Every block on the machine whose shape a request allows."""
    for width in range(1, machine.width + 1):
        for height in range(1, machine.height + 1):
            if request.triads is not None:
                fits = (width, height) == request.triads
            else:
                assert request.boards is not None
                fits = 3 * width * height >= request.boards and min(width, height) >= request.min_ratio * max(
                    width, height
                )
            if request.require_torus and request.triads is not None:
                fits = fits and request.triads == (machine.width, machine.height)
            if fits:
                for x in range(machine.width):
                    for y in range(machine.height):
                        yield x, y, width, height


def serves(machine: Machine, free: Collection[Board], request: Request, block: BlockAt) -> bool:
    """Whether boards of a block could be given to a request."""
    usable = boards_of(machine, block) - machine.dead_boards
    asked = request.boards or 3 * block[2] * block[3]
    if request.triads is None and not request.require_torus and has_lump(machine, free, request, block):
        return True
    working = reached(machine, block, usable)
    if not working or not usable <= set(free):
        return False
    if request.max_dead_boards is not None and asked - len(working) > request.max_dead_boards:
        return False
    if request.require_torus and not goes_around(machine, block, working):
        return False
    return links_suffice(machine, request, block, working)


def has_lump(machine: Machine, free: Collection[Board], request: Request, block: BlockAt) -> bool:
    """Whether as many boards as asked for, all free, are connected in a block, with few enough dead links between."""
    assert request.boards is not None
    available = reached(machine, block, (boards_of(machine, block) - machine.dead_boards) & set(free))
    if len(available) < request.boards or links_suffice(machine, request, block, available):
        return len(available) >= request.boards
    ends = {
        board
        for x, y, z, link in machine.dead_links
        for board in ((x, y, z), board_down_link(x, y, z, link, machine.width, machine.height)[:3])
    }
    for number in range(1, len(ends & available) + 1):
        for left_out in combinations(sorted(ends & available), number):
            lump = reached(machine, block, available - set(left_out))
            if len(lump) >= request.boards and links_suffice(machine, request, block, lump):
                return True
    return False


def links_suffice(machine: Machine, request: Request, block: BlockAt, boards: Collection[Board]) -> bool:
    """Whether no more dead links lie between boards than a request tolerates."""
    if request.max_dead_links is None:
        return True
    return dead_links_in(machine, block, boards, with_wraps=request.require_torus) <= request.max_dead_links
