// Runs the kernels without an interpreter, on this machine or under an emulator:
//
//   kernels_driver names
//   kernels_driver check KERNELS SEED COUNT
//       compares every kernel with its scalar twin on COUNT random shapes
//   kernels_driver conv KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS_IN CHANNELS_OUT FILTER STRIDE
//   OUTPUT
//       packs a float image and convolves it (SAME, +1 padding); OUTPUT is float, int8 or packed
//   kernels_driver pack KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS
//   kernels_driver pool KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS FILTER STRIDE
//   kernels_driver block KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS HOW STEPS
//       a residual block: packs, convolves 3x3, adds the shortcut and packs; HOW is fused or unfused, STEPS
//       is add or, with a scale, a PReLU and a normalisation as well, all
//
// The last four print the seconds of all repetitions.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"

namespace {

using fsg::Kernels;
using fsg::PackedWords;

struct Random {
  uint64_t state;

  uint32_t Next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 32);
  }
  int Between(int low, int high) {
    return low + static_cast<int>(Next() % static_cast<uint32_t>(high - low + 1));
  }
  float Unit() { return static_cast<float>(Next()) / 2147483648.0f - 1.0f; }
};

[[noreturn]] void Fail(const char* message) {
  fprintf(stderr, "kernels_driver: %s\n", message);
  exit(2);
}

template <typename T>
struct Array {
  explicit Array(int64_t count)
      : size(count), data(static_cast<T*>(calloc(count > 0 ? count : 1, sizeof(T)))) {
    if (data == nullptr) Fail("out of memory");
  }
  Array(const Array&) = delete;
  ~Array() { free(data); }

  bool operator==(const Array& other) const { return memcmp(data, other.data, sizeof(T) * size) == 0; }

  int64_t size;
  T* data;
};

// Random words whose unused bits are 0, like those of every packed tensor.
void FillBits(Random* random, int64_t rows, int channels, uint32_t* out) {
  const int words = PackedWords(channels);
  for (int64_t i = 0; i < rows * words; ++i) {
    const int used = channels - static_cast<int>(i % words) * 32;
    out[i] = random->Next() & (used >= 32 ? ~0u : (1u << used) - 1);
  }
}

void PlaceSame(int in, int filter, int stride, int dilation, int* out, int* pad) {
  *out = (in + stride - 1) / stride;
  const int missing = (*out - 1) * stride + (filter - 1) * dilation + 1 - in;
  *pad = missing > 0 ? missing / 2 : 0;
}

void PlaceSame(fsg::Window* w) {
  PlaceSame(w->in_height, w->filter_height, w->stride_height, w->dilation_height, &w->out_height,
            &w->pad_top);
  PlaceSame(w->in_width, w->filter_width, w->stride_width, w->dilation_width, &w->out_width, &w->pad_left);
}

int64_t InPixels(const fsg::Window& w) { return int64_t{w.batch} * w.in_height * w.in_width; }
int64_t OutPixels(const fsg::Window& w) { return int64_t{w.batch} * w.out_height * w.out_width; }

// A convolution with its constants and an input.
struct Case {
  fsg::Conv conv;
  Array<uint32_t> filter, in;
  Array<float> multiplier, bias;
  Array<int32_t> thresholds;

  Case(Random* random, const fsg::Conv& shape)
      : conv(shape),
        filter(int64_t{shape.channels_out} * Taps() * (shape.window.words / shape.groups)),
        in(InPixels(shape.window) * shape.window.words),
        multiplier(shape.channels_out),
        bias(shape.channels_out),
        thresholds(shape.channels_out) {
    FillBits(random, int64_t{conv.channels_out} * Taps(), conv.channels_in, filter.data);
    FillBits(random, InPixels(conv.window), conv.channels_in * conv.groups, in.data);
    for (int i = 0; i < conv.channels_out; ++i) {
      multiplier.data[i] = random->Unit();
      bias.data[i] = random->Unit() * 8;
      thresholds.data[i] = random->Between(-1, Taps() * conv.channels_in + 1);
    }
    conv.filter = filter.data;
    conv.multiplier = multiplier.data;
    conv.bias = bias.data;
    conv.thresholds = thresholds.data;
  }

