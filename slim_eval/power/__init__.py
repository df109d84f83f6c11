"""GPUs of this machine, and meters of the energy that a window of work took.

`gpus` says which GPUs there are and what uses them, `meter` defines what a meter is and how one is chosen, `nvml` and
`codecarbon` are the meters. The only importer of `pynvml` (package nvidia-ml-py) and `codecarbon`, both imported late.
Energy is in joules, power in watts; times are seconds on the clock of `time.perf_counter`.
"""

from __future__ import annotations

from slim_eval.power import codecarbon, nvml  # noqa: F401  # they register themselves
from slim_eval.power.gpus import Gpu as Gpu
from slim_eval.power.gpus import GpuCapabilities as GpuCapabilities
from slim_eval.power.gpus import GpuMemory as GpuMemory
from slim_eval.power.gpus import gpu_capabilities as gpu_capabilities
from slim_eval.power.gpus import gpu_facts as gpu_facts
from slim_eval.power.gpus import gpu_memory as gpu_memory
from slim_eval.power.gpus import group_gpus as group_gpus
from slim_eval.power.gpus import list_gpus as list_gpus
from slim_eval.power.gpus import resolve_gpus as resolve_gpus
from slim_eval.power.gpus import uses_gpu as uses_gpu
from slim_eval.power.meter import METERS as METERS
from slim_eval.power.meter import NO_SOURCE as NO_SOURCE
from slim_eval.power.meter import SETTLE_S as SETTLE_S
from slim_eval.power.meter import Conditions as Conditions
from slim_eval.power.meter import DeviceState as DeviceState
from slim_eval.power.meter import EnergyReading as EnergyReading
from slim_eval.power.meter import EnergySource as EnergySource
from slim_eval.power.meter import Meter as Meter
from slim_eval.power.meter import NoMeter as NoMeter
from slim_eval.power.meter import PowerSample as PowerSample
from slim_eval.power.meter import check_energy_source as check_energy_source
from slim_eval.power.meter import integral_joules as integral_joules
from slim_eval.power.meter import open_meter as open_meter
