"""grpc ignores a setting whose name it does not know: every name that we set must be one of the library's own."""

from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc

from services.runtime import grpcsettings

LIBRARY = Path(cygrpc.__file__).read_bytes()
NAMES = sorted({name for name, _ in (*grpcsettings.SERVER_ARGUMENTS, *grpcsettings.CHANNEL_ARGUMENTS)})


@pytest.mark.parametrize("name", NAMES)
def test_the_library_knows_the_setting(name: str) -> None:
    assert name.encode() in LIBRARY, f"grpcio {grpc.__version__} has no setting {name}"


def test_an_unknown_name_would_be_noticed() -> None:
    assert b"grpc.no_such_setting" not in LIBRARY
