// Measures a model on the machine it runs on, without Python:
//
//   fsg_benchmark facts
//   fsg_benchmark run MODEL --runtime LITERT [--delegate LIBRARY] [--threads N] [--warmup N] [--runs N]
//       [--cpus 0,1] [--cooldown-ms N] [--kernels NAME] [--fuse 0|1] [--input FILE --output FILE] [--profile]
//       [--progress]
//
// prints one JSON object. FILEs hold the raw values of the model's only input and output, image after image;
// without --input the input is random. It needs libc and the two libraries that are named.
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "benchmark/facts.h"
#include "benchmark/fail.h"
#include "benchmark/json.h"
#include "benchmark/litert.h"
#include "delegate/profile.h"

namespace {

constexpr int kMaxRuns = 1000000, kMaxEvents = 65536, kMaxProfiledRuns = 1000;

char last_report[512];

struct Arguments {
  const char *model, *runtime, *delegate, *cpus, *kernels, *fuse, *input, *output;
  int threads = 1, warmup = 10, runs = 50, cooldown_ms = 0;
  bool profiles, shows_progress;
};

int ReadCount(const char* option, const char* text, int least) {
  char* end;
  errno = 0;
  const long value = strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value < least || value > kMaxRuns) {
    Fail("%s is %s; give a whole number from %d to %d", option, text, least, kMaxRuns);
  }
  return static_cast<int>(value);
}

Arguments ReadArguments(int count, char** values) {
  Arguments a = {};
  a.threads = 1, a.warmup = 10, a.runs = 50;
  const struct {
    const char* name;
    const char** text;
  } texts[] = {{"--runtime", &a.runtime}, {"--delegate", &a.delegate}, {"--cpus", &a.cpus},
               {"--kernels", &a.kernels}, {"--fuse", &a.fuse},         {"--input", &a.input},
               {"--output", &a.output}};
  const struct {
    const char* name;
    int* number;
    int least;
  } numbers[] = {{"--threads", &a.threads, 1},
                 {"--warmup", &a.warmup, 0},
                 {"--runs", &a.runs, 0},
                 {"--cooldown-ms", &a.cooldown_ms, 0}};
  const struct {
    const char* name;
    bool* flag;
  } flags[] = {{"--profile", &a.profiles}, {"--progress", &a.shows_progress}};
  for (int i = 2; i < count; ++i) {
    const char* word = values[i];
    bool is_known = false;
    for (const auto& option : flags) {
      if (strcmp(word, option.name) == 0) *option.flag = is_known = true;
    }
    const char* value = i + 1 < count ? values[i + 1] : nullptr;
    const auto takes_value = [&](const char* name) {
      if (strcmp(word, name) != 0) return false;
      if (value == nullptr) Fail("%s needs a value", name);
      ++i;
      return is_known = true;
    };
    for (const auto& option : texts) {
      if (!is_known && takes_value(option.name)) *option.text = value;
    }
    for (const auto& option : numbers) {
      if (!is_known && takes_value(option.name)) *option.number = ReadCount(option.name, value, option.least);
    }
    if (is_known) continue;
    if (word[0] == '-' || a.model != nullptr) Fail("unknown argument %s", word);
    a.model = word;
  }
  if (a.model == nullptr || a.runtime == nullptr) Fail("give a MODEL and --runtime");
  if ((a.input == nullptr) != (a.output == nullptr)) Fail("--input and --output go together");
  if (access(a.model, R_OK) != 0) Fail("%s: %s", a.model, strerror(errno));
  return a;
}

// Keeps this process, and the threads it will have, on some processors: "0,2".
void Pin(const char* cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const char* at = cpus;;) {
    char* end;
    const long cpu = strtol(at, &end, 10);
    if (end == at || cpu < 0 || cpu >= CPU_SETSIZE || (*end != ',' && *end != '\0')) {
      Fail("--cpus is %s; give numbers of processors such as 0,1", cpus);
    }
    CPU_SET(static_cast<int>(cpu), &set);
    if (*end == '\0') break;
    at = end + 1;
  }
  cpu_set_t now;  // those that are there, without a word about the others
  if (sched_setaffinity(0, sizeof(set), &set) != 0 || sched_getaffinity(0, sizeof(now), &now) != 0 ||
      !CPU_EQUAL(&set, &now)) {
    Fail("--cpus %s: not all of them are there", cpus);
  }
}

double Seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <typename T>
T* Allocate(size_t count) {
  auto* memory = static_cast<T*>(calloc(count > 0 ? count : 1, sizeof(T)));
  if (memory == nullptr) Fail("out of memory");
  return memory;
}

struct Delegate {
  void* handle = nullptr;
  const char* kernels = nullptr;
  void (*profile)(void* delegate, fsg::Event* events, int capacity) = nullptr;
  int (*profiled)(void* delegate) = nullptr;
  const int* (*partitions)(void* delegate, int* count) = nullptr;
};

Delegate MakeDelegate(const Arguments& a) {
  Delegate delegate;
  if (a.delegate == nullptr) return delegate;
  void* library = OpenLibrary(a.delegate);
  void* (*create)(const char* const* keys, const char* const* values, size_t count,
                  void (*report)(const char*));
  const char* (*active)(char* message, size_t size);
  Find(library, "tflite_plugin_create_delegate", &create);
  Find(library, "fsg_kernels", &active);
  Find(library, "fsg_profile", &delegate.profile);
  Find(library, "fsg_profiled", &delegate.profiled);
  Find(library, "fsg_partitions", &delegate.partitions);
  char threads[16];
  snprintf(threads, sizeof(threads), "%d", a.threads);
  const char* const keys[] = {"num_threads", "kernels", "fuse"};
  const char* const values[] = {threads, a.kernels == nullptr ? "auto" : a.kernels,
                                a.fuse == nullptr ? "1" : a.fuse};
  delegate.handle = create(keys, values, 3, [](const char* message) { Fail("%s", message); });
  if (delegate.handle == nullptr) Fail("%s makes no delegate", a.delegate);
  char message[256];
  delegate.kernels = a.kernels == nullptr ? active(message, sizeof(message)) : a.kernels;
  return delegate;
}

// A model ready to run.
struct Interpreter {
  const LiteRt& litert;
  void* handle;

  void Invoke() const {
    if (litert.invoke(handle) != 0) Fail("the inference failed: %s", last_report);
  }
};

Interpreter MakeInterpreter(const LiteRt& litert, const Arguments& a, const Delegate& delegate) {
  void* model = litert.model_from_file(a.model);
  if (model == nullptr) Fail("%s is no TensorFlow Lite model", a.model);
  void* options = litert.options_create();
  const auto report = [](void*, const char* format, va_list values) {
    vsnprintf(last_report, sizeof(last_report), format, values);
  };
  litert.options_set_reporter(options, report, nullptr);
  litert.options_set_threads(options, a.threads);
  if (delegate.handle != nullptr) litert.options_add_delegate(options, delegate.handle);
  void* interpreter = litert.interpreter_create(model, options);
  if (interpreter == nullptr || litert.allocate(interpreter) != 0) {
    Fail("%s is refused: %s", a.model, last_report);
  }
  return {litert, interpreter};
}

// Random floats and bytes; 0 for what may be an index or a truth value.
void FillInputs(const Interpreter& interpreter) {
  const LiteRt& litert = interpreter.litert;
  constexpr int kFloat = 1, kUInt8 = 3, kInt8 = 9;
  uint32_t random = 1;
  for (int32_t i = 0; i < litert.input_count(interpreter.handle); ++i) {
    void* tensor = litert.input(interpreter.handle, i);
    const int type = litert.type(tensor);
    const size_t bytes = litert.bytes(tensor);
    auto* data = static_cast<char*>(litert.data(tensor));
    if (bytes > 0) memset(data, 0, bytes);
    if (type != kFloat && type != kUInt8 && type != kInt8) continue;
    for (size_t at = 0; at < bytes; at += 4) {
      random = random * 1664525u + 1013904223u;
      const float value = static_cast<float>(static_cast<int32_t>(random)) / 2147483648.0f;
      const size_t size = bytes - at < 4 ? bytes - at : 4;
      type == kFloat ? memcpy(data + at, &value, size) : memcpy(data + at, &random, size);
    }
  }
}

