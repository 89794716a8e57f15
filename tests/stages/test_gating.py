"""The gate through its commands: what is judged by what, what becomes of refused volumes, and what training makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny_folders import GATE, TINY, write_volumes

from diffboost3d import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.stages.audit_section import audit_section
from diffboost3d.stages.synthetic_draws import count_sets
from diffboost3d.synthesis.gate import FIDELITY, KINDS, Gate, Verdict

LEARNED = ("prepare", "pretrain", "finetune")
OWN = ("record.json", "config.yaml")  # these name times and the workspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and a workspace ws/ as far as `synthesize`, with the gate."""
    root = tmp_path_factory.mktemp("gate")
    write_volumes(root / "data", count=6)
    for stage in (*LEARNED, "synthesize"):
        assert main([stage, *words(root, "ws")]) == 0
    return root


def words(root: Path, workspace: str, *more: str) -> list[str]:
    place = [f"data.root={root / 'data'}", f"workspace={root / workspace}"]
    return [*place, *TINY, *GATE, "synthesize.samples=2", *more]


@pytest.fixture
def copy(folder: Path):
    """Makes a workspace beside ws/ that holds the same but for the volumes."""

    def made(name: str) -> Workspace:
        shutil.copytree(folder / "ws", folder / name)
        shutil.rmtree(folder / name / "synthetic")
        return Workspace(folder / name)

    return made


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def settled(workspace: Workspace) -> list[dict]:
    return [load(path) for path in sorted(workspace.synthetic(0).glob("*/*.json"))]


def contents(workspace: Workspace, place: str) -> dict[str, bytes]:
    root = workspace.root / place
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# --- what it is made of ----------------------------------------------------------------------------------------------
def test_each_patient_has_a_segmenter_that_has_not_seen_it(folder):
    workspace = Workspace(folder / "ws")
    parts = load(workspace.gate(0) / "record.json")["parts"]
    patients = {workspace.read_manifest().case(case).patient for case in workspace.read_split(0).training}
    assert set(parts) == patients
    assert set(parts.values()) == {0, 1}
    for part in (0, 1):
        assert (workspace.gate_part(0, part) / "model.safetensors").is_file()


def test_limits_rest_on_real_training_and_validation_cases(folder):
    workspace = Workspace(folder / "ws")
    split = workspace.read_split(0)
    limits = {limit["check"]: limit for limit in json.loads((workspace.gate(0) / "limits.json").read_text())}
    held_out = len(split.training) + len(split.validation)
    for check in ("dice", "dice shell", "dice core", "median background", "median core"):
        assert limits[check]["references"] == held_out
    assert limits["detail of another patient"]["references"] == held_out
    assert limits["detail of its start"]["references"] == len(split.validation)
    assert {limit["kind"] for limit in limits.values()} <= set(KINDS)
    kept = {path.stem for path in (workspace.gate(0) / "references").iterdir()}
    assert kept == set(split.validation)


# --- what becomes of volumes -----------------------------------------------------------------------------------------
def test_every_sample_is_judged_and_says_why_it_was_refused(folder):
    records = settled(Workspace(folder / "ws"))
    assert len(records) == 6
    assert {record["accepted"] for record in records} == {True, False}
    for record in records:
        assert {"dice", "median core", "detail of another patient", "detail of its start"} <= set(record["checks"])
        assert bool(record["reasons"]) is not record["accepted"]
        assert all(reason.partition(":")[0] in KINDS for reason in record["reasons"])
        assert record["nearest"] not in ("", record["case"])


def test_refused_draws_are_kept_aside_and_drawn_again_with_another_seed(folder):
    workspace = Workspace(folder / "ws")
    for record in settled(workspace):
        place = workspace.synthetic(0) / record["case"]
        aside = sorted((place / "rejected").glob(f"{record['sample']:02d}-*.json"))
        assert [load(path)["attempt"] for path in aside] == list(range(len(aside)))
        assert len({load(path)["seed"] for path in aside} | {record["seed"]}) == max(2, len(aside)) - (not aside)
        assert record["attempt"] == (len(aside) if record["accepted"] else len(aside) - 1)
        for path in aside:
            assert not load(path)["accepted"]
            assert (path.parent / load(path)["path"]).is_file()
        assert (place / f"{record['sample']:02d}.nii.gz").is_file() is record["accepted"]
        assert (place / record["path"]).is_file()


