// What kernels are run on: images, constants and post-operations, random or as large as asked for.
#ifndef FSG_BENCHMARKS_KERNELS_CASES_H_
#define FSG_BENCHMARKS_KERNELS_CASES_H_

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

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

[[noreturn]] inline void Fail(const char* message) {
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
inline void FillBits(Random* random, int64_t rows, int channels, uint32_t* out) {
  const int words = PackedWords(channels);
  for (int64_t i = 0; i < rows * words; ++i) {
    const int used = channels - static_cast<int>(i % words) * 32;
    out[i] = random->Next() & (used >= 32 ? ~0u : (1u << used) - 1);
  }
}

inline void PlaceSame(int in, int filter, int stride, int dilation, int* out, int* pad) {
  *out = (in + stride - 1) / stride;
  const int missing = (*out - 1) * stride + (filter - 1) * dilation + 1 - in;
  *pad = missing > 0 ? missing / 2 : 0;
}

inline void PlaceSame(fsg::Window* w) {
  PlaceSame(w->in_height, w->filter_height, w->stride_height, w->dilation_height, &w->out_height,
            &w->pad_top);
  PlaceSame(w->in_width, w->filter_width, w->stride_width, w->dilation_width, &w->out_width, &w->pad_left);
}

inline int64_t InPixels(const fsg::Window& w) { return int64_t{w.batch} * w.in_height * w.in_width; }
inline int64_t OutPixels(const fsg::Window& w) { return int64_t{w.batch} * w.out_height * w.out_width; }

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
inline void Convolve(const Kernels& kernels, fsg::ThreadPool* pool, const Case& test,
                     const fsg::ConvPlan& plan, void* out) {
  const int channels = test.conv.channels_out;
  FewPostOps store(channels, OutPixels(test.conv.window));
  store.Add(fsg::PostOpKind::kDots);
  store.Add(fsg::PostOpKind::kStore, out, channels);
  const bool is_float = test.conv.output == fsg::Output::kFloat;
  kernels.convolve(pool, test.conv, plan, test.in.data, is_float ? &store.post_ops : out);
}

inline bool RunConv(const Kernels& kernels, fsg::ThreadPool* pool, const Case& test, void* out) {
  fsg::ConvPlan plan = {};
  const bool is_planned = fsg::PlanConv(kernels, test.conv, fsg::ThreadCount(pool), &plan);
  if (is_planned) Convolve(kernels, pool, test, plan, out);
  fsg::FreePlan(&plan);
  return is_planned;
}

#endif  // FSG_BENCHMARKS_KERNELS_CASES_H_
