"""A small file system of a kind, in a file, mounted for a test: where root, mkfs and loop devices are to be had."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MAKE = {"xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"), "btrfs": ("mkfs.btrfs", "-q"), "ext4": ("mkfs.ext4", "-q")}
PROGRAMS = "/usr/sbin:/sbin"


@contextlib.contextmanager
def in_memory(size: int) -> Iterator[Path]:
    """Mount a tmpfs of *size* bytes; skips the test where that cannot be done."""
    if os.geteuid():
        pytest.skip("only root may mount")
    with tempfile.TemporaryDirectory(prefix="trainspool-mounted-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def mounted(kind: str, size: int = 512 << 20) -> Iterator[Path]:
    """Mount a fresh file system; skips the test where that cannot be done, and says why."""
    program, *options = MAKE[kind]
    path = shutil.which(program, path=f"{os.environ['PATH']}:{PROGRAMS}")
    if path is None:
        pytest.skip(f"no {program} here: the packages xfsprogs and btrfs-progs have them")
    if os.geteuid():
        pytest.skip("only root may mount")
    with tempfile.TemporaryDirectory(prefix="trainspool-mounted-") as folder:
        image, place = Path(folder, "image"), Path(folder, "place")
        place.mkdir()
        with open(image, "wb") as file:
            file.truncate(size)
        subprocess.run([path, *options, str(image)], check=True, capture_output=True)
        done = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
