"""Curves that sketches are made of: arrays (n, 2) of points in drawing order, x to the right and y down."""

from math import cos, pi, sin

import numpy as np


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
    """Outline of an ellipse about (x, y), turned by ``tilt`` radians."""
    angle = np.linspace(0, 2 * pi, 40, endpoint=False)
    return np.stack([rx * np.cos(angle), ry * np.sin(angle)], axis=1) @ rotation(tilt) + (x, y)


def rotation(angle: float) -> np.ndarray:
    """Matrix (2, 2) that turns points by ``angle`` radians: ``points @ rotation(angle)``."""
    return np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])


def blob(*corners: tuple[float, float]) -> np.ndarray:
    """Closed smooth curve near the corners, by cutting corners (Chaikin, 1974, doi:10.1016/0146-664X(74)90028-8)."""
    points = np.array(corners, dtype=float)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        points = np.stack(
            [0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1
        ).reshape(-1, 2)
    return points


def curve(*control: tuple[float, float]) -> np.ndarray:
    """Quadratic Bezier curve: it starts at the first control point, heads for the second and ends at the third."""
    start, middle, end = np.array(control, dtype=float)
    t = np.linspace(0, 1, 14)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end


def tube(spine: np.ndarray, width: float, end: float) -> np.ndarray:
    """Outline of a limb along its spine; the half width goes from ``width`` to ``end``."""
    along = np.gradient(spine, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    offset = along @ rotation(pi / 2) * np.linspace(width, end, len(spine))[:, None]
    return blob(*(spine + offset), spine[-1] + along[-1] * end * 0.8, *(spine - offset)[::-1])
