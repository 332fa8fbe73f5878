"""Weights of a run: scored on two domains, and one picture of what the model sees."""

import argparse

from PIL import Image

from dgseg.data import from_spec
from dgseg.evaluation import evaluate, protocol_named
from dgseg.evaluation.pictures import overlay
from dgseg.models import build, load_weights, predict_logits

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("weights", help="as runs/flexseg-streets/weights.safetensors")
parser.add_argument("--model", default="bisenet_mini")
parser.add_argument("--images", type=int, default=20)
arguments = parser.parse_args()

model = build(arguments.model).eval()
print(load_weights(model, arguments.weights))

domains = [from_spec(f"streets={domain}@test,length={arguments.images},size=192x384") for domain in ("fog", "night")]
for name, domain in evaluate(model, domains, protocol_named("streets")).domains.items():
    print(f"{name}: {domain.scores.miou:.1%} mIoU")

sample = domains[0][0]
labels = predict_logits(model, sample.image[None], size=sample.image.shape[-2:]).argmax(1)[0]
Image.fromarray(overlay(sample.image.permute(1, 2, 0).numpy(), labels.byte().numpy())).save("overlay.png")
print("overlay.png")
