/* A stand-in libnvidia-ml.so.1 with GPUs whose power over time is known, for the real nvidia-ml-py to talk to.
 *
 * STANDIN_NVML holds the GPUs, separated by '|', each a list of KEY=VALUE separated by ',':
 *   uuid, name, memory (bytes), used (bytes)
 *   trace=constant  a            W
 *   trace=ramp      a + b t      W
 *   trace=sine      a + b sin(2 pi t / period)  W
 *   trace=steps     file         power from a file of binary (double t, double watts) pairs that may grow meanwhile
 *   counter=exact|none|still|off     the energy counter; off: `scale` times the truth
 *   power=exact|none
 *   average=S       power is the mean of the last S seconds, as newer GPUs report it
 *   throttle=BITS   clock event reasons, in force while the file `throttle_file` exists, or always where it is not named
 *   sm_clock, memory_clock, throttled_sm_clock   MHz; 0: not supported. The last one while throttled, where given
 *   temperature, heating             degrees Celsius at t = 0 (0: not supported), and degrees a second
 *   bus_width       bits of the memory bus; 0: not supported
 *   capability=MAJOR.MINOR           CUDA compute capability; none: not supported
 *   pids=PID:BYTES;...               PID may be `self` for the process that loaded the library
 *   visitor=FILE    process 1 computes too while this file exists
 *   fail_after=N    the Nth and later readings of power fail with GPU_IS_LOST
 *   mig=UUID:BYTES;...               MIG mode, with these slices (`mig=none`: without any), which have memory and a name
 *   lost_file=FILE  readings of power and energy fail with GPU_IS_LOST while this file exists
 * STANDIN_NVML_ORIGIN is t = 0 on CLOCK_MONOTONIC, which is Python's time.perf_counter() on Linux.
 * STANDIN_NVML_INIT is the code that nvmlInit returns.
 * STANDIN_NVML_CUDA is the newest CUDA of the driver, 1000 major + 10 minor; where it is not set: not supported.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };

#define MAX_GPUS 8
#define MAX_PROCESSES 16
#define MAX_SLICES 7

typedef struct { unsigned pid; unsigned long long bytes; } Process;

typedef struct Gpu Gpu;
struct Gpu {
  char uuid[96], name[96], trace[16], file[512], visitor[512], throttle_file[512], lost_file[512], counter[16], power[16], capability[16];
  double a, b, period, scale, average, temperature, heating;
  unsigned long long memory, used, throttle, sm_clock, memory_clock, throttled_sm_clock, bus_width;
  long fail_after, readings;
  int processes;
  Process process[MAX_PROCESSES];
  unsigned mig, slices;
  Gpu *slice, *parent;
};

typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned long long total, free, used; } Memory;

static Gpu gpus[MAX_GPUS];
static unsigned count;
static double origin;
static int depth; /* nvmlInit is counted, as in the real library */

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec - origin;
}

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

static void parse_processes(Gpu *gpu, char *text) {
  char *rest = NULL;
  for (char *item = strtok_r(text, ";", &rest); item && gpu->processes < MAX_PROCESSES; item = strtok_r(NULL, ";", &rest)) {
    Process *p = &gpu->process[gpu->processes++];
    char pid[24] = "";
    sscanf(item, "%23[^:]:%llu", pid, &p->bytes);
    p->pid = strcmp(pid, "self") ? (unsigned)strtoul(pid, NULL, 10) : (unsigned)getpid();
  }
}

static void parse_gpu(Gpu *gpu, char *text);

static void parse_slices(Gpu *gpu, char *text) {
  char *rest = NULL;
  gpu->mig = 1;
  if (!strcmp(text, "none")) return;
  gpu->slice = calloc(MAX_SLICES, sizeof *gpu->slice);
  for (char *item = strtok_r(text, ";", &rest); item && gpu->slices < MAX_SLICES; item = strtok_r(NULL, ";", &rest)) {
    Gpu *slice = &gpu->slice[gpu->slices++];
    char none[] = "counter=none,power=none,sm_clock=0,memory_clock=0,temperature=0,bus_width=0";
    parse_gpu(slice, none);
    sscanf(item, "%95[^:]:%llu", slice->uuid, &slice->memory);
    snprintf(slice->name, sizeof slice->name, "%.80s MIG %u", gpu->name, gpu->slices);
    slice->parent = gpu;
  }
}

