"""Results on disk: what a record contains, reading and writing them, and importing those of other tools."""

from slim_eval.results.store import (
    PAIRED,
    RUN_LOG,
    Results,
    clear_leftovers,
    find_results,
    has_error,
    has_samples,
    model_directory,
    noise_directory,
    read_record,
    read_variant,
    receive_record,
    record_files,
    record_name,
    record_path,
    relabel,
    require_writable,
    variant_directory,
    write_error,
    write_noise,
)
from slim_eval.results.variants import Variant

__all__ = [
    "PAIRED", "RUN_LOG", "Results", "Variant", "clear_leftovers", "find_results", "has_error", "has_samples",
    "model_directory", "noise_directory", "read_record", "read_variant", "receive_record",
    "record_files", "record_name", "record_path", "relabel", "require_writable",
    "variant_directory", "write_error", "write_noise",
]  # fmt: skip
