import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread

from esm1b.errors import OutputError, UserError
from esm1b.files import sha256_file
from esm1b.inference import contact_maps, result_file
from esm1b.inference.contact_maps import predict_contacts
from esm1b.inference.model import load_model
from esm1b.weights.model_directory import ModelDirectory
from tests.inference.models import (
    LONGEST,
    random_sequences,
    refused,
    run_command,
    write_fasta,
    write_model,
)

SEQUENCES = random_sequences(5)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("contacts") / "model", fitted=True)


@pytest.fixture
def fasta(tmp_path: Path) -> str:
    return str(write_fasta(tmp_path / "proteins.fasta", SEQUENCES))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_maps_and_pictures(model: Path, fasta: str, tmp_path: Path) -> None:
    predict_contacts(model, fasta, tmp_path / "out", pictures=2)
    assert listing(tmp_path / "out") == [
        ".esm1b",
        "contacts.parquet",
        "pictures",
        "pictures/0001_protein1.png",
        "pictures/0002_protein2.png",
    ]
    table = pq.read_table(tmp_path / "out" / "contacts.parquet")
    assert table.schema.names == ["id", "sequence", "length", "probabilities"]
    assert table["id"].to_pylist() == [f"protein{number}" for number in range(1, 6)]
    assert table["sequence"].to_pylist() == SEQUENCES
    loaded = load_model(model)
    for row, sequence in zip(table.to_pylist(), SEQUENCES, strict=True):
        found = np.reshape(np.float32(row["probabilities"]), (row["length"], row["length"]))
        np.testing.assert_array_equal(found, loaded.contacts(sequence))
    description = json.loads(table.schema.metadata[b"esm1b"])
    assert (description["model"], description["long_sequences"]) == ("model", "error")
    for picture in (tmp_path / "out" / "pictures").iterdir():
        pixels = imread(picture)
        assert min(pixels.shape[:2]) > 1000
        assert len(np.unique(pixels)) > 20


def test_npz_holds_the_same(
    model: Path, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_file, "_ROW_GROUP_BYTES", 2000)
    predict_contacts(model, fasta, tmp_path / "parquet", pictures=0)
    predict_contacts(model, fasta, tmp_path / "npz", format="npz", pictures=0)
    assert listing(tmp_path / "npz") == [".esm1b", "contacts.npz"]
    assert pq.read_metadata(tmp_path / "parquet" / "contacts.parquet").num_row_groups > 1
    rows = pq.read_table(tmp_path / "parquet" / "contacts.parquet").to_pylist()
    with np.load(tmp_path / "npz" / "contacts.npz", allow_pickle=False) as maps:
        assert sorted(maps.files) == ["0", "1", "2", "3", "4", "esm1b", "ids"]
        settings = json.loads(str(maps["esm1b"]))
        of_parquet = pq.read_schema(tmp_path / "parquet" / "contacts.parquet").metadata[b"esm1b"]
        assert settings == json.loads(of_parquet)
        assert settings["model_sha256"] == ModelDirectory(model).digest()
        assert settings["input"]["sha256"] == sha256_file(Path(fasta))
        assert maps["ids"].tolist() == [row["id"] for row in rows]
        for number, row in enumerate(rows):
            assert maps[str(number)].dtype == np.float32
            assert maps[str(number)].shape == (row["length"], row["length"])
            assert maps[str(number)].ravel().tolist() == row["probabilities"]