static void parse_setting(Gpu *gpu, const char *key, char *value) {
#define TEXT(field) if (!strcmp(key, #field)) copy(gpu->field, sizeof gpu->field, value)
#define REAL(field) if (!strcmp(key, #field)) gpu->field = strtod(value, NULL)
#define WHOLE(field) if (!strcmp(key, #field)) gpu->field = strtoull(value, NULL, 0)
  TEXT(uuid); TEXT(name); TEXT(trace); TEXT(file); TEXT(visitor); TEXT(throttle_file); TEXT(lost_file);
  TEXT(counter); TEXT(power); TEXT(capability);
  REAL(a); REAL(b); REAL(period); REAL(scale); REAL(average); REAL(temperature); REAL(heating);
  WHOLE(memory); WHOLE(used); WHOLE(throttle); WHOLE(fail_after);
  WHOLE(sm_clock); WHOLE(memory_clock); WHOLE(throttled_sm_clock); WHOLE(bus_width);
  if (!strcmp(key, "pids")) parse_processes(gpu, value);
  if (!strcmp(key, "mig")) parse_slices(gpu, value);
}

static void parse_gpu(Gpu *gpu, char *text) {
  memset(gpu, 0, sizeof *gpu);
  copy(gpu->counter, sizeof gpu->counter, "exact");
  copy(gpu->power, sizeof gpu->power, "exact");
  copy(gpu->capability, sizeof gpu->capability, "8.0");
  gpu->sm_clock = 1410;
  gpu->memory_clock = 1215;
  gpu->bus_width = 5120;
  gpu->temperature = 55;
  char *rest = NULL;
  for (char *item = strtok_r(text, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
    char *equals = strchr(item, '=');
    if (!equals) continue;
    *equals = 0;
    parse_setting(gpu, item, equals + 1);
  }
}

static double steps(const Gpu *gpu, double t, int integral) {
  double step[2], since = 0, watts = 0, joules = 0;
  FILE *file = fopen(gpu->file, "rb");
  if (!file) return 0;
  while (fread(step, sizeof step, 1, file) == 1 && step[0] <= t) {
    joules += watts * (step[0] - since);
    since = step[0];
    watts = step[1];
  }
  fclose(file);
  return integral ? joules + watts * (t - since) : watts;
}

static double watts_at(const Gpu *gpu, double t) {
  if (!strcmp(gpu->trace, "ramp")) return gpu->a + gpu->b * t;
  if (!strcmp(gpu->trace, "sine")) return gpu->a + gpu->b * sin(2 * M_PI * t / gpu->period);
  if (!strcmp(gpu->trace, "steps")) return steps(gpu, t, 0);
  return gpu->a;
}

/* The integral of watts_at from the origin, in closed form. */
static double joules_at(const Gpu *gpu, double t) {
  double w = 2 * M_PI / (gpu->period > 0 ? gpu->period : 1);
  if (!strcmp(gpu->trace, "ramp")) return gpu->a * t + gpu->b * t * t / 2;
  if (!strcmp(gpu->trace, "sine")) return gpu->a * t + gpu->b / w * (1 - cos(w * t));
  if (!strcmp(gpu->trace, "steps")) return steps(gpu, t, 1);
  return gpu->a * t;
}

static double reported_watts(const Gpu *gpu, double t) {
  if (gpu->average <= 0) return watts_at(gpu, t);
  return (joules_at(gpu, t) - joules_at(gpu, t - gpu->average)) / gpu->average;
}

static int exists(const char *file) { return file[0] && !access(file, F_OK); }

static unsigned long long throttles(const Gpu *gpu) {
  return !gpu->throttle_file[0] || exists(gpu->throttle_file) ? gpu->throttle : 0;
}

/* ---- what nvidia-ml-py calls ---- */

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  const char *code = getenv("STANDIN_NVML_INIT"), *start = getenv("STANDIN_NVML_ORIGIN"), *text = getenv("STANDIN_NVML");
  if (code && atoi(code)) return atoi(code);
  if (depth++) return OK;
  origin = start ? strtod(start, NULL) : 0;
  char *all = strdup(text ? text : ""), *rest = NULL;
  count = 0;
  for (char *one = strtok_r(all, "|", &rest); one && count < MAX_GPUS; one = strtok_r(NULL, "|", &rest)) {
    long readings = gpus[count].readings;
    parse_gpu(&gpus[count], one);
    gpus[count++].readings = readings; /* a lost GPU stays lost over a new nvmlInit */
  }
  free(all);
  return OK;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return depth > 0 ? (depth--, OK) : 1; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "Stand-in error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { copy(text, size, "999.99.99"); return OK; }

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  const char *text = getenv("STANDIN_NVML_CUDA");
  if (!text) return NOT_SUPPORTED;
  *version = atoi(text);
  return OK;
}