def test_a_refused_volume_is_that_of_its_seed(folder):
    """Different draws of a sample are different volumes."""
    for aside in (folder / "ws" / "synthetic" / "fold0").glob("*/rejected"):
        volumes = [np.asarray(nib.load(path).dataobj).tobytes() for path in aside.glob("*.nii.gz")]
        assert len(set(volumes)) == len(volumes)


def test_it_is_all_the_same_when_made_again(folder, copy, capsys):
    first, again = Workspace(folder / "ws"), copy("again")
    assert main(["synthesize", *words(folder, "again")]) == 0
    for place in ("synthetic", "gate"):
        old, new = contents(first, place), contents(again, place)
        assert old.keys() == new.keys()
        assert [name for name in old if old[name] != new[name] and not name.endswith(OWN)] == []
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "volumes accepted" in line]
    accepted = sum(record["accepted"] for record in settled(first))
    assert f"{accepted} of 6 volumes accepted" in line
    capsys.readouterr()
    assert main(["synthesize", *words(folder, "again")]) == 0
    assert "6 volumes done already" in capsys.readouterr().out


def test_missing_volumes_are_judged_again_alike(folder):
    workspace = Workspace(folder / "ws")
    before = contents(workspace, "synthetic")
    for path in list(workspace.synthetic(0).glob("*/01.json")):
        path.unlink()
    assert main(["synthesize", *words(folder, "ws")]) == 0
    after = contents(workspace, "synthetic")
    assert {name: text for name, text in after.items() if "record.json" not in name} == {
        name: text for name, text in before.items() if "record.json" not in name
    }


def test_limits_without_their_segmenters_get_them_again(folder, copy):
    """As where a study has lent the limits of a set, and the segmenters not yet."""
    other = copy("limits alone")
    for part in (0, 1):
        shutil.rmtree(other.gate_part(0, part))
    assert main(["synthesize", *words(folder, "limits alone")]) == 0
    assert settled(other) == settled(Workspace(folder / "ws"))


def test_turned_off_it_judges_nothing(folder, copy):
    workspace = copy("off")
    assert main(["synthesize", *words(folder, "off", "gate.enabled=false")]) == 0
    (counts,) = count_sets(compose(words(folder, "off", "gate.enabled=false")), workspace)
    assert (counts["accepted"], counts["judged"], counts["not_checked"]) == (6, False, [])
    for record in settled(workspace):
        assert record["accepted"]
        assert (record["checks"], record["reasons"], record["attempt"]) == ({}, [], 0)
    config = compose(words(folder, "off", "gate.enabled=false"))
    (section,) = audit_section(config, workspace, workspace.read_manifest())
    assert "gate.enabled=false" in section.text


def test_another_gate_makes_volumes_anew(folder, copy, capsys):
    copy("other")
    times = [path.stat().st_mtime_ns for path in sorted((folder / "other" / "gate").rglob("model.safetensors"))]
    assert main(["synthesize", *words(folder, "other", "gate.percentile=0")]) == 0
    assert "gate/fold0 is of another configuration or input" in capsys.readouterr().out
    assert times == [path.stat().st_mtime_ns for path in sorted((folder / "other" / "gate").rglob("model.safetensors"))]
    assert "the 0th percentile" in (folder / "other" / "gate" / "fold0" / "limits.json").read_text(encoding="utf-8")


