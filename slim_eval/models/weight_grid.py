"""Whether the 16-bit weights of a checkpoint lie on a 4-bit grid: they were made from 4-bit weights.

A file of 4-bit weights that was converted back to 16 bit looks like any other checkpoint, but its int4 results are not
those of the original model: a scheme with the same grid would lose nothing. Values tell: of a row's 32 neighbours, a
4-bit block has at most 16 different ones, and trained 16-bit weights have about 30.
"""

from __future__ import annotations

from pathlib import Path

from slim_eval.models import gguf
from slim_eval.models.source import describe_config, read_spans, weight_files

#: Of the grids that are found.
BITS = 4
#: What a reader of any number of such a model has to know.
NOTE = (
    "the 16-bit weights lie on a 4-bit grid: they were made from 4-bit weights, so int4 results are not those of the "
    "original model"
)
#: Neighbours in a row that share a scale in every usual format: GGUF has 32, GPTQ and AWQ 32, 64 or 128.
_BLOCK = 32
_MATRICES, _BLOCKS = 8, 64  # that are looked at, spread evenly over the checkpoint and over a matrix
_ENOUGH = 0.9  # share of the matrices' blocks
_KINDS = {"BF16": "uint16", "F16": "uint16", "F32": "uint32"}


def grid_bits(folder: Path) -> int | None:
    """Bits of the grid on which most 16-bit weights of a checkpoint lie; None if on none. A few weights are read.

    Of a checkpoint that came quantized, and of a GGUF file, it is None: these say so themselves.
    """
    if gguf.is_gguf(folder) or describe_config(folder).is_quantized:
        return None
    import numpy as np

    matrices = [
        (file, span)
        for file in weight_files(folder)
        for name, span in read_spans(file).items()
        if name.endswith(".weight") and len(span.shape) == 2 and span.kind in _KINDS and span.shape[1] % _BLOCK == 0
        and "embed" not in name and "lm_head" not in name
    ]  # fmt: skip
    seen = on_grid = 0
    for file, span in matrices[:: max(1, len(matrices) // _MATRICES)]:
        kind = np.dtype(_KINDS[span.kind])
        total = (span.end - span.begin) // (_BLOCK * kind.itemsize)
        with file.open("rb") as stream:
            for place in range(0, total, max(1, total // _BLOCKS)):
                stream.seek(span.begin + place * _BLOCK * kind.itemsize)
                values = np.frombuffer(stream.read(_BLOCK * kind.itemsize), kind)
                minus_zero = 1 << (8 * kind.itemsize - 1)
                different = len(np.unique(np.where(values == minus_zero, 0, values)))
                if different > 1:  # zeros say nothing
                    seen, on_grid = seen + 1, on_grid + (different <= 2**BITS)
    return BITS if on_grid > 0 and on_grid >= _ENOUGH * seen else None
