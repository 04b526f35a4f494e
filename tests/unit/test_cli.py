"""The command line: whole names, honest refusals, a diagnosis that never refuses, plain logs."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
from fast import DENSE, FAST, SPARSE, make_project

import methods
from benchmark import bounds, cli, pipeline, records
from benchmark.cli import base
from benchmark.errors import ExtraMissing
from benchmark.manifest import Checkpoint, Manifest, write_manifest
from benchmark.pipeline import Project, compressing, evaluate_all
from benchmark.protocols import PROTOCOLS, Protocol
from benchmark.reported import every

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


class Runner:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, root: Path, *arguments: str) -> Answer:
        options = ["robustprune", "--root", str(root), "--workers", "1", "--device", "cpu"]
        self.monkeypatch.setattr(sys, "argv", [*options, *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        return Answer(int(left.value.code or 0), *self.capsys.readouterr())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)
    return Runner(monkeypatch, capsys)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stored(root: Path, *ids: str) -> Project:
    """Returns a project whose checkpoints have records under the fast protocol."""
    project = make_project(root, *ids)
    evaluate_all(project, project.manifest().checkpoints, FAST, "quick")
    return project


def make_stale(project: Project, checkpoint: str) -> None:
    path = records.record_path(project.results, FAST.id, checkpoint)
    content = json.loads(path.read_text()) | {"protocol_digest": "1" * 64}
    altered = records.ResultRecord.model_validate_json(json.dumps(content))
    path.write_text(records.sealed(altered).model_dump_json())


def test_help_waits_for_nothing_heavy() -> None:
    seen = "import sys, benchmark.cli; print(*(sys.modules.keys() & {'torch', 'scipy', 'pandas'}))"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_pipeline_has_each_name_that_it_lists() -> None:
    assert sorted(name for names in pipeline._HOMES.values() for name in names) == pipeline.__all__
    assert set(pipeline.__all__) <= set(dir(pipeline))
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__module__.startswith("benchmark.pipeline.")
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = pipeline.train


# --- Names are printed whole ----------------------------------------------------------------------


def test_listed_ids_are_whole_and_one_a_line_without_a_terminal(
    run: Runner, tmp_path: Path
) -> None:
    make_project(tmp_path, DENSE, SPARSE)
    lines = run(tmp_path, "list", "checkpoints").out.splitlines()
    assert [line.split()[0] for line in lines] == ["checkpoint", DENSE, SPARSE]
    assert lines[2].split()[2:] == ["8,885", "of", "9,872", "digits"]


@pytest.mark.parametrize("width", [40, 100, 200])
def test_ids_are_whole_on_a_terminal_of_any_width(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    base.print_table(("checkpoint", "summary"), [(SPARSE, "several words " * 20), (DENSE, "-")])
    lines = screen.getvalue().splitlines()
    assert len(lines) > 3  # the summary is folded
    assert sum(SPARSE in line for line in lines) == sum(DENSE in line for line in lines) == 1


def test_brackets_and_colons_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    base.print_table(("id", "[certified, attacked]"), [("folder:smile:x", "[red]broken[/red]")])
    assert capsys.readouterr().out.split() == [
        *("id", "[certified,", "attacked]"),
        *("folder:smile:x", "[red]broken[/red]"),
    ]


def test_published_figures_are_listed_with_source_and_threat_model(
    run: Runner, tmp_path: Path
) -> None:
    answer = run(tmp_path, "list", "reported")
    head, *lines = [re.split(r"  +", line.strip()) for line in answer.out.splitlines()]
    assert head[:3] == ["source", "method", "data"] and len(lines) == len(every())
    harp = ["APBench 2024", "HARP", "cifar10", "ResNet18", "unstructured", "99%", "83.11", "45.50"]
    assert [*harp, "AutoAttack", "Linf 0.031"] in lines
    dense = ["HYDRA paper", "Pre-trained", "svhn", "VGG-16", "unstructured", "0%", "not stated"]
    assert [*dense, "53.5", "PGD", "Linf 0.031"] in lines


# --- Without a manifest, without checkpoints ------------------------------------------------------


@pytest.mark.parametrize("command", ["list checkpoints", f"evaluate {SPARSE}", "run", "report"])
@pytest.mark.parametrize("folder", ["empty", "nowhere"])
def test_commands_on_checkpoints_need_a_manifest(
    run: Runner, tmp_path: Path, folder: str, command: str
) -> None:
    (tmp_path / "empty").mkdir()
    answer = run(tmp_path / folder, *command.split())
    assert answer.code == 4
    assert "expected checkpoints_manifest.json in" in answer.err
    assert answer.err.endswith("found none; give --root\n")
    assert str(tmp_path / folder) in answer.err and len(answer.err.splitlines()) == 1
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("protocol", "step"),
    [
        ("mnist-linf", "make some with `robustprune compress … --recipe mnist-short`"),
        ("cifar10-linf", "make some with `robustprune compress … --recipe cifar10-short`"),
        ("imagenet-linf", "no recipe trains them here"),
    ],
)
def test_protocol_without_checkpoints_is_refused_before_its_data_are_touched(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, step: str
) -> None:
    make_project(tmp_path, SPARSE)
    monkeypatch.setattr(pipeline, "evaluate_all", None)
    answer = run(tmp_path, "run", "--protocol", "digits-linf", "--protocol", protocol)
    assert answer.code == 4
    dataset = protocol.removesuffix("-linf")
    assert f"expected checkpoints for {dataset} in the manifest, found none; {step}" in answer.err


def test_a_run_of_everything_leaves_out_what_has_no_data(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)
    asked: list[str] = []

    def evaluate_all(
        project: Project, entries: list[Checkpoint], chosen: Protocol, *_: object, **__: object
    ) -> list[object]:
        asked.append(chosen.id)
        return []

    monkeypatch.setattr(pipeline, "evaluate_all", evaluate_all)
    monkeypatch.setattr(pipeline, "report", lambda project: ["index.html"])
    project = make_project(tmp_path, SPARSE)
    ours = project.manifest().find(SPARSE)
    other = {"dataset": "mnist", "id": SPARSE.replace("digits", "mnist")}
    mnist = Checkpoint.model_validate(ours.model_dump() | other)
    write_manifest(project.manifest_path, Manifest(checkpoints=(ours, mnist)))
    answer = run(tmp_path, "run")
    assert answer.code == 0 and asked[0] == "digits-linf"
    assert {PROTOCOLS[name].dataset for name in asked} == {"digits"}
    assert "mnist-linf left out for want of mnist: " in answer.err
    write_manifest(project.manifest_path, Manifest(checkpoints=(mnist,)))
    answer = run(tmp_path, "run")
    assert answer.code == 5 and "expected data of mnist, found none" in answer.err
    assert "mnist-linf" not in asked


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["evaluate", "dense/digits/cnn-tiny/adversarial/unstructured-0/seed1"], 3, "did you mean"),
        (["run", "--protocol", "digit-linf"], 3, "did you mean digits-linf"),
        (["run", "--protocol", "digits-linf", "--tier", "huge"], 3, "unknown tier"),
        (["compress", "lwm-layer-wise"], 3, "did you mean lwm-layerwise"),
        (["compress", "random", "--recipe", "digit"], 3, "did you mean digits"),
        (["compress", "random", "--objective", "adversary"], 3, "did you mean adversarial"),
        (["compress", "random", "--sparsity", "1.5"], 7, "expected a sparsity in"),
        (["compress", "random", "--architecture", "cnn-tin"], 3, "did you mean cnn-tiny"),
        (["compress", "random", "--recipe", "mnist-short"], 5, "ROBUSTPRUNE_DATA"),
        (["--device", "tpu9", "evaluate", DENSE], 7, "expected a device"),
        (["list", "method"], 3, "did you mean methods"),
        (["compress", "random", "--sparsity", ""], 7, "expected a sparsity in"),
        (["run", "--protocol", "mnist-linf"], 4, "--recipe mnist-short"),
        (["--root", "/dev/null", "list", "checkpoints"], 4, "give --root"),
        (["--device", "tpu9", "doctor"], 6, "got trouble with device"),
        (["report"], 9, "found none"),
        (["evaluate"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_refusals_are_one_line_with_their_exit_code(
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    make_project(tmp_path, DENSE)
    answer = run(tmp_path, *arguments)
    assert answer.code == code and words in answer.err and "Traceback" not in answer.err
    if code > 2:
        assert len(answer.err.strip().splitlines()) == 1


def test_empty_manifest_is_told_to_compress(run: Runner, tmp_path: Path) -> None:
    write_manifest(tmp_path / "checkpoints_manifest.json", Manifest())
    for command, code in (("run", 4), ("report", 9)):
        answer = run(tmp_path, command)
        assert answer.code == code
        assert "found none" in answer.err and "robustprune compress" in answer.err


# --- Doctor ---------------------------------------------------------------------------------------


def test_doctor_is_content_with_the_embedded_board(run: Runner, tmp_path: Path) -> None:
    project = stored(tmp_path, SPARSE)
    answer = run(tmp_path, "doctor")
    assert (answer.code, answer.err) == (0, "")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in answer.out.splitlines() if line}
    assert lines["manifest"] == "1 checkpoints"
    assert lines["records"] == "1 (fast-linf 1)"
    assert lines["project"] == str(project.root)
    assert lines["digits"].startswith("found ")
    assert lines["mnist"].startswith("missing ")
    assert "    pass --download, or unpack the originals" in answer.out


def _no_device(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--device", "tpu9"]


def _no_manifest(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (root / "checkpoints_manifest.json").unlink()
    return []


def _broken_manifest(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (root / "checkpoints_manifest.json").write_text("{")
    return []


def _no_weights(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    shutil.rmtree(root / "checkpoints")
    return []


def _no_bounds(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def missing() -> str:
        raise ExtraMissing("expected the package auto_LiRPA for bounds, got none")

    monkeypatch.setattr(bounds, "engine_version", missing)
    return []


def _no_attacks(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    return []


@pytest.mark.parametrize(
    ("harm", "name", "words"),
    [
        (_no_device, "device", "expected a device of this machine"),
        (_no_manifest, "manifest", "expected checkpoints_manifest.json in"),
        (_broken_manifest, "manifest", "expected a manifest as JSON in"),
        (_no_weights, "weights", f"expected weights of 1 checkpoints, found none of {SPARSE}"),
        (_no_bounds, "bounds", "expected the package auto_LiRPA"),
        (_no_attacks, "attacks", "expected the package pyautoattack"),
    ],
)
def test_doctor_tells_each_trouble_in_a_line_and_goes_on(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm, name: str, words: str
) -> None:
    make_project(tmp_path, SPARSE)
    answer = run(tmp_path, *harm(tmp_path, monkeypatch), "doctor")
    [line] = [line for line in answer.out.splitlines() if "broken" in line]
    assert line.startswith(f"{name} ") and f"broken: {words}" in line
    assert "\nimagenet" in answer.out
    assert answer.code == 6
    assert len(answer.err.splitlines()) == 1
    assert f"got trouble with {name};" in answer.err


# --- Compress -------------------------------------------------------------------------------------


def test_compress_says_what_it_does_not_make(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def planned(project, orders, **options):
        made.extend((order.method, order.sparsity) for order in orders)
        return []

    monkeypatch.setattr(pipeline, "compress_all", planned)
    answer = run(tmp_path, "compress", "dense", "random", "--sparsity", "0,0.5,0.5")
    assert answer.code == 0
    assert answer.err.splitlines() == [
        "dense reaches sparsity 0, not 0.5: skipped",
        "random at 0 removes nothing: skipped",
    ]
    assert made == [("dense", 0), ("random", Fraction(1, 2))]
    assert "is made at 0 instead" in run(tmp_path, "compress", "dense").err


def test_compress_refuses_before_any_training(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = methods.method("random")
    monkeypatch.setattr(compressing, "fit", None)
    monkeypatch.setattr(random, "structures", ("unstructured",))
    answer = run(tmp_path, "compress", "lwm-layerwise", "random", "--structure", "filter")
    assert answer.code == 7
    assert "random prunes unstructured, not filter" in answer.err
    monkeypatch.setattr(random, "largest_sparsity", Fraction(1, 2))
    answer = run(tmp_path, "compress", "random", "--sparsity", "0,0.9")
    assert answer.code == 7
    assert "expected something to make, got nothing: random at 0 removes nothing" in answer.err
    assert "random reaches sparsity 0.5, not 0.9: skipped" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


# --- Evaluate and report --------------------------------------------------------------------------


def test_stale_record_of_another_checkpoint_stops_only_the_report(
    run: Runner, tmp_path: Path
) -> None:
    project = stored(tmp_path, DENSE, SPARSE)
    make_stale(project, DENSE)
    answer = run(tmp_path, "evaluate", SPARSE, "--protocol", FAST.id)
    assert answer.code == 0
    header, row = answer.out.splitlines()[-2:]
    assert header.endswith("[certified, attacked]") and row.startswith(f"{SPARSE} ")
    assert DENSE not in answer.out

    answer = run(tmp_path, "report")
    assert answer.code == 9
    assert "evaluate again with `robustprune run" in answer.err

    answer = run(tmp_path, "evaluate", DENSE, "--protocol", FAST.id)
    assert answer.code == 0
    [refused] = [line for line in answer.err.splitlines() if "was refused" in line]
    assert refused.startswith(f"{DENSE}: the old record was refused (expected protocol digest ")
    assert refused.endswith(" and made again")
    assert run(tmp_path, "report").code == 0
    empty = (project.site / "mnist-linf" / "index.html").read_text()
    assert "<code>robustprune run --protocol mnist-linf</code>" in empty
    assert "robustprune compress" in empty


def test_evaluate_prints_the_asked_protocol_and_tier_once(run: Runner, tmp_path: Path) -> None:
    stored(tmp_path, SPARSE)
    answer = run(tmp_path, "evaluate", SPARSE, SPARSE, "--protocol", FAST.id)
    assert f"{FAST.id}, quick: 0 evaluated, 1 up to date" in answer.out
    assert answer.out.count(SPARSE) == 1
    assert answer.err == ""


# --- Progress -------------------------------------------------------------------------------------


def test_logs_get_a_line_a_checkpoint_a_heartbeat_and_the_last_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with base.progress_bar("evaluate") as watch:
        watch(0, 6, "")
        for second, text in ((1, "a: clean"), (2, "a: pgd"), (40, "a: bounds"), (41, "a: curve")):
            now[0] = float(second)
            watch(len(text), 60, text)
        watch(59, 60, "[2/2] b: clean")
        watch(60, 60, "[2/2] b: pgd")
    assert capsys.readouterr().err.splitlines() == [
        "evaluate 8 of 60: a: clean",
        "evaluate 9 of 60: a: bounds",
        "evaluate 59 of 60: [2/2] b: clean",
        "evaluate 60 of 60: [2/2] b: pgd",
    ]


def test_logs_tell_rate_and_time_left_without_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with base.progress_bar("evaluate") as watch:
        watch(90, 100, "")
        watch(90, 100, "a: clean")
        now[0] = 30.0
        watch(91, 100, "b: clean", 3725.4)
        now[0] = 60.0
        watch(100, 100, "c: pgd", 0.0)
    assert capsys.readouterr().err.splitlines() == [
        "evaluate 90 of 100: a: clean",
        "evaluate 91 of 100: b: clean (2 a minute, 1:02:05 left)",
        "evaluate 100 of 100: c: pgd (10 a minute, 0:00:00 left)",
    ]


def test_terminal_shows_what_runs_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, now = Terminal(), [0.0]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(base, "err", base._Literal(stderr=True, width=200))
    monkeypatch.setattr(base.err, "_force_terminal", True)
    with base.progress_bar("evaluate") as watch:
        watch(10, 12, "")
        now[0] = 60.0
        watch(11, 12, "x" * 90 + ": autoattack", 125.0)
    last = screen.getvalue().rpartition("evaluate xxx")[2]
    assert "x…: autoattack" in last and "11/12" in last
    assert "1 a minute" in last and "0:02:05" in last


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(base, "err", base._Literal(stderr=True, width=100))
    monkeypatch.setattr(base.err, "_force_terminal", True)
    with base.progress_bar("evaluate") as watch:
        watch(1, 2, "[a]")
        watch(2, 2, "[a]")
    assert "evaluate [a]" in screen.getvalue() and "━" in screen.getvalue()
    assert "a minute" not in screen.getvalue()


# --- Usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command"),
        (["evaluate"], "Missing argument"),
        (["--workers", "-1", "list"], "Invalid value for '--workers'"),
        (["run", "--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_leaves_with_2(
    run: Runner, tmp_path: Path, arguments: list[str], words: str
) -> None:
    answer = run(tmp_path, *arguments)
    assert answer.code == 2
    assert words in answer.err


def test_interruption_leaves_with_130(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    make_project(tmp_path, SPARSE)
    monkeypatch.setattr(pipeline, "evaluate_all", interrupted)
    answer = run(tmp_path, "run", "--protocol", "digits-linf")
    assert (answer.code, answer.err) == (
        130,
        "interrupted; run the same command again to go on\n",
    )


def test_pipes_carry_whole_ids(tmp_path: Path) -> None:
    make_project(tmp_path, SPARSE)
    command = [sys.executable, "-m", "benchmark.cli", "--root", str(tmp_path), "list"]
    done = subprocess.run(
        [*command, "checkpoints"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "COLUMNS": "30", "FORCE_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith(f"{SPARSE} ")


# --- Exports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind"),
    [([], "compact"), (["--compact"], "compact"), (["--as-published"], "as published")],
)
def test_export_says_what_it_wrote(
    run: Runner, tmp_path: Path, options: list[str], kind: str
) -> None:
    make_project(tmp_path, DENSE, SPARSE)
    answer = run(tmp_path, "export", SPARSE, "--tier", "quick", *options)
    assert (answer.code, answer.err) == (0, "compare 1 of 1: compared\n")
    lines = answer.out.splitlines()
    assert lines[0].startswith("parameters: 9,932 in the checkpoint, ")
    assert lines[0].endswith(kind) and lines[1].endswith(kind)
    assert lines[2].startswith("network: same predictions on 150 examples of digits-linf; logits")
    shown = [line.split()[:2] for line in lines if line.startswith(("dense", "masked", "compact"))]
    assert shown == [[name, n] for name in ("dense", "masked", "compact") for n in ("1", "64")]
    folder = Path(lines[-1].removeprefix("written to "))
    assert folder.is_relative_to(tmp_path / "exports")
    form = json.loads((folder / "network.json").read_text())["form"]
    assert form == kind
