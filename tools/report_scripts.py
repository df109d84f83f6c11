"""The scripts that every report embeds: fetched by npm, with their licences, into the package.

    python -m tools.report_scripts

plotly.js in the version that the installed plotly for Python carries; its basic bundle has the kinds of trace that
slim-eval's charts use. DataTables in the version below. After an update, run
tests/integration/test_report_chromium.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from plotly.offline import get_plotlyjs_version

VENDOR = Path(__file__).parent.parent / "slim_eval" / "analysis" / "report" / "vendor"
#: Package of npm and version -> the file wanted of it and that of its licence.
SCRIPTS = {
    f"plotly.js-basic-dist-min@{get_plotlyjs_version()}": ("plotly-basic.min.js", "LICENSE"),
    "datatables.net@3.1.5": ("js/dataTables.min.js", "License.txt"),
}


def fetch(package: str, script: str, licence: str) -> Path:
    """Copy a script and its licence into the package; returns the path of the script.

    Raises:
        subprocess.CalledProcessError: npm failed; it printed why.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", package, "--silent"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        shutil.unpack_archive(archive, folder, filter="data")
        target = VENDOR / Path(script).name
        target.write_bytes((Path(folder) / "package" / script).read_bytes())
        target.with_suffix(".LICENSE").write_bytes((Path(folder) / "package" / licence).read_bytes())
    return target


if __name__ == "__main__":
    for name, files in SCRIPTS.items():
        sys.stdout.write(f"{fetch(name, *files)}: {name}\n")