  int Taps() const { return conv.window.filter_height * conv.window.filter_width; }

  int64_t OutBytes() const {
    const int64_t pixels = OutPixels(conv.window);
    if (conv.output == fsg::Output::kPacked) return pixels * 4 * PackedWords(conv.channels_out);
    return pixels * conv.channels_out * (conv.output == fsg::Output::kFloat ? 4 : 1);
  }
};

// A short program over an image of `channels`.
struct SmallProgram {
  fsg::Step steps[12] = {};
  fsg::Program program = {};

  SmallProgram(int channels, int64_t image_pixels) {
    program.steps = steps;
    program.channels = channels;
    program.image_pixels = image_pixels;
  }
  SmallProgram(const SmallProgram&) = delete;

  fsg::Step* Add(fsg::StepKind kind, void* data = nullptr, int64_t pixel_step = 0) {
    fsg::Step* step = &steps[program.step_count++];
    step->kind = kind;
    step->data = data;
    step->pixel_step = pixel_step;
    step->channels = program.channels;
    return step;
  }
};

// What `convolve` writes to: floats go through a program that stores them.
void Convolve(const Kernels& kernels, fsg::ThreadPool* pool, const Case& test, const fsg::ConvPlan& plan,
              void* out) {
  const int channels = test.conv.channels_out;
  SmallProgram store(channels, OutPixels(test.conv.window));
  store.Add(fsg::StepKind::kDots);
  store.Add(fsg::StepKind::kStore, out, channels);
  const bool is_float = test.conv.output == fsg::Output::kFloat;
  kernels.convolve(pool, test.conv, plan, test.in.data, is_float ? &store.program : out);
}

bool RunConv(const Kernels& kernels, fsg::ThreadPool* pool, const Case& test, void* out) {
  fsg::ConvPlan plan = {};
  const bool is_planned = fsg::PlanConv(kernels, test.conv, fsg::ThreadCount(pool), &plan);
  if (is_planned) Convolve(kernels, pool, test, plan, out);
  fsg::FreePlan(&plan);
  return is_planned;
}

fsg::Conv RandomConv(Random* random) {
  fsg::Conv conv = {};
  fsg::Window& w = conv.window;
  w.batch = random->Between(1, 2);
  w.in_height = random->Between(1, 9), w.in_width = random->Between(1, 9);
  w.filter_height = random->Between(1, 4), w.filter_width = random->Between(1, 4);
  w.stride_height = random->Between(1, 2), w.stride_width = random->Between(1, 2);
  w.dilation_height = random->Between(1, 2), w.dilation_width = random->Between(1, 2);
  PlaceSame(&w);
  conv.groups = random->Between(0, 3) == 0 ? random->Between(2, 3) : 1;
  conv.channels_in = conv.groups == 1 ? random->Between(1, 150) : 32 * random->Between(1, 3);
  if (random->Between(0, 30) == 0) conv.channels_in = 32 * random->Between(500, 2500) / conv.groups / 32 * 32;
  conv.channels_out = conv.groups * random->Between(1, 40);
  w.words = conv.groups * PackedWords(conv.channels_in);
  conv.zero_padding = random->Between(0, 1);
  const bool clamps = random->Between(0, 1);
  const int length = w.filter_height * w.filter_width * conv.channels_in;
  conv.clamp_min = clamps ? length - 6 : INT32_MIN, conv.clamp_max = clamps ? length + 5 : INT32_MAX;
  constexpr fsg::Output kOutputs[] = {fsg::Output::kFloat, fsg::Output::kInt8, fsg::Output::kPacked};
  conv.output = kOutputs[random->Between(0, 2)];
  return conv;
}

