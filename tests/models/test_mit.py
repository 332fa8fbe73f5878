"""The Mix Transformer against transformers' own, and the places where the published definition differs from it."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dgseg.models.backbones.mit import MIT_SIZES, MiTSize, MixTransformer
from dgseg.models.weights import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def narrow(size: str) -> MiTSize:
    """The depths of a published size at a width that a test can afford."""
    return MiTSize((8, 16, 20, 32), MIT_SIZES[size].depths)


def run(backbone: MixTransformer, x: Tensor) -> list[Tensor]:
    stages = []
    for index in range(4):
        x = backbone(x, index)
        stages.append(x)
    return stages


def randomise(module: nn.Module) -> None:
    """Every parameter away from the zeros and ones that hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            fan = parameter[0].numel() if parameter.dim() > 1 else 25
            is_scale = "norm" in key and key.endswith("weight")
            parameter.copy_(noise / fan**0.5 + (1 if is_scale else 0))


def published_eps(key: str) -> float:
    return 1e-5 if re.fullmatch(r"patch_embed\d\.norm|block\d\.\d+\.attn\.norm", key) else 1e-6


def norms(module: nn.Module) -> Iterator[tuple[str, nn.LayerNorm]]:
    return ((key, each) for key, each in module.named_modules() if isinstance(each, nn.LayerNorm))


def test_each_norm_has_the_published_epsilon() -> None:
    with torch.device("meta"):
        backbone = MixTransformer(MIT_SIZES["b5"])
    sites = dict(norms(backbone))
    assert len(sites) == 4 + 4 + 2 * 52 + (3 + 6 + 40)  # patch embeddings, stages, blocks, reductions of stages 1 to 3
    assert {key: norm.eps for key, norm in sites.items()} == {key: published_eps(key) for key in sites}


@pytest.mark.parametrize("size", sorted(MIT_SIZES))
def test_equals_transformers_with_the_published_epsilons(size: str, tmp_path) -> None:
    from transformers import SegformerConfig, SegformerModel

    shape = narrow(size)
    config = SegformerConfig(
        hidden_sizes=list(shape.widths), depths=list(shape.depths), num_attention_heads=list(shape.heads)
    )
    theirs = SegformerModel(config).double().eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    ours = MixTransformer(shape).double().eval()
    load_weights(ours, tmp_path / "model.safetensors")  # through the hub's key names
    # By order, for transformers' module names differ from release to release: the norms of both walk alike.
    for key, norm in norms(theirs):
        inside = "patch_embeddings" in key or "attention" in key
        norm.eps = 1e-5 if inside else 1e-6
    images = torch.randn(2, 3, 75, 90, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = theirs(images, output_hidden_states=True).hidden_states
        for mine, other in zip(run(ours, images), want, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
        for _, norm in norms(theirs):
            norm.eps = 1e-5  # and the epsilons do show
        wrong = theirs(images).last_hidden_state
    assert not torch.allclose(wrong, want[-1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (64, 200), (101, 35)])
def test_any_size_down_to_32(height: int, width: int) -> None:
    stages = run(MixTransformer(narrow("b0")).eval(), torch.randn(1, 3, height, width))
    for index, stage in enumerate(stages):
        stride = 4 * 2**index
        assert stage.shape[-2:] == (-(-height // stride), -(-width // stride))


def test_drop_path_rises_linearly_and_is_exact_when_off() -> None:
    rates = [block.drop_path for i in range(1, 5) for block in getattr(MixTransformer(narrow("b1")), f"block{i}")]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])
    off, images = MixTransformer(narrow("b0"), drop_path=0), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(run(off.train(), images)[-1], run(off.eval(), images)[-1])
    with pytest.raises(ValueError, match="drop_path is a probability"):
        MixTransformer(narrow("b0"), drop_path=1.0)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = MixTransformer(narrow("b0"), drop_path=0.4).train().block4[1]
    x, branch = torch.zeros(4000, 2, 3), torch.ones(4000, 2, 3)
    kept = block.add(x, branch)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert (kept == kept[:, :1, :1]).all()
    assert float(kept.mean()) == pytest.approx(1, abs=0.06)
    torch.manual_seed(5)
    first = block.add(x, branch)
    torch.manual_seed(5)
    assert torch.equal(first, block.add(x, branch))  # torch's generator and nothing else


def test_maps_stay_channels_last_without_copies() -> None:
    for stage in run(MixTransformer(narrow("b0")).eval(), torch.randn(2, 3, 64, 96)):
        assert stage.is_contiguous(memory_format=torch.channels_last)
