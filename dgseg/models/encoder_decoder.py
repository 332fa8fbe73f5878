"""A backbone of four stages and a head on top: what SegFormer, DAFormer and their ResNet baselines share."""

from torch import Tensor, nn

from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction


class EncoderDecoder(SegmentationModel):
    """backbone(x, stage) runs one stage; head(stages) gives the logits and the map that its classifier saw before
    dropout. The attribute names are the published key names."""

    def __init__(
        self, num_classes: int, backbone: nn.Module, decode_head: nn.Module, *, checkpointing: bool = False
    ) -> None:
        super().__init__(num_classes)
        self.backbone = backbone
        self.decode_head = decode_head
        self.checkpoint_stages(checkpointing)

    def encode(self, images: Tensor) -> list[Tensor]:
        stages: list[Tensor] = []
        for index in range(4):
            stages.append(self.stage(self.backbone, stages[-1] if stages else images, index))
        return stages

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        stages = self.encode(images)
        logits, decoder = self.decode_head(stages)
        return Prediction(logits, named_features(stages, decoder), [], {})


def named_features(stages: list[Tensor], decoder: Tensor) -> dict[str, Tensor]:
    return {f"stage{i + 1}": stage for i, stage in enumerate(stages)} | {"decoder": decoder, "pre_classifier": decoder}
