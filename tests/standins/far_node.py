"""A plugin: on a node with ``FAR_NODE`` in its environment, the folders of the run are not seen.

Nodes of a pretended cluster share one disk; a real one without shared storage has other folders of the same names.
"""

from __future__ import annotations

import os

from slim_eval.execution import ray

if "FAR_NODE" in os.environ:
    ray._Folder.is_here = lambda self: False  # type: ignore[method-assign]
