"""No file that could run code is ever read or written: nothing here pickles or unpickles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("bases", "client", "contracts_abi", "coordinator", "deploy", "ipfs", "processes", "protocol")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if "node_modules" not in path.parts]
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {("torch", "load"), ("torch", "save")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_pickles_or_unpickles(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not PICKLERS & {alias.name.partition(".")[0] for alias in node.names}, f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in PICKLERS, f"{path}:{node.lineno}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            called = (node.func.value.id, node.func.attr)
            unpickling = any(
                keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is not False
                for keyword in node.keywords
            )  # numpy's loader takes no pickle unless it is told to
            assert called not in CALLS and not unpickling, f"{path}:{node.lineno}: {'.'.join(called)}"
