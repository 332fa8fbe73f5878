"""What the CUDA implementations compile to, and how often they launch, on a machine without a GPU.

Triton is told that the device is an H200 and compiles what a call there would compile, by its own rules; nothing is
launched, and tensors are on the meta device. As a program it prints JSON, so that another Triton can be asked:

    PYTHONPATH=<folder with that triton>:. python -m tests.ops.machine_code
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

REGISTERS, WARPS, SHARED = 65536, 64, 227 * 1024  # of a multiprocessor of sm_90
TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
# What launches nothing.
VIEWS = {"view", "_unsafe_view", "reshape", "expand", "permute", "t", "transpose", "select", "slice", "unsqueeze"}
VIEWS |= {"squeeze", "alias", "detach", "unbind", "split", "empty", "empty_like", "empty_strided", "new_empty"}


@dataclass
class Code:
    kernel: str
    programs: int
    warps: int
    registers: int
    shared: int
    stack: int  # bytes a thread keeps in memory: 8 may be the frame of a double-precision division
    ctas: int  # that fit on a multiprocessor
    instructions: int
    loop: int  # instructions of its longest inner loop; 0 without
    loads: dict[str, int]  # global ones by width, such as {"128": 20}
    stores: dict[str, int]


@dataclass
class Call:
    kernels: list[Code] = field(default_factory=list)
    others: list[str] = field(default_factory=list)  # torch operators that launch

    @property
    def launches(self) -> int:
        return len(self.kernels) + len(self.others)


class Device:
    """As much of a driver as Triton needs to compile."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")


class Launches(TorchDispatchMode):
    def __init__(self, others: list[str]) -> None:
        super().__init__()
        self.others = others

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name not in VIEWS:
            self.others.append(name)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def recorded(capability: int = 90, read: bool = True) -> Iterator[Call]:
    """What is launched inside; with `read` the machine code, too."""
    call, run = Call(), JITFunction.run

    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        size = grid if isinstance(grid, tuple) else (1,)
        programs = 1
        for each in size:
            programs *= each
        call.kernels.append(code(self.__name__, programs, kernel, read))
        return kernel

    before = driver._active
    driver.set_active(Device(capability))
    JITFunction.run = compiled
    try:
        with Launches(call.others):
            yield call
    finally:
        JITFunction.run = run
        driver._active = before


