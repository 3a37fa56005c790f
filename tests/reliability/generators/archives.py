"""13 zip archives that are no copy of cats-and-dogs, or more than that."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable

Members = list[tuple[zipfile.ZipInfo | str, bytes]]


def packed(members: Members, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return file.getvalue()


def link(target: str) -> bytes:
    """A member that is a symbolic link."""
    member = zipfile.ZipInfo("train/cat.1.jpg")
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return packed([(member, target.encode())])


def encrypted() -> bytes:
    """A member whose flags say that it is encrypted, here and in the directory."""
    data = bytearray(packed([("train/cat.1.jpg", b"x")]))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def lying(size: int) -> bytes:
    """A member whose directory entry claims another size."""
    data = bytearray(packed([("train/cat.1.jpg", b"x" * 100)]))
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", size)
    return bytes(data)


def corrupted() -> bytes:
    """A member whose bytes have another checksum."""
    data = packed([("train/cat.1.jpg", b"checksum" * 100)], zipfile.ZIP_STORED)
    return data.replace(b"checksum", b"checksun", 1)


def damaged_lzma() -> bytes:
    """A member whose LZMA stream has another beginning than its properties allow."""
    data = packed([("train/cat.1.jpg", b"x" * 5000)], zipfile.ZIP_LZMA)
    start = data.index(b"cat.1.jpg") + len(b"cat.1.jpg")
    return data[: start + 4] + b"\xff" * 5 + data[start + 9 :]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "no archive": lambda: b"<html>",
    "nothing": lambda: b"",
    "cut short": lambda: packed([("train/cat.1.jpg", b"x" * 5000)])[:-30],
    "its path goes up": lambda: packed([("../train/cat.1.jpg", b"x")]),
    "an absolute path": lambda: packed([("/train/cat.1.jpg", b"x")]),
    "a drive": lambda: packed([("c:/train/cat.1.jpg", b"x")]),
    "a link": lambda: link("/etc/passwd"),
    "encrypted": encrypted,
    "a photo twice": lambda: packed([("a/cat.1.jpg", b"x"), ("b/cat.1.jpg", b"y")]),
    "a photo of 60 MB": lambda: packed([("train/cat.1.jpg", bytes(60 * 2**20))]),
    "it claims 4 GB": lambda: lying(2**32 - 2),
    "a wrong checksum": corrupted,
    "a damaged LZMA stream": damaged_lzma,
}