// Runs every image of the input file and writes what comes out, to a file that exists once it is whole.
void RunImages(const Interpreter& interpreter, const Arguments& a) {
  const LiteRt& litert = interpreter.litert;
  if (litert.input_count(interpreter.handle) != 1 || litert.output_count(interpreter.handle) < 1) {
    Fail("%s: --input takes models with one input", a.model);
  }
  void* input = litert.input(interpreter.handle, 0);
  const size_t bytes = litert.bytes(input);
  char partial[4096];
  snprintf(partial, sizeof(partial), "%s.partial", a.output);
  FILE* from = fopen(a.input, "rbe");
  if (from == nullptr) Fail("%s: %s", a.input, strerror(errno));
  FILE* to = fopen(partial, "wbe");
  if (to == nullptr) Fail("%s: %s", partial, strerror(errno));
  bool is_written = true;
  size_t read;
  while ((read = fread(litert.data(input), 1, bytes, from)) == bytes) {
    interpreter.Invoke();
    for (int32_t i = 0; i < litert.output_count(interpreter.handle); ++i) {
      auto* output = const_cast<void*>(litert.output(interpreter.handle, i));
      const size_t size = litert.bytes(output);
      is_written &= fwrite(litert.data(output), 1, size, to) == size;
    }
  }
  if (read != 0) Fail("%s does not hold whole images of %zu bytes", a.input, bytes);
  is_written &= fclose(to) == 0;
  fclose(from);
  if (!is_written || rename(partial, a.output) != 0) Fail("%s: %s", a.output, strerror(errno));
}

void Rest(int milliseconds) {
  const timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
  if (milliseconds > 0) nanosleep(&time, nullptr);
}

int Compare(const void* a, const void* b) {
  const double left = *static_cast<const double*>(a), right = *static_cast<const double*>(b);
  return left < right ? -1 : left > right;
}

