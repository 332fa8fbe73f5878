"""Every verb answers --help, and `dgseg --help` answers before torch is loaded."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module

import pytest

from dgseg.cli import SYSTEMS, VERBS, main
from dgseg.cli.arguments import parse
from dgseg.cli.data.progress import advanced_by, progress_bar
from dgseg.recipes import RECIPES
from dgseg.runs.study.grids import GRIDS


def leaves(verbs: Mapping[str, tuple[str, str]], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for verb, (name, _) in verbs.items():
        module = import_module(name)
        if hasattr(module, "VERBS"):
            yield (*path, verb)
            yield from leaves(module.VERBS, (*path, verb))
        else:
            yield (*path, verb)


@pytest.mark.parametrize("path", list(leaves(VERBS)), ids=" ".join)
def test_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        main([*path, "--help"])
    assert exit.value.code == 0
    assert f"usage: dgseg {' '.join(path)}" in capsys.readouterr().out


def test_help_lists_the_systems(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name, says in SYSTEMS.items():
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert all(part in line for part in says)
        _, verb, what = says[-1].split()
        assert what in {"train": RECIPES, "study": GRIDS}[verb]


def test_help_and_version_load_no_torch():
    code = (
        "import sys\nfrom dgseg.cli import main\nfor argv in (['--help'], ['--version'], ['data', '--help']):\n"
        "    try: main(argv)\n    except SystemExit as exit: assert exit.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        main(["dance"])
    assert exit.value.code == 2
    assert "dance" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["data", "pack", "folder=x", "-o", "s3://KEY:SECRET@bucket/x"],
        ["data", "check", "packed=s3://KEY:SECRET@bucket/x"],
        ["predict", "--weights=s3://KEY:SECRET@bucket/w.safetensors", "x.png", "-o", "out"],
        ["train", "erm-streets", "--data.sources", "packed=s3://KEY:SECRET@bucket/x"],
    ],
    ids=lambda words: words[0] + words[1],
)
def test_an_address_where_files_are_read_is_refused_without_its_secret(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="only local files and folders") as exit:
        main(words)
    assert "SECRET" not in str(exit.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("word", "near"), [("evalute", "evaluate"), ("compare_models", "compare-models")])
def test_a_misspelt_verb_gets_a_hint(word: str, near: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([word])
    assert f"there is no dgseg {word}; did you mean {near}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["evaluate", "detect", "compare", "compare-models", "embed"])
def test_help_ends_with_examples_that_are_right(verb: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    examples = capsys.readouterr().out.partition("examples:\n")[2].replace("\\\n", " ").splitlines()
    module = import_module(VERBS[verb][0])
    mine = [line.split("#")[0].split() for line in examples if f"dgseg {verb} " in line and "…" not in line]
    assert mine
    for words in mine:
        parse(module.Arguments, words[words.index(verb) + 1 :], prog="dgseg", description="")


def test_progress_off_a_terminal_is_a_line_per_tenth(capsys: pytest.CaptureFixture[str]):
    with progress_bar("images", 40) as advance:
        tell = advanced_by(advance, 40)
        for done in (1, 3, 5, 9, 20):
            tell(done, 20)  # a share of them
        tell(1, 20)  # a second pass
    assert capsys.readouterr().err.splitlines() == [
        "images: 6 of 40, 15 %",
        "images: 10 of 40, 25 %",
        "images: 18 of 40, 45 %",
        "images: 40 of 40, 100 %",
    ]
