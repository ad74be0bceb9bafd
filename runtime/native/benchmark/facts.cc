#include "benchmark/facts.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "benchmark/json.h"

namespace {

constexpr double kUnknown = __builtin_nan("");

// A file of the system's, below the folder FSG_FACTS_ROOT if there is one: for tests.
FILE* Open(const char* path) {
  const char* root = getenv("FSG_FACTS_ROOT");
  char whole[512];
  snprintf(whole, sizeof(whole), "%s%s", root == nullptr ? "" : root, path);
  return fopen(whole, "re");
}

// The first line of a file, without its end; nullptr if there is none.
const char* FirstLine(const char* path) {
  static char line[256];
  FILE* file = Open(path);
  const char* read = file == nullptr ? nullptr : fgets(line, sizeof(line), file);
  if (file != nullptr) fclose(file);
  if (read != nullptr) line[strcspn(line, "\n")] = '\0';
  return read;
}

double NumberIn(const char* path) {
  const char* line = FirstLine(path);
  return line == nullptr ? kUnknown : atof(line);
}

// The value in a line "name : value" of a file such as /proc/cpuinfo, which it cuts; nullptr in other lines.
const char* ValueOf(char* line, const char* name) {
  char* colon = strchr(line, ':');
  if (colon == nullptr || strncmp(line, name, strlen(name)) != 0) return nullptr;
  line[strcspn(line, "\n")] = '\0';
  return colon + 1 + strspn(colon + 1, " \t");
}

// The value of the first such line; nullptr without.
const char* Field(const char* path, const char* name) {
  static char line[512];
  FILE* file = Open(path);
  if (file == nullptr) return nullptr;
  const char* value = nullptr;
  while (value == nullptr && fgets(line, sizeof(line), file) != nullptr) value = ValueOf(line, name);
  fclose(file);
  return value;
}

int64_t KilobytesIn(const char* path, const char* name) {
  const char* value = Field(path, name);
  return value == nullptr ? -1 : atoll(value);
}

// Cores by their part number, the slower before the faster: as runtime/boards/cores.toml has them.
constexpr struct {
  long part;
  const char* name;
} kCores[] = {{0xd02, "Cortex-A34"},  {0xd04, "Cortex-A35"},  {0xd03, "Cortex-A53"},   {0xd05, "Cortex-A55"},
              {0xd46, "Cortex-A510"}, {0xd80, "Cortex-A520"}, {0xd07, "Cortex-A57"},   {0xd08, "Cortex-A72"},
              {0xd09, "Cortex-A73"},  {0xd0a, "Cortex-A75"},  {0xd0b, "Cortex-A76"},   {0xd0c, "Neoverse-N1"},
              {0xd0d, "Cortex-A77"},  {0xd41, "Cortex-A78"},  {0xd42, "Cortex-A78AE"}, {0xd47, "Cortex-A710"},
              {0xd4d, "Cortex-A715"}, {0xd81, "Cortex-A720"}, {0xd44, "Cortex-X1"},    {0xd40, "Neoverse-V1"},
              {0xd48, "Cortex-X2"},   {0xd4e, "Cortex-X3"},   {0xd82, "Cortex-X4"}};
constexpr int kCoreCount = sizeof(kCores) / sizeof(kCores[0]);

// All kinds of cores, the fastest first, "Cortex-A76 + Cortex-A55", or what x86-64 calls the model.
const char* CpuName() {
  FILE* file = Open("/proc/cpuinfo");
  if (file == nullptr) return nullptr;
  static char unknown[16];
  bool is_there[kCoreCount] = {};
  char line[512];
  while (fgets(line, sizeof(line), file) != nullptr) {
    const char* part = ValueOf(line, "CPU part");
    if (part == nullptr) continue;
    const long number = strtol(part, nullptr, 16);
    bool is_known = false;
    for (int i = 0; i < kCoreCount; ++i) {
      if (kCores[i].part == number) is_there[i] = is_known = true;
    }
    if (!is_known) snprintf(unknown, sizeof(unknown), "%s", part);
  }
  fclose(file);
  static char names[256];
  names[0] = '\0';
  const auto add = [](const char* name) {
    const size_t used = strlen(names);
    snprintf(names + used, sizeof(names) - used, "%s%s", used > 0 ? " + " : "", name);
  };
  if (unknown[0] != '\0') add(unknown);
  for (int i = kCoreCount - 1; i >= 0; --i) {
    if (is_there[i]) add(kCores[i].name);
  }
  return names[0] != '\0' ? names : Field("/proc/cpuinfo", "model name");
}

// The highest of the sensors, in degrees Celsius.
double Temperature() {
  double highest = kUnknown;
  for (int i = 0; i < 128; ++i) {
    char path[64];
    snprintf(path, sizeof(path), "/sys/class/thermal/thermal_zone%d/temp", i);
    const double value = NumberIn(path) / 1000;
    if (!isnan(value) && !(value <= highest)) highest = value;
  }
  return highest;
}

// The first line that a command prints, without its end; nullptr if there is none.
const char* FirstLineOf(const char* command) {
  static char line[128];
  FILE* answer = popen(command, "re");
  if (answer == nullptr) return nullptr;
  const char* read = fgets(line, sizeof(line), answer);
  pclose(answer);
  if (read != nullptr) line[strcspn(line, "\n")] = '\0';
  return read != nullptr && line[0] != '\0' ? line : nullptr;
}

// What the maker calls the board: Android's properties know better than the device tree of a phone, which
// names the chip's reference design.
const char* Model() {
#ifdef FSG_ANDROID
  const char* name = FirstLineOf("getprop ro.product.model 2>/dev/null");
  if (name != nullptr) return name;
#endif
  return FirstLine("/proc/device-tree/model");
}

// The bits of the Raspberry Pi's firmware: 0 under-voltage, 1 capped clock, 2 throttled, 3 soft limit; 16
// above, the same since it was started. -1 where nobody says.
int64_t Throttled() {
  const char* line = FirstLine("/sys/devices/platform/soc/soc:firmware/get_throttled");
  if (line != nullptr) return strtoll(line, nullptr, 16);
  const char* text = FirstLineOf("vcgencmd get_throttled 2>/dev/null");
  const char* equals = text == nullptr ? nullptr : strchr(text, '=');
  return equals == nullptr ? -1 : strtoll(equals + 1, nullptr, 16);
}

// Of the machine or of its main rail, in watts: what a sensor of hwmon says. Jetsons have an INA3221, whose
// first channel is the board's supply and gives voltage and current.
double Watts() {
  for (int i = 0; i < 16; ++i) {
    char power[64], volts[64], amperes[64];
    snprintf(power, sizeof(power), "/sys/class/hwmon/hwmon%d/power1_input", i);
    snprintf(volts, sizeof(volts), "/sys/class/hwmon/hwmon%d/in1_input", i);
    snprintf(amperes, sizeof(amperes), "/sys/class/hwmon/hwmon%d/curr1_input", i);
    const double microwatts = NumberIn(power);
    if (!isnan(microwatts)) return microwatts / 1e6;
    const double milliwatts = NumberIn(volts) * NumberIn(amperes) / 1e3;
    if (!isnan(milliwatts)) return milliwatts / 1e3;
  }
  return kUnknown;
}

// What has been used since some moment, in joules: a counter of hwmon or of the processor itself.
double Joules() {
  for (int i = 0; i < 16; ++i) {
    char path[64];
    snprintf(path, sizeof(path), "/sys/class/hwmon/hwmon%d/energy1_input", i);
    const double microjoules = NumberIn(path);
    if (!isnan(microjoules)) return microjoules / 1e6;
  }
  return NumberIn("/sys/class/powercap/intel-rapl:0/energy_uj") / 1e6;
}

const char* GlibcVersion() {
  const char* (*version)();
  *reinterpret_cast<void**>(&version) = dlsym(RTLD_DEFAULT, "gnu_get_libc_version");
  return version == nullptr ? nullptr : version();
}

}  // namespace

