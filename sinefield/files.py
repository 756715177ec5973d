"""Reading whole files, and writing them so that a crash leaves the old one or the new one, never half of either."""

import ctypes
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path

from sinefield.errors import SinefieldError

TEMPORARY = ".tmp-"
"""What the names of files that are being written begin with; a process that is killed leaves them."""
MAX_POSES = 256 << 20
"""Bytes of a file of numpy's that holds poses: two million of them."""
SPARSE = 64 << 20
"""Bytes from which on a file that takes less than a 64th of its size on the disk is refused."""
HERE, EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2."""


@contextmanager
def atomic_path(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); on success sync it, rename it to `path`, sync the folder.

    On any exception the temporary file is removed and `path` is left as it was. What a killed process left of the same
    file is removed first; a file that another process is writing is not.

    Raises:
        SinefieldError: the folder cannot be made or written, the disk is full, `path` is a folder,
            or `path` exists and `overwrite` is False.
    """
    path = Path(path)
    check_output(path, overwrite)
    temporary, held = None, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path)
        while held is None:
            if temporary is not None:  # taken for a leftover before it was locked, or not to be opened
                temporary.unlink(missing_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=_prefix(path), suffix=path.suffix, dir=path.parent)
            os.close(descriptor)
            temporary = Path(name)
            held = _hold(temporary)
        assert temporary is not None
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if held is not None:
            os.close(held)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new folder to fill; on success it is synced and becomes `path`, in place of what was there.

    On any exception what was made is removed and `path` is left as it was. What a killed process left is removed first;
    had it already moved the old folder away, where names cannot be exchanged, that is moved back.

    Raises:
        SinefieldError: the folder cannot be made or written, or the disk is full.
    """
    path = Path(path).resolve()  # a link stays a link: what it points to is replaced
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(path) as scratch:
            new, old = scratch / "new", scratch / "old"
            new.mkdir()  # with the user's permissions; the scratch folder's own are private
            yield new
            for file in new.rglob("*"):
                _sync(file)
            _sync_folder(new)
            swap(new, path, old)
            _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is not kept, gone afterwards; what killed processes left of theirs is removed first.

    Raises:
        SinefieldError: there is nowhere to make it, or the disk is full.
    """
    with ExitStack() as stack:
        try:
            path = stack.enter_context(scratch_beside(Path(tempfile.gettempdir()) / f"sinefield-{os.getuid()}"))
        except OSError as error:
            raise SinefieldError(
                f"temporary files: cannot be written ({error.strerror or error}); set TMPDIR to a folder of yours"
            ) from error
        yield path


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder beside `path` to make it in, gone afterwards; what killed processes left of theirs is removed first.

    It is locked, so that nobody takes it for such a leftover.

    Raises:
        OSError: it cannot be made.
    """
    clear_leftovers(path)
    with ExitStack() as stack:
        held = None
        while held is None:
            scratch = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
            stack.callback(_remove, scratch)
            held = _hold(scratch)
        stack.callback(os.close, held)
        yield scratch


def _remove(folder: Path) -> None:
    """Remove a folder of ours. Where that fails, the next run has it for a leftover; what was made is there anyway."""
    for _ in range(2):  # listing a folder takes memory, which the first time there may be none of
        shutil.rmtree(folder, ignore_errors=True)


def swap(new: Path, out: Path, old: Path) -> None:
    """Move `new` to `out`, and what was there to `old`, or to `new` itself; or, failing that, nothing.

    Where the system can exchange two names at once, one of them is at `out` at every moment.
    """
    if out.exists() and _exchange(new, out):
        return
    try:
        if out.exists():
            out.rename(old)
        new.rename(out)
    except BaseException:  # Ctrl-C too
        if old.exists() and not out.exists():
            old.rename(out)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Give each of two files or folders the other's name; False where the system or the disk has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def clear_leftovers(path: Path) -> None:
    """Remove what killed processes left of their writing of `path`.

    Only what has the name that this very output's have, and is not locked: whoever writes holds a lock, which ends with
    its process. Links are left alone. A folder's old content, which a process was killed between moving away and
    replacing, is moved back where nothing stands in its place.
    """
    for left in path.parent.glob(f"{_prefix(path)}*"):
        if left.is_symlink() or (held := _hold(left)) is None:
            continue
        try:
            if left.is_dir():
                if (left / "old").exists() and not os.path.lexists(path):
                    (left / "old").rename(path)
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        except OSError:  # somebody else's permissions; it hinders nobody
            pass
        finally:
            os.close(held)


def _prefix(path: Path) -> str:
    """Of the temporary names of one output."""
    return f"{TEMPORARY}{zlib.crc32(os.fsencode(path.name)):08x}-"


def _hold(path: Path) -> int | None:
    """A descriptor of a file or folder with a lock that nobody else has; None where somebody has, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    except FileNotFoundError:  # cleared away before it was locked
        pass
    except BlockingIOError:
        pass
    except OSError:  # a file system without locks
        return descriptor
    os.close(descriptor)
    return None


