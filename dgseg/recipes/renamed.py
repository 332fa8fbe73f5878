"""Names that recipes had before version 0.2, and what asks for the same now. They go with the next version."""

import re

_WORDS = {
    "ablation-streets-none": "study:ablation/baseline",
    "ablation-daformer-none": "study:ablation-daformer/baseline",
    "ablation-blindnet-streets-none": "study:blindnet/baseline",
    "ablation-blindnet-none": "study:ablation-blindnet/baseline",
    "erm-daformer": "daformer",
    "erm-hrda": "hrda",
    "erm-daformer-r101": "daformer --model.backbone r101",
    "erm-hrda-r101": "hrda --model.backbone r101",
    "flexseg-daformer": "daformer --with flexseg",
    "flexseg-hrda": "hrda --with flexseg",
    "flexseg-daformer-paper": "daformer --with flexseg --as published",
    "flexseg-hrda-paper": "hrda --with flexseg --as published",
    "flexseg-daformer-r101": "daformer --model.backbone r101 --with flexseg",
    "flexseg-hrda-r101": "hrda --model.backbone r101 --with flexseg",
    "blindnet-cityscapes": "blindnet --from cityscapes",
    "blindnet-shufflenetv2": "blindnet --model.backbone shufflenetv2",
    "blindnet-mobilenetv2": "blindnet --model.backbone mobilenetv2",
    "blindnet-flexseg": "blindnet --with flexseg",
    "blindnet-flexseg-streets": "blindnet-streets --with flexseg",
    "realtime-adversarial": "realtime",
    "detect-stage1-mask2former": "detect-stage1 --model.family mask2former",
    "detect-stage2-mask2former": "detect-stage2 --model.family mask2former",
    "detect-stage2-all": "detect-stage2 --model.trained all",
}
_PATTERNS = {
    r"ablation-streets-(.+)": r"study:ablation/\1",
    r"ablation-daformer-(.+)": r"study:ablation-daformer/\1",
    r"boundary-(\w+)-streets": r"study:boundary/\1",
    r"boundary-(\w+)-daformer": r"study:boundary-daformer/\1",
    r"ablation-blindnet-streets-(.+)": r"study:blindnet/\1",
    r"ablation-blindnet-(.+)": r"study:ablation-blindnet/\1",
    r"blindnet-(erm|ibn|iw|irw|robustnet)": r"study:blindnet-baselines/\1",
    r"realtime-cityscapes-(.+)": r"study:realtime-cityscapes/\1",
    r"realtime-augment-(.+)": r"study:realtime-gta5/\1",
    r"realtime-adversarial-(.+)": r"study:realtime-adversarial/\1",
    r"realtime-streets-(.+)": r"study:realtime/\1",
    r"detect-streets-mask2former-(start|stage1|stage2)": r"detect-streets-\1 --model.family mask2former",
    r"detect-streets-mask2former-(.+)": r"study:detection-mask2former/\1",
    r"detect-streets-(max-entropy|detector|generalizer)": r"study:detection/\1",
    r"ablation-detect-mask2former-(.+)": r"study:detection-mask2former/\1",
    r"ablation-detect-(.+)": r"study:detection/\1",
}


def new_words(old: str) -> str | None:
    """What to write in the place of an old name; None for what was no name."""
    if old in _WORDS:
        return _WORDS[old]
    for pattern, words in _PATTERNS.items():
        if match := re.fullmatch(pattern, old):
            return match.expand(words)
    return None
