#!/usr/bin/python3
"""Makes the NVRAM of a UEFI machine that has one boot entry, as an installer leaves it.

usage: nvram.py OUT PARTITION_NUMBER START_SECTOR SECTORS PARTITION_GUID LOADER LABEL

LOADER is a path on that partition, with backslashes. OUT becomes OVMF's empty variable store with Boot0000 and BootOrder in it
(UEFI 2.10, sections 3.1.3, 10.3.5.1; EDK II, MdeModulePkg/Include/Guid/VariableFormat.h).
"""
import struct
import sys
import uuid

EMPTY_STORE = "/usr/share/OVMF/OVMF_VARS_4M.fd"
GLOBAL_VARIABLE = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
AUTHENTICATED_STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")
NON_VOLATILE_BOOT_RUNTIME = 7


def utf16(text):
    return (text + "\0").encode("utf-16-le")


def load_option(label, number, start, sectors, guid, loader):
    drive = struct.pack("<BBHIQQ16sBB", 4, 1, 42, number, start, sectors, guid.bytes_le, 2, 2)
    path = utf16(loader)
    nodes = drive + struct.pack("<BBH", 4, 4, 4 + len(path)) + path + struct.pack("<BBH", 0x7F, 0xFF, 4)
    return struct.pack("<IH", 1, len(nodes)) + utf16(label) + nodes


def variable(name, data):
    name = utf16(name)
    record = struct.pack("<HBBIQ16sIII16s", 0x55AA, 0x3F, 0, NON_VOLATILE_BOOT_RUNTIME, 0, bytes(16), 0, len(name), len(data),
                         GLOBAL_VARIABLE.bytes_le) + name + data
    return record + b"\xff" * (-len(record) % 4)


def end_of_variables(store):
    """Where the first record would be written that is not there yet."""
    (header,) = struct.unpack_from("<H", store, 48)  # EFI_FIRMWARE_VOLUME_HEADER.HeaderLength
    if store[header:header + 16] != AUTHENTICATED_STORE.bytes_le:
        sys.exit("nvram.py: not an authenticated variable store")
    at = header + 28
    while struct.unpack_from("<H", store, at)[0] == 0x55AA:
        name_size, data_size = struct.unpack_from("<II", store, at + 36)
        at = (at + 60 + name_size + data_size + 3) & ~3
    return at


def main():
    out, number, start, sectors, guid, loader, label = sys.argv[1:]
    with open(EMPTY_STORE, "rb") as f:
        store = bytearray(f.read())
    option = load_option(label, int(number), int(start), int(sectors), uuid.UUID(guid), loader)
    records = variable("Boot0000", option) + variable("BootOrder", struct.pack("<H", 0))
    at = end_of_variables(store)
    store[at:at + len(records)] = records
    with open(out, "wb") as f:
        f.write(store)


main()
