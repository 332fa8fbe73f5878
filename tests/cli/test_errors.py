"""What a user meets where a command fails, is stopped or warns."""

import warnings

import pytest

from dgseg.cli.errors import user_errors
from dgseg.training import NonFiniteLoss
from dgseg.training.failures import WorkerFailed


def fail(error: BaseException) -> None:
    with user_errors("dgseg evaluate", "the same command resumes"):
        raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("labels hold 200"), "labels hold 200"),
        (FileNotFoundError("a.png"), "a.png"),
        (NonFiniteLoss("step 3"), "step 3"),
        (WorkerFailed("worker 1 failed: a traceback", ValueError("labels hold 200")), "labels hold 200"),
        (WorkerFailed("worker 1 failed: a traceback", KeyError("lost")), "worker 1 failed: a traceback"),
        (WorkerFailed("worker 1 was killed by SIGKILL"), "worker 1 was killed by SIGKILL"),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error: Exception, message: str):
    with pytest.raises(SystemExit) as exit:
        fail(error)
    assert exit.value.code == f"dgseg evaluate: {message}"


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        fail(KeyError("lost"))


def test_ctrl_c_is_a_line_and_130(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit:
        fail(KeyboardInterrupt())
    assert exit.value.code == 130
    assert capsys.readouterr().err == "dgseg evaluate: stopped; the same command resumes\n"


def test_a_warning_is_a_line(capsys: pytest.CaptureFixture[str]):
    with user_errors("dgseg train"):
        warnings.warn("2 images have no label", stacklevel=1)
    assert capsys.readouterr().err == "dgseg train: 2 images have no label\n"
