"""Where a model comes from and what its checkpoint says of itself, without torch or transformers.

`source` resolves names and reads configurations; `hub` and `download` reach the model hub; `weights` reads the headers
of weight files; `pickles` converts pickled weights; `publish` gives a finished checkpoint its name.
"""

from slim_eval.models.source import (
    DEMO,
    ConfigFacts,
    ModelSource,
    Tensors,
    describe,
    describe_config,
    fingerprint,
    is_path,
    parameters,
    read_header,
    require_plain,
    resolve,
    small_files_hash,
    weight_files,
)

__all__ = [
    "DEMO",
    "ConfigFacts",
    "ModelSource",
    "Tensors",
    "describe",
    "describe_config",
    "fingerprint",
    "is_path",
    "parameters",
    "read_header",
    "require_plain",
    "resolve",
    "small_files_hash",
    "weight_files",
]
