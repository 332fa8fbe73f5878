"""A recipe trained: the loop, precision, strategies for many ranks, checkpoints. Knows no Ray, MLflow or DeepSpeed."""
