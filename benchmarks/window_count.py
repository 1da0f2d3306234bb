"""How many windows an image has, were each one to be looked at: what sliding windows and proposals have to do less of.

Sides are whole pixels, and windows move by one pixel.
"""

from __future__ import annotations

__all__ = ["all_windows", "scanned_windows", "window_positions"]


def window_positions(image: tuple[int, int], window: tuple[int, int], stride: int = 1) -> int:
    """Places of a `window` of `(h, w)` in an `image` of `(H, W)`: `(H - h + 1) (W - w + 1)` at stride 1, or 0."""
    _check(image, window, stride=stride)
    return _places(image[0], window[0], stride) * _places(image[1], window[1], stride)


def all_windows(image: tuple[int, int]) -> int:
    """Windows of every size at every place in an `image` of `(H, W)`: `H (H + 1) / 2 * W (W + 1) / 2`."""
    _check(image)
    height, width = image
    return (height * (height + 1) // 2) * (width * (width + 1) // 2)


def scanned_windows(image: tuple[int, int], window: tuple[int, int], growth: float, stride: int = 1) -> int:
    """Windows of one shape that a detector looks at: the image shrinks by `growth` until the window no longer fits.

    Args:
        image: `(H, W)`.
        window: `(h, w)`, the same on each shrunk image.
        growth: More than 1.
        stride: In pixels of the shrunk image.

    Raises:
        ValueError: Images would not shrink.
    """
    _check(image, window, stride=stride)
    if not growth > 1:
        raise ValueError(f"growth must be more than 1, got {growth}")
    count, scale = 0, 1.0
    while (places := window_positions((int(image[0] / scale), int(image[1] / scale)), window, stride)) > 0:
        count, scale = count + places, scale * growth
        if min(image) < scale:
            break
    return count


def _places(side: int, window: int, stride: int) -> int:
    return max(0, (side - window) // stride + 1)


def _check(*sizes: tuple[int, int], stride: int = 1) -> None:
    if min(*(side for size in sizes for side in size), stride) < 1:
        raise ValueError(f"sides and stride must be at least 1, got {', '.join(map(str, sizes))} and stride {stride}")
