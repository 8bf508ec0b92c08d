"""Builds the Python of the contracts: protoc over chirp/**/v1/*.proto, messages and stubs typed by mypy-protobuf.

Runs as hatch's build hook, so `uv sync` and `uv run` rebuild when a .proto changes. Writes, git-ignored, beside the sources:
`*_pb2.py(i)`, `*_pb2_grpc.py(i)`, one `v1/__init__.py(i)` per package with explicit names (`from chirp.tweet import v1 as
tweetpb`), and `chirp/contracts.digest`, by which a test knows that the output is fresh. Also lays out the google/api and
google/rpc sources of the googleapis-common-protos wheel under third_party/, where buf.yaml looks for them.
"""

import hashlib
import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
GOOGLE_SOURCES = ("google/api/annotations.proto", "google/api/http.proto", "google/api/httpbody.proto",
                  "google/rpc/status.proto", "google/rpc/error_details.proto")  # fmt: skip


class ContractsHook(BuildHookInterface[Any]):
    """Hatch entry point: generates before the wheel or the editable install is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(ROOT)


def sources(root: Path) -> list[Path]:
    """Our .proto files, sorted, so that output and digest do not depend on the file system."""
    return sorted((root / "chirp").rglob("*.proto"))


def digest(root: Path) -> str:
    """SHA-256 over this generator and every .proto; equal digests mean that the generated code is fresh."""
    hashed = hashlib.sha256()
    for path in [root / "codegen.py", *sources(root)]:
        hashed.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def generate(root: Path) -> None:
    """Runs protoc and writes packages and digest; a protoc error raises RuntimeError (protoc has printed the place)."""
    google = common_protos()
    lay_out_google(google, root.parent)
    compile_protos(root, google)
    for package in sorted({path.parent for path in sources(root)}):
        write_package(package)
    (root / "chirp" / "contracts.digest").write_text(digest(root) + "\n")


def common_protos() -> Path:
    """The folder that holds google/api and google/rpc: the installed googleapis-common-protos package."""
    spec = importlib.util.find_spec("google.api")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("googleapis-common-protos is not installed")
    return Path(next(iter(spec.submodule_search_locations))).parent.parent


def lay_out_google(google: Path, repository: Path) -> None:
    """Copies the sources that buf needs; a built sdist has no buf.yaml beside it and needs none."""
    if not (repository / "buf.yaml").exists():
        return
    for name in GOOGLE_SOURCES:
        target = repository / "third_party" / "googleapis" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(google / name, target)


def compile_protos(root: Path, google: Path) -> None:
    """One protoc run for all files; the generated imports are rooted at `root`, so they need no patching."""
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    files = [path.relative_to(root).as_posix() for path in sources(root)]
    outputs = [f"--{kind}_out={root}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main(["protoc", f"-I{root}", f"-I{google}", f"-I{well_known}", *outputs, *files]) != 0:
        raise RuntimeError("protoc failed: see its messages above")


def write_package(package: Path) -> None:
    """`v1/__init__.py` re-exports by name: a star import would leak grpc, warnings and mangled module names."""
    modules = [path.stem for path in sorted(package.glob("*.proto"))]
    docstring = f'"""Contracts of chirp.{package.parent.name}.{package.name}, generated from the .proto files beside it."""\n\n'
    code = [line for stem in modules for line in imports(package, stem, typed=False)]
    stub = [line for stem in modules for line in imports(package, stem, typed=True)]
    (package / "__init__.py").write_text(docstring + "".join(code))
    (package / "__init__.pyi").write_text(docstring + "".join(stub))


def imports(package: Path, stem: str, *, typed: bool) -> Iterable[str]:
    """The import lines for one .proto: every message, enum, enum value, extension, and what its services generate."""
    dotted = f"chirp.{package.parent.name}.{package.name}"
    names = top_level_names(package / f"{stem}_pb2.pyi")
    if names:
        yield from lines(f"{dotted}.{stem}_pb2", names)
    services = service_names(package / f"{stem}.proto")
    generated = [part for name in services for part in (f"{name}Servicer", f"{name}Stub", f"add_{name}Servicer_to_server")]
    if typed:
        generated += [f"{name}AsyncStub" for name in services]
    if generated:
        yield from lines(f"{dotted}.{stem}_pb2_grpc", generated)


def lines(module: str, names: list[str]) -> list[str]:
    """`from module import a as a`: the spelling that type checkers take for a re-export."""
    return [f"from {module} import {name} as {name}\n" for name in sorted(names)]


def service_names(proto: Path) -> list[str]:
    """Names of the services that a .proto declares."""
    words = (line.split() for line in proto.read_text().splitlines())
    return [line[1] for line in words if len(line) > 1 and line[0] == "service"]


def top_level_names(stub: Path) -> list[str]:
    """Public names at the top of a generated _pb2.pyi, by its syntax tree."""
    import ast

    found: set[str] = set()
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return [name for name in sorted(found) if not name.startswith("_") and name not in {"DESCRIPTOR", "Global___"}
            and not name.startswith("Global___")]  # fmt: skip
