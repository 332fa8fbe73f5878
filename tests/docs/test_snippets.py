"""Python snippets of README and docs: all compile and import what exists; those that need no files run."""

import ast

import pytest
import torch

from tests.docs.pages import blocks

SNIPPETS = list(blocks("python"))
# What stands in a snippet that cannot run here: files of somebody, or minutes of training.
ABSENT = ("latest.pth", "weights.safetensors", "folder=", "train(recipe", "objectives(", "Loader(", "…")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_snippet(snippet):
    tree = ast.parse(snippet.text)
    if any(word in snippet.text for word in ABSENT):
        tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    given = {
        "labels": torch.randint(0, 19, (1, 64, 128), dtype=torch.uint8),
        "logits": torch.randn(1, 19, 16, 32, requires_grad=True),
    }
    exec(compile(tree, snippet.page, "exec"), given)


def test_most_snippets_run():
    assert len(SNIPPETS) > 10
    assert sum(not any(word in snippet.text for word in ABSENT) for snippet in SNIPPETS) >= 6