bool ConvolveAgrees(Random* random, const Kernels& kernels, const Kernels& scalar, fsg::ThreadPool* pool) {
  const Case test(random, RandomConv(random));
  Array<uint8_t> got(test.OutBytes()), expected(test.OutBytes());
  return RunConv(kernels, pool, test, got.data) && RunConv(scalar, nullptr, test, expected.data) &&
         got == expected;
}

bool PackAgrees(Random* random, const Kernels& kernels, const Kernels& scalar, fsg::ThreadPool* pool) {
  const int rows = random->Between(1, 50), channels = random->Between(1, 150);
  const int64_t words = int64_t{rows} * PackedWords(channels);
  const int zero_point = random->Between(-128, 127);
  Array<float> floats(int64_t{rows} * channels);
  Array<int8_t> bytes(int64_t{rows} * channels);
  constexpr float kSpecial[] = {0.0f, -0.0f, __builtin_nanf(""), -__builtin_inff(), 1e-45f, -1e-45f};
  for (int64_t i = 0; i < floats.size; ++i) {
    floats.data[i] = random->Between(0, 2) == 0 ? kSpecial[random->Between(0, 5)] : random->Unit();
    bytes.data[i] = static_cast<int8_t>(random->Next());
  }
  Array<uint32_t> got(words * 2), expected(words * 2);
  kernels.pack_float(pool, floats.data, rows, channels, got.data);
  kernels.pack_int8(pool, bytes.data, rows, channels, zero_point, got.data + words);
  scalar.pack_float(nullptr, floats.data, rows, channels, expected.data);
  scalar.pack_int8(nullptr, bytes.data, rows, channels, zero_point, expected.data + words);
  return got == expected;
}

bool PoolAgrees(Random* random, const Kernels& kernels, const Kernels& scalar, fsg::ThreadPool* pool) {
  const fsg::Window w = RandomConv(random).window;
  fsg::Window window = w;
  window.dilation_height = window.dilation_width = 1;
  PlaceSame(&window);
  Array<uint32_t> in(InPixels(window) * w.words), got(OutPixels(window) * w.words),
      expected(OutPixels(window) * w.words);
  FillBits(random, InPixels(window), w.words * 32, in.data);
  kernels.max_pool(pool, window, in.data, got.data);
  scalar.max_pool(nullptr, window, in.data, expected.data);
  return got == expected;
}

// Everything a sweep or a convolution's program can read, and what one writes.
struct SweepCase {
  fsg::Window pool = {};
  int channels, images;
  int64_t pixels;
  Array<float> image, constants, per_image, pooled, stored;
  Array<uint32_t> packed;

  SweepCase(Random* random, const fsg::Window& shape, int channels, int64_t pixels)
      : pool(shape),
        channels(channels),
        images(shape.batch),
        pixels(pixels),
        image(pixels * (channels + 3)),
        constants(channels + 16),
        per_image(int64_t{images} * channels),
        pooled(InPixels(shape) * channels),
        stored(pixels * (channels + 5)),
        packed(pixels * PackedWords(channels)) {
    pool.words = channels;
    Array<float>* const all[] = {&image, &constants, &per_image, &pooled};
    for (Array<float>* values : all) {
      for (int64_t i = 0; i < values->size; ++i) values->data[i] = random->Unit() * 4;
    }
  }

  // Steps of every kind of operand; stores some values on the way.
  void Fill(Random* random, SmallProgram* program) const {
    constexpr fsg::StepKind kCombining[] = {fsg::StepKind::kAdd,      fsg::StepKind::kSubtract,
                                            fsg::StepKind::kMultiply, fsg::StepKind::kSubtractFrom,
                                            fsg::StepKind::kMaximum,  fsg::StepKind::kMinimum,
                                            fsg::StepKind::kPrelu};
    constexpr fsg::StepKind kOthers[] = {fsg::StepKind::kClamp, fsg::StepKind::kNegate,
                                         fsg::StepKind::kAbsolute, fsg::StepKind::kSwap,
                                         fsg::StepKind::kKeep};
    program->Add(fsg::StepKind::kKeep);
    for (int i = random->Between(0, 6); i > 0; --i) {
      if (random->Between(0, 2) == 0) {
        fsg::Step* step = program->Add(kOthers[random->Between(0, 4)]);
        step->low = -1, step->high = 2;
      } else {
        SetOperand(random, program->Add(kCombining[random->Between(0, 6)]));
      }
    }
    program->Add(fsg::StepKind::kStore, stored.data, channels + 5);
    program->Add(fsg::StepKind::kPack, packed.data, PackedWords(channels));
  }

