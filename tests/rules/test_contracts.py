"""The contracts: linted, formatted, compatible with the baseline, freshly generated, each RPC with its policy."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from chirp.graph import v1 as graphpb
from chirp.id import v1 as idpb
from chirp.ops import v1 as opspb
from chirp.options import v1 as optionspb
from chirp.timeline import v1 as timelinepb
from chirp.tweet import v1 as tweetpb
from chirp.user import v1 as userpb
from tests.rules.sources import ROOT

PROTO = ROOT / "proto"
FILES = (
    idpb.GenerateIdsRequest.DESCRIPTOR.file, userpb.GetUserRequest.DESCRIPTOR.file, graphpb.FollowRequest.DESCRIPTOR.file,
    tweetpb.GetTweetRequest.DESCRIPTOR.file, timelinepb.TimelineItem.DESCRIPTOR.file, opspb.Setting.DESCRIPTOR.file,
)  # fmt: skip
METHODS: list[MethodDescriptor] = [
    method for file in FILES for service in file.services_by_name.values() for method in service.methods
]


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("buf")
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_contracts_are_clean() -> None:
    assert buf("lint").stdout == ""


def test_the_linter_notices_a_missing_comment(tmp_path: Path) -> None:
    broken = tmp_path / "proto" / "chirp" / "broken" / "v1" / "broken.proto"
    broken.parent.mkdir(parents=True)
    broken.write_text('syntax = "proto3";\npackage chirp.broken.v1;\nmessage Silent {}\n')
    (tmp_path / "buf.yaml").write_text((ROOT / "buf.yaml").read_text().split("  - path: third_party")[0] + LINT)
    linted = subprocess.run(
        [Path(sys.executable).with_name("buf"), "lint"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "Silent" in linted.stdout


LINT = "lint:\n  use:\n    - STANDARD\n    - COMMENTS\n"


def test_the_contracts_are_formatted() -> None:
    assert buf("format", "-d", "--exit-code", "proto").stdout == ""


def test_the_contracts_break_no_client_of_the_baseline() -> None:
    checked = buf("breaking", "proto", "--against", "proto/baseline.binpb")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def codegen() -> ModuleType:
    spec = importlib.util.spec_from_file_location("codegen", PROTO / "codegen.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_code_is_fresh() -> None:
    written = (PROTO / "chirp" / "contracts.digest").read_text().strip()
    assert written == codegen().digest(PROTO), "the .proto files have changed: run `uv sync --reinstall-package chirp-contracts`"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_rpc_says_who_may_call_it(method: MethodDescriptor) -> None:
    policy = method.GetOptions().Extensions[optionspb.policy]
    assert policy.caller != optionspb.CALLER_UNSPECIFIED
    assert policy.criticality != optionspb.CRITICALITY_UNSPECIFIED
    internal = policy.caller in (optionspb.CALLER_SERVICE, optionspb.CALLER_OPERATOR)
    public = method.GetOptions().HasExtension(annotations_pb2.http)
    assert public is not internal, "public RPCs have an HTTP rule, internal ones have none, so that the shim cannot serve them"


def test_no_two_rpcs_share_a_path() -> None:
    rules: list[str] = []
    for method in METHODS:
        rule = method.GetOptions().Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            verb = binding.WhichOneof("pattern")
            if verb:
                rules.append(f"{verb} {getattr(binding, verb)}")
    assert len(rules) >= 20
    assert sorted(rules) == sorted(set(rules))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_public_change_takes_a_request_id(method: MethodDescriptor) -> None:
    changes = method.GetOptions().idempotency_level != method.GetOptions().NO_SIDE_EFFECTS
    public = method.GetOptions().Extensions[optionspb.policy].caller in (optionspb.CALLER_ANYONE, optionspb.CALLER_USER)
    assert not (changes and public) or "request_id" in method.input_type.fields_by_name