def _sync(path: Path) -> None:
    if not path.is_symlink():
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Have a renaming on the disk. Folders that cannot be synced, as on some network disks, are left."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise


def check_output(path: str | Path, overwrite: bool = True) -> None:
    """Refuse early, before long work, an output file that could not be written or would be lost.

    A link counts as the file that it is: it is replaced with `overwrite` alone, and what it leads to stays.

    Raises:
        SinefieldError: `path` is a folder, a pipe or a device, or exists while `overwrite` is False, or a folder above
            it is a file.
    """
    path = Path(path)
    if path.is_dir():
        raise SinefieldError(f"{path}: is a folder; give a file name")
    if os.path.lexists(path):
        if not (path.is_symlink() or path.is_file()):
            raise SinefieldError(f"{path}: is a pipe or a device, which is not replaced; give another name")
        if not overwrite:
            raise SinefieldError(f"{path}: exists already; give another name or --overwrite")
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise SinefieldError(f"{parent}: is a file, so {path} cannot be written; give another name")
            if not os.access(parent, os.W_OK):
                raise SinefieldError(f"{parent}: folder is not writable; choose another output folder")
            break


def foreign(folder: str | Path, own: re.Pattern[str]) -> list[str]:
    """What a folder that is to be replaced holds besides files of ours, sorted; nothing where there is no folder.

    Arguments:
        own: our files' paths in the folder, with / between names, and of our folders with a / at the end. Links and
            devices are never ours.
    """
    found = []
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        real = not path.is_symlink() and (path.is_dir() or path.is_file())
        if not real or not own.fullmatch(f"{name}/" if path.is_dir() else name):
            found.append(name)
    return found


def check_folder_place(path: str | Path) -> None:
    """Refuse early an output folder whose place a new one could not take.

    Raises:
        SinefieldError: `path` is a disk of its own, or the folder that this process, and so the shell, is in: that
            shell would stay in the old one, which is gone; or a link, unless to an empty folder.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise SinefieldError(f"{path}: is a file; give a folder")
    if path.is_symlink() and not (path.is_dir() and not any(path.iterdir())):
        raise SinefieldError(f"{path}: is a link, whose target is not replaced; give the folder itself")
    path = path.resolve()
    if path.is_dir():
        if os.path.ismount(path):
            raise SinefieldError(f"{path}: is a disk of its own, which cannot be replaced; give a folder in it")
        if path.samefile(os.curdir):
            raise SinefieldError(f"{path}: is the current folder, which cannot be replaced; give another name")
    check_output(path / "file")


def write_bytes(path: str | Path, content: bytes, overwrite: bool = True) -> None:
    """Write a whole file atomically."""
    with atomic_path(path, overwrite) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str, overwrite: bool = True) -> None:
    """Write a whole UTF-8 text file atomically."""
    write_bytes(path, content.encode(), overwrite)


def write_error(path: str | Path, error: OSError) -> SinefieldError:
    """The one line for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SinefieldError(f"{path}: the disk is full; free some space and run again")
    return SinefieldError(f"{path}: cannot be written ({error.strerror or error}); choose another output")


