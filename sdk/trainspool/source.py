"""Who started a run, and from which program: the tags that MLflow's fluent API sets on every run.

Source: mlflow-store.md §1.7.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys


@functools.lru_cache(maxsize=1)
def user() -> str:
    """Return the user's name, as MLflow's ``mlflow.user`` has it."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        name = os.environ.get(variable)
        if name:
            return name
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return str(os.getuid())


def tags() -> dict[str, str]:
    """Return the tags of a new run: user, program, and MLFLOW_RUN_CONTEXT's if it holds a JSON object."""
    program = sys.argv[0] if sys.argv and sys.argv[0] else "<console>"
    found = {"mlflow.user": user(), "mlflow.source.name": program, "mlflow.source.type": "LOCAL"}
    context = os.environ.get("MLFLOW_RUN_CONTEXT")
    if context:
        try:
            found.update({str(key): str(value) for key, value in json.loads(context).items()})
        except (ValueError, AttributeError):
            return found
    return found


@functools.lru_cache(maxsize=1)
def git_tags() -> dict[str, str]:
    """Return commit, branch and address of the git work tree that the program lies in; empty outside of one.

    Reads a few files: for the pump's thread, not for training. Worktrees and packed refs are understood; a password
    in the address is left out.
    """
    program = sys.argv[0] if sys.argv else ""
    folder = os.path.dirname(os.path.abspath(program)) if os.path.exists(program) else os.getcwd()
    git = _git_folder(folder)
    if git is None:
        return {}
    common = os.path.join(git, _first_line(f"{git}/commondir") or ".")
    head = _first_line(f"{git}/HEAD")
    ref = head.removeprefix("ref: ") if head.startswith("ref: ") else ""
    commit = _first_line(f"{git}/{ref}") or _first_line(f"{common}/{ref}") or _packed(common, ref) if ref else head
    found = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": ref.removeprefix("refs/heads/"),
        "mlflow.source.git.repoURL": _origin(common),
    }
    return {key: value for key, value in found.items() if value} if commit else {}


def _git_folder(folder: str) -> str | None:
    while True:
        path = os.path.join(folder, ".git")
        if os.path.isdir(path):
            return path
        if os.path.isfile(path):  # a linked work tree or submodule: "gitdir: <path>"
            return os.path.join(folder, _first_line(path).removeprefix("gitdir: "))
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _packed(git: str, ref: str) -> str:
    try:
        with open(f"{git}/packed-refs", encoding="utf-8", errors="replace") as file:
            return next((line.split()[0] for line in file if line.rstrip("\n").endswith(f" {ref}")), "")
    except OSError:
        return ""


def _origin(git: str) -> str:
    section = ""
    try:
        with open(f"{git}/config", encoding="utf-8", errors="replace") as file:
            for line in file:
                text = line.strip()
                if text.startswith("["):
                    section = text
                elif section == '[remote "origin"]' and text.split("=")[0].strip() == "url":
                    return re.sub(r"//[^/@]*@", "//", text.split("=", 1)[1].strip())
    except OSError:
        pass
    return ""