int nvmlDeviceGetCudaComputeCapability(Gpu *gpu, int *major, int *minor) {
  return sscanf(gpu->capability, "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
  if (index >= count) return INVALID;
  *gpu = &gpus[index];
  return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
  for (unsigned i = 0; i < count; i++)
    if (!strcmp(gpus[i].uuid, uuid)) { *gpu = &gpus[i]; return OK; }
  for (unsigned i = 0; i < count; i++)
    for (unsigned j = 0; j < gpus[i].slices; j++)
      if (!strcmp(gpus[i].slice[j].uuid, uuid)) { *gpu = &gpus[i].slice[j]; return OK; }
  return NOT_FOUND;
}

int nvmlDeviceGetMigMode(Gpu *gpu, unsigned *current, unsigned *pending) {
  *current = *pending = gpu->mig;
  return gpu->parent ? INVALID : OK;
}

int nvmlDeviceGetMaxMigDeviceCount(Gpu *gpu, unsigned *n) { *n = gpu->mig ? MAX_SLICES : 0; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(Gpu *gpu, unsigned index, Gpu **slice) {
  if (index >= gpu->slices) return NOT_FOUND;
  *slice = &gpu->slice[index];
  return OK;
}

int nvmlDeviceGetIndex(Gpu *gpu, unsigned *index) { *index = (unsigned)(gpu - gpus); return OK; }
int nvmlDeviceGetUUID(Gpu *gpu, char *text, unsigned size) { copy(text, size, gpu->uuid); return OK; }
int nvmlDeviceGetName(Gpu *gpu, char *text, unsigned size) { copy(text, size, gpu->name); return OK; }

int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *memory) {
  if (!gpu->memory) return NOT_SUPPORTED;
  *memory = (Memory){gpu->memory, gpu->memory - gpu->used, gpu->used};
  return OK;
}

int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *milliwatts) {
  if (!strcmp(gpu->power, "none")) return NOT_SUPPORTED;
  if (gpu->fail_after && ++gpu->readings >= gpu->fail_after) return LOST;
  if (exists(gpu->lost_file)) return LOST;
  *milliwatts = (unsigned)lround(1000 * reported_watts(gpu, now()));
  return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *millijoules) {
  if (!strcmp(gpu->counter, "none")) return NOT_SUPPORTED;
  if (exists(gpu->lost_file)) return LOST;
  double joules = !strcmp(gpu->counter, "still") ? 0 : joules_at(gpu, now());
  if (!strcmp(gpu->counter, "off")) joules *= gpu->scale;
  *millijoules = 1000000000ULL + (unsigned long long)llround(1000 * joules); /* it never starts at 0 */
  return OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(Gpu *gpu, unsigned long long *bits) {
  *bits = throttles(gpu);
  return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *bits) {
  return nvmlDeviceGetCurrentClocksEventReasons(gpu, bits);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned *n, ProcessInfo *list) {
  unsigned room = *n, found = 0;
  int visited = exists(gpu->visitor);
  for (int i = 0; i < gpu->processes + visited; i++) {
    Process p = i < gpu->processes ? gpu->process[i] : (Process){1, 5000};
    if (list && found < room) list[found] = (ProcessInfo){p.pid, p.bytes, ~0u, ~0u};
    found++;
  }
  *n = found;
  return found > room ? TOO_SMALL : OK;
}

int nvmlDeviceGetPowerManagementLimit(Gpu *gpu, unsigned *milliwatts) { *milliwatts = 300000; return gpu->parent ? NOT_SUPPORTED : OK; }
int nvmlDeviceGetEnforcedPowerLimit(Gpu *gpu, unsigned *milliwatts) { (void)gpu; *milliwatts = 300000; return OK; }
int nvmlDeviceGetPersistenceMode(Gpu *gpu, unsigned *mode) { (void)gpu; *mode = 1; return OK; }

int nvmlDeviceGetMaxClockInfo(Gpu *gpu, unsigned kind, unsigned *mhz) {
  *mhz = (unsigned)(kind == 2 ? gpu->memory_clock : gpu->sm_clock);
  return *mhz ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetClockInfo(Gpu *gpu, unsigned kind, unsigned *mhz) {
  int slowed = kind != 2 && gpu->throttled_sm_clock && throttles(gpu);
  if (!slowed) return nvmlDeviceGetMaxClockInfo(gpu, kind, mhz);
  *mhz = (unsigned)gpu->throttled_sm_clock;
  return OK;
}

int nvmlDeviceGetTemperature(Gpu *gpu, unsigned sensor, unsigned *celsius) {
  (void)sensor;
  if (gpu->temperature <= 0) return NOT_SUPPORTED;
  *celsius = (unsigned)lround(gpu->temperature + gpu->heating * now());
  return OK;
}

int nvmlDeviceGetMemoryBusWidth(Gpu *gpu, unsigned *bits) {
  *bits = (unsigned)gpu->bus_width;
  return *bits ? OK : NOT_SUPPORTED;
}