def read_bytes(path: str | Path, limit: int, what: str = "file") -> bytes:
    """The content of a regular file, which nothing that happens to the file later can change.

    Arguments:
        limit: bytes that it may have.
        what: it should be, for messages.

    Raises:
        SinefieldError: missing, unreadable, empty, larger than `limit`, almost only holes, or no regular file: a pipe
            or a device is refused without waiting for it.
    """
    with open_file(path, limit, what) as stream:
        try:
            return stream.read(os.fstat(stream.fileno()).st_size)
        except OSError as error:
            raise SinefieldError(f"{path}: cannot be read ({error.strerror or error}); check the {what}") from error


@contextmanager
def open_file(path: str | Path, limit: int, what: str = "file") -> Iterator[BufferedReader]:
    """The same file opened to be read, for whoever wants its beginning alone; every file that is read is opened here.

    Raises:
        SinefieldError: as `read_bytes`.
    """
    path = require_file(path, what)
    try:
        # Between the look and the opening the name may have become a pipe's: opened so, it is not waited for.
        stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise SinefieldError(f"{path}: cannot be read ({error.strerror or error}); check the {what}") from error
    with stream:
        _check_opened(path, os.fstat(stream.fileno()), limit, what)
        yield stream


def read_text(path: str | Path, limit: int, what: str = "file", errors: str = "strict") -> str:
    """The same of a UTF-8 text, with or without a byte-order mark.

    Arguments:
        errors: as of `bytes.decode`.

    Raises:
        SinefieldError: as `read_bytes`, or not UTF-8.
    """
    try:
        return read_bytes(path, limit, what).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise SinefieldError(f"{path}: is not readable as text ({error.reason}); save it as UTF-8") from error


def _check_opened(path: Path, found: os.stat_result, limit: int, what: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SinefieldError(f"{path}: is not a file; give the {what} itself")
    if found.st_size > limit:
        size = f"{limit >> 20:,} MiB" if limit >= 1 << 20 else f"{limit:,} bytes"
        raise SinefieldError(f"{path}: larger than {size}; this is no {what}")
    if found.st_size > SPARSE and found.st_blocks * 512 < found.st_size // 64:
        raise SinefieldError(f"{path}: holds almost nothing but holes; copy the {what} again")


def require_file(path: str | Path, what: str = "file") -> Path:
    """Return `path` as an existing, non-empty, regular file.

    Raises:
        SinefieldError: it is missing, a folder, unreadable or empty.
    """
    path = Path(path)
    if not path.exists():
        raise SinefieldError(f"{path}: no such {what}; check the path")
    if not path.is_file():
        raise SinefieldError(f"{path}: is not a file; give the {what} itself")
    if not os.access(path, os.R_OK):
        raise SinefieldError(f"{path}: cannot be read; check its permissions")
    if path.stat().st_size == 0:
        raise SinefieldError(f"{path}: the {what} is empty; provide a complete one")
    return path


def with_home(path: str | Path) -> Path:
    """The path with a home folder in the place of a `~` or `~user` that it begins with.

    Raises:
        SinefieldError: nobody has that name, or it is not known where the home is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SinefieldError(f"{path}: there is no such home folder; write the path out") from error


def cache_folder() -> Path:
    """$SINEFIELD_CACHE, or $XDG_CACHE_HOME/sinefield, or ~/.cache/sinefield.

    A user without a home has a folder that is not there and cannot be made: nothing is kept.
    """
    if own := os.environ.get("SINEFIELD_CACHE"):
        return with_home(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "sinefield"
    try:
        return with_home("~/.cache") / "sinefield"
    except SinefieldError:
        return Path(os.devnull) / "sinefield"


class Home:
    """A temporary folder, `path`, that is there as long as this object is; what killed processes left of theirs goes.

    Raises:
        SinefieldError: as `scratch_folder`.
    """

    def __init__(self) -> None:
        kept = ExitStack()
        self.path = kept.enter_context(scratch_folder())
        weakref.finalize(self, kept.close)