double Median(double* values, int count) {
  qsort(values, static_cast<size_t>(count), sizeof(double), Compare);
  return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

// What a run of the model consists of: the delegate's operators and, before, between and after its
// partitions, LiteRT and XNNPACK. Medians of some runs, in which the stretches are the same.
class Profiler {
 public:
  explicit Profiler(const Delegate& delegate)
      : delegate_(delegate), events_(Allocate<fsg::Event>(kMaxEvents)) {}

  void Start() const { delegate_.profile(delegate_.handle, events_, kMaxEvents); }

  // Keeps the inference that just ran, from `start` to `end` in seconds.
  void Note(double start, double end) {
    if (runs_ == kMaxProfiledRuns) return;
    const int count = delegate_.profiled(delegate_.handle);
    if (runs_ == 0) {
      count_ = count;
      const size_t size = kMaxProfiledRuns * (static_cast<size_t>(count) + 1);
      times_ = Allocate<double>(size), gaps_ = Allocate<double>(size);
    }
    if (count != count_) Fail("the delegate ran %d operators, then %d", count_, count);
    double last = start;
    for (int i = 0; i < count; ++i) {
      At(gaps_, runs_, i) = events_[i].begin - last;
      At(times_, runs_, i) = events_[i].end - events_[i].begin;
      last = events_[i].end;
    }
    At(gaps_, runs_, count) = end - last;
    ++runs_;
  }

  void Print(Json* json) const {
    double values[kMaxProfiledRuns];
    json->Key("ops");
    json->Open('[');
    for (int i = 0; i <= count_; ++i) {
      for (int run = 0; run < runs_; ++run) values[run] = At(gaps_, run, i) * 1e6;
      // Within a partition operator follows operator at once.
      const double gap = Median(values, runs_);
      if (gap > kShortestGap) PrintEntry(json, "LiteRT and XNNPACK", "rest", gap);
      if (i == count_) break;
      for (int run = 0; run < runs_; ++run) values[run] = At(times_, run, i) * 1e6;
      PrintEntry(json, events_[i].name, "fsg", Median(values, runs_), &events_[i]);
    }
    json->Close(']');
    int owner_count;
    const int* owners = delegate_.partitions(delegate_.handle, &owner_count);
    json->Key("partitions"), json->Open('[');
    for (int i = 0; i < owner_count; ++i) json->Integer(owners[i]);
    json->Close(']');
  }

 private:
  static constexpr double kShortestGap = 1.5;  // microseconds

  double& At(double* values, int run, int i) const { return values[int64_t{run} * (count_ + 1) + i]; }

  static void PrintEntry(Json* json, const char* name, const char* kind, double microseconds,
                         const fsg::Event* event = nullptr) {
    json->Open('{');
    json->Key("name"), json->Text(name);
    json->Key("kind"), json->Text(kind);
    json->Key("us"), json->Number(microseconds);
    json->Key("binary_macs"), json->Integer(event != nullptr ? event->macs : 0);
    if (event != nullptr) json->Key("partition"), json->Integer(event->partition);
    json->Close('}');
  }

  const Delegate& delegate_;
  fsg::Event* events_;
  double *times_ = nullptr, *gaps_ = nullptr;
  int count_ = 0, runs_ = 0;
};

// Seconds of every timed run.
double* TimeRuns(const Interpreter& interpreter, const Arguments& a, Profiler* profiler, EnergyMeter* meter) {
  auto* times = Allocate<double>(static_cast<size_t>(a.runs));
  for (int i = 0; i < a.warmup; ++i) interpreter.Invoke();
  if (profiler != nullptr) profiler->Start();
  meter->Start();
  for (int i = 0; i < a.runs; ++i) {
    Rest(a.cooldown_ms);
    const double start = Seconds();
    interpreter.Invoke();
    const double end = Seconds();
    times[i] = end - start;
    meter->Note(times[i]);
    if (profiler != nullptr) profiler->Note(start, end);
    if (a.shows_progress) fprintf(stderr, "fsg: run %d/%d\n", i + 1, a.runs);
  }
  return times;
}

void PrintTensor(const LiteRt& litert, const void* tensor, Json* json) {
  json->Open('{');
  json->Key("name"), json->Text(litert.name(tensor));
  json->Key("type"), json->Integer(litert.type(tensor));
  json->Key("shape"), json->Open('[');
  for (int32_t i = 0; i < litert.rank(tensor); ++i) json->Integer(litert.dim(tensor, i));
  json->Close(']');
  json->Close('}');
}

void PrintTensors(const Interpreter& interpreter, Json* json) {
  const LiteRt& litert = interpreter.litert;
  json->Key("inputs"), json->Open('[');
  for (int32_t i = 0; i < litert.input_count(interpreter.handle); ++i) {
    PrintTensor(litert, litert.input(interpreter.handle, i), json);
  }
  json->Close(']');
  json->Key("outputs"), json->Open('[');
  for (int32_t i = 0; i < litert.output_count(interpreter.handle); ++i) {
    PrintTensor(litert, litert.output(interpreter.handle, i), json);
  }
  json->Close(']');
}

void RunModel(const Arguments& a) {
  if (a.cpus != nullptr) Pin(a.cpus);
  const int64_t base_bytes = PeakBytes();
  const LiteRt litert(OpenLibrary(a.runtime));
  const Delegate delegate = MakeDelegate(a);
  const Interpreter interpreter = MakeInterpreter(litert, a, delegate);
  FillInputs(interpreter);
  const double start = Seconds();
  interpreter.Invoke();
  const double first = Seconds() - start;
  Profiler profiler(delegate);
  const bool profiles = a.profiles && delegate.handle != nullptr && a.runs > 0;
  EnergyMeter meter;
  const double* times = TimeRuns(interpreter, a, profiles ? &profiler : nullptr, &meter);
  Json json;
  const auto integer = [&](const char* key, int64_t value) { json.Key(key), json.Integer(value); };
  json.Open('{');
  integer("version", 1);
  integer("threads", a.threads);
  json.Key("litert"), json.Text(litert.version());
  json.Key("kernels"), json.Text(delegate.kernels);
  json.Key("first_us"), json.Number(first * 1e6);
  json.Key("times_us"), json.Open('[');
  for (int i = 0; i < a.runs; ++i) json.Number(times[i] * 1e6);
  json.Close(']');
  integer("peak_rss_bytes", PeakBytes());
  integer("base_rss_bytes", base_bytes);
  PrintTensors(interpreter, &json);
  json.Key("energy_mj"), json.Number(a.cooldown_ms > 0 ? meter.FromPower() : meter.Millijoules());
  if (profiles) profiler.Print(&json);
  if (a.input != nullptr) RunImages(interpreter, a);
  json.Close('}');
  putchar('\n');
}

}  // namespace

int main(int count, char** values) {
  const char* command = count > 1 ? values[1] : "";
  if (strcmp(command, "facts") == 0) {
    PrintFacts();
  } else if (strcmp(command, "run") == 0) {
    RunModel(ReadArguments(count, values));
  } else {
    Fail("give a command: facts, or run MODEL --runtime LITERT");
  }
  return 0;
}