# --- what training and report make of it -----------------------------------------------------------------------------
def test_a_case_without_accepted_volumes_is_trained_with_itself(folder, copy, monkeypatch, capsys):
    """As if all volumes but those of one case were faulty."""
    workspace = copy("few")
    spared = workspace.read_split(0).training[0]
    judge = Gate.judge

    def judged(self, volume, label, start, patient):
        found = judge(self, volume, label, start, patient)
        return Verdict(() if patient == spared else ("copy: planted",), found.checks, found.nearest)

    monkeypatch.setattr(Gate, "judge", judged)
    assert main(["synthesize", *words(folder, "few")]) == 0
    assert "2 of 6 volumes accepted; 8 draws refused (copy 8)" in capsys.readouterr().out
    assert main(["train", *words(folder, "few", "arms=[none,diffboost]")]) == 0
    said = capsys.readouterr().out
    others = ", ".join(workspace.read_split(0).training[1:])
    assert f"train fold 0, diffboost, seed 0: no accepted synthetic volume of {others}; merged with nothing" in said
    assert main(["train", *words(folder, "few", "arms=[diffboost]", "merge.partner=any")]) == 0
    borrowed = f"no accepted synthetic volume of {others}; merged with volumes of other cases only"
    assert borrowed in capsys.readouterr().out
    assert main(["train", *words(folder, "few", "arms=[diffboost]")]) == 0
    for stage in ("evaluate", "report"):
        assert main([stage, *words(folder, "few")]) == 0
    page = workspace.report_path.read_text(encoding="utf-8")
    assert "2 of 6 samples were accepted; of 10 draws 8 were refused." in page
    assert "They train nothing." in page
    (counts,) = count_sets(compose(words(folder, "few", "arms=[none,diffboost,diffboost_classical]")), workspace)
    assert counts == {
        "fold": 0, "set": "default", "arms": ["diffboost", "diffboost_classical"], "volumes": 6, "accepted": 2,
        "judged": True, "not_checked": [], "refused_draws": 8, "refused_for": {"copy": 8},
    }  # fmt: skip
    (counts,) = count_sets(compose(words(folder, "few", "arms=[diffboost]", "synthesize.samples=1")), workspace)
    assert (counts["volumes"], counts["accepted"], counts["refused_draws"]) == (3, 1, 4)
    assert "had nothing to merge" not in page
    records = [workspace.synthetic_record(0, spared, sample) for sample in range(2)]
    for path in records:
        path.write_text(json.dumps({**load(path), "accepted": False}), encoding="utf-8")
    assert main(["report", *words(folder, "few", "arms=[none,diffboost]")]) == 0
    said = "fold 0: the gate accepted none of the 6 volumes of the set default; diffboost had nothing to merge"
    assert said in workspace.report_path.read_text(encoding="utf-8")
    records[0].unlink()
    (counts,) = count_sets(compose(words(folder, "few", "arms=[diffboost]")), workspace)
    assert counts["accepted"] is None


def test_what_a_gate_of_one_patient_cannot_check_is_counted_as_not_checked(folder, copy):
    workspace = copy("one patient")
    shutil.copytree(folder / "ws" / "synthetic", workspace.root / "synthetic")
    limits = workspace.gate(0) / "limits.json"
    limits.write_text(json.dumps([one for one in load(limits) if one["kind"] != FIDELITY]), encoding="utf-8")
    (counts,) = count_sets(compose(words(folder, "one patient", "arms=[diffboost]")), workspace)
    assert counts["not_checked"] == [FIDELITY]


def test_the_audit_names_limits_their_origin_and_the_closest_pairs(folder):
    workspace = Workspace(folder / "ws")
    (section,) = audit_section(compose(words(folder, "ws")), workspace, workspace.read_manifest())
    assert section.table is not None
    rows = {row[0]: dict(zip(section.table.columns, row, strict=True)) for row in section.table.rows}
    records = settled(workspace)
    mean = np.mean([record["checks"]["dice"] for record in records if record["accepted"]])
    assert float(rows["dice"]["accepted, mean"]) == pytest.approx(mean, abs=6e-4)
    assert "50th percentile of 4 real held-out cases" in rows["dice"]["limit from"]
    refused = [load(path) for path in workspace.synthetic(0).glob("*/rejected/*.json")]
    by_dice = [one for one in refused if any(reason.startswith("label fidelity: dice 0") for reason in one["reasons"])]
    assert int(rows["dice"]["draws refused"]) == len(by_dice)
    assert "not prove" in section.text
    (figure,) = section.figures
    assert figure.image.startswith(b"\x89PNG")


def test_before_synthesis_there_is_no_audit(folder, copy):
    workspace = copy("before")
    assert audit_section(compose(words(folder, "before")), workspace, workspace.read_manifest()) == []
