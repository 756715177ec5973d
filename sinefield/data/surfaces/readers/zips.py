"""Members of a ZIP archive, no more unpacked of them than a file of that size may hold."""

import zipfile
import zlib
from io import BytesIO

from sinefield.data.surfaces.readers.source import MAX_RATIO, Source, room

MAX_MEMBERS = 10_000


def open_zip(source: Source) -> zipfile.ZipFile:
    """The archive; raises SinefieldError where it is damaged."""
    try:
        archive = zipfile.ZipFile(BytesIO(source.data))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, IndexError) as error:
        raise source.wrong(f"is not a readable archive ({str(error)[:60]})") from error
    if len(archive.filelist) > MAX_MEMBERS:
        raise source.wrong(f"has {len(archive.filelist):,} members, more than {MAX_MEMBERS:,}")
    return archive


def unzip(source: Source, archive: zipfile.ZipFile, name: str) -> bytes:
    """One member, in memory; what the archive says of its size is not believed."""
    limit = room(len(source.data))
    try:
        member = archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise source.wrong(f"its member {name!r:.60} is compressed in an unusual way")
        if member.file_size > limit:
            raise source.wrong(f"its member {name!r:.60} claims more than {MAX_RATIO} times the file's size")
        with archive.open(member) as stream:
            data = stream.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, KeyError) as error:
        raise source.wrong(f"its member {name!r:.60} cannot be unpacked ({str(error)[:60]})") from error
    if len(data) > limit:
        raise source.wrong(f"its member {name!r:.60} unpacks to more than {MAX_RATIO} times the file's size")
    return data
