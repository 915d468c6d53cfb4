"""A slurmctld that looks at time limits and grace ends every second."""

from __future__ import annotations

import os
import re
import shutil
import struct
from pathlib import Path

PERIOD = 30.0  # seconds between two looks, compiled in
COMPARE = rb"\xe8....\x66\x0f\x2f\x05(....)"  # call difftime; compare its result with a constant at an offset


def quick_controller(folder: Path) -> Path:
    """A copy of slurmctld in `folder` that compares with 1 s where it compares a time difference with 30 s.

    Where the program does not look as expected (another processor, say), it is the copy as it is: slower tests.
    """
    original = Path(shutil.which("slurmctld") or "/usr/sbin/slurmctld")
    program = original.read_bytes()
    patched = bytearray(program)
    segments = _segments(program)
    one = _find_double(program, segments, 1.0)
    for found in re.finditer(COMPARE, program, re.DOTALL):
        here = _address(segments, found.end())
        (offset,) = struct.unpack("<i", found[1])
        constant = _file_offset(segments, here + offset) if here else None
        if constant and one and struct.unpack_from("<d", program, constant) == (PERIOD,):
            struct.pack_into("<i", patched, found.start(1), one - here)
    copy = folder / "slurmctld"
    copy.write_bytes(patched)
    copy.chmod(0o755)
    return copy


def _segments(program: bytes) -> list[tuple[int, int, int, int]]:
    """(file offset, address, size, flags) of what an ELF file has in memory; nothing for other files."""
    if program[:6] != b"\x7fELF\x02\x01" or os.uname().machine != "x86_64":
        return []
    (table,), (count,) = struct.unpack_from("<Q", program, 32), struct.unpack_from("<H", program, 56)
    headers = [struct.unpack_from("<IIQQQQQQ", program, table + 56 * number) for number in range(count)]
    return [(offset, address, size, flags) for kind, flags, offset, address, _, size, _, _ in headers if kind == 1]


def _address(segments: list[tuple[int, int, int, int]], offset: int) -> int:
    return next((address + offset - start for start, address, size, _ in segments if start <= offset < start + size), 0)


def _file_offset(segments: list[tuple[int, int, int, int]], wanted: int) -> int:
    inside = ((start, address) for start, address, size, _ in segments if address <= wanted < address + size)
    return next((start + wanted - address for start, address in inside), 0)


def _find_double(program: bytes, segments: list[tuple[int, int, int, int]], value: float) -> int:
    """Address of a read-only `value`; 0 when there is none."""
    for start, address, size, flags in segments:
        if flags == 4:  # readable, nothing else
            for offset in range(start + -start % 8, start + size - 7, 8):
                if struct.unpack_from("<d", program, offset) == (value,):
                    return address + offset - start
    return 0
