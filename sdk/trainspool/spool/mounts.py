"""What kind of file system a folder lies on."""

from __future__ import annotations

import os

_NETWORK = frozenset(
    ("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs")
)
_MEMORY = frozenset(("hugetlbfs", "ramfs", "tmpfs"))


def file_system_of(path: str | os.PathLike[str]) -> str:
    """Return the type of the file system of *path*, or of the nearest folder above that exists; "" if unknown.

    Source: proc(5), /proc/pid/mountinfo: ``36 35 98:0 /root /mount options - type source super-options``.
    """
    folder = os.path.abspath(path)
    while not os.path.exists(folder) and folder != "/":
        folder = os.path.dirname(folder)
    try:
        device = os.stat(folder).st_dev
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = file.read().splitlines()
    except OSError:
        return ""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    for line in mounts:
        fields = line.split(b" ")
        if fields[2] == number:
            return fields[fields.index(b"-") + 1].decode()
    return ""


def is_memory(path: str | os.PathLike[str]) -> bool:
    return file_system_of(path) in _MEMORY


def is_network(path: str | os.PathLike[str]) -> bool:
    """Whether other hosts may see *path*: locks and watches may not reach them."""
    kind = file_system_of(path)
    return kind in _NETWORK or kind.startswith("fuse")
