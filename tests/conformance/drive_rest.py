# mypy: ignore-errors
"""Run by the Python of SpiNNMan 1!7.4.1: do everything that its SpallocClient can do.

Prints, behind `RESULT`, what came of it, as JSON.

argv: URL of the service, user, password, token.
"""

import json
import logging
import os
import sqlite3
import sys
from urllib.parse import urlsplit

from spinn_utilities.config_holder import set_config
from spinnman.config_setup import unittest_setup
from spinnman.data.spinnman_data_writer import SpiNNManDataWriter
from spinnman.exceptions import SpallocBoardUnavailableException, SpallocException
from spinnman.messages.scp.impl import GetVersion
from spinnman.model.diagnostic_filter import DiagnosticFilter
from spinnman.spalloc import SpallocClient, SpallocState

warnings = []
SDRAM = 0x60100000
SETTINGS = ("triad", "physical", "ip_address", "width", "height", "machine", "max_dead_boards")


class Keeper(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())


def refused(what, *args, **kwargs):
    """The kind and the text of the error."""
    try:
        what(*args, **kwargs)
    except (ValueError, SpallocException, OSError) as exc:
        return [type(exc).__name__, str(exc)]
    return None


def want(boards=None, **settings):
    """What the config file would have."""
    SpiNNManDataWriter.setup().set_n_required(boards, None)
    set_config("Machine", "version", "5")
    for name in SETTINGS:
        set_config("Machine", f"spalloc_{name}", str(settings.get(name)))


def created(boards=None, **settings):
    """A job as it was made, then ended: its boards and its first board's physical place."""
    want(boards, **settings)
    with client.create_job() as job:
        job.wait_until_ready()
        return [len(job.get_connections()), job.where_is_machine(0, 0), job.get_root_host()]


def talks(connection, x=0, y=0):
    """Whether a board answers by this connection."""
    request = GetVersion(x=x, y=y, p=0)
    connection.send(connection.get_scp_data(request))
    result, _, _, _ = connection.receive_scp_response(5.0)
    return result.name


unittest_setup()
logging.getLogger().addHandler(Keeper(logging.WARNING))
url, user, password, token = sys.argv[1:]
sys.stdout, out = sys.stderr, sys.stdout  # progress bars
seen = {}

# log-in, in all ways
seen["wrong password"] = refused(SpallocClient, url, user, "wrong")
seen["nobody"] = refused(SpallocClient, url, "nobody", password)
seen["wrong token"] = refused(SpallocClient, url, bearer_token="wrong")
parts = urlsplit(url)
in_url = f"{parts.scheme}://{user}:{password}@{parts.netloc}{parts.path}"
clients = [SpallocClient(in_url), SpallocClient(url, bearer_token=token)]
os.environ |= {"SPALLOC_USER": user, "SPALLOC_PASSWORD": password}
clients.append(SpallocClient(url))
seen["machines"] = [
    [[m.name, sorted(m.tags), m.area, len(m.dead_boards), len(m.dead_links)] for m in each.list_machines().values()]
    for each in clients
]
seen["version"] = clients[0].version.major
for each in clients:
    each.close()
client = SpallocClient(url, user, password, group="a")
(machine,) = client.list_machines()

# jobs, in all forms
seen["three"] = created(3)
seen["one of this machine"] = created(1, machine=machine)
seen["triad"] = created(triad="1,2,1")
place = seen["triad"][1]
seen["physical"] = created(physical="{},{},{}".format(*place))
seen["address"] = created(ip_address=seen["triad"][2])
seen["rectangle"] = created(width=2, height=1)
seen["rectangle at a board"] = created(width=1, height=2, triad="1,2,0", max_dead_boards=1)
want(10_000)
seen["too many"] = refused(client.create_job)
want(triad="99,99,0")
seen["no such board"] = refused(client.create_job)
assert seen["no such board"][0] == SpallocBoardUnavailableException.__name__

# one job's life
want(3)
job = client.create_job()
state = job.get_state()
while state is not SpallocState.READY:
    state = job.wait_for_state_change(state, timeout=30)
