"""The import law, names, sizes and layers of the house. Each rule prints the places that break it."""

import ast
import statistics
from pathlib import Path

from tests.rules.sources import ROOT, functions, imports, modules

SHARED = {"runtime", "cluster"}
BANNED_NAMES = {"utils", "util", "common", "helpers", "misc", "base"}
LONGEST_FILE, LONGEST_FUNCTION, MEDIAN_FUNCTION, P90_FUNCTION = 400, 60, 8, 30


def services() -> set[str]:
    return {path.name for path in (ROOT / "services").iterdir() if (path / "__main__.py").exists()}


def crossings() -> list[str]:
    found: list[str] = []
    for path, module in modules("services", "gateway"):
        owner = path.parts[1] if path.parts[0] == "services" and len(path.parts) > 2 else path.parts[0]
        for line, name in imports(module):
            parts = name.split(".")
            if parts[0] == "services" and len(parts) > 1 and parts[1] in services() - {owner}:
                found.append(f"{path}:{line} imports {name}")
            if parts[0] in ("gateway", "loadtest", "tests") and owner not in (parts[0], "cluster"):
                found.append(f"{path}:{line} imports {name}")
    return found


def test_services_meet_only_through_contracts() -> None:
    assert len(services()) >= 5
    assert crossings() == []


def test_only_the_command_line_imports_the_cluster_package() -> None:
    assert [
        f"{path}:{line}"
        for path, module in modules("services", "gateway")
        for line, name in imports(module)
        if name.startswith("services.cluster") and path.parts[:2] != ("services", "cluster")
    ] == []


def test_the_id_service_never_shadows_the_builtin() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "services" and any(alias.name == "id" for alias in node.names)
    ]
    assert found == []


def test_no_module_is_a_grab_bag() -> None:
    assert [str(path) for path, _ in modules() if path.stem in BANNED_NAMES] == []


def test_every_service_has_the_same_anatomy() -> None:
    for name in services():
        folder = ROOT / "services" / name
        for part in ("__init__.py", "__main__.py", "service.py", "migrations"):
            assert (folder / part).exists(), f"services/{name} has no {part}"
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), f"services/{name} does not say what it owns"


def test_files_and_functions_stay_small() -> None:
    sizes: list[int] = []
    too_big: list[str] = []
    for path, module in modules():
        lines = len((ROOT / path).read_text().splitlines())
        if lines > LONGEST_FILE:
            too_big.append(f"{path} has {lines} lines")
        for function in functions(module):
            size = function.body[-1].end_lineno - function.body[0].lineno + 1  # type: ignore[operator]
            sizes.append(size)
            if size > LONGEST_FUNCTION:
                too_big.append(f"{path}:{function.lineno} {function.name} has {size} lines")
    assert too_big == []
    assert statistics.median(sizes) <= MEDIAN_FUNCTION
    assert statistics.quantiles(sizes, n=10)[-1] <= P90_FUNCTION


def test_every_module_class_and_public_function_says_what_for() -> None:
    silent: list[str] = []
    for path, module in modules():
        if not ast.get_docstring(module) and module.body:
            silent.append(str(path))
        for node in module.body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                silent.append(f"{path}:{node.lineno} {node.name}")
    assert silent == []


def test_nothing_is_left_unfinished() -> None:
    marks = ("TODO", "FIXME", "XXX", "HACK", "NotImplementedError")
    found = [
        f"{path}:{number}"
        for path, _ in modules()
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if any(mark in line for mark in marks)
    ]
    assert found == []


def test_handlers_raise_and_never_abort() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, module in modules("services", "gateway")
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and node.attr in ("abort", "set_code", "abort_with_status")
        and path.parts[:2] != ("services", "runtime")
    ]  # fmt: skip
    assert found == []


def test_the_environment_is_read_in_one_place() -> None:
    allowed = {Path("services/runtime/process.py"), Path("services/runtime/relay.py")}
    found = [
        f"{path}:{node.lineno}"
        for path, module in modules("services", "gateway")
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        and isinstance(node.value, ast.Name) and node.value.id == "os"
        and path not in allowed and path.parts[:2] != ("services", "cluster")
    ]  # fmt: skip
    assert found == []


def test_the_large_packages_are_guides_to_their_modules() -> None:
    for package, suffix in (("runtime", ""), ("timeline", ".py")):
        folder = ROOT / "services" / package
        guide = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        named = set(guide.split())
        assert [path.name for path in folder.glob("[a-z]*.py") if path.stem + suffix not in named] == []
