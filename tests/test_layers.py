"""Imports run down only, and importing the package does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

LAYERS = """
cli __main__
cli_answers cli_gateway cli_delegations cli_costs cli_host
up
gateway terminal host markdown
tables
view costs agent_tasks pushes local doctor keeper cancelling
missed event_door confirming
reconciling
connect doors events notices
flows
agents
waiting
parking
children starts
projection polling outlooks chance believing
steps
failures links waits wakeups callers addresses attaching
runs hosting
journal
pulse checkpoints parts caught options
places
spill
ledger
patience waker stillness topics interrupts
stops branches acting policy moments values holder threads settings hold outlook
faults clock states same annotated errors ports testing
""".strip().splitlines()
HEIGHT = {name: len(LAYERS) - row for row, layer in enumerate(LAYERS) for name in layer.split()}
PACKAGE = Path(__file__).parents[1] / "standby"


def test_imports_run_down_only() -> None:
    """A module imports from lower layers and its own; crash points are armed by name, from anywhere."""
    for path in PACKAGE.rglob("*.py"):
        above = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            names = [f"standby.{name.name}" for name in node.names] if modules == ["standby"] else modules
            for name in names:
                if name is not None and name.startswith("standby.") and above != "__init__":
                    below = name.split(".")[1]
                    assert HEIGHT[below] <= HEIGHT[above], f"{path} imports {below}, which is above it"


NO_MODELS = (
    "__init__", "block", "budgets", "canonical", "conditions", "forms", "lookalikes", "permissions", "questions",
    "redaction", "scope",
    "transcript",
)  # fmt: skip
"""Of ``standby.agents``: what the terminal and the blocks use, where the extra of the models may not be installed."""


def test_only_agents_that_think_need_the_libraries_of_models() -> None:
    """Installed without extras, everything else works."""
    for path in PACKAGE.rglob("*.py"):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            )
        }  # fmt: skip
        thinks = path.stem == "scripted_model" or (path.parent.name == "agents" and path.stem not in NO_MODELS)
        assert thinks or "pydantic_ai" not in imported, path


def test_every_call_of_the_parking_is_careful() -> None:
    """A client that it is given, or opens, it makes so, and uses in no other way."""
    for path in [*(PACKAGE / "parking").glob("*.py"), PACKAGE / "children.py"]:
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            nodes = list(ast.walk(function))
            plain = {node.arg for node in nodes if isinstance(node, ast.arg) and _is(node.annotation, "PrefectClient")}
            plain |= {
                ast.unparse(node.optional_vars)
                for node in nodes
                if isinstance(node, ast.withitem) and node.optional_vars and _is(node.context_expr, "get_client()")
            }
            made = {id(node.args[0]) for node in nodes if isinstance(node, ast.Call) and _is(node.func, "careful")}
            plain -= {name for name in plain if any(_is(node, f"{name} = careful({name})") for node in nodes)}
            for node in nodes:
                used = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in plain
                assert not used or id(node) in made, f"{path}: {function.name} asks Prefect, and is not careful"


def _is(node: ast.AST | None, code: str) -> bool:
    return node is not None and ast.unparse(node) == code


def test_importing_the_package_does_nothing() -> None:
    """Neither Prefect nor SQLAlchemy is loaded, and nothing is written, until a name from the menu is used."""
    code = "import sys, standby; print([name for name in ('prefect', 'sqlalchemy', 'asyncio') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_host_and_the_terminal_load_no_web_framework() -> None:
    """Which is a tenth of what their start takes."""
    code = "import sys, standby.cli_host, standby.host.host, standby.host.worker; print('fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_every_name_of_the_menu_is_there() -> None:
    import standby

    assert all(getattr(standby, name) is not None for name in standby.__all__)
