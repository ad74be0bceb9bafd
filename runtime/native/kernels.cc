#include "kernels.h"

#include <stdlib.h>
#include <string.h>

#include "processor.h"
#include "reference.h"

#if defined(__aarch64__)
#define FSG_KERNELS_NAME "neon"
#else
#define FSG_KERNELS_NAME "portable"
#endif

namespace fsg {
namespace portable {
namespace {
#include "kernels_body.h"
}  // namespace
}  // namespace portable

#if defined(__x86_64__)
namespace avx2 {
extern const Kernels* const kExported;
}
namespace avx512 {
extern const Kernels* const kExported;
}
#endif

namespace {

using portable::kLanes;
using portable::kPixels;

template <typename T>
bool Allocate(T** pointer, int64_t count) {
  *pointer = static_cast<T*>(calloc(static_cast<size_t>(count), sizeof(T)));
  return *pointer != nullptr;
}

// [groups, steps, 16] from OHWI; the lanes beyond the last channel stay zero.
void InterleaveFilter(const Conv& conv, ConvPlan* plan) {
  for (int64_t o = 0; o < conv.channels_out; ++o) {
    uint32_t* to = plan->filter + o / kLanes * plan->steps * kLanes + o % kLanes;
    const uint32_t* from = conv.filter + o * plan->steps;
    for (int64_t i = 0; i < plan->steps; ++i) to[i * kLanes] = from[i];
  }
}

void FindOffsets(const Window& w, ConvPlan* plan) {
  int32_t* to = plan->offsets;
  for (int ky = 0; ky < w.filter_height; ++ky) {
    for (int kx = 0; kx < w.filter_width; ++kx) {
      const int64_t pixel =
          static_cast<int64_t>(ky) * w.dilation_height * plan->padded_width + kx * w.dilation_width;
      for (int i = 0; i < w.words; ++i) *to++ = static_cast<int32_t>(pixel * w.words + i);
    }
  }
}

void SumTaps(const Conv& conv, ConvPlan* plan) {
  const Window& w = conv.window;
  const int taps = w.filter_height * w.filter_width;
  const uint32_t* from = conv.filter;
  for (int64_t o = 0; o < conv.channels_out; ++o) {
    for (int64_t t = 0; t < taps; ++t) {
      int32_t negatives = 0;
      for (int i = 0; i < w.words; ++i) negatives += __builtin_popcount(*from++);
      plan->tap_sums[t * plan->groups * kLanes + o] = conv.channels_in - 2 * negatives;
    }
  }
}

void DoubleThresholds(const Conv& conv, ConvPlan* plan) {
  constexpr int32_t kLimit = 1 << 30;  // no doubled popcount reaches it, so clamping keeps every comparison
  for (int o = 0; o < plan->groups * kLanes; ++o) {
    const int32_t t = o < conv.channels_out ? conv.thresholds[o] : kLimit;
    plan->thresholds[o] = t >= kLimit / 2 ? kLimit : t < 0 ? -1 : 2 * t;
  }
}

}  // namespace

bool PlanConv(const Conv& conv, ConvPlan* plan) {
  FreePlan(plan);
  const Window& w = conv.window;
  const int64_t reach_y =
      int64_t{w.out_height - 1} * w.stride_height + int64_t{w.filter_height - 1} * w.dilation_height + 1;
  const int64_t reach_x =
      int64_t{w.out_width - 1} * w.stride_width + int64_t{w.filter_width - 1} * w.dilation_width + 1;
  const int64_t end_y = int64_t{w.in_height} + w.pad_top, end_x = int64_t{w.in_width} + w.pad_left;
  const int64_t height = reach_y > end_y ? reach_y : end_y, width = reach_x > end_x ? reach_x : end_x;
  int64_t words;
  if (height > INT32_MAX || width > INT32_MAX || __builtin_mul_overflow(height * width, w.words, &words) ||
      words > INT32_MAX) {
    return false;
  }
  plan->padded_height = static_cast<int>(height);
  plan->padded_width = static_cast<int>(width);
  plan->steps = w.filter_height * w.filter_width * w.words;
  plan->groups = (conv.channels_out + kLanes - 1) / kLanes;
  const int64_t lanes = int64_t{plan->groups} * kLanes;
  const bool is_padded = height > w.in_height || width > w.in_width;
  if (!Allocate(&plan->filter, lanes * plan->steps) || !Allocate(&plan->offsets, plan->steps) ||
      !Allocate(&plan->dots, lanes * kPixels) || (is_padded && !Allocate(&plan->padded, words))) {
    return false;
  }
  InterleaveFilter(conv, plan);
  FindOffsets(w, plan);
  if (is_padded && conv.zero_padding) {
    if (!Allocate(&plan->tap_sums, lanes * w.filter_height * w.filter_width)) return false;
    SumTaps(conv, plan);
  }
  if (conv.output == Output::kPacked) {
    if (!Allocate(&plan->thresholds, lanes)) return false;
    DoubleThresholds(conv, plan);
  }
  return true;
}

void FreePlan(ConvPlan* plan) {
  free(plan->filter);
  free(plan->offsets);
  free(plan->tap_sums);
  free(plan->thresholds);
  free(plan->dots);
  free(plan->padded);
  *plan = ConvPlan{};
}

const Kernels* FindKernels(const char* name) {
  const bool best = strcmp(name, "auto") == 0;
#if defined(__x86_64__)
  const Level level = ProcessorLevel();
  if (level >= kAvx512 && (best || strcmp(name, avx512::kExported->name) == 0)) return avx512::kExported;
  if (level >= kAvx2 && (best || strcmp(name, avx2::kExported->name) == 0)) return avx2::kExported;
#endif
  if (best || strcmp(name, portable::kKernels.name) == 0) return &portable::kKernels;
  return strcmp(name, reference::kKernels.name) == 0 ? &reference::kKernels : nullptr;
}

}  // namespace fsg