seen["listed"] = [str(each) == str(job) for each in client.list_jobs()]
number = str(job).rstrip("/)").rsplit("/", 1)[1]
seen["by its number"] = client.get_job(number).get_state().name
seen["outside"] = job.where_is_machine(200, 200)
seen["boards"] = sorted(map(list, job.get_connections()))

# boards
seen["not by this"] = refused(job.connect_to_board, 5, 5)
transceiver = job.create_transceiver()
found = transceiver.get_machine_details()
seen["chips"] = found.n_chips
seen["boards found"] = sorted([chip.x, chip.y] for chip in found.ethernet_connected_chips)
for length, address, chip in ((1, 0, (0, 0)), (4, 1, (1, 1)), (257, 3, (8, 4)), (300_001, 64, (4, 8))):
    data = bytes((7 * i + length) % 256 for i in range(length))
    job.write_data(*chip, SDRAM + address, data)
    seen[f"{length} bytes"] = job.read_data(*chip, SDRAM + address, length) == data
transceiver.write_memory(0, 0, SDRAM, 0x12345678)
seen["a word"] = transceiver.read_memory(0, 0, SDRAM, 4).hex()
job.reset_routing({12: DiagnosticFilter(False, False, [], [], [], [], [], [])})
seen["no such chip"] = refused(job.read_data, 200, 200, SDRAM, 4)

# every kind of connection
connections = [job.connect_to_board(x, y) for x, y in job.get_connections()]
seen["answers"] = [talks(each, each.chip_x, each.chip_y) for each in connections]
boot = job.connect_for_booting()
eieio = job.open_eieio_connection(0, 0)
eieio.update_tag(1)
listener = job.open_eieio_listener_connection()
for chip in job.get_connections():
    listener.update_tag(*chip, tag=2)
listener.update_tag_by_ip(job.get_root_host(), tag=3)
udp = job.open_udp_listener_connection()
seen["listens"] = [listener.is_connected(), udp.is_connected()]  # it forgets their own addresses, a fault of its own
request = GetVersion(x=0, y=0, p=0)
request.sdp_header.update_for_send(0, 0)
udp.send_to(b"\0\0" + request.bytestring, (job.get_root_host(), 17893))
seen["answer to a listener"] = len(udp.receive(5.0)) > 20
seen["nothing comes"] = udp.is_ready_to_receive(0.01)
for each in (*connections, boot, eieio, listener, udp):
    assert each.is_connected()
    each.close()
    assert not each.is_connected()

# somebody else goes on with the job, by a database
database = sqlite3.connect(":memory:")
database.execute("CREATE TABLE proxy_configuration (kind, name, value)")
database.executemany(
    "INSERT INTO proxy_configuration VALUES (?, ?, ?)",
    [(*key, value) for key, value in job.get_session_credentials_for_db().items()],
)
rows = database.execute("SELECT kind, name, value FROM proxy_configuration").fetchall()
told = {kind: {name: value for of, name, value in rows if of == kind} for kind in ("SPALLOC", "COOKIE", "HEADER")}
again = SpallocClient.open_job_from_database(
    told["SPALLOC"]["service uri"], told["SPALLOC"]["job uri"], told["COOKIE"], told["HEADER"]
)
seen["by a database"] = [again.get_state().name, talks(again.connect_to_board(0, 0))]
again.write_data(0, 0, SDRAM, b"database")
seen["memory by a database"] = job.read_data(0, 0, SDRAM, 8).decode()

# the end
job.destroy("I have done")
seen["ended"] = [job.get_state().name, job.wait_for_state_change(SpallocState.READY, timeout=30).name]
seen["left"] = [str(each) for each in client.list_jobs()]
seen["among the ended"] = number in {str(each).rstrip("/)").rsplit("/", 1)[1] for each in client.list_jobs(True)}
seen["no boards"] = [job.get_root_host(), job.get_connections(), job.where_is_machine(0, 0)]
seen["too late"] = [refused(job.read_data, 0, 0, SDRAM, 4), refused(job.create_transceiver)]
client.close()
seen["warnings"] = warnings
print("RESULT", json.dumps(seen), file=out, flush=True)
