"""Contracts compiled while testing, so that the transcoder is tried on descriptors that Chirp does not have."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
ZOO = Path(__file__).with_name("zoo.proto")

HEAD = """
syntax = "proto3";
package trial.v1;
import "google/api/annotations.proto";
import "google/protobuf/timestamp.proto";
import "chirp/options/v1/options.proto";
message Inner { string name = 1; int64 number = 2; Inner inner = 3; repeated Inner inners = 4; }
message Ask {
  int64 id = 1; string name = 2; Inner inner = 3; repeated string tags = 4; map<string, string> labels = 5;
  google.protobuf.Timestamp time = 6; repeated Inner inners = 7;
}
message Reply { string text = 1; Inner inner = 2; }
"""


class Contract:
    """The descriptors of one .proto source, in a pool of its own."""

    def __init__(self, source: str) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        for file in _compiled(source):
            self.pool.Add(file)
        self._package = source.split("package ", 1)[1].split(";", 1)[0]

    def service(self, name: str) -> ServiceDescriptor:
        return self.pool.FindServiceByName(f"{self._package}.{name}")

    def descriptor(self, name: str) -> Descriptor:
        return self.pool.FindMessageTypeByName(f"{self._package}.{name}")

    def message(self, name: str) -> Any:
        """The class of a message."""
        return message_factory.GetMessageClass(self.descriptor(name))


def zoo() -> Contract:
    """The contract that has one of everything."""
    return Contract(ZOO.read_text())


def one_rpc(rule: str, rpc: str = "rpc Call(Ask) returns (Reply)", more: str = "") -> ServiceDescriptor:
    """A service whose single RPC has the given google.api.http rule."""
    option = f"option (google.api.http) = {{ {rule} }};" if rule else ""
    return Contract(f"{HEAD} service Trial {{ {rpc} {{ {option} {more} }} }}").service("Trial")


def _compiled(source: str) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    google = importlib.util.find_spec("google.api")
    assert google
    assert google.submodule_search_locations
    common = Path(next(iter(google.submodule_search_locations))).parent.parent
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "source.proto").write_text(source)
        out = Path(folder) / "set"
        includes = [f"-I{each}" for each in (folder, ROOT / "proto", common, well_known)]
        arguments = ["protoc", *includes, f"--descriptor_set_out={out}", "--include_imports", "source.proto"]
        assert protoc.main(arguments) == 0
        found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    yield from found.file
