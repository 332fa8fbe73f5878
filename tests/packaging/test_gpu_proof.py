"""make gpu-proof on a machine that has no GPU: its CUDA branch with stand-ins for nvidia-smi, the build, the sanitizer
and the interpreter that runs the steps. What a short budget leaves, what an interrupt leaves, what is on disk when."""

import importlib.machinery
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "gpu-proof"

PYTHON = """#!{python}
import json, os, pathlib, sys, time
words = " ".join(sys.argv[1:])
with open("{calls}", "a") as calls:
    calls.write(words + "\\n")
if "-c" in sys.argv:
    sys.exit(0)
if "-m pytest" in words:
    for number in range(3):
        outcome = "FAILED" if number == 1 else "PASSED"
        print(f"[gw{{number}}] [ {{number + 1}}0%] {{outcome}} tests/ops/test_x.py::test_{{number}} ", flush=True)
    time.sleep(float(os.environ.get("SLOW_TESTS", 0)))
    sys.exit(1)
if "--verify-only" in words:
    cubin = pathlib.Path(os.environ["TRITON_CACHE_DIR"], "one", "kernel.cubin")
    cubin.parent.mkdir(parents=True, exist_ok=True)
    cubin.touch()
    sys.exit(3 if "racecheck" in os.environ.get("BROKEN", "") and "--op" in words else 0)
results = pathlib.Path(sys.argv[sys.argv.index("--json") + 1])
for number in range(1, 4):
    results.write_text(json.dumps({{"results": list(range(number))}}))
    if number == 2:
        time.sleep(float(os.environ.get("SLOW_BENCH", 0)))
"""


@pytest.fixture
def machine(tmp_path):
    """A folder of stand-ins; run(*arguments, **variables) starts the script among them."""
    tools = tmp_path / "bin"
    tools.mkdir()
    calls = tmp_path / "calls"
    scripts = {
        "nvidia-smi": "#!/bin/sh\necho '9.0, NVIDIA Stand-in, 580.1, 1980 MHz'\n",
        "cmake": f'#!/bin/sh\necho "cmake $*" >> {calls}\nexit ${{BUILD_STATUS:-0}}\n',
        "compute-sanitizer": f'#!/bin/sh\necho "$*" >> {calls}\nshift 4\nexec "$@"\n',
        "python": PYTHON.format(python=sys.executable, calls=calls),
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def start(*arguments, **variables):
        environment = os.environ | {"PATH": f"{tools}:/usr/bin:/bin", "PYTHON": str(tools / "python")}
        environment |= {"DGSEG_DEVICE": "cuda", "CUDA_HOME": "/none", **variables}
        command = [sys.executable, SCRIPT, tmp_path / "out", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(*arguments, **variables):
        process = start(*arguments, **variables)
        process.text = process.communicate(timeout=120)[0]
        return process

    run.start, run.out, run.calls = start, tmp_path / "out", calls
    return run


def proof(machine):
    found = json.loads((machine.out / "gpu-proof.json").read_text())
    return found, {step["name"]: step["status"] for step in found["steps"]}


def test_every_step_in_order_and_its_results(machine):
    process = machine()
    found, statuses = proof(machine)
    assert process.returncode == 1, process.text  # a test failed
    assert list(statuses) == ["build", "smoke", "bench", "tests", "memcheck", "racecheck"]
    assert {name: status for name, status in statuses.items() if status != "passed"} == {"tests": "failed (status 1)"}
    assert found["gpu"].startswith("9.0, NVIDIA Stand-in")
    assert found["results"] == [0, 1, 2]
    assert found["tests"] == {
        "passed": 2, "failed": 1, "error": 0, "skipped": 0, "failures": ["tests/ops/test_x.py::test_1"]
    }  # fmt: skip
    assert found["compilations"] == {"triton": 1, "at_most": 250}
    assert sum(step["limit"] for step in found["steps"][:1]) <= 8 * 60
    calls = machine.calls.read_text()
    assert "-DDGSEG_CUDA=ON -DDGSEG_CUDA_ARCHITECTURES=90" in calls.replace("'", "")
    assert "--ignore-glob=*_triton.py" in calls
    assert "--tool racecheck" in calls
    assert "--tool memcheck" in calls


def test_a_cut_step_keeps_what_it_found_and_the_next_ones_run(machine):
    module = load()
    limits = module.shared_out(module.steps_for("cuda", sys.executable, machine.out, "90"), 60)
    assert limits == {"build": 40, "smoke": 20}
    # Limits of seconds, so that the test is done soon: the script itself, with other numbers.
    text = SCRIPT.read_text().replace("60, 170)", "2, 2)").replace("GRACE = 10", "GRACE = 1")
    copy = machine.out.parent / "scripts" / "gpu-proof"
    copy.parent.mkdir()
    copy.write_text(text)
    command = [sys.executable, copy, machine.out]
    environment = os.environ | {"PATH": f"{machine.out.parent}/bin:/usr/bin:/bin", "DGSEG_DEVICE": "cuda"}
    environment |= {"PYTHON": str(machine.out.parent / "bin" / "python"), "SLOW_BENCH": "60", "CUDA_HOME": "/none"}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    found, statuses = proof(machine)
    assert statuses["bench"] == "cut", done.stdout
    assert found["results"] == [0, 1]
    assert statuses["memcheck"] == "passed"
    assert time.monotonic() - began < 30


def test_an_interrupt_ends_the_step_and_names_what_is_left_out(machine):
    process = machine.start(SLOW_TESTS="60")
    deadline = time.monotonic() + 60
    log = machine.out / "gpu-proof.log"
    while not log.exists() or "test_2" not in log.read_text():  # the tests have begun, and hang
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    found, statuses = proof(machine)
    assert statuses["tests"] == "cut"
    assert statuses["memcheck"] == "left out: interrupted"
    assert found["tests"]["failed"] == 1


def test_a_few_minutes_buy_the_most_telling_steps(machine):
    machine("--minutes", "2.5")
    found, statuses = proof(machine)
    assert statuses["bench"] == "passed"
    # The stand-ins take no time, so all later steps fit: what matters is that no limit goes beyond the budget.
    assert all(step["limit"] <= 140 for step in found["steps"])
    machine("--minutes", "0.5")
    _found, statuses = proof(machine)
    assert statuses["build"] == "left out: fewer than 40 s are left"


def test_a_failed_build_proves_nothing(machine):
    process = machine(BUILD_STATUS="1")
    _found, statuses = proof(machine)
    assert process.returncode == 1
    assert statuses.pop("build") == "failed (status 1)"
    assert set(statuses.values()) == {"left out: the build failed"}


def test_a_race_is_a_failure(machine):
    process = machine(BROKEN="racecheck")
    _found, statuses = proof(machine)
    assert statuses["racecheck"] == "failed (status 3)"
    assert process.returncode == 1


def test_without_a_gpu_it_says_so(machine):
    tools = machine.out.parent / "bin" / "nvidia-smi"
    tools.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
    process = machine()
    assert process.returncode == 2
    assert "nvidia-smi sees no GPU (no devices were found)" in process.text


def load():
    loader = importlib.machinery.SourceFileLoader("gpu_proof", str(SCRIPT))
    spec = importlib.util.spec_from_loader("gpu_proof", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_proof"] = module
    loader.exec_module(module)
    return module
