#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

namespace fsg {
namespace {

constexpr int64_t kLine = 64;  // bytes of a cache line, which no two threads should write

template <typename T>
bool Allocate(T** pointer, int64_t bytes) {
  void* memory;
  if (posix_memalign(&memory, kLine, static_cast<size_t>(bytes)) != 0) return false;
  *pointer = static_cast<T*>(memset(memory, 0, static_cast<size_t>(bytes)));
  return true;
}

int PatchLength(const Int8Conv& conv) {
  return conv.window.filter_height * conv.window.filter_width * conv.window.words;
}

// Deals the channels of each block out in pairs of weights.
template <typename Number>
void PackFilter(const Int8Conv& conv, const Int8Plan& plan, Number* to) {
  const int length = PatchLength(conv);
  for (int o = 0; o < conv.channels_out; ++o) {
    const int block = o / kInt8Channels, lane = o % kInt8Channels;
    Number* const first = to + int64_t{block} * plan.pairs * kInt8Channels * 2 + lane * 2;
    for (int i = 0; i < length; ++i)
      first[int64_t{i / 2} * kInt8Channels * 2 + i % 2] = conv.filter[int64_t{o} * length + i];
  }
}

// Kernels add up products of the image as it is; what in_zero adds to them is the same everywhere.
void CopyBias(const Int8Conv& conv, const Int8Plan& plan) {
  const int length = PatchLength(conv);
  for (int o = 0; o < conv.channels_out; ++o) {
    int32_t sum = 0;
    for (int i = 0; i < length; ++i) sum += conv.filter[int64_t{o} * length + i];
    plan.bias[o] =
        static_cast<int32_t>(static_cast<uint32_t>(conv.bias[o]) - static_cast<uint32_t>(conv.in_zero * sum));
    plan.scale[o] = conv.scale[o];
  }
}

}  // namespace

bool PlanInt8(const Kernels& kernels, const Int8Conv& conv, int threads, Int8Plan* plan) {
  FreePlan(plan);
  if (kernels.int8_bytes == 0) return true;
  plan->pairs = (PatchLength(conv) + 3) / 4 * 2;
  plan->blocks = (conv.channels_out + kInt8Channels - 1) / kInt8Channels;
  const int64_t lanes = int64_t{plan->blocks} * kInt8Channels;
  plan->scratch_bytes =
      (kInt8Tile * (int64_t{2} * plan->pairs + kInt8Slack) * kernels.int8_bytes + kLine) / kLine * kLine;
  if (!Allocate(&plan->filter, 2 * plan->pairs * lanes * kernels.int8_bytes) ||
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
