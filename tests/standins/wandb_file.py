"""Reads files that W&B wrote in offline mode: records of its own protobuf in a LevelDB log."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32 * 1024
_FILE_HEADER = 7  # magic and version
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def _chunks(data: bytes) -> Iterator[bytes]:
    """Payloads of a LevelDB log, joined from their fragments."""
    offset, parts = _FILE_HEADER, b""
    while offset + 7 <= len(data):
        if _BLOCK - offset % _BLOCK < 7:  # a block's tail too short for a header is padding
            offset += _BLOCK - offset % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        if kind == 0:
            return
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""


def _finished(path: Path) -> list[Any]:
    """All records of a run. W&B's own process writes them, and on a busy machine it may do so after the run's end."""
    from wandb.proto import wandb_internal_pb2

    for _ in range(300):
        records = []
        for payload in _chunks(path.read_bytes()):
            records.append(wandb_internal_pb2.Record())
            records[-1].ParseFromString(payload)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{path}: the run was not written to its end")


def read_run(path: Path) -> dict[str, Any]:
    """Name, project, group, tags, config and logged metrics of one offline run."""
    run: dict[str, Any] = {"config": {}, "metrics": {}}
    for record in _finished(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {
                "name": record.run.display_name, "project": record.run.project, "group": record.run.run_group,
                "tags": list(record.run.tags),
            }  # fmt: skip
            run["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            for item in record.history.item:
                run["metrics"]["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return run
