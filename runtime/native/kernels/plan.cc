#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

namespace fsg {
namespace {

constexpr int kLanes = 32;     // `lanes` is a multiple of it
constexpr int64_t kLine = 64;  // bytes of a cache line, which no two threads should write

int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

template <typename T>
bool Allocate(T** pointer, int64_t count) {
  *pointer = static_cast<T*>(calloc(static_cast<size_t>(count), sizeof(T)));
  return *pointer != nullptr;
}

// The bits of one output channel in the order of a patch.
void FlattenFilter(const Conv& conv, const ConvPlan& plan, int channel, uint8_t* to) {
  const Window& w = conv.window;
  const int64_t taps = int64_t{w.filter_height} * w.filter_width, words = w.words / conv.groups;
  const uint32_t* from = conv.filter + channel * taps * words;
  for (int64_t t = 0; t < taps; ++t, from += words, to += plan.tap_bytes) {
    memcpy(to, from, static_cast<size_t>(plan.tap_bytes));
  }
}

// Deals the rows [channels, bytes] of a block out in steps of `step` bytes of each channel, the last ones
// halved to fit.
void InterleaveBlock(const uint8_t* rows, int64_t bytes, int channels, int64_t step, uint8_t* to) {
  for (int64_t at = 0; at < bytes; at += step) {
    while (step > bytes - at) step /= 2;
    for (int c = 0; c < channels; ++c, to += step)
      memcpy(to, rows + c * bytes + at, static_cast<size_t>(step));
  }
}

bool PackFilter(const Kernels& kernels, const Conv& conv, ConvPlan* plan) {
  const int per_group = conv.channels_out / conv.groups;
  const int64_t bytes = plan->patch_bytes, block_bytes = kernels.channels * bytes;
  uint8_t* rows;
  if (!Allocate(&plan->filter, block_bytes * plan->blocks * conv.groups) || !Allocate(&rows, block_bytes)) {
    return false;
  }
  uint8_t* to = plan->filter;
  for (int first = 0; first < conv.channels_out; first += per_group) {
    for (int c = 0; c < per_group; c += kernels.channels, to += block_bytes) {
      const int count = per_group - c < kernels.channels ? per_group - c : kernels.channels;
      memset(rows + count * bytes, 0, static_cast<size_t>((kernels.channels - count) * bytes));
      for (int i = 0; i < count; ++i) FlattenFilter(conv, *plan, first + c + i, rows + i * bytes);
      InterleaveBlock(rows, bytes, kernels.channels, kernels.step, to);
    }
  }
  free(rows);
  return true;
}

bool SumTaps(const Conv& conv, ConvPlan* plan) {
  const Window& w = conv.window;
  const int64_t taps = int64_t{w.filter_height} * w.filter_width;
  if (!Allocate(&plan->tap_sums, taps * plan->lanes)) return false;
  const uint32_t* from = conv.filter;
  for (int64_t o = 0; o < conv.channels_out; ++o) {
    for (int64_t t = 0; t < taps; ++t) {
      int32_t negatives = 0;
      for (int i = 0; i < w.words / conv.groups; ++i) negatives += __builtin_popcount(*from++);
      plan->tap_sums[t * plan->lanes + o] = conv.channels_in - 2 * negatives;
    }
  }
  return true;
}

bool DoubleThresholds(const Conv& conv, ConvPlan* plan) {
  constexpr int32_t kLimit = 1 << 30;  // no doubled popcount reaches it, so clamping keeps every comparison
  if (!Allocate(&plan->thresholds, plan->lanes)) return false;
  for (int o = 0; o < plan->lanes; ++o) {
    const int32_t t = o < conv.channels_out ? conv.thresholds[o] : kLimit;
    plan->thresholds[o] = t >= kLimit / 2 ? kLimit : t < 0 ? -1 : 2 * t;
  }
  return true;
}

bool CopyTransform(const Conv& conv, ConvPlan* plan) {
  const size_t bytes = sizeof(float) * static_cast<size_t>(conv.channels_out);
  if (!Allocate(&plan->multiplier, plan->lanes) || !Allocate(&plan->bias, plan->lanes)) return false;
  memcpy(plan->multiplier, conv.multiplier, bytes);
  memcpy(plan->bias, conv.bias, bytes);
  return true;
}

// Whether some output pixel's filter reaches beyond the image.
bool HasBorder(const Window& w) {
  const auto reaches = [](int in, int out, int filter, int stride, int dilation, int pad) {
    return pad > 0 || int64_t{out - 1} * stride + int64_t{filter - 1} * dilation >= in;
  };
  return reaches(w.in_height, w.out_height, w.filter_height, w.stride_height, w.dilation_height, w.pad_top) ||
         reaches(w.in_width, w.out_width, w.filter_width, w.stride_width, w.dilation_width, w.pad_left);
}

// Whether patches leave out the unused half of each tap's last word. It makes gathering dearer, and pays only
// where several filter blocks are multiplied with what was gathered.
bool SkipsHalfWords(const Kernels& kernels, const Conv& conv) {
  const bool has_unused_half = (conv.channels_in - 1) % 32 < 16;
  const int taps = conv.window.filter_height * conv.window.filter_width;
  return has_unused_half && taps > 1 && conv.channels_out >= 2 * kernels.channels;
}

bool AllocateScratch(const Kernels& kernels, int threads, ConvPlan* plan) {
  const int64_t pixel_bytes = int64_t{4} * plan->lanes + (plan->is_direct ? 0 : plan->patch_bytes);
  plan->scratch_bytes = RoundUp(kernels.tile * pixel_bytes, kLine);
  const size_t bytes = static_cast<size_t>(plan->scratch_bytes * threads);
  void* scratch;
  if (posix_memalign(&scratch, kLine, bytes) != 0) return false;
  plan->scratch = static_cast<uint8_t*>(memset(scratch, 0, bytes));
  return true;
}

}  // namespace

bool PlanConv(const Kernels& kernels, const Conv& conv, int threads, ConvPlan* plan) {
  FreePlan(plan);
  if (kernels.channels == 0) return true;
  const Window& w = conv.window;
  const int taps = w.filter_height * w.filter_width, words = w.words / conv.groups;
  const int per_group = conv.channels_out / conv.groups;
  const bool has_border = HasBorder(w);
  plan->is_direct =
      taps == 1 && conv.groups == 1 && !has_border && w.stride_height == 1 && w.stride_width == 1;
  plan->tap_bytes = 4 * words - (SkipsHalfWords(kernels, conv) ? 2 : 0);
  plan->patch_bytes = static_cast<int>(RoundUp(int64_t{taps} * plan->tap_bytes, 4));
  plan->blocks = (per_group + kernels.channels - 1) / kernels.channels;
  const int64_t end = conv.channels_out - per_group + int64_t{plan->blocks} * kernels.channels;
  plan->lanes = static_cast<int>(RoundUp(end, kLanes));
  return PackFilter(kernels, conv, plan) && AllocateScratch(kernels, threads, plan) &&
         (!has_border || !conv.zero_padding || SumTaps(conv, plan)) &&
         (conv.output == Output::kPacked ? DoubleThresholds(conv, plan) : CopyTransform(conv, plan));
}

void FreePlan(ConvPlan* plan) {
  free(plan->filter);
  free(plan->tap_sums);
  free(plan->thresholds);
  free(plan->multiplier);
  free(plan->bias);
  free(plan->scratch);
  *plan = ConvPlan{};
}

}  // namespace fsg
