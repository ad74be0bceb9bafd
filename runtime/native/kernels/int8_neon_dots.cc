#include <string.h>

#include "kernels/int8.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace fsg {
namespace {
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)

// Sums of 8-bit products with the instruction that multiplies and adds four of them.
template <int pixels>
void Dots(const int8_t* const* segments, int count, int64_t at, int64_t step, const int8_t* filter,
          int64_t numbers, int32_t* sums) {
  int32x4_t totals[pixels][4] = {};
  for (int s = 0; s < count; ++s) {
    const int8_t* values = segments[s] + at;
    for (int64_t i = 0; i < numbers; i += 4, filter += 4 * kInt8Channels) {
      const int8x16_t a = vld1q_s8(filter), b = vld1q_s8(filter + 16);
      const int8x16_t c = vld1q_s8(filter + 32), d = vld1q_s8(filter + 48);
      for (int p = 0; p < pixels; ++p) {
        int32_t four;
        memcpy(&four, values + p * step + i, sizeof(four));
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
        totals[p][0] = vdotq_s32(totals[p][0], a, x);
        totals[p][1] = vdotq_s32(totals[p][1], b, x);
        totals[p][2] = vdotq_s32(totals[p][2], c, x);
        totals[p][3] = vdotq_s32(totals[p][3], d, x);
      }
    }
  }
  memcpy(sums, totals, sizeof(totals));
}
#pragma clang attribute pop
}  // namespace

const NeonInt8Dots kNeonInt8Dots[4] = {Dots<1>, Dots<2>, Dots<3>, Dots<4>};

}  // namespace fsg
#endif
