"""Every verb answers --help, and `dgseg --help` answers before torch is loaded."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module

import pytest

from dgseg.cli import SYSTEMS, VERBS, main
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