  void SetOperand(Random* random, fsg::Step* step) const {
    const int form = random->Between(0, 4);
    step->is_kept = form == 0;
    step->data = form == 1 ? constants.data : form == 2 ? per_image.data : image.data;
    if (form == 2) step->image_step = channels;
    if (form > 2) step->pixel_step = channels + 3;
    if (form == 4) step->first_channel = random->Between(0, channels - 1);
    step->channels = channels - step->first_channel;
  }
};

bool SweepAgrees(Random* random, const Kernels& kernels, const Kernels& scalar, fsg::ThreadPool* pool) {
  fsg::Window window = RandomConv(random).window;
  window.dilation_height = window.dilation_width = 1;
  PlaceSame(&window);
  const Random start = *random;
  const auto run = [&](const Kernels& set, fsg::ThreadPool* threads, SweepCase* test) {
    SmallProgram program(test->channels, OutPixels(window) / window.batch);
    if (random->Between(0, 1) == 0) {
      program.Add(fsg::StepKind::kPool, test->pooled.data, test->channels)->window = &test->pool;
    } else {
      program.Add(fsg::StepKind::kLoad, test->image.data, test->channels + 3);
    }
    test->Fill(random, &program);
    set.sweep(threads, program.program, OutPixels(window));
  };
  const int channels = random->Between(1, 100);
  SweepCase got(random, window, channels, OutPixels(window));
  run(kernels, pool, &got);
  *random = start;
  SweepCase expected(random, window, random->Between(1, 100), OutPixels(window));
  run(scalar, nullptr, &expected);
  return got.stored == expected.stored && got.packed == expected.packed;
}

bool ProgramAgrees(Random* random, const Kernels& kernels, const Kernels& scalar, fsg::ThreadPool* pool) {
  const Random start = *random;
  const auto run = [&](const Kernels& set, fsg::ThreadPool* threads, Case* conv, SweepCase* test) {
    SmallProgram program(conv->conv.channels_out, OutPixels(conv->conv.window) / conv->conv.window.batch);
    program.Add(fsg::StepKind::kDots);
    test->Fill(random, &program);
    conv->conv.output = fsg::Output::kFloat;
    fsg::ConvPlan plan = {};
    if (!fsg::PlanConv(set, conv->conv, fsg::ThreadCount(threads), &plan)) Fail("out of memory");
    set.convolve(threads, conv->conv, plan, conv->in.data, &program.program);
    fsg::FreePlan(&plan);
  };
  const auto pixels = [](const Case& conv) { return OutPixels(conv.conv.window); };
  Case conv(random, RandomConv(random));
  SweepCase got(random, conv.conv.window, conv.conv.channels_out, pixels(conv));
  run(kernels, pool, &conv, &got);
  *random = start;
  Case twin(random, RandomConv(random));
  SweepCase expected(random, twin.conv.window, twin.conv.channels_out, pixels(twin));
  run(scalar, nullptr, &twin, &expected);
  return got.stored == expected.stored && got.packed == expected.packed;
}

