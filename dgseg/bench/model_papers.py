"""The cost tables of the papers, as printed, and why ours differ."""

from dataclasses import dataclass

from dgseg.models.profiling import Arithmetic, Parameters

RESNET18_CLASSIFIER = 512 * 1000 + 1000


@dataclass(frozen=True)
class Published:
    paper: str
    name: str
    size: tuple[int, int]
    params_m: float
    gflops: float
    milliseconds: float
    fps: float | None = None


REAL_TIME = "Real-time domain adaptation, Table 1 (GPU unnamed)"
BLINDNET = "BlindNet, Table 3 (Tesla V100)"

TABLES: dict[str, list[Published]] = {
    "bisenet_r18": [Published(REAL_TIME, "BiSeNet", (512, 1024), 12.58, 25.78, 4.11, 243.74)],
    "deeplabv2_r101": [Published(REAL_TIME, "DeepLabV2", (512, 1024), 43.90, 375.7, 14.24, 70.42)],
    "deeplabv3plus_r50": [
        Published(BLINDNET, name, (1024, 2048), params, gflops, milliseconds)
        for name, params, gflops, milliseconds in [
            ("baseline", 45.08, 277.77, 10.01),
            ("SANSAW", 25.63, 421.86, 68.96),
            ("SPC", 45.22, 286.09, 12.24),
            ("DIRL", 45.41, 278.11, 11.69),
            ("DPCL", 56.46, 1188.64, 823.78),
            ("BlindNet", 45.08, 277.78, 10.03),
        ]
    ],
}


def notes(name: str, size: tuple[int, int], found: Parameters, cost: Arithmetic) -> list[str]:
    """The differences that can be computed, in words."""
    rows = TABLES.get(name, [])
    if not rows:
        return []
    row = rows[0]
    lines = []
    if name == "bisenet_r18":
        counted = (found.total + RESNET18_CLASSIFIER) / 1e6
        lines.append(
            f"the paper's {row.params_m} M hold the ResNet-18 classifier, 0.513 M that nothing calls; ours has none, "
            f"and with it would have {counted:.2f} M"
        )
    if size == row.size:
        lines.append(
            f"the paper's {row.gflops} G are multiply-adds as fvcore counts them: ours are {cost.macs / 1e9:.2f} G "
            f"({100 * (cost.macs / 1e9 / row.gflops - 1):+.2f} %); one multiply-add is two FLOPs"
        )
    else:
        lines.append(f"the paper's size is {row.size[0]}x{row.size[1]}: --size of this run makes no comparison")
    lines.append(
        f"{row.gflops} G in {row.milliseconds} ms are {2 * row.gflops / row.milliseconds:.0f} TFLOP/s if they are "
        "multiply-adds; the paper names neither precision nor synchronisation. Our times are medians with warm-up, "
        "each from the call until the device is done, on the hardware above"
    )
    return lines
