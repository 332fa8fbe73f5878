"""Where sliding windows begin."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Every stride, and the last window moved back inside; a window longer than the image becomes the image."""
    steps = -(-max(length - window, 0) // stride)
    return [max(min(step * stride, length - window), 0) for step in range(steps + 1)]
