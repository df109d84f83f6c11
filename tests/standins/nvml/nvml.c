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
 *   throttle=BITS   clock event reasons, in force from throttle_from seconds on
 *   pids=PID:BYTES;...               PID may be `self` for the process that loaded the library
 *   visitor=FILE    process 1 computes too while this file exists
 *   fail_after=N    the Nth and later readings of power fail with GPU_IS_LOST
 * STANDIN_NVML_ORIGIN is t = 0 on CLOCK_MONOTONIC, which is Python's time.perf_counter() on Linux.
 * STANDIN_NVML_INIT is the code that nvmlInit returns.
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

typedef struct { unsigned pid; unsigned long long bytes; } Process;

typedef struct {
  char uuid[96], name[96], trace[16], file[512], visitor[512], counter[16], power[16];
  double a, b, period, scale, throttle_from;
  unsigned long long memory, used, throttle;
  long fail_after, readings;
  int processes;
  Process process[MAX_PROCESSES];
} Gpu;

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

static void parse_setting(Gpu *gpu, const char *key, char *value) {
#define TEXT(field) if (!strcmp(key, #field)) copy(gpu->field, sizeof gpu->field, value)
#define REAL(field) if (!strcmp(key, #field)) gpu->field = strtod(value, NULL)
#define WHOLE(field) if (!strcmp(key, #field)) gpu->field = strtoull(value, NULL, 0)
  TEXT(uuid); TEXT(name); TEXT(trace); TEXT(file); TEXT(visitor); TEXT(counter); TEXT(power);
  REAL(a); REAL(b); REAL(period); REAL(scale); REAL(throttle_from);
  WHOLE(memory); WHOLE(used); WHOLE(throttle); WHOLE(fail_after);
  if (!strcmp(key, "pids")) parse_processes(gpu, value);
}

static void parse_gpu(Gpu *gpu, char *text) {
  memset(gpu, 0, sizeof *gpu);
  copy(gpu->counter, sizeof gpu->counter, "exact");
  copy(gpu->power, sizeof gpu->power, "exact");
  gpu->throttle_from = -1e18;
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
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
  if (index >= count) return INVALID;
  *gpu = &gpus[index];
  return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
  for (unsigned i = 0; i < count; i++)
    if (!strcmp(gpus[i].uuid, uuid)) { *gpu = &gpus[i]; return OK; }
  return NOT_FOUND;
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
  *milliwatts = (unsigned)lround(1000 * watts_at(gpu, now()));
  return OK;
}

int nvmlDeviceGetTotalEnergyConsumption(Gpu *gpu, unsigned long long *millijoules) {
  if (!strcmp(gpu->counter, "none")) return NOT_SUPPORTED;
  double joules = !strcmp(gpu->counter, "still") ? 0 : joules_at(gpu, now());
  if (!strcmp(gpu->counter, "off")) joules *= gpu->scale;
  *millijoules = 1000000000ULL + (unsigned long long)llround(1000 * joules); /* it never starts at 0 */
  return OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(Gpu *gpu, unsigned long long *bits) {
  *bits = now() >= gpu->throttle_from ? gpu->throttle : 0;
  return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *bits) {
  return nvmlDeviceGetCurrentClocksEventReasons(gpu, bits);
}

int nvmlDeviceGetComputeRunningProcesses_v3(Gpu *gpu, unsigned *n, ProcessInfo *list) {
  unsigned room = *n, found = 0;
  int visited = gpu->visitor[0] && !access(gpu->visitor, F_OK);
  for (int i = 0; i < gpu->processes + visited; i++) {
    Process p = i < gpu->processes ? gpu->process[i] : (Process){1, 5000};
    if (list && found < room) list[found] = (ProcessInfo){p.pid, p.bytes, ~0u, ~0u};
    found++;
  }
  *n = found;
  return found > room ? TOO_SMALL : OK;
}

int nvmlDeviceGetPowerManagementLimit(Gpu *gpu, unsigned *milliwatts) { (void)gpu; *milliwatts = 300000; return OK; }
int nvmlDeviceGetEnforcedPowerLimit(Gpu *gpu, unsigned *milliwatts) { (void)gpu; *milliwatts = 300000; return OK; }
int nvmlDeviceGetPersistenceMode(Gpu *gpu, unsigned *mode) { (void)gpu; *mode = 1; return OK; }
int nvmlDeviceGetClockInfo(Gpu *gpu, unsigned kind, unsigned *mhz) { (void)gpu; *mhz = kind == 2 ? 1215 : 1410; return OK; }
int nvmlDeviceGetMaxClockInfo(Gpu *gpu, unsigned kind, unsigned *mhz) { return nvmlDeviceGetClockInfo(gpu, kind, mhz); }
int nvmlDeviceGetTemperature(Gpu *gpu, unsigned sensor, unsigned *celsius) { (void)gpu; (void)sensor; *celsius = 55; return OK; }