int64_t PeakBytes() { return KilobytesIn("/proc/self/status", "VmHWM") * 1024; }

void EnergyMeter::Start() {
  has_power_ = !isnan(Watts());
  joules_ = Joules();
}

void EnergyMeter::Note(double seconds) {
  ++runs_;
  seconds_ += seconds;
  watts_ += has_power_ ? Watts() : kUnknown;
}

double EnergyMeter::Millijoules() const {
  const double used = Joules() - joules_;  // below 0 if the counter began anew
  return runs_ > 0 && used > 0 ? 1e3 * used / runs_ : FromPower();
}

double EnergyMeter::FromPower() const {
  return runs_ > 0 ? 1e3 * (watts_ / runs_) * (seconds_ / runs_) : kUnknown;
}

void PrintFacts() {
  Json json;
  const auto text = [&](const char* key, const char* value) { json.Key(key), json.Text(value); };
  const auto number = [&](const char* key, double value) { json.Key(key), json.Number(value); };
  const auto integer = [&](const char* key, int64_t value) {
    json.Key(key), value < 0 ? json.Text(nullptr) : json.Integer(value);
  };
  utsname system = {};
  uname(&system);
  struct sysinfo now = {};
  const double load = sysinfo(&now) == 0 ? static_cast<double>(now.loads[0]) / 65536 : kUnknown;
  const int64_t free_kilobytes = KilobytesIn("/proc/meminfo", "MemAvailable");
  json.Open('{');
  integer("version", 1);
  text("machine", system.machine);
  integer("bits", static_cast<int64_t>(sizeof(void*) * 8));
  text("kernel", system.release);
  text("glibc", GlibcVersion());
  text("model", Model());
  text("cpu", CpuName());
  integer("cores", get_nprocs());
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
