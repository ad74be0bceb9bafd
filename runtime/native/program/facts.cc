#include "facts.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "json.h"

namespace {

constexpr double kUnknown = __builtin_nan("");

// The first line of a file, without its end; nullptr if there is none.
const char* FirstLine(const char* path) {
  static char line[256];
  FILE* file = fopen(path, "re");
  const char* read = file == nullptr ? nullptr : fgets(line, sizeof(line), file);
  if (file != nullptr) fclose(file);
  if (read != nullptr) line[strcspn(line, "\n")] = '\0';
  return read;
}

double NumberIn(const char* path) {
  const char* line = FirstLine(path);
  return line == nullptr ? kUnknown : atof(line);
}

// The value of a field "name : value" of a file such as /proc/cpuinfo, the first there is; nullptr without.
const char* Field(const char* path, const char* name) {
  static char line[512];
  FILE* file = fopen(path, "re");
  if (file == nullptr) return nullptr;
  const size_t length = strlen(name);
  const char* value = nullptr;
  while (value == nullptr && fgets(line, sizeof(line), file) != nullptr) {
    if (strncmp(line, name, length) != 0) continue;
    char* colon = strchr(line, ':');
    if (colon == nullptr) continue;
    line[strcspn(line, "\n")] = '\0';
    value = colon + 1 + strspn(colon + 1, " \t");
  }
  fclose(file);
  return value;
}

int64_t KilobytesIn(const char* path, const char* name) {
  const char* value = Field(path, name);
  return value == nullptr ? -1 : atoll(value);
}

// The core by its part number, as ARM's manuals have it, or what x86-64 calls the model.
const char* CpuName() {
  static constexpr struct {
    long part;
    const char* name;
  } kParts[] = {
      {0xd03, "Cortex-A53"},  {0xd04, "Cortex-A35"},  {0xd05, "Cortex-A55"},  {0xd07, "Cortex-A57"},
      {0xd08, "Cortex-A72"},  {0xd09, "Cortex-A73"},  {0xd0a, "Cortex-A75"},  {0xd0b, "Cortex-A76"},
      {0xd0c, "Neoverse-N1"}, {0xd0d, "Cortex-A77"},  {0xd41, "Cortex-A78"},  {0xd42, "Cortex-A78AE"},
      {0xd44, "Cortex-X1"},   {0xd46, "Cortex-A510"}, {0xd47, "Cortex-A710"}, {0xd40, "Neoverse-V1"}};
  const char* part = Field("/proc/cpuinfo", "CPU part");
  if (part == nullptr) return Field("/proc/cpuinfo", "model name");
  const long number = strtol(part, nullptr, 16);
  for (const auto& known : kParts) {
    if (known.part == number) return known.name;
  }
  return part;
}

// The highest of the sensors, in degrees Celsius.
double Temperature() {
  double highest = kUnknown;
  for (int i = 0; i < 32; ++i) {
    char path[64];
    snprintf(path, sizeof(path), "/sys/class/thermal/thermal_zone%d/temp", i);
    const double value = NumberIn(path) / 1000;
    if (!isnan(value) && !(value <= highest)) highest = value;
  }
  return highest;
}

// The bits of the Raspberry Pi's firmware: 0 under-voltage, 1 capped clock, 2 throttled, 3 soft limit; 16
// above, the same since it was started. -1 where nobody says.
int64_t Throttled() {
  const char* line = FirstLine("/sys/devices/platform/soc/soc:firmware/get_throttled");
  if (line != nullptr) return strtoll(line, nullptr, 16);
  FILE* answer = popen("vcgencmd get_throttled 2>/dev/null", "re");
  if (answer == nullptr) return -1;
  char text[64];
  const char* read = fgets(text, sizeof(text), answer);
  pclose(answer);
  const char* equals = read == nullptr ? nullptr : strchr(text, '=');
  return equals == nullptr ? -1 : strtoll(equals + 1, nullptr, 16);
}

const char* GlibcVersion() {
  const char* (*version)();
  *reinterpret_cast<void**>(&version) = dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
  return version == nullptr ? nullptr : version();
}

}  // namespace

int64_t PeakBytes() { return KilobytesIn("/proc/self/status", "VmHWM") * 1024; }

void PrintFacts() {
  Json json;
  const auto text = [&](const char* key, const char* value) { json.Key(key), json.Text(value); };
  const auto number = [&](const char* key, double value) { json.Key(key), json.Number(value); };
  const auto integer = [&](const char* key, int64_t value) {
    json.Key(key), value < 0 ? json.Text(nullptr) : json.Integer(value);
  };
  utsname system = {};
  uname(&system);
  double load = kUnknown;
  if (getloadavg(&load, 1) != 1) load = kUnknown;
  const int64_t free_kilobytes = KilobytesIn("/proc/meminfo", "MemAvailable");
  json.Open('{');
  integer("version", 1);
  text("machine", system.machine);
  integer("bits", static_cast<int64_t>(sizeof(void*) * 8));
  text("kernel", system.release);
  text("glibc", GlibcVersion());
  text("model", FirstLine("/proc/device-tree/model"));
  text("cpu", CpuName());
  integer("cores", sysconf(_SC_NPROCESSORS_ONLN));
  text("governor", FirstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
  number("clock_mhz", NumberIn("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq") / 1000);
  number("max_clock_mhz", NumberIn("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq") / 1000);
  number("temperature_c", Temperature());
  integer("throttled", Throttled());
  number("load", load);
  integer("memory_free_bytes", free_kilobytes < 0 ? -1 : free_kilobytes * 1024);
  json.Close('}');
  putchar('\n');
}
