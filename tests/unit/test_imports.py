"""Who may import whom: the SDK stands on msgpack alone, and the agent on the SDK's spool package and errors alone."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SDK = ROOT / "sdk" / "trainspool"
AGENT = ROOT / "agent" / "trainspool_agent"
# The demo is training code that ships with the agent; `trainspool run` owns the run of the command that it wraps. Both
# log as a user does, through the public names.
LOGS_AS_A_USER = {AGENT / "demo" / "training.py", AGENT / "wrapped.py"}
BARE_PACKAGES = {"_typeshed", "msgpack"}
INTEGRATIONS = SDK / "integrations"  # each imports its framework, and is imported by name alone
PLUGIN = SDK / "mlflow_plugin"  # MLflow calls it; its __init__, which MLflow's import loads, imports nothing of MLflow


def imported(path: Path, package: Path) -> Iterator[str]:
    """Yield the full name of every module or name that the file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                inside = path.relative_to(package.parent).parts[: -node.level]
                base = ".".join([*inside, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def belongs_to(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


@pytest.mark.parametrize(
    "path", sorted(set(AGENT.rglob("*.py")) - LOGS_AS_A_USER), ids=lambda p: str(p.relative_to(AGENT))
)
def test_the_agent_imports_only_spool_and_errors_of_the_sdk(path: Path) -> None:
    of_the_sdk = [name for name in imported(path, AGENT) if belongs_to(name, "trainspool")]
    allowed = ("trainspool.spool", "trainspool.errors", "trainspool.__version__")
    assert [name for name in of_the_sdk if not belongs_to(name, *allowed)] == []


@pytest.mark.parametrize("path", sorted((SDK / "spool").glob("*.py")), ids=lambda p: p.name)
def test_spool_imports_nothing_of_the_rest_of_the_sdk(path: Path) -> None:
    of_the_sdk = [name for name in imported(path, SDK) if belongs_to(name, "trainspool")]
    assert [name for name in of_the_sdk if not belongs_to(name, "trainspool.spool", "trainspool.errors")] == []


def of_others(name: str) -> bool:
    return name.partition(".")[0] not in sys.stdlib_module_names | {"trainspool", "msgpack"}


@pytest.mark.parametrize(
    "path", sorted(set(SDK.rglob("*.py")) - set(INTEGRATIONS.rglob("*.py"))), ids=lambda p: str(p.relative_to(SDK))
)
def test_the_sdk_needs_nothing_but_msgpack(path: Path) -> None:
    """Others' packages may be used where a user has them (numpy, matplotlib), but only inside a function."""
    top = [node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top]
    allowed = BARE_PACKAGES | ({"mlflow"} if path.parent == PLUGIN and path.name != "__init__.py" else set())
    assert [name for name in names if of_others(name) and name.partition(".")[0] not in allowed] == []


@pytest.mark.parametrize("path", sorted(set(SDK.rglob("*.py")) - set(PLUGIN.rglob("*.py"))), ids=lambda p: p.name)
def test_nothing_of_the_sdk_imports_the_plugin_of_mlflow(path: Path) -> None:
    assert [name for name in imported(path, SDK) if belongs_to(name, "mlflow", "trainspool.mlflow_plugin")] == []


@pytest.mark.parametrize("path", sorted(INTEGRATIONS.glob("*.py")), ids=lambda p: p.name)
def test_an_integration_needs_its_own_framework_alone(path: Path) -> None:
    allowed = {
        "huggingface": {"transformers"},
        "keras": {"keras"},
        "lightning": {"lightning", "pytorch_lightning"},
        "optuna": {"optuna"},
        "sklearn": {"sklearn", "joblib"},  # joblib is scikit-learn's own dependency
    }.get(path.stem, set())
    found = {name.partition(".")[0] for name in imported(path, SDK) if of_others(name)}
    assert found == allowed


@pytest.mark.parametrize("path", sorted(set(SDK.rglob("*.py")) - set(INTEGRATIONS.rglob("*.py"))), ids=lambda p: p.name)
def test_nothing_of_the_sdk_imports_an_integration(path: Path) -> None:
    assert [name for name in imported(path, SDK) if belongs_to(name, "trainspool.integrations")] == []


def test_trainspool_imports_with_only_msgpack_installed(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("msgpack")
    assert spec is not None and spec.submodule_search_locations
    (tmp_path / "msgpack").symlink_to(spec.submodule_search_locations[0])
    program = (
        f"import sys; sys.path[:0] = [{str(SDK.parent)!r}, {str(tmp_path)!r}]\n"
        "import trainspool\n"
        "for name in getattr(trainspool, '__all__', ()): getattr(trainspool, name)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    # -I: no user site, no PYTHON* variables; -S: no site-packages.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "'trainspool'" in done.stdout and "trainspool_agent" not in done.stdout
