"""Training data: images as uint8, points as float32.

`load` reads scikit-learn's digits, the toy distributions `ring` and `grid`, a folder of images, one array from an
`.npy` or `.npz` file, or a table of Hugging Face's `datasets`. Data that fits is kept in memory (`Dataset`: copied to
the device once, rows drawn there by random index). Images that do not fit are read when they are drawn (`Stream`).
"""

from fastgan.data.dataset import Dataset, draw, draw_rows, flipped, shown, spread, to_points, to_uint8, to_unit
from fastgan.data.images import SUFFIXES as IMAGE_SUFFIXES
from fastgan.data.optional import needs, progress_bar
from fastgan.data.sources import FOLDER_SIZE, KINDS, MEMORY_SHARE, SIZES, TOYS, free_memory, load
from fastgan.data.stream import Stream

__all__ = [
    "FOLDER_SIZE", "IMAGE_SUFFIXES", "KINDS", "MEMORY_SHARE", "SIZES", "TOYS", "Dataset", "Stream", "draw", "draw_rows",
    "flipped", "free_memory", "load", "needs", "progress_bar", "shown", "spread", "to_points", "to_uint8", "to_unit",
]  # fmt: skip
