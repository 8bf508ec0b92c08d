"""What the README shows is what happens: its examples are run as they stand, on addresses of the test cluster."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from services.cluster.settings import PROJECT
from tests.conftest import Cluster

README = (PROJECT / "README.md").read_text()


def example(language: str, beginning: str) -> str:
    """The code block that begins so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(beginning)]
    return found


def shell(script: str, **variables: str) -> str:
    """Runs it in bash; fails on the first command that fails."""
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=PROJECT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rest_example_can_be_pasted_and_pasted_again(cluster: Cluster) -> None:
    script = example("sh", "api=").replace("http://127.0.0.1:8080", cluster.rest)

    first, second = shell(script), shell(script)

    assert '"followTime"' in first
    home_of_bob = first[first.index('{"items"') :]
    assert home_of_bob.count("Hello #world") == 1
    assert second[second.index('{"items"') :].count("Hello #world") == 1, "posted once, however often it is pasted"


@pytest.fixture(scope="module")
def python_with_the_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds nothing but the wheel of the contracts and what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    uv = shutil.which("uv") or shell("sh deploy/uv.sh").strip()
    shell(f"{uv} build --wheel --package chirp-contracts --out-dir {folder}")
    (wheel,) = folder.glob("chirp_contracts-*.whl")
    shell(f"{uv} venv {folder}/env && {uv} pip install --python {folder}/env {wheel}", VIRTUAL_ENV=str(folder / "env"))
    return folder / "env" / "bin" / "python"


@pytest.mark.timeout(240)
def test_the_stub_example_runs_with_nothing_but_the_wheel(cluster: Cluster, python_with_the_wheel: Path, tmp_path: Path) -> None:
    register = 'curl -s $api/v1/users -H \'Content-Type: application/json\' -d \'{"username": "wheeler", "requestId": "wheeler"}\''
    found = re.search(r'"userId":"(\d+)"', shell(register, api=cluster.rest))
    assert found is not None
    program = tmp_path / "program.py"
    program.write_text(example("python", "import asyncio"))

    first = shell(f"{python_with_the_wheel} {program} {cluster.address('tweet')} {found[1]}")
    again = shell(f"{python_with_the_wheel} {program} {cluster.address('tweet')} {found[1]}")
    nobody = shell(f"{python_with_the_wheel} {program} {cluster.address('tweet')} 12345")

    assert first.strip().isdecimal()
    assert again == first, "the same request_id gives the same tweet"
    assert nobody.startswith("USER_NOT_FOUND ")


def test_every_documented_metric_is_there(cluster: Cluster) -> None:
    metrics = "".join(shell(f"curl -s {cluster.metrics(name)}") for name in ("relay", "fanout", "timeline"))
    named = set(re.findall(r"`(chirp_[a-z_]+?)(?:_total)?(?:\{[a-z]+\})?`", README))
    assert len(named) >= 7
    assert [name for name in sorted(named) if name not in metrics] == []
