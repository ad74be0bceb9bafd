#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/processor.h"

namespace fsg {
namespace {

constexpr int64_t kLine = 64;  // bytes of a cache line, which no two threads should write
constexpr int64_t kMost = int64_t{1} << 40;

template <typename T>
bool Allocate(T** pointer, int64_t bytes) {
  void* memory;
  if (bytes > kMost || posix_memalign(&memory, kLine, static_cast<size_t>(bytes)) != 0) return false;
  *pointer = static_cast<T*>(memset(memory, 0, static_cast<size_t>(bytes)));
  return true;
}

int FilterLength(const Int8Conv& conv) {
  return conv.window.filter_height * conv.window.filter_width * conv.window.words;
}

// Deals the weights of a block's channels out in steps; what fills up a segment stays 0.
template <typename Number>
void PackFilter(const Int8Conv& conv, const Int8Plan& plan, Number* to) {
  const int length = FilterLength(conv) / plan.segments;
  const int8_t* from = conv.filter;
  for (int o = 0; o < conv.channels_out; ++o) {
    const int64_t block = o / kInt8Channels;
    for (int64_t s = 0; s < plan.segments; ++s, from += length) {
      Number* const first =
          to + (block * plan.segments + s) * plan.numbers * kInt8Channels + o % kInt8Channels * plan.step;
      for (int i = 0; i < length; ++i)
        first[int64_t{i / plan.step} * kInt8Channels * plan.step + i % plan.step] = from[i];
    }
  }
}

// Kernels add up products of the numbers as they are; what in_zero adds to a sum is the same everywhere.
void CopyBias(const Int8Conv& conv, const Int8Plan& plan) {
  const int length = FilterLength(conv);
  for (int64_t o = 0; o < conv.channels_out; ++o) {
    int32_t sum = 0;
    for (int i = 0; i < length; ++i) sum += conv.filter[o * length + i];
    plan.bias[o] = conv.bias[o] - conv.in_zero * sum;
    plan.scale[o] = conv.scale[o];
  }
}

}  // namespace

bool PlanInt8(const Kernels& kernels, const Int8Conv& conv, int threads, Int8Plan* plan) {
  FreePlan(plan);
  if (kernels.int8_bytes == 0) return true;
  const Window& w = conv.window;
  plan->segments = w.dilation_width == 1 ? w.filter_height : w.filter_height * w.filter_width;
  plan->step = kernels.int8_bytes == 1 && HasInt8Dots() ? 4 : 2;
  const int whole = kernels.int8_bytes == 1 ? 4 : 2;  // kernels of bytes take four at once
  plan->numbers = (FilterLength(conv) / plan->segments + whole - 1) / whole * whole;
  const int64_t columns =
      int64_t{w.out_width - 1} * w.stride_width + int64_t{w.filter_width - 1} * w.dilation_width + 1;
  plan->row_numbers = columns * w.words + kInt8Slack;
  const int64_t lanes = int64_t{conv.channels_out + kInt8Channels - 1} / kInt8Channels * kInt8Channels;
  const int64_t places = int64_t{8} * (plan->segments + w.filter_height);
  const int64_t bytes = places + w.filter_height * plan->row_numbers * kernels.int8_bytes;
  plan->scratch_bytes = (bytes + kLine - 1) / kLine * kLine;
  if (plan->scratch_bytes > kMost / threads ||
      !Allocate(&plan->filter, lanes * plan->segments * plan->numbers * kernels.int8_bytes) ||
      !Allocate(&plan->bias, 4 * lanes) || !Allocate(&plan->scale, 4 * lanes) ||
      !Allocate(&plan->scratch, plan->scratch_bytes * threads)) {
    return false;
  }
  if (kernels.int8_bytes == 1) {
    PackFilter(conv, *plan, static_cast<int8_t*>(plan->filter));
  } else {
    PackFilter(conv, *plan, static_cast<int16_t*>(plan->filter));
  }
  CopyBias(conv, *plan);
  return true;
}

void FreePlan(Int8Plan* plan) {
  free(plan->filter);
  free(plan->bias);
  free(plan->scale);
  free(plan->scratch);
  *plan = Int8Plan{};
}

}  // namespace fsg