@contextlib.contextmanager
def specialised() -> Iterator[list[str]]:
    """The kernels that a process would compile for what is called inside, one name for each specialisation."""
    names: list[str] = []
    run, compile_one = JITFunction.run, JITFunction._do_compile

    def counted(self: Any, key: Any, signature: Any, device: Any, *rest: Any) -> None:
        names.append(self.__name__)
        self.device_caches[device][0][key] = object()

    def warm(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    before, device = driver._active, Device(90)
    device.get_current_device = lambda: -1  # type: ignore[method-assign]  # whose cache holds no code
    driver.set_active(device)
    JITFunction.run, JITFunction._do_compile = warm, counted
    try:
        yield names
    finally:
        JITFunction.run, JITFunction._do_compile = run, compile_one
        driver._active = before


def code(name: str, programs: int, kernel: Any, read: bool) -> Code:
    warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
    if not read:
        return Code(name, programs, warps, 0, shared, 0, 0, 0, 0, {}, {})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, listing = (
            subprocess.run([TOOL, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-res-usage", "-sass")
        )
    registers, stack = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))
    lines = [(int(a, 16), text) for a, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", listing)]
    names = [re.sub(r"^@\S+\s+", "", text).split()[0] for _, text in lines]
    width = {kind: dict(Counter(_width(name) for name in names if name.startswith(kind))) for kind in ("LDG", "STG")}
    return Code(
        name, programs, warps, registers, shared, stack, ctas(registers, warps, shared), len(lines), loop(lines),
        width["LDG"], width["STG"],
    )  # fmt: skip


def ctas(registers: int, warps: int, shared: int) -> int:
    per_warp = -(-registers * 32 // 256) * 256
    fitting = [32, WARPS // warps, REGISTERS // per_warp // warps]
    if shared:
        fitting.append(SHARED // (shared + 1024))
    return min(fitting)


def _width(name: str) -> str:
    """Of LDG.E.128.CONSTANT and the like, in bits."""
    found = re.search(r"\.[US]?(128|64|16|8)\b", name)
    return found[1] if found else "32"


def loop(lines: list[tuple[int, str]]) -> int:
    """Of branches that jump back, those around no other one."""
    jumps = []
    for at, text in lines:
        to = re.search(r"\bBRA(?:\.\w+)*\s+(?:\S+,\s*)?(?:`\()?0x([0-9a-f]+)", text)
        if to and int(to[1], 16) < at:
            jumps.append((int(to[1], 16), at))
    inner = [a for a in jumps if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in jumps)]
    return max((sum(start <= at <= end for at, _ in lines) for start, end in inner), default=0)


def meta(*shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> torch.Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)


def entropy_weighted(size: int, **kind: Any) -> None:
    from dgseg.ops.entropy_weighted_cross_entropy import triton as kernels

    logits, labels = meta(2, 19, size, size, **kind), meta(2, 512, 512, dtype=torch.uint8)
    log_sum_exp, entropy, cross_entropy, moments = kernels.pixels(logits, labels, labels, 255)
    maps = log_sum_exp, entropy, cross_entropy, moments[None]
    loss, weights, *_ = kernels.loss(logits, labels, labels, None, *maps, 3.0, 0, 0.0, 1e-6, 0, 255)
    kernels.backward(loss, logits, labels, log_sum_exp, weights, 255)


def focal(size: int, **kind: Any) -> None:
    from dgseg.ops.focal_dice import triton as kernels

    logits, labels = meta(2, 19, size, size, **kind), meta(2, 512, 512, dtype=torch.uint8)
    sums, log_sum_exp = kernels.sums(logits, labels, 1.0, 255)
    one, other, slopes = kernels.losses(sums, sums.view(1, -1), None, 1.0, torch.float32)
    kernels.backward(kernels.through_losses(one, other, slopes), logits, labels, log_sum_exp, 1.0, 255)


def info_nce(dtype: torch.dtype, **kind: Any) -> None:
    from dgseg.ops.prototype_info_nce import triton as kernels

    features, maps = meta(4, 256, 128, 128, dtype=dtype, **kind), [meta(4, 128, 128, dtype=torch.uint8)] * 2
    bank = meta(19, 3, 256), meta(19, 3), None
    loss, _count, log_sum_exp = kernels.forward(features, *maps, *bank, 0.07, False)
    kernels.backward(loss, features, *maps, *bank, log_sum_exp, 0.07, False)


def ema(by_pixel: bool, **kind: Any) -> None:
    from dgseg.ops.prototype_ema.fused import move

    features, maps = meta(4, 256, 128, 128, **kind), [meta(4, 128, 128, dtype=torch.uint8)] * 2
    bank = meta(19, 3, 256), meta(19, 3, dtype=torch.int64)
    move(*bank, features, *maps, meta(4, dtype=torch.int64), None, 0, 0, 0.99, by_pixel, False)


TRAINED = {"dtype": torch.bfloat16, "channels_last": True}  # as training gives them under autocast
CASES: dict[str, Callable[[], None]] = {
    "entropy-weighted, full size": lambda: entropy_weighted(512),
    "entropy-weighted, stride 4": lambda: entropy_weighted(128),
    "entropy-weighted, stride 4, as trained": lambda: entropy_weighted(128, **TRAINED),
    "focal and Dice, full size": lambda: focal(512),
    "focal and Dice, stride 4": lambda: focal(128),
    "focal and Dice, stride 4, as trained": lambda: focal(128, **TRAINED),
    "InfoNCE": lambda: info_nce(torch.float32),
    "InfoNCE, as trained": lambda: info_nce(**TRAINED),
    "prototypes, batch mean": lambda: ema(False),
    "prototypes, by pixel": lambda: ema(True),
}


def main() -> None:
    found = {}
    for name, run in CASES.items():
        with recorded(int(sys.argv[1]) if len(sys.argv) > 1 else 90) as call:
            run()
        found[name] = asdict(call)
    print(json.dumps({"triton": triton.__version__, "cases": found}))


if __name__ == "__main__":
    main()