int Check(const Kernels& kernels, uint64_t seed, int count) {
  const Kernels& scalar = *fsg::FindKernels("scalar");
  fsg::ThreadPool* pool = fsg::MakeThreadPool(2);
  constexpr struct {
    const char* name;
    bool (*agrees)(Random*, const Kernels&, const Kernels&, fsg::ThreadPool*);
  } kChecks[] = {{"convolve", ConvolveAgrees},
                 {"pack", PackAgrees},
                 {"max_pool", PoolAgrees},
                 {"sweep", SweepAgrees},
                 {"program", ProgramAgrees}};
  int wrong = 0;
  for (int i = 0; i < count; ++i) {
    for (const auto& check : kChecks) {
      Random random = {seed + static_cast<uint64_t>(i)};
      for (int warm = 0; warm < 4; ++warm) random.Next();
      if (check.agrees(&random, kernels, scalar, pool)) continue;
      printf("%s of %s differs from scalar for seed %llu\n", check.name, kernels.name,
             static_cast<unsigned long long>(seed) + static_cast<unsigned>(i));
      ++wrong;
    }
  }
  fsg::FreeThreadPool(pool);
  printf("%s: %d shapes, %d wrong\n", kernels.name, count, wrong);
  return wrong > 0;
}

double Seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <typename Body>
void Repeat(int repetitions, const Body& body) {
  const double start = Seconds();
  for (int i = 0; i < repetitions; ++i) body();
  printf("%.9f\n", Seconds() - start);
}

struct Arguments {
  int count;
  char** values;

  const char* Text(int i) const {
    if (i >= count) Fail("too few arguments");
    return values[i];
  }
  int Number(int i) const { return atoi(Text(i)); }
};

fsg::Window ReadWindow(const Arguments& arguments, int filter, int stride) {
  fsg::Window w = {};
  w.batch = 1;
  w.in_height = arguments.Number(5), w.in_width = arguments.Number(6);
  w.words = PackedWords(arguments.Number(7));
  w.filter_height = w.filter_width = filter;
  w.stride_height = w.stride_width = stride;
  w.dilation_height = w.dilation_width = 1;
  PlaceSame(&w);
  return w;
}

fsg::Output ReadOutput(const char* name) {
  if (strcmp(name, "float") == 0) return fsg::Output::kFloat;
  if (strcmp(name, "int8") == 0) return fsg::Output::kInt8;
  return strcmp(name, "packed") == 0 ? fsg::Output::kPacked : (Fail("no such output"), fsg::Output::kFloat);
}

void TimeConv(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  Random random = {1};
  fsg::Conv shape = {};
  shape.window = ReadWindow(arguments, arguments.Number(9), arguments.Number(10));
  shape.groups = 1;
  shape.channels_in = arguments.Number(7), shape.channels_out = arguments.Number(8);
  shape.clamp_min = INT32_MIN, shape.clamp_max = INT32_MAX;
  shape.output = ReadOutput(arguments.Text(11));
  Case test(&random, shape);
  const int64_t pixels = InPixels(shape.window);
  Array<float> image(pixels * shape.channels_in);
  for (int64_t i = 0; i < image.size; ++i) image.data[i] = random.Unit();
  Array<uint8_t> out(test.OutBytes());
  fsg::ConvPlan plan = {};
  if (!fsg::PlanConv(kernels, test.conv, fsg::ThreadCount(pool), &plan)) Fail("out of memory");
  Repeat(arguments.Number(4), [&] {
    kernels.pack_float(pool, image.data, pixels, shape.channels_in, test.in.data);
    Convolve(kernels, pool, test, plan, out.data);
  });
  fsg::FreePlan(&plan);
}

// What follows the convolution of a residual block: every step, in the order of the graph.
struct BlockStep {
  fsg::StepKind kind;
  float* operand;
  int64_t pixel_step;
};

