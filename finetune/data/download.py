"""Files from the network: resumed, checked, committed whole; zip archives unpacked safely."""

import hashlib
import lzma
import os
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from finetune.errors import DataError, IntegrityError

if TYPE_CHECKING:
    import requests

TIMEOUT = (10, 30)  # seconds to connect, and between two packets
MAX_MEMBER = (
    50 * 2**20
)  # bytes of one unpacked file; a photo of the archives that we know has under 1 MB
MAX_UNPACKED = 4 * 2**30  # bytes of all unpacked files

MAX_DOWNLOAD = 4 * 2**30  # bytes of a file whose size is not known beforehand
# What zipfile and its decompressors raise of a damaged archive.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)

Report = Callable[[int, int | None], None]


def fetch(
    url: str,
    target: Path,
    size: int | None = None,
    sha256: str | None = None,
    progress: Report | None = None,
    most: int = MAX_DOWNLOAD,
) -> dict[str, str | int]:
    """Download a file, going on where an interrupted download stopped.

    The bytes gather in ``target`` + ``.part``, which only becomes ``target`` when it is whole and
    as expected. A
    ``target`` that is there already is checked and kept.

    Args:
        url: http or https address.
        target: where the file goes; its folder is made if missing.
        size: bytes the file must have, if known.
        sha256: hex digest the file must have, if known.
        progress: called with (bytes there, bytes in all or None); a bar on a terminal's stderr if
        missing.
        most: bytes the file may have, if ``size`` is not known.

    Returns:
        ``url``, ``size`` in bytes and ``sha256``.

    Raises:
        DataError: no answer, an error status, or the connection broke; what has arrived is kept.
        IntegrityError: the size or digest is another; what has arrived is deleted.
    """
    import requests  # slow, and few commands download anything

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    if not target.exists():
        try:
            with _bar(target.name) if progress is None else nullcontext(progress) as report:
                _receive(url, part, size, report, most)
        except requests.RequestException as error:
            kept = part.stat().st_size if part.exists() else 0
            rest = f" The same command goes on from the {kept:,} bytes in {part}." if kept else ""
            raise DataError(f"{url} could not be downloaded: {_reason(error)}.{rest}") from error
        except IntegrityError:
            part.unlink(missing_ok=True)
            raise
    file = target if target.exists() else part
    record = {"url": url} | describe(file)
    if (size or record["size"], sha256 or record["sha256"]) != (record["size"], record["sha256"]):
        file.unlink()
        raise IntegrityError(
            f"{url} has {record['size']:,} bytes with sha256 {record['sha256']}, but expected were "
            f"{size or 'any'} bytes with sha256 {sha256 or 'any'}. It was deleted; try again, "
            "or use a local copy."
        )
    os.replace(file, target)
    return record


def describe(file: Path) -> dict[str, str | int]:
    """``size`` in bytes and hex ``sha256`` of a file."""
    with file.open("rb") as opened:
        return {
            "size": file.stat().st_size,
            "sha256": hashlib.file_digest(opened, "sha256").hexdigest(),
        }


def _receive(url: str, part: Path, size: int | None, report: Report, most: int) -> None:
    """Stream the missing end of a file (all of it, if the server knows no ranges) into ``part``."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        resumed = content_range.startswith(f"bytes {have}-")
        if response.status_code == 416 and content_range == f"bytes */{have}":
            return  # it was whole already
        if have and not resumed and response.status_code in (206, 416):
            part.unlink()  # it belongs to no range that the server has
            return _receive(url, part, size, report, most)
        response.raise_for_status()
        have = have if resumed else 0
        length = response.headers.get("Content-Length", "")
        if length and not length.isdecimal():
            raise DataError(f"{url} names no length: {length!r}. Use a local copy instead.")
        total = have + int(length) if length else size
        if size and total != size:
            part.unlink(missing_ok=True)
            raise IntegrityError(
                f"{url} offers {total:,} bytes, but expected were {size:,}. "
                "Use a local copy instead."
            )
        _check_length(url, total or 0, size or most)
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_content(2**16):
                _check_length(url, file.tell() + len(chunk), size or total or most)
                file.write(chunk)
                report(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
            if total and file.tell() < total:
                raise requests.ConnectionError(
                    f"the connection ended after {file.tell():,} of {total:,} bytes"
                )


def _check_length(url: str, have: int, allowed: int) -> None:
    """A server that gives no length, or a wrong one, does not fill the disk."""
    if have > allowed:
        raise IntegrityError(
            f"{url} sends more than the {allowed:,} bytes that it may have. "
            "Use a local copy instead."
        )


def extract_members(archive: Path, wanted: Callable[[str], str | None], folder: Path) -> list[Path]:
    """Unpack chosen members of a zip archive under names of our own.

    Args:
        archive: the zip file.
        wanted: from a member's name to the file name (without folders) to write it under, or None
        to leave it.
        folder: where the files go; made if missing.

    Returns:
        The files written, in the archive's order.

    Raises:
        DataError: no readable zip file; or a wanted member has an absolute path or "..", is a link,
        is encrypted,
            shares its name with another, or is larger than any photo. Members are checked before
            anything is written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            chosen = [
                (member, name)
                for member in opened.infolist()
                if (name := wanted(member.filename)) is not None
            ]
            _check_members(archive, chosen)
            folder.mkdir(parents=True, exist_ok=True)
            for member, name in chosen:
                with opened.open(member) as source, (folder / name).open("xb") as target:
                    shutil.copyfileobj(
                        source, target
                    )  # zipfile never yields more than the member's declared size
    except _DAMAGED as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}. Get it again, or unpack it yourself."
        ) from error
    return [folder / name for _, name in chosen]


def _check_members(archive: Path, chosen: list[tuple[zipfile.ZipInfo, str]]) -> None:
    """Refuse an archive that would write where, or more than, it should."""
    written: set[str] = set()
    for member, name in chosen:
        parts = member.filename.replace("\\", "/").split("/")
        unsafe = {
            "its path leaves the archive": ".." in parts or parts[0] == "" or ":" in parts[0],
            "it is a link": stat.S_ISLNK(member.external_attr >> 16),
            "it is encrypted": member.flag_bits & 1,
            f"it would have {member.file_size:,} bytes": member.file_size > MAX_MEMBER,
            f"there is another {name}": name in written,
        }
        if why := [reason for reason, holds in unsafe.items() if holds]:
            raise DataError(
                f"{archive} was not unpacked, for its member {member.filename!r}: "
                f"{' and '.join(why)}."
            )
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no plain file name")
        written.add(name)
    if (total := sum(member.file_size for member, _ in chosen)) > MAX_UNPACKED:
        raise DataError(
            f"{archive} was not unpacked: it would fill {total:,} bytes; "
            f"allowed are {MAX_UNPACKED:,}."
        )


@contextmanager
def _bar(name: str) -> Iterator[Report]:
    """A progress bar on stderr, if that is a terminal."""
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(
        "{task.description}", *columns, console=console, disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _reason(error: "requests.RequestException") -> str:
    """The cause in a line, out of the layers that requests and urllib3 wrap around it."""
    return str(getattr(error.args[0], "reason", error) if error.args else type(error).__name__)
