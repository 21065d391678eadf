import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "envs" / "requirements.txt").read_text()
PINS = [
    Requirement(line) for line in LOCK.splitlines() if line and not line.lstrip().startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def locked_version(name: str) -> str:
    (pin,) = (pin for pin in PINS if pin.name == canonicalize_name(name))
    return str(pin.specifier).removeprefix("==")


def test_every_line_is_an_exact_pin_without_a_local_tag() -> None:
    assert len(PINS) > 100
    for pin in PINS:
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), pin


def test_the_header_gives_the_command_that_make_lock_runs() -> None:
    command = LOCK.splitlines()[1].removeprefix("#").strip()
    makefile = (ROOT / "Makefile").read_text().replace("\\\n\t\t", "")
    assert command.startswith("uv pip compile --universal --python-version 3.11 ")
    assert command.replace("compile", "compile --quiet") in makefile


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_torch_comes_with_cuda_on_linux_only(python: str) -> None:
    assert locked_version("torch") == "2.13.0"
    assert locked_version("deepspeed") == "0.19.8"
    cuda = [pin for pin in PINS if pin.name.startswith(("cuda-", "nvidia-", "triton"))]
    assert {"nvidia-cublas", "nvidia-nccl-cu13", "triton"} <= {pin.name for pin in cuda}
    for pin in cuda:
        marker = pin.marker or Marker("python_version >= '0'")
        platform = {"python_full_version": f"{python}.0", "platform_machine": "x86_64"}
        assert marker.evaluate(platform | {"sys_platform": "linux"}), pin
        assert not marker.evaluate(platform | {"sys_platform": "darwin"}), pin


def test_the_lock_covers_pyproject() -> None:
    declared = [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["dev"], *EXTRAS["cluster"]]
    for requirement in map(Requirement, declared):
        if requirement.name != "esm1b":
            assert requirement.specifier.contains(locked_version(requirement.name)), requirement


def test_what_is_installed_is_what_is_locked() -> None:
    installed = {}
    for pin in PINS:
        try:
            installed[pin.name] = Version(version(pin.name)).public  # 2.13.0+cpu is torch 2.13.0
        except PackageNotFoundError:  # CUDA libraries beside a CPU build, other platforms' packages
            continue
    assert {"torch", "snakemake", "pytest", "ruff"} <= installed.keys()
    assert installed == {name: locked_version(name) for name in installed}


def test_the_conda_environment_has_the_locked_versions() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "environment.yaml").read_text())
    pins = [Requirement(line) for line in environment["dependencies"][-1]["pip"]]
    expected = {Requirement(line).name for line in [*PROJECT["dependencies"], *EXTRAS["cluster"]]}
    assert {pin.name for pin in pins} == expected
    for pin in pins:
        assert str(pin.specifier) == f"=={locked_version(pin.name)}"
