from dataclasses import replace
from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.pretraining.processes.launch import Place
from esm1b.pretraining.processes.slurm_address import with_known_address

# reserved names never resolve (RFC 2606)
VIRTUAL = Place(rank=1, local_rank=0, processes=2, address="n1.invalid", port=20000)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "scontrol"
    program.write_text(
        '#!/bin/sh\n[ "$*" = "show node --oneliner n1.invalid" ] || exit 1\n'
        "echo 'NodeName=n1.invalid CPUTot=1 NodeAddr=127.0.0.1 NodeHostName=vm Port=17001'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


def test_slurm_tells_the_address_of_a_node_that_is_no_host(scontrol: Path) -> None:
    place = with_known_address(replace(VIRTUAL, launcher="srun"))
    assert place == replace(VIRTUAL, launcher="srun", address="127.0.0.1")


def test_a_host_and_other_launchers_addresses_stay(scontrol: Path) -> None:
    scontrol.write_text("#!/bin/sh\necho NodeAddr=10.0.0.9\n")
    for place in (
        replace(VIRTUAL, launcher="srun", address="localhost"),
        replace(VIRTUAL, launcher="torchrun"),
        replace(VIRTUAL, launcher="srun", rank=0, processes=1),
    ):
        assert with_known_address(place) == place


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", None])
def test_a_node_that_nobody_knows_is_refused(scontrol: Path, program: str | None) -> None:
    scontrol.unlink() if program is None else scontrol.write_text(program)
    with pytest.raises(UserError, match=r"rank 0 is on n1\.invalid.*expected MASTER_ADDR"):
        with_known_address(replace(VIRTUAL, launcher="srun"))
