"""The cost tables of the papers, as printed, and why ours differ."""

from dataclasses import dataclass

from dgseg.models.profiling import Arithmetic, Parameters


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


def notes(name: str, size: tuple[int, int], found: Parameters, cost: Arithmetic, surplus: tuple[int, int]) -> list[str]:
    """Why ours differ from the published rows, in words and numbers. surplus: parameters and multiply-adds that the
    published network has beyond ours."""
    rows = TABLES.get(name, [])
    if not rows:
        return []
    row = rows[0]
    lines = []
    more_parameters, more_macs = surplus
    if any(surplus):
        lines.append(
            f"the published network carries {more_parameters / 1e6:.3f} M parameters that nothing calls and does "
            f"{more_macs / 1e9:.3f} G multiply-adds that ours saves: with them ours are "
            f"{(found.total + more_parameters) / 1e6:.2f} M and {(cost.macs + more_macs) / 1e9:.2f} G"
        )
    macs = (cost.macs + more_macs) / 1e9
    if name == "deeplabv3plus_r50":
        scale = size[0] * size[1] / (1024 * 1024)
        lines.append(
            f"the published {row.gflops} G fit multiply-adds of 1024x1024 pixels, where ours are {macs / scale:.2f} G, "
            "and not those of the 2048x1024 that the caption names, which are twice as many"
        )
    elif size == row.size:
        lines.append(
            f"the published {row.gflops} G are multiply-adds as fvcore counts them: counted the same way ours are "
            f"{macs:.2f} G ({100 * (macs / row.gflops - 1):+.2f} %)"
        )
    else:
        lines.append(f"published at {row.size[0]}x{row.size[1]}: --size of that shape makes the counts comparable")
    lines.append(
        f"published: {row.gflops} G in {row.milliseconds} ms, {2 * row.gflops / row.milliseconds:.0f} TFLOP/s, with no "
        "word on precision or on waiting for the GPU. Ours: median with warm-up, from the call until the device is done"
    )
    return lines
