"""The command line: what the commands print, their exit codes, what they say of bad input, and a light start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx_ir
import pytest
import tersor
from tersor.driver import console
from tersor.driver.cli import app
from tersor.driver.commands.describe import describe
from tersor.driver.commands.options import dimensions
from tersor.ir.dimensions import set_ranges
from tersor.ir.errors import ContractError, ModelError, OptionError, PassError, UnchangedError, UnsupportedError
from tersor.passes import catalogue
from tersor.tests.driver.support import Cli, dense
from typer.main import get_command
from typer.testing import CliRunner

COMMANDS = ("compile", "bench", "inspect", "explain", "diff", "passes", "new-pass", "backends", "doctor")
DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def test_help_lists_every_command_and_the_exit_codes() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert all(command in shown.stdout for command in COMMANDS)
    assert "Exit codes" in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_json(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.stdout


def test_help_imports_neither_torch_nor_a_runtime() -> None:
    program = (
        "import sys\n"
        "from tersor.driver.cli import main\n"
        "code = main(['--help'])\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'onnx', 'onnx_ir', 'numpy'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "0 []"


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"tersor {tersor.__version__}\n"


def test_no_command_shows_help(cli: Cli) -> None:
    ran = cli()
    assert ran.code == 0
    assert "Usage: tersor" in ran.out


class TestCompile:
    def test_writes_an_artifact_and_prints_what_was_done(self, cli: Cli, dense_onnx: Path) -> None:
        ran = cli("compile", dense_onnx, "-o", "out", "--target", "onnxruntime")
        assert ran.code == 0, ran.err
        assert "promised exact" in ran.out
        assert "report     out/report.html" in ran.out
        assert {"manifest.json", "recipe.yaml", "report.html"} <= {path.name for path in Path("out").iterdir()}

    def test_json_is_the_manifest_and_nothing_else(self, cli: Cli, dense_onnx: Path) -> None:
        ran = cli("compile", dense_onnx, "-o", "out", "--target", "onnxruntime", "--json")
        assert ran.code == 0, ran.err
        assert ran.document["manifest"] == json.loads(Path("out/manifest.json").read_text(encoding="utf-8"))

    def test_what_a_metric_prints_stays_out_of_json(self, cli: Cli, dense_onnx: Path) -> None:
        Path("chatty_metric.py").write_text(
            "def score(session):\n    print('hello')\n    return 1.0\n", encoding="utf-8"
        )
        ran = cli(
            *("compile", dense_onnx, "-o", "out", "--target", "onnxruntime", "--json"),
            *("--metric", "chatty_metric:score", "--max-drop", "1%"),
        )
        assert ran.code == 0, ran.err
        assert ran.document["path"] == "out"
        assert "hello" in ran.err

    def test_runs_a_recipe(self, cli: Cli, dense_onnx: Path) -> None:
        assert cli("compile", dense_onnx, "-o", "first", "--target", "onnxruntime").code == 0
        ran = cli("compile", "--recipe", "first/recipe.yaml", "-o", "second", "--json")
        assert ran.code == 0, ran.err
        made = ran.document["manifest"]
        assert isinstance(made, dict)
        assert made["target"]["backend"] == "onnxruntime"


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["compile"], 2, "--output"),
            (["nothing"], 2, "nothing"),
            (["passes", "--colour"], 2, "--colour"),
            (["passes", "fold-constant"], 2, "did you mean fold-constants"),
            (["compile", "{model}", "-o", "out", "--passes", "fold-constant"], 2, "did you mean fold-constants"),
            (["compile", "{model}", "-o", "out", "--target", "onxruntime"], 2, "did you mean onnxruntime?"),
            (["compile", "{model}", "-o", "out", "--verify", "fats"], 2, "fast"),
            (["compile", "{model}", "-o", ".", "--target", "onnxruntime"], 2, "empty"),
            (["inspect", "{model}", "--dims", "batch"], 2, "batch=8,sequence=128"),
            (["inspect", "{model}", "--dims", "bath=2"], 2, "batch"),
            (["inspect", "{ranged}", "--dims", "batch=5"], 3, "batch is 5, allowed is 1..4"),
            (["diff", "{ranged}", "{ranged}", "--numeric", "--dims", "batch=5"], 3, "batch is 5, allowed is 1..4"),
            (["bench", "{ranged}", "--dims", "batch=5"], 3, "batch is 5, allowed is 1..4"),
            (["bench", "{model}@onxruntime"], 2, "did you mean onnxruntime?"),
            (["bench", "{model}", "{model}"], 2, "different"),
            (["explain", "{model}", "raise-gel"], 2, "raise-gelu"),
            (["inspect", "mdel.onnx"], 3, "did you mean model.onnx"),
            (["inspect", "broken.onnx"], 3, "broken.onnx"),
            (["bench", "absent"], 3, "no file or folder absent"),
            (["bench", "."], 3, "manifest.json"),
        ],
    )
    def test_one_paragraph_and_the_right_code(
        self, cli: Cli, dense_onnx: Path, words: list[str], code: int, said: str
    ) -> None:
        Path("broken.onnx").write_bytes(dense_onnx.read_bytes()[:50])
        ranged = dense()
        set_ranges(ranged, {"batch": (1, 4)})
        onnx_ir.save(ranged, "ranged.onnx")
        ran = cli(*(word.format(model=dense_onnx, ranged="ranged.onnx") for word in words))
        assert ran.code == code, ran.err
        assert ran.err.startswith("error: ")
        assert said in ran.err
        assert "Traceback" not in ran.err
        assert ran.out == ""
        assert not Path("out").exists()

    @pytest.mark.parametrize("words", [["passes", "fold-constant"], ["passes", "--colour"], ["inspect", "absent.onnx"]])
    def test_json_carries_the_error(self, cli: Cli, words: list[str]) -> None:
        ran = cli(*words, "--json")
        error = ran.document["error"]
        assert isinstance(error, dict)
        assert error["exit_code"] == ran.code
        assert error["kind"] in {"OptionError", "ModelError"}
        assert error["message"] in ran.err.replace("\n", " ")

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (OptionError("o"), 2),
            (ModelError("m"), 3),
            (UnsupportedError("u"), 4),
            (PassError("p"), 5),
            (ContractError("c"), 6),
            (UnchangedError("u"), 7),
            (KeyError("k"), 1),
        ],
    )
    def test_exit_code_of_each_class(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
    ) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr(catalogue, "table", fail)
        ran = cli("passes")
        assert ran.code == code
        assert "Traceback" not in ran.err

    def test_notes_follow_the_message(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            error = PassError("broke it")
            error.add_note("> y = Relu[x](x)")
            raise error

        monkeypatch.setattr(catalogue, "table", fail)
        assert cli("passes").err == "error: broke it\n> y = Relu[x](x)\n"

    @pytest.mark.parametrize("words", [["--debug", "passes", "fold-constant"], ["passes", "fold-constant", "--debug"]])
    def test_debug_shows_the_traceback_wherever_it_stands(self, cli: Cli, words: list[str]) -> None:
        ran = cli(*words)
        assert ran.code == 2
        assert "Traceback" in ran.err

    def test_interrupt(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(catalogue, "table", interrupt)
        ran = cli("passes")
        assert ran.code == 130
        assert ran.err == "error: interrupted\n"
        assert "Traceback" not in ran.err


class TestPasses:
    def test_lists_the_catalogue(self, cli: Cli) -> None:
        ran = cli("passes", "--json")
        rows = ran.document["passes"]
        assert isinstance(rows, list)
        assert [row["name"] for row in rows] == list(catalogue.table())
        assert [row["error"] for row in rows] == [None] * len(rows)

    def test_shows_one_in_full(self, cli: Cli) -> None:
        ran = cli("passes", "fold-constants")
        assert "before" in ran.out
        assert re.search(r"contract +exact", ran.out)
        assert re.search(r"limit +int +\d+", ran.out)

    def test_shows_the_passes_of_a_lowering(self, cli: Cli) -> None:
        listed = cli("backends", "onnxruntime", "--json").document["backends"]
        assert isinstance(listed, list)
        own = [name for name in listed[0]["lowering"] if name not in catalogue.table()]
        assert own, "the test needs a pass that only the lowering has"
        assert cli("passes", own[0], "--json").document["name"] == own[0]


def test_backends_say_what_is_installed_and_their_options(cli: Cli) -> None:
    document = cli("backends", "--json").document
    rows = document["backends"]
    assert isinstance(rows, list)
    row = next(row for row in rows if row["name"] == "onnxruntime")
    assert row["version"]
    (threads,) = (option for option in row["options"] if option["name"] == "threads")
    assert (threads["type"], threads["default"]) == ("int", "0")
    quick = ["onnxruntime", "openvino", "torch"]
    assert document["groups"] == {"cpu": quick, "cpu-all": [*quick, "inductor"]}


def test_every_option_of_a_backend_says_what_it_does(cli: Cli) -> None:
    rows = cli("backends", "--json").document["backends"]
    assert isinstance(rows, list)
    assert [(row["name"], option["name"]) for row in rows for option in row["options"] if not option["meaning"]] == []
    assert "record a run for each set of input shapes" in cli("backends", "inductor").out


def test_describe_spells_types_and_defaults_as_they_are_written() -> None:
    options = {item.name: item for item in describe(catalogue.find("drop-outputs"))}
    assert options["keep"].type == "list of str"
    assert options["keep"].default == "[]"


def test_dimensions() -> None:
    assert dimensions("batch=8, sequence=128") == {"batch": 8, "sequence": 128}
    assert dimensions(None, batch=3) == {"batch": 3}
    with pytest.raises(OptionError, match="found 'batch=x'"):
        dimensions("batch=x")


def test_plain_turns_what_json_cannot_hold_into_null() -> None:
    assert console.plain({"a": float("nan"), "b": (1, float("inf")), "c": Path("x")}) == {
        "a": None,
        "b": [1, None],
        "c": "x",
    }


def test_tables_have_no_trailing_space_and_keep_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(None, console.table("a", ">b", rows=[["[bold]x[/]", 1], ["y", None]]), as_json=False)
    assert capsys.readouterr().out == "a            b\n[bold]x[/]   1\ny\n"


def test_the_manual_names_every_command_and_option() -> None:
    text = DOCS.read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## tersor ([\w-]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    root = get_command(app)
    commands = getattr(root, "commands")  # noqa: B009  # typer's type of a group is private
    assert sorted(parts) == sorted(commands)
    for name, command in commands.items():
        options = {spelling for option in command.params for spelling in option.opts if spelling.startswith("-")}
        written = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", parts[name]))
        assert options - {"--help", "-h"} <= written, name
        known = options | {spelling for option in command.params for spelling in option.secondary_opts}
        assert {word for word in written if word.startswith("--")} <= known | {"--debug"}, name


def test_the_manual_gives_each_exit_code() -> None:
    codes = dict(re.findall(r"^\| (\d+) \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    errors = (OptionError, ModelError, UnsupportedError, PassError, ContractError, UnchangedError)
    assert {str(error.exit_code): error.__name__ in codes[str(error.exit_code)] for error in errors} == dict.fromkeys(
        "234567", True
    )
    assert {"0", "1", "130"} <= set(codes)