void TimeBlock(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  Random random = {1};
  const int channels = arguments.Number(7);
  fsg::Conv shape = {};
  shape.window = ReadWindow(arguments, 3, 1);
  shape.groups = 1;
  shape.channels_in = shape.channels_out = channels;
  shape.clamp_min = INT32_MIN, shape.clamp_max = INT32_MAX;
  shape.output = fsg::Output::kFloat;
  Case test(&random, shape);
  const int64_t pixels = InPixels(shape.window);
  Array<float> shortcut(pixels * channels), out(pixels * channels), constants(channels + 16);
  Array<uint32_t> bits(pixels * shape.window.words);
  for (int64_t i = 0; i < shortcut.size; ++i) shortcut.data[i] = random.Unit();
  using fsg::StepKind;
  const BlockStep all[] = {{StepKind::kMultiply, constants.data, 0},
                           {StepKind::kPrelu, constants.data, 0},
                           {StepKind::kAdd, shortcut.data, channels},
                           {StepKind::kMultiply, constants.data, 0},
                           {StepKind::kAdd, constants.data, 0}};
  const bool adds_only = strcmp(arguments.Text(9), "add") == 0,
             fuses = strcmp(arguments.Text(8), "fused") == 0;
  const BlockStep* const begin = adds_only ? all + 2 : all;
  const BlockStep* const end = adds_only ? all + 3 : all + 5;
  fsg::ConvPlan plan = {};
  if (!fsg::PlanConv(kernels, test.conv, fsg::ThreadCount(pool), &plan)) Fail("out of memory");
  SmallProgram fused(channels, pixels);
  fused.Add(StepKind::kDots);
  for (const BlockStep* step = begin; step != end; ++step)
    fused.Add(step->kind, step->operand, step->pixel_step);
  fused.Add(StepKind::kStore, out.data, channels);
  fused.Add(StepKind::kPack, bits.data, shape.window.words);
  kernels.pack_float(pool, shortcut.data, pixels, channels, test.in.data);
  Repeat(arguments.Number(4), [&] {
    if (fuses) return kernels.convolve(pool, test.conv, plan, test.in.data, &fused.program);
    Convolve(kernels, pool, test, plan, out.data);
    for (const BlockStep* step = begin; step != end; ++step) {
      SmallProgram single(channels, pixels);
      single.Add(StepKind::kLoad, out.data, channels);
      single.Add(step->kind, step->operand, step->pixel_step);
      single.Add(StepKind::kStore, out.data, channels);
      kernels.sweep(pool, single.program, pixels);
    }
    kernels.pack_float(pool, out.data, pixels, channels, bits.data);
  });
  fsg::FreePlan(&plan);
}

void TimePack(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  const fsg::Window w = ReadWindow(arguments, 1, 1);
  Array<float> image(InPixels(w) * arguments.Number(7));
  Array<uint32_t> out(InPixels(w) * w.words);
  Repeat(arguments.Number(4),
         [&] { kernels.pack_float(pool, image.data, InPixels(w), arguments.Number(7), out.data); });
}

void TimePool(const Kernels& kernels, fsg::ThreadPool* pool, const Arguments& arguments) {
  const fsg::Window w = ReadWindow(arguments, arguments.Number(8), arguments.Number(9));
  Array<uint32_t> in(InPixels(w) * w.words), out(OutPixels(w) * w.words);
  Repeat(arguments.Number(4), [&] { kernels.max_pool(pool, w, in.data, out.data); });
}

}  // namespace

int main(int count, char** values) {
  const Arguments arguments = {count, values};
  const char* command = arguments.Text(1);
  if (strcmp(command, "names") == 0) {
    char names[fsg::kKernelNames];
    fsg::ListKernels(names);
    puts(names);
    return 0;
  }
  const Kernels* kernels = fsg::FindKernels(arguments.Text(2));
  if (kernels == nullptr) Fail("this processor has no such kernels");
  if (strcmp(command, "check") == 0) {
    return Check(*kernels, strtoull(arguments.Text(3), nullptr, 10), arguments.Number(4));
  }
  fsg::ThreadPool* pool = fsg::MakeThreadPool(arguments.Number(3));
  if (strcmp(command, "conv") == 0) {
    TimeConv(*kernels, pool, arguments);
  } else if (strcmp(command, "pack") == 0) {
    TimePack(*kernels, pool, arguments);
  } else if (strcmp(command, "block") == 0) {
    TimeBlock(*kernels, pool, arguments);
  } else if (strcmp(command, "pool") == 0) {
    TimePool(*kernels, pool, arguments);
  } else {
    Fail("no such command");
  }
  fsg::FreeThreadPool(pool);
  return 0;
}
