"""A service made for testing the runtime: every kind of RPC, every policy, every field rule.

Compiled by protoc when first asked for.
"""

import functools
import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType

SERVICE = "chirp.probe.v1.ProbeService"
SOURCE = """
syntax = "proto3";
package chirp.probe.v1;
import "chirp/options/v1/options.proto";
import "google/protobuf/timestamp.proto";

service ProbeService {
  rpc Echo(EchoRequest) returns (EchoResponse) {
    option (chirp.options.v1.policy) = {caller: CALLER_ANYONE};
    option idempotency_level = NO_SIDE_EFFECTS;
  }
  rpc Write(EchoRequest) returns (EchoResponse) {
    option (chirp.options.v1.policy) = {caller: CALLER_USER criticality: CRITICALITY_CRITICAL success_status: 201};
  }
  rpc Scarce(EchoRequest) returns (EchoResponse) {
    option (chirp.options.v1.policy) = {caller: CALLER_ANYONE criticality: CRITICALITY_SHEDDABLE max_in_flight: 2};
  }
  rpc Collect(stream EchoRequest) returns (EchoResponse) {
    option (chirp.options.v1.policy) = {caller: CALLER_ANYONE};
  }
  rpc Count(EchoRequest) returns (stream EchoResponse) {
    option (chirp.options.v1.policy) = {caller: CALLER_ANYONE};
  }
  rpc Chat(stream EchoRequest) returns (stream EchoResponse) {
    option (chirp.options.v1.policy) = {caller: CALLER_ANYONE};
  }
  rpc Check(Ruled) returns (EchoResponse) {
    option (chirp.options.v1.policy) = {caller: CALLER_ANYONE};
  }
}

message EchoRequest {
  string text = 1 [(chirp.options.v1.rules).max_len = 20];
  int32 number = 2;
}
message EchoResponse {
  string text = 1;
  int32 number = 2;
}
message Ruled {
  string name = 1 [(chirp.options.v1.rules) = {required: true min_len: 2 max_len: 5 pattern: "[a-z]+"}];
  int64 amount = 2 [(chirp.options.v1.rules) = {min: 3 max: 9}];
  int64 owner_id = 3 [(chirp.options.v1.rules) = {required: true min: 1}];
  repeated int64 ids = 4 [(chirp.options.v1.rules) = {min: 1 min_items: 2 max_items: 40}];
  repeated string tags = 5 [(chirp.options.v1.rules) = {max_len: 3}];
  google.protobuf.Timestamp since_time = 6 [(chirp.options.v1.rules).required = true];
  Leaf leaf = 7;
  repeated Leaf leaves = 8;
  bytes blob = 9 [(chirp.options.v1.rules).max_len = 4];
  map<string, Leaf> free = 10;
}
message Leaf {
  string word = 1 [(chirp.options.v1.rules).max_len = 3];
  Leaf next = 2;
}
message Plain {
  string word = 1;
  Plain next = 2;
}
message PatternOnNumber {
  int64 number = 1 [(chirp.options.v1.rules).pattern = "x"];
}
message RangeOnText {
  string text = 1 [(chirp.options.v1.rules).min = 1];
}
message CountOnOne {
  string text = 1 [(chirp.options.v1.rules).max_items = 1];
}
message RulesOnMap {
  map<string, string> words = 1 [(chirp.options.v1.rules).max_items = 1];
}
"""


@functools.cache
def load() -> tuple[ModuleType, ModuleType]:
    """The generated messages and stubs: (probe_pb2, probe_pb2_grpc)."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory(prefix="chirp-probe-") as name:
        folder = Path(name)
        (folder / "probe.proto").write_text(SOURCE)
        includes = [folder, Path(__file__).parents[1] / "proto", Path(protoc.__file__).parent / "_proto"]
        outputs = [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        assert protoc.main(["protoc", *(f"-I{each}" for each in includes), *outputs, "probe.proto"]) == 0
        sys.path.insert(0, name)
        try:
            return importlib.import_module("probe_pb2"), importlib.import_module("probe_pb2_grpc")
        finally:
            sys.path.remove(name)
