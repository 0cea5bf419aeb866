"""Every file-system operation of the converter, one method each: what a test can make fail, short or be recorded.

On Linux `fsync` reaches the drive. On macOS it stops at the drive's cache: `flush_drive` (F_FULLFSYNC) empties that
cache for all files at once, so a batch of files is synced one by one, flushed once, and only then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from pathlib import Path

from moe_mlx.store.files import drop_pages, open_regular

_F_FULLFSYNC = 51
#: What flock answers on file systems without locks; EBADF on NFS, which locks only what is open for writing.
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Fs:
    """The operating system's file operations; offsets and sizes in bytes. Every method may raise OSError."""

    def mkdir(self, path: Path) -> None:
        """Makes a folder, and those above it, unless it is there."""
        path.mkdir(parents=True, exist_ok=True)

    def open(self, path: Path) -> int:
        """Opens a regular file for reading."""
        return open_regular(path)

    def create(self, path: Path) -> int:
        """Opens a file for writing, empty; a link in its place is refused."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, 0o644)

    def reopen(self, path: Path) -> int:
        """Opens a file made by `create` for more writing."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def extend(self, path: Path) -> int:
        """Opens a file for writing at its end, made if needed; a link in its place is refused."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, 0o644)

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Reads at `offset`; returns the bytes read, 0 at the end of the file."""
        return os.preadv(fd, [buffer], offset)

    def write(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Writes at `offset`; returns the bytes written, maybe fewer than asked."""
        return os.pwrite(fd, buffer, offset)

    def append(self, fd: int, line: bytes) -> int:
        """Writes at the end of a file opened by `extend`; returns the bytes written."""
        return os.write(fd, line)

    def sync(self, fd: int) -> None:
        """Hands a file's data to the drive."""
        os.fsync(fd)

    def flush_drive(self, fd: int) -> None:
        """Makes everything handed to the drive so far survive a loss of power; `fd` is any file on it."""
        if sys.platform == "darwin":
            try:
                fcntl.fcntl(fd, _F_FULLFSYNC)
            except OSError:  # network and FAT volumes have no such call
                os.fsync(fd)

    def sync_folder(self, path: Path) -> None:
        """Hands a folder's entries, such as a rename, to the drive, past its cache."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            os.fsync(fd)
            self.flush_drive(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without folders to sync
                raise
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Renames a file over another, or a folder to a new name."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Removes a file."""
        path.unlink()

    def forget(self, fd: int) -> None:
        """Drops a synced file's cached pages where the system can, so that the next read comes from the drive."""
        drop_pages(fd)

    def close(self, fd: int) -> None:
        """Closes a descriptor."""
        os.close(fd)

    def lock(self, fd: int) -> bool | None:
        """Takes an exclusive lock on a folder that ends with the process.

        Returns:
            False if another process holds it; None where the file system has no locks, or none for folders (NFS).
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None
        return True

    def free_nbytes(self, folder: Path) -> int:
        """Returns the bytes that an ordinary user may still write on the file system of `folder`."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize


def close(fs: Fs, fd: int) -> None:
    """Closes a descriptor; a failure is let pass, for what had to be safe has been synced before."""
    with contextlib.suppress(OSError):
        fs.close(fd)


def read_whole(fs: Fs, fd: int, buffer: memoryview, offset: int) -> int:
    """Reads until `buffer` is full or the file ends, and returns the bytes read."""
    done = 0
    while done < buffer.nbytes:
        n = fs.read(fd, buffer[done:], offset + done)
        if n == 0:
            break
        done += n
    return done


def write_whole(fs: Fs, fd: int, buffer: memoryview, offset: int) -> None:
    """Writes all of `buffer`, however short single writes are.

    Raises:
        OSError: From the operating system; EIO where a write makes no progress.
    """
    done = 0
    while done < buffer.nbytes:
        n = fs.write(fd, buffer[done:], offset + done)
        if n <= 0:
            raise OSError(errno.EIO, "a write made no progress")
        done += n
