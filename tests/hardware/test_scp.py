"""The codec against bytes that were seen on the wire, and against itself."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from spalloc_server.hardware.scp import (
    FLAG_REGISTER,
    MAX_DATA,
    Adc,
    BadPacket,
    Command,
    InfoType,
    Request,
    Response,
    ResponseCode,
    Version,
    power_arguments,
    stop_register,
)
from spalloc_server.links import Links

ON, SIXTH_LATER, OFF = 1, 1 << 16 | 1, 0

# What rig 2.4.1 sends (BMPController on Python 3.11), captured from the socket.
RIG = {
    "0000 87ff03ff00000000 0000 0000 00000000 00000000 00000000": Request(3, Command.VERSION, 0),
    "0000 87ff00ff00000000 3900 0100 01000000 0b000000 00000000": Request(0, Command.POWER, 1, ON, 0b1011),
    "0000 87ff00ff00000000 3900 0200 01000100 20000000 00000000": Request(0, Command.POWER, 2, SIXTH_LATER, 1 << 5),
    "0000 87ff03ff00000000 1100 0400 04000400 04000000 01000000": Request(3, Command.FPGA_READ, 4, FLAG_REGISTER, 4, 1),
    "0000 87ff03ff00000000 1200 0600 5c000000 04000000 02000000 01000000": Request(
        3, Command.FPGA_WRITE, 6, 0x5C, 4, 2, b"\1\0\0\0"
    ),
    "0000 87ff03ff00000000 1900 0800 03c00000 08000000 00000000": Request(3, Command.LED, 8, 0xC003, 1 << 3),
    "0000 87ff03ff00000000 3000 0900 03000000 00000000 00000000": Request(3, Command.INFO, 9, InfoType.ADC),
    "0000 87ff00ff00000000 3900 0a00 00000000 02000000 00000000": Request(0, Command.POWER, 10, OFF, 1 << 1),
}

# What spinnman 1!7.0.0 sends (Transceiver, under spalloc-server 1!7.0.0 on Python 3.11), captured from the socket.
SPINNMAN = {
    "0000 87ff00ff00000000 0000 0000 00000000 00000000 00000000": Request(0, Command.VERSION, 0),
    "0000 87ff00ff00000000 3900 0200 01000000 0b000000 00000000": Request(0, Command.POWER, 2, ON, 0b1011),
    "0000 87ff03ff00000000 1100 0600 04000400 04000000 02000000": Request(3, Command.FPGA_READ, 6, FLAG_REGISTER, 4, 2),
    "0000 87ff03ff00000000 1200 0700 5c000000 04000000 02000000 01000000": Request(
        3, Command.FPGA_WRITE, 7, 0x5C, 4, 2, b"\1\0\0\0"
    ),
    "0000 87ff03ff00000000 1900 0900 03c00000 08000000 00000000": Request(3, Command.LED, 9, 0xC003, 1 << 3),
    "0000 87ff00ff00000000 3900 0b00 00000000 02000000 00000000": Request(0, Command.POWER, 11, OFF, 1 << 1),
}

words = st.integers(0, 2**32 - 1)
codes = st.integers(0, 2**16 - 1)
data = st.binary(max_size=MAX_DATA)


@pytest.mark.parametrize(("sent", "request_"), [*RIG.items(), *SPINNMAN.items()])
def test_requests_are_byte_for_byte_those_of_the_published_drivers(sent: str, request_: Request) -> None:
    datagram = bytes.fromhex(sent)
    assert request_.encode() == datagram
    assert Request.decode(datagram) == request_


def test_a_response_turns_the_header_of_its_request_round() -> None:
    request = bytes.fromhex("0000 87ff43ff 01020304 1100 0200 04000400 04000000 01000000")
    answer = bytes.fromhex("0000 07ffff43 03040102 8000 0200 01000000")
    assert Response(ResponseCode.OK, 2, b"\1\0\0\0").encode(request) == answer
    assert Response.decode(answer) == Response(ResponseCode.OK, 2, b"\1\0\0\0")


def test_an_empty_response_has_fourteen_bytes() -> None:
    request = Request(0, Command.POWER, 1, ON, 1).encode()
    assert Response(ResponseCode.BUF, 1).encode(request) == bytes.fromhex("0000 07ffff00 00000000 8a00 0100")


def test_a_request_can_ask_for_no_reply() -> None:
    request = Request(1, Command.LED, 0, reply_expected=False)
    assert request.encode()[2] == 0x07
    assert Request.decode(request.encode()) == request


@given(st.integers(0, 31), codes, codes, words, words, words, data, st.integers(0, 7), st.booleans())
def test_decoding_a_request_undoes_encoding_it(
    board: int, command: int, sequence: int, a: int, b: int, c: int, data: bytes, port: int, reply: bool
) -> None:
    request = Request(board, command, sequence, a, b, c, data, port, reply)
    assert Request.decode(request.encode()) == request


@given(codes, codes, data)
def test_decoding_a_response_undoes_encoding_it(code: int, sequence: int, payload: bytes) -> None:
    response = Response(code, sequence, payload)
    assert Response.decode(response.encode(Request(3, 0, 0).encode())) == response


@pytest.mark.parametrize("length", [0, 13, 25, 26 + MAX_DATA + 1])
def test_a_request_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(BadPacket, match=rf"26 to 282 bytes, this datagram has {length}"):
        Request.decode(bytes(length))


@given(st.binary(max_size=13))
def test_a_response_without_a_whole_header_is_refused(datagram: bytes) -> None:
    with pytest.raises(BadPacket, match="at least 14 bytes"):
        Response.decode(datagram)


def test_the_version_of_a_current_bmp_is_read_from_the_text() -> None:
    payload = bytes.fromhex("00000001 0001ffff 008ea454") + b"BC&MP/Spin5-BMP\x002.1.0\0"
    version = Version("BC&MP", "Spin5-BMP", (2, 1, 0), code_block=1, build_date=0x54A48E00)
    assert Version.decode(payload) == version
    assert version.encode() == payload


@pytest.mark.parametrize("version", [(2, 0, 0), (3, 0, 1), (10, 20, 30), (1, 0, 0), (1, 99, 0), (0, 5, 0)], ids=str)
@pytest.mark.parametrize("where", [(0x12, 0x34, 0x56, 0x78), (0xFF, 0xFF, 0xFF, 0xFF), (1, 0xFE, 1, 0xFE)], ids=str)
def test_decoding_a_version_undoes_encoding_it(version: tuple[int, int, int], where: tuple[int, int, int, int]) -> None:
    told = Version("BC&MP", "Spin5-BMP", version, *where, build_date=0xFEDCBA98)
    assert told.encode()[:4] == bytes(reversed(where))
    assert Version.decode(told.encode()) == told


def test_labels_after_a_version_are_ignored() -> None:
    payload = bytes.fromhex("03030201 0001ffff 00000000") + b"BC&MP/Spin5-BMP\x002.1.2-rc.1\0"
    version = Version.decode(payload)
    assert version.version == (2, 1, 2)
    assert (version.code_block, version.frame_id, version.can_id, version.board_id) == (1, 2, 3, 3)


def test_the_version_of_an_old_bmp_is_read_from_its_number() -> None:
    payload = bytes.fromhex("00000000 00018500 00000000") + b"BC&MP/Spin5-BMP\0"
    version = Version(version=(1, 33, 0))
    assert Version.decode(payload) == version
    assert version.encode() == payload


@pytest.mark.parametrize(
    "text", [b"", b"BC&MP/Spin5-BMP\0two\0", b"BC&MP/Spin5-BMP\x002.1\0", b"\xff/x\x002.1.2\0"], ids=repr
)
def test_a_version_in_no_known_form_is_refused(text: bytes) -> None:
    with pytest.raises(BadPacket, match="cannot read a version"):
        Version.decode(bytes.fromhex("00000000 0001ffff 00000000") + text)


def test_a_version_that_is_cut_short_is_refused() -> None:
    with pytest.raises(BadPacket, match="cannot read a version"):
        Version.decode(b"\0" * 11)


def test_adc_readings_are_scaled_as_the_board_scales_them() -> None:
    raw = (0, 1966, 1967, 1968, 2949, 0, 3604, 3277, 0x1E80, -0x0100, 0, 0, 0x1900, -0x8000, -0x8000, -0x8000)
    payload = struct.pack("<8H4h4h4h2I", *raw, 1200, -1, -1, -1, 1, 1 << 8)
    adc = Adc.decode(payload)
    assert adc.volts_1v2 == (1968 * 2.5 / 4096, 1967 * 2.5 / 4096, 1966 * 2.5 / 4096)
    assert (adc.volts_1v8, adc.volts_3v3, adc.volts_supply) == pytest.approx((1.8, 3.3, 12.0), abs=0.01)
    assert (adc.top, adc.bottom, adc.external, adc.fans) == (30.5, -1.0, (25.0, None), (1200, None))
    assert (adc.warning, adc.shutdown) == (1, 1 << 8)
    assert adc.encode() == payload


def test_adc_readings_that_are_cut_short_are_refused() -> None:
    with pytest.raises(BadPacket, match="48 bytes, these have 47"):
        Adc.decode(bytes(47))


def test_each_link_has_its_stop_register() -> None:
    assert {link: stop_register(link) for link in Links} == {
        Links.east: (0, 0x0005C),
        Links.north_east: (2, 0x1005C),
        Links.north: (2, 0x0005C),
        Links.west: (1, 0x1005C),
        Links.south_west: (1, 0x0005C),
        Links.south: (0, 0x1005C),
    }


def test_codes_are_those_of_the_firmware() -> None:
    assert {code.name: int(code) for code in ResponseCode} == {
        "OK": 0x80,
        "LEN": 0x81,
        "SUM": 0x82,
        "CMD": 0x83,
        "ARG": 0x84,
        "PORT": 0x85,
        "TIMEOUT": 0x86,
        "ROUTE": 0x87,
        "CPU": 0x88,
        "DEAD": 0x89,
        "BUF": 0x8A,
        "P2P_NOREPLY": 0x8B,
        "P2P_REJECT": 0x8C,
        "P2P_BUSY": 0x8D,
        "P2P_TIMEOUT": 0x8E,
        "PKT_TX": 0x8F,
    }
    assert {code.name: int(code) for code in Command} == {
        "VERSION": 0,
        "RUN": 1,
        "READ": 2,
        "WRITE": 3,
        "FILL": 5,
        "FPGA_READ": 17,
        "FPGA_WRITE": 18,
        "LED": 25,
        "IPTAG": 26,
        "INFO": 48,
        "FLASH_COPY": 49,
        "FLASH_ERASE": 50,
        "FLASH_WRITE": 51,
        "SERIAL_FLASH": 53,
        "EEPROM": 54,
        "RESET": 55,
        "XILINX": 56,
        "POWER": 57,
        "I2C": 61,
        "PWM": 62,
        "TEST": 63,
        "TUBE": 64,
    }
    assert {code.name: int(code) for code in InfoType} == {
        "SERIAL": 0,
        "EEPROM": 1,
        "CAN_STATUS": 2,
        "ADC": 3,
        "IP": 4,
    }


def test_power_arguments_hold_delay_state_and_mask() -> None:
    assert power_arguments((0, 1, 3, 3), on=True) == (1, 0b1011)
    assert power_arguments((23,), on=False, delay_ms=25) == (25 << 16, 1 << 23)
