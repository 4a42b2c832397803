# mypy: ignore-errors
"""Loaded by schemathesis: where it would ask for what does not exist, it often asks for what does.

What it makes up at random names no job, machine or user, and bodies that are right one by one in each field seldom are
as a whole; so all would be answered alike. And what takes as long as is asked for is asked for briefly. Environment:
BOOTED is the number of a job whose boards are booted, which nothing ends or switches off; SEED; TRIED a file for the
number of cases.
"""

import atexit
import functools
import os
import random
import re
from pathlib import Path

import schemathesis
from schemathesis.specs.openapi.adapter import responses

BOOTED = os.environ["BOOTED"]
MACHINE = "hall"
MAX_BYTES = 5_000
SDRAM = 0x60000000
LATEST = 6
"""Jobs, and users, that are asked for: the last ones that were made."""

# This version checks answers by JSON Schema 2020-12, but with tuples in the words of an older one, which that refuses.
responses.to_json_schema = functools.partial(responses.to_json_schema, convert_prefix_items=False)

chance = random.Random(int(os.environ["SEED"])).random
made = {"jobs": [], "users": []}
tried = [0]


@schemathesis.hook
def before_call(context, case, kwargs):
    tried[0] += 1
    path, query = case.path_parameters, case.query
    if "job_id" in path:
        harmful = case.path.endswith("/power") or (case.method == "DELETE" and not case.path.endswith("/router"))
        of_boards = "memory" in case.path or "fast" in case.path or "router" in case.path
        if not harmful and chance() < (0.9 if of_boards else 0.3):
            path["job_id"] = BOOTED
        elif made["jobs"] and (path["job_id"] == BOOTED or chance() < 0.7):
            path["job_id"] = made["jobs"][-1 - int(chance() * min(LATEST, len(made["jobs"])))]
    if "user_id" in path and made["users"] and chance() < 0.7:
        path["user_id"] = made["users"][-1 - int(chance() * min(LATEST, len(made["users"])))]
    for where, name in ((path, "name"), (query, "machine")):
        if where and name in where and chance() < 0.7:
            where[name] = MACHINE
    if query and (size := re.search(r"[0-9]{4,}", str(query.get("size")))):
        query["size"] = int(size[0]) % MAX_BYTES
    if query and isinstance(address := query.get("address"), int) and address >= 0 and chance() < 0.5:
        query["address"] = SDRAM + address % 0x7000000
    if query and "board" in case.path and chance() < 0.7:
        query |= {name: int(chance() * 4) for name in ("x", "y", "z", "cabinet", "frame", "board") if name in query}
    if case.path == "/admin/board" and isinstance(case.body, str) and chance() < 0.7:
        case.body = "true" if chance() < 0.5 else "false"
    if isinstance(case.body, dict) and chance() < 0.6:
        make_whole(case.method, case.path, case.body)


def make_whole(method, path, body):
    """Have a body that goes together."""
    if path == "/jobs":
        size = next((name for name in ("num-boards", "dimensions", "board") if name in body), None)
        for name in ("num-boards", "dimensions", "board", "group", "nmpi-collab", "nmpi-job-id", "tags", "owner"):
            if name != size:
                body.pop(name, None)
        body |= {"keepalive-interval": "PT60S", "machine-name": MACHINE}
        if isinstance(number := body.get("num-boards"), int) and number > 0:
            body["num-boards"] = 1 + number % 4
    elif path == "/admin/users" and isinstance(name := body.get("user-name"), str):
        for field in ("internal", "locked", "open-id-subject", "user-id"):
            body.pop(field, None)
        body |= {"user-name": f"{name[:9]}{tried[0]}", "trust-level": body.get("trust-level") or "USER"}
    elif path.endswith("/report-issue"):
        body["boards"] = [{"chip": [0, 0]}]


@schemathesis.hook
def after_call(context, case, response):
    if response.status_code == 201:
        kind = "jobs" if case.path == "/jobs" else "users"
        made[kind].append(response.headers["location"][0].rpartition("/")[2])


@schemathesis.check
def works(ctx, response, case):
    """No 5xx, but for 500 where it is documented and does not come from a defect."""
    documented = "500" in case.operation.definition.raw["responses"] and b"internal error" not in response.content
    if response.status_code > 500 or (response.status_code == 500 and not documented):
        raise AssertionError(f"{response.status_code}: {response.content[:300]!r}")


@atexit.register
def tell():
    Path(os.environ["TRIED"]).write_text(str(tried[0]))
