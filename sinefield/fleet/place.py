"""Where a fleet is kept: a local folder, or whatever URL fsspec writes; every file whole or not at all."""

from pathlib import Path
from typing import Any

from sinefield.errors import SinefieldError
from sinefield.files import TEMPORARY, read_bytes, write_bytes

STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Object stores: what is put there appears whole, or not at all."""
LARGEST = 4 << 30
"""Bytes of one file that is read."""


class Place:
    """A folder of files by name, local or behind a URL.

    Arguments:
        where: a path, or a URL such as `s3://bucket/folder`.

    Raises:
        SinefieldError: a URL of a kind that is not installed, or a local path that is a file.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> place = Place(folder.name)
        >>> place.write("data/a.bin", b"abc")
        >>> place.names("data"), place.read("data/a.bin")
        (['data/a.bin'], b'abc')
        >>> folder.cleanup()
    """

    def __init__(self, where: str | Path) -> None:
        self.where = str(where).rstrip("/") or "/"
        self.local = Path(self.where) if "://" not in self.where else None
        if self.local is None:
            self.protocol = self.where.partition("://")[0]
            self.store, self.root = self._open()
        elif self.local.exists() and not self.local.is_dir():
            raise SinefieldError(f"{where}: is a file; give a folder")

    def _open(self) -> tuple[Any, str]:
        try:
            import fsspec

            # Listings are asked anew: another process may have written since.
            return fsspec.core.url_to_fs(self.where, use_listings_cache=False)
        except ImportError as error:
            raise SinefieldError(
                f"{self.where}: needs another package ({error}); pip install 'sinefield[fleet]'"
            ) from error
        except Exception as error:  # each store has errors of its own
            raise self._failed("opened", error) from error

    def read(self, name: str) -> bytes:
        """The content of a file. Raises SinefieldError: it is not there, or cannot be read."""
        if self.local is not None:
            return read_bytes(self.local / name, LARGEST, "file of a fleet")
        try:
            return self.store.cat_file(f"{self.root}/{name}")
        except Exception as error:
            raise self._failed(f"read ({name})", error) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file in place of what was there. Raises SinefieldError: it cannot be written."""
        if self.local is not None:
            write_bytes(self.local / name, content)
            return
        path = f"{self.root}/{name}"
        try:
            if self.protocol in STORES:
                self.store.pipe_file(path, content)
            else:
                folder, _, last = path.rpartition("/")
                self.store.makedirs(folder, exist_ok=True)
                self.store.pipe_file(f"{folder}/{TEMPORARY}{last}", content)
                self.store.mv(f"{folder}/{TEMPORARY}{last}", path)
        except Exception as error:
            raise self._failed("written", error) from error

    def names(self, folder: str = "") -> list[str]:
        """The files right within a folder, sorted, as names that `read` takes; none where there is no such folder."""
        inside = f"{folder}/" if folder else ""
        if self.local is not None:
            found = self.local / folder
            try:
                return sorted(f"{inside}{p.name}" for p in found.iterdir() if not p.name.startswith(TEMPORARY))
            except FileNotFoundError:
                return []
            except OSError as error:
                raise SinefieldError(f"{found}: cannot be read ({error.strerror}); check the folder") from error
        try:
            paths = self.store.ls(f"{self.root}/{folder}".rstrip("/"), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._failed("read", error) from error
        names = (path.rstrip("/").rpartition("/")[2] for path in paths)
        return sorted({f"{inside}{name}" for name in names if name and not name.startswith(TEMPORARY)})

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if self.local is not None:
            return (self.local / name).exists()
        try:
            return self.store.exists(f"{self.root}/{name}")
        except Exception as error:
            raise self._failed("read", error) from error

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        try:
            if self.local is not None:
                (self.local / name).unlink(missing_ok=True)
            else:
                self.store.rm_file(f"{self.root}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._failed("written", error) from error

    def _failed(self, what: str, error: Exception) -> SinefieldError:
        said = str(error) or type(error).__name__
        return SinefieldError(f"{self.where}: cannot be {what} ({said[:200]}); check its name, rights and address")
