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
//   kernels_driver block KERNELS THREADS REPETITIONS HEIGHT WIDTH CHANNELS HOW WHICH
//       a residual block: packs, convolves 3x3, adds the shortcut and packs; HOW is fused or unfused, WHICH
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

// A short list of post-operations over an image of `channels`.
struct FewPostOps {
  fsg::PostOp list[12] = {};
  fsg::PostOps post_ops = {};

  FewPostOps(int channels, int64_t image_pixels) {
    post_ops.list = list;
    post_ops.channels = channels;
    post_ops.image_pixels = image_pixels;
  }
  FewPostOps(const FewPostOps&) = delete;

  fsg::PostOp* Add(fsg::PostOpKind kind, void* data = nullptr, int64_t pixel_step = 0) {
    fsg::PostOp* post_op = &list[post_ops.count++];
    post_op->kind = kind;
    post_op->data = data;
    post_op->pixel_step = pixel_step;
    post_op->channels = post_ops.channels;
    return post_op;
  }
};

// What `convolve` writes to: floats go through a post-operation that stores them.
void Convolve(const Kernels& kernels, fsg::ThreadPool* pool, const Case& test, const fsg::ConvPlan& plan,
              void* out) {
  const int channels = test.conv.channels_out;
  FewPostOps store(channels, OutPixels(test.conv.window));
  store.Add(fsg::PostOpKind::kDots);
  store.Add(fsg::PostOpKind::kStore, out, channels);
  const bool is_float = test.conv.output == fsg::Output::kFloat;
  kernels.convolve(pool, test.conv, plan, test.in.data, is_float ? &store.post_ops : out);
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

// Everything post-operations can read, and what they write.
struct PostOpsCase {
  fsg::Window pool = {};
  int channels, images;
  int64_t pixels;
  Array<float> image, constants, per_image, pooled, stored;
  Array<uint32_t> packed;

  PostOpsCase(Random* random, const fsg::Window& shape, int channels, int64_t pixels)
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

  // Post-operations with every kind of operand; stores some values on the way.
  void Fill(Random* random, FewPostOps* few) const {
    constexpr fsg::PostOpKind kCombining[] = {fsg::PostOpKind::kAdd,      fsg::PostOpKind::kSubtract,
                                              fsg::PostOpKind::kMultiply, fsg::PostOpKind::kSubtractFrom,
                                              fsg::PostOpKind::kMaximum,  fsg::PostOpKind::kMinimum,
                                              fsg::PostOpKind::kPrelu};
    constexpr fsg::PostOpKind kOthers[] = {fsg::PostOpKind::kClamp, fsg::PostOpKind::kNegate,
                                           fsg::PostOpKind::kAbsolute, fsg::PostOpKind::kSwap,
                                           fsg::PostOpKind::kKeep};
    few->Add(fsg::PostOpKind::kKeep);
    for (int i = random->Between(0, 6); i > 0; --i) {
      if (random->Between(0, 2) == 0) {
        fsg::PostOp* post_op = few->Add(kOthers[random->Between(0, 4)]);
        post_op->low = -1, post_op->high = 2;
      } else {
        SetOperand(random, few->Add(kCombining[random->Between(0, 6)]));
      }
    }
    few->Add(fsg::PostOpKind::kStore, stored.data, channels + 5);
    few->Add(fsg::PostOpKind::kPack, packed.data, PackedWords(channels));
  }

  void SetOperand(Random* random, fsg::PostOp* post_op) const {
    const int form = random->Between(0, 4);
    post_op->is_kept = form == 0;
    post_op->data = form == 1 ? constants.data : form == 2 ? per_image.data : image.data;
    if (form == 2) post_op->image_step = channels;
    if (form > 2) post_op->pixel_step = channels + 3;
    if (form == 4) post_op->first_channel = random->Between(0, channels - 1);
    post_op->channels = channels - post_op->first_channel;
  }
};

bool PostOpsOfTensorAgree(Random* random, const Kernels& kernels, const Kernels& scalar,
                          fsg::ThreadPool* pool) {
  fsg::Window window = RandomConv(random).window;
  window.dilation_height = window.dilation_width = 1;
  PlaceSame(&window);
  const Random start = *random;
  const auto run = [&](const Kernels& set, fsg::ThreadPool* threads, PostOpsCase* test) {
    FewPostOps few(test->channels, OutPixels(window) / window.batch);
    if (random->Between(0, 1) == 0) {
      few.Add(fsg::PostOpKind::kPool, test->pooled.data, test->channels)->window = &test->pool;
    } else {
      few.Add(fsg::PostOpKind::kLoad, test->image.data, test->channels + 3);
    }
    test->Fill(random, &few);
    set.apply(threads, few.post_ops, OutPixels(window));
  };
  const int channels = random->Between(1, 100);
  PostOpsCase got(random, window, channels, OutPixels(window));
  run(kernels, pool, &got);
  *random = start;
  PostOpsCase expected(random, window, random->Between(1, 100), OutPixels(window));
  run(scalar, nullptr, &expected);
  return got.stored == expected.stored && got.packed == expected.packed;
}

bool PostOpsOfConvAgree(Random* random, const Kernels& kernels, const Kernels& scalar,
                        fsg::ThreadPool* pool) {
  const Random start = *random;
  const auto run = [&](const Kernels& set, fsg::ThreadPool* threads, Case* conv, PostOpsCase* test) {
    FewPostOps few(conv->conv.channels_out, OutPixels(conv->conv.window) / conv->conv.window.batch);
    few.Add(fsg::PostOpKind::kDots);
    test->Fill(random, &few);
    conv->conv.output = fsg::Output::kFloat;
    fsg::ConvPlan plan = {};
    if (!fsg::PlanConv(set, conv->conv, fsg::ThreadCount(threads), &plan)) Fail("out of memory");
    set.convolve(threads, conv->conv, plan, conv->in.data, &few.post_ops);
    fsg::FreePlan(&plan);
  };
  const auto pixels = [](const Case& conv) { return OutPixels(conv.conv.window); };
  Case conv(random, RandomConv(random));
  PostOpsCase got(random, conv.conv.window, conv.conv.channels_out, pixels(conv));
  run(kernels, pool, &conv, &got);
  *random = start;
  Case twin(random, RandomConv(random));
  PostOpsCase expected(random, twin.conv.window, twin.conv.channels_out, pixels(twin));
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
                 {"post_ops of a tensor", PostOpsOfTensorAgree},
                 {"post_ops of a convolution", PostOpsOfConvAgree}};
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

// What follows the convolution of a residual block: every post-operation, in the order of the graph.
struct BlockPostOp {
  fsg::PostOpKind kind;
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
  using fsg::PostOpKind;
  const BlockPostOp all[] = {{PostOpKind::kMultiply, constants.data, 0},
                             {PostOpKind::kPrelu, constants.data, 0},
                             {PostOpKind::kAdd, shortcut.data, channels},
                             {PostOpKind::kMultiply, constants.data, 0},
                             {PostOpKind::kAdd, constants.data, 0}};
  const bool adds_only = strcmp(arguments.Text(9), "add") == 0,
             fuses = strcmp(arguments.Text(8), "fused") == 0;
  const BlockPostOp* const begin = adds_only ? all + 2 : all;
  const BlockPostOp* const end = adds_only ? all + 3 : all + 5;
  fsg::ConvPlan plan = {};
  if (!fsg::PlanConv(kernels, test.conv, fsg::ThreadCount(pool), &plan)) Fail("out of memory");
  FewPostOps fused(channels, pixels);
  fused.Add(PostOpKind::kDots);
  for (const BlockPostOp* post_op = begin; post_op != end; ++post_op)
    fused.Add(post_op->kind, post_op->operand, post_op->pixel_step);
  fused.Add(PostOpKind::kStore, out.data, channels);
  fused.Add(PostOpKind::kPack, bits.data, shape.window.words);
  kernels.pack_float(pool, shortcut.data, pixels, channels, test.in.data);
  Repeat(arguments.Number(4), [&] {
    if (fuses) return kernels.convolve(pool, test.conv, plan, test.in.data, &fused.post_ops);
    Convolve(kernels, pool, test, plan, out.data);
    for (const BlockPostOp* post_op = begin; post_op != end; ++post_op) {
      FewPostOps single(channels, pixels);
      single.Add(PostOpKind::kLoad, out.data, channels);
      single.Add(post_op->kind, post_op->operand, post_op->pixel_step);
      single.Add(PostOpKind::kStore, out.data, channels);
      kernels.apply(pool, single.post_ops, pixels);
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