def test_the_same_bytes_each_time(model: Path, fasta: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        predict_contacts(model, fasta, tmp_path / name / "out", pictures=1)
        predict_contacts(model, fasta, tmp_path / name / "npz", format="npz", pictures=0)
    files = [path for path in listing(tmp_path / "first") if (tmp_path / "first" / path).is_file()]
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_second_job_is_refused_and_the_first_ends_well(
    model: Path, fasta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = str(write_fasta(tmp_path / "other.fasta", ["MKVLA"]))
    compute, calls = contact_maps._row, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            with pytest.raises(UserError, match=r"another process is writing it \(process \d+ on"):
                predict_contacts(model, other, tmp_path / "out", pictures=0)
        return compute(*arguments)

    monkeypatch.setattr(contact_maps, "_row", interrupted)
    predict_contacts(model, fasta, tmp_path / "out", pictures=0)
    assert pq.read_metadata(tmp_path / "out" / "contacts.parquet").num_rows == len(calls) > 2


@pytest.mark.parametrize("format_", ["parquet", "npz"])
def test_a_map_that_is_lost_is_noticed(
    format_: Literal["parquet", "npz"],
    model: Path,
    fasta: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = contact_maps._rows

    def all_but_one(*arguments: Any) -> Any:
        rows = compute(*arguments)
        next(rows)
        return rows

    monkeypatch.setattr(contact_maps, "_rows", all_but_one)
    with pytest.raises(OutputError, match=r"contacts\.\w+: \d+ \w+; expected \d+, as count"):
        predict_contacts(model, fasta, tmp_path / "out", pictures=0, format=format_)
    assert not (tmp_path / "out").exists()


def test_ids_make_safe_file_names(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.fasta"
    path.write_text(">../../etc/passwd\nMKT\n>sp|P0DTC2|A:B$x_1$\nMKT\n>" + "n" * 300 + "\nMKT\n")
    predict_contacts(model, str(path), tmp_path / "out")
    assert listing(tmp_path / "out" / "pictures") == [
        "0001_.._.._etc_passwd.png",
        "0002_sp_P0DTC2_A_B_x_1_.png",
        f"0003_{'n' * 80}.png",
    ]
    assert pq.read_table(tmp_path / "out" / "contacts.parquet")["id"][1].as_py() == (
        "sp|P0DTC2|A:B$x_1$"
    )


def test_long_sequences(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 8
    fasta = write_fasta(tmp_path / "long.fasta", ["MKTVRQG", sequence])
    found = refused(capsys, "contacts", model, fasta, "--output", tmp_path / "out")
    assert found.startswith(f"{fasta}: record 2 (protein2): 160 residues; expected at most 64")
    assert listing(tmp_path) == ["long.fasta"]
    predict_contacts(model, str(fasta), tmp_path / "out", long_sequences="windows", pictures=2)
    row = pq.read_table(tmp_path / "out" / "contacts.parquet").to_pylist()[1]
    windows = np.reshape(row["probabilities"], (160, 160))
    assert np.isnan(windows[0, 64:]).all()
    assert not np.isnan(windows[0, :64]).any()
    predict_contacts(model, str(fasta), tmp_path / "out", long_sequences="truncate", pictures=0)
    row = pq.read_table(tmp_path / "out" / "contacts.parquet").to_pylist()[1]
    assert (row["length"], row["sequence"]) == (LONGEST, sequence[:LONGEST])
    np.testing.assert_array_equal(
        np.reshape(np.float32(row["probabilities"]), (64, 64)),
        load_model(model).contacts(sequence[:LONGEST]),
    )


def test_the_command(
    model: Path,
    fasta: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = str(tmp_path / "out")
    arguments = ["contacts", str(model), fasta, "--output", output, "--format", "npz"]
    assert run_command(*arguments, "--pictures", "1") == 0
    assert "contacts.npz" in listing(tmp_path / "out")
    unfitted = write_model(tmp_path / "unfitted")
    found = refused(capsys, "contacts", unfitted, fasta, "--output", output)
    assert "the contact head is not fitted; expected a model directory with a fitted one" in found
    Path(fasta).write_text(">a\nM-T\n")
    found = refused(capsys, "contacts", model, fasta, "--output", output)
    assert found.startswith(f"{fasta}: record 1 (a): '-' at position 2 of the sequence; expected")
    # the earlier output is as it was
    assert "contacts.npz" in listing(tmp_path / "out")


def test_couplings_need_no_head(
    tmp_path: Path, fasta: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "unfitted")
    options = ["--method", "jacobian", "--pictures", "1"]
    assert run_command("contacts", model, fasta, "--output", tmp_path / "out", *options) == 0
    residues = [len(sequence) for sequence in SEQUENCES]
    assert (
        f"MB of memory: {20 * sum(residues):,} passes of the network, "
        f"{20 * sum(length * (length + 2) for length in residues):,} tokens"
    ) in capsys.readouterr().err
    assert listing(tmp_path / "out") == [
        ".esm1b", "contacts.parquet", "pictures", "pictures/0001_protein1.png",
    ]  # fmt: skip
    table = pq.read_table(tmp_path / "out" / "contacts.parquet")
    assert table.schema.names == ["id", "sequence", "length", "couplings"]
    assert json.loads(table.schema.metadata[b"esm1b"])["method"] == "jacobian"
    loaded = load_model(model)
    for row, sequence in zip(table.to_pylist(), SEQUENCES, strict=True):
        found = np.reshape(np.float32(row["couplings"]), (row["length"], row["length"]))
        np.testing.assert_array_equal(found, loaded.contacts(sequence, method="jacobian"))


class KilledError(Exception):
    pass


@pytest.mark.parametrize("format_", ["parquet", "npz"])
def test_a_killed_job_resumes(
    format_: Literal["parquet", "npz"],
    model: Path,
    fasta: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(name: str) -> None:
        predict_contacts(
            model, fasta, tmp_path / name, method="jacobian", format=format_,
            pictures=int(format_ == "parquet"), part_seconds=0,
        )  # fmt: skip

    run("whole")
    compute = contact_maps._row
    computed: list[int] = []

    def dying(*arguments: Any) -> Any:
        if len(computed) == 3:
            raise KilledError
        computed.append(1)
        return compute(*arguments)

    monkeypatch.setattr(contact_maps, "_row", dying)
    with pytest.raises(KilledError):
        run("out")
    assert len(listing(tmp_path / "out.parts")) == 4  # three parts and the stamp
    computed.clear()
    run("out")
    assert len(computed) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "proteins.fasta", "whole"]
    assert listing(tmp_path / "out") == listing(tmp_path / "whole")
    for file in (tmp_path / "whole").rglob("*.*[zgt]"):
        found = tmp_path / "out" / file.relative_to(tmp_path / "whole")
        assert found.read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_sigkill_at_any_moment(model: Path, fasta: str, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from esm1b.inference import contact_maps
predict = contact_maps.predict_contacts
print("loaded", flush=True)
predict(Path({str(model)!r}), {fasta!r}, Path(sys.argv[1]), method="jacobian", part_seconds=0)
"""

    def start(name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / name)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        process.stdout.readline()
        return process

    begun = time.monotonic()
    with start("whole") as process:
        begun = time.monotonic()
    assert process.returncode == 0
    seconds = time.monotonic() - begun
    for moment in range(10):
        with start("out") as process:
            time.sleep(seconds * moment / 10)
            process.kill()
    with start("out") as process:
        pass
    assert process.returncode == 0
    assert listing(tmp_path / "out") == listing(tmp_path / "whole")
    for name in listing(tmp_path / "whole"):
        if (tmp_path / "whole" / name).is_file():
            same = (tmp_path / "out" / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()
            assert same, name
    assert not (tmp_path / "out.parts").exists()
