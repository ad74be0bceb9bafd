#include "kernels_check.h"

#include <stdio.h>

#include "kernels_cases.h"

namespace {

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

// An image of int8 whose pixels are a window's values, and that window.
fsg::Window RandomWindowOfInt8(Random* random) {
  fsg::Window w = RandomConv(random).window;
  w.words = random->Between(1, 70);
  return w;
}

void FillInt8(Random* random, Array<int8_t>* values, int least) {
  for (int64_t i = 0; i < values->size; ++i)
    values->data[i] = static_cast<int8_t>(random->Between(least, 127));
}

bool Int8ConvAgrees(Random* random, const Kernels& kernels, const Kernels& scalar, fsg::ThreadPool* pool) {
  fsg::Int8Conv conv = {};
  const fsg::Window w = conv.window = RandomWindowOfInt8(random);
  conv.channels_out = random->Between(1, 40);
  const int64_t length = int64_t{w.filter_height} * w.filter_width * w.words;
  Array<int8_t> in(int64_t{w.batch} * w.in_height * w.in_width * w.words), filter(conv.channels_out * length);
  Array<int32_t> bias(conv.channels_out);
  Array<float> scale(conv.channels_out);
  FillInt8(random, &in, -128);
  FillInt8(random, &filter, -127);
  for (int64_t i = 0; i < conv.channels_out; ++i) {
    bias.data[i] = random->Between(-100000, 100000);
    scale.data[i] = static_cast<float>(random->Between(1, 1000)) * 1e-6f;
  }
  conv.in_zero = random->Between(-128, 127), conv.out_zero = random->Between(-128, 127);
  const bool clamps = random->Between(0, 1);
  conv.low = clamps ? random->Between(-128, 0) : -128, conv.high = clamps ? random->Between(0, 127) : 127;
  conv.filter = filter.data, conv.bias = bias.data, conv.scale = scale.data;
  const int64_t pixels = int64_t{w.batch} * w.out_height * w.out_width;
  Array<int8_t> got(pixels * conv.channels_out), expected(pixels * conv.channels_out);
  const auto run = [&](const Kernels& set, fsg::ThreadPool* threads, int8_t* out) {
    fsg::Int8Plan plan = {};
    if (!fsg::PlanInt8(set, conv, fsg::ThreadCount(threads), &plan)) Fail("out of memory");
    set.convolve_int8(threads, conv, plan, in.data, out);
    fsg::FreePlan(&plan);
  };
  run(kernels, pool, got.data);
  run(scalar, nullptr, expected.data);
  return got == expected;
}

bool Int8PoolAgrees(Random* random, const Kernels& kernels, const Kernels& scalar, fsg::ThreadPool* pool) {
  fsg::Window w = RandomWindowOfInt8(random);
  w.words = random->Between(1, 150);
  w.dilation_height = w.dilation_width = 1;
  PlaceSame(&w);
  Array<int8_t> in(int64_t{w.batch} * w.in_height * w.in_width * w.words);
  FillInt8(random, &in, -128);
  const int64_t size = int64_t{w.batch} * w.out_height * w.out_width * w.words;
  Array<int8_t> got(size), expected(size);
  kernels.max_pool_int8(pool, w, in.data, got.data);
  scalar.max_pool_int8(nullptr, w, in.data, expected.data);
  return got == expected;
}

}  // namespace

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
                 {"post_ops of a convolution", PostOpsOfConvAgree},
                 {"convolve_int8", Int8ConvAgrees},
                 {"max_pool_int8", Int8PoolAgrees}};
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
