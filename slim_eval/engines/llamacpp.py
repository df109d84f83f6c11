"""llama.cpp's server, from the wheel ``xllamacpp``: what ``--server llama.cpp`` starts.

``python -m slim_eval.engines.llamacpp --model FILE.gguf --port N``. Reading a prompt and generating use the same
threads, so that both speeds are of one machine; prompts are not cached, as the requests of a benchmark must each do
their own work.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

#: llama.cpp's level of logging: the next ones write lines for each request, and there is one per token of an answer.
_ERRORS = 1


def main() -> int:
    """Serve until told to end; 1 if the model cannot be loaded, which llama.cpp's log explains."""
    parser = argparse.ArgumentParser(prog="slim-eval's server of llama.cpp", description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", help="name in the API; the file by default")
    parser.add_argument("--context", type=int, default=0, help="tokens of all requests together; 0: the model's own")
    parser.add_argument("--parallel", type=int, default=8, help="requests at once; others wait")
    parser.add_argument("--threads", type=int, default=_cores(), help="for prompts and for generation")
    given = parser.parse_args()
    try:
        import xllamacpp
    except ImportError:
        sys.stderr.write('Error: xllamacpp is not installed: pip install "slim-eval[gguf]"\n')
        return 1
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.hostnames, params.port = ["127.0.0.1"], given.port
    params.model_alias = {given.alias or given.model}
    params.n_ctx, params.n_parallel, params.kv_unified = given.context, given.parallel, True
    params.cache_prompt, params.cache_ram_mib, params.fit_params, params.ui = False, 0, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.verbosity = _ERRORS
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        return 1
    sys.stderr.write(f"llama.cpp listens on {server.listening_address} with {given.threads} threads\n")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    sys.stderr.flush()
    os._exit(0)  # its threads may be computing


def _cores() -> int:
    """Threads to use: physical cores that this process may run on, at most what OMP_NUM_THREADS says."""
    import psutil

    allowed = len(os.sched_getaffinity(0))
    physical = min(psutil.cpu_count(logical=False) or allowed, allowed)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(physical, int(limit)) if limit.isdigit() and int(limit) > 0 else physical


if __name__ == "__main__":
    sys.exit(main())
