"""Models: where they come from and what their checkpoints contain, without torch or transformers.

`source` resolves names, downloads, and reads configurations and headers of weight files; `hub` accesses the model hub;
`pickles` converts pickled weights; `publish` gives a finished checkpoint its name.
"""

from slim_eval.models.source import (
    DEMO,
    ConfigFacts,
    ModelSource,
    Tensors,
    at_endpoint,
    bytes_here,
    describe,
    describe_config,
    facts_of,
    fetch,
    fetched,
    fingerprint,
    is_path,
    parameters,
    read_header,
    read_tensors,
    require_plain,
    resolve,
    resolve_gguf,
    small_files_hash,
    tensor_bytes,
)

__all__ = [
    "DEMO",
    "ConfigFacts",
    "ModelSource",
    "Tensors",
    "at_endpoint",
    "bytes_here",
    "describe",
    "describe_config",
    "facts_of",
    "fetch",
    "fetched",
    "fingerprint",
    "is_path",
    "parameters",
    "read_header",
    "read_tensors",
    "require_plain",
    "resolve",
    "resolve_gguf",
    "small_files_hash",
    "tensor_bytes",
]
