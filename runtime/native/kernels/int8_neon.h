// Sums of 8-bit products for NEON, included like kernels_body.h, before it: two products are added in 16
// bits, which hold them as no weight is -128, and pairs of such sums in 32.

using Number = int8_t;

// Two numbers, over and over.
inline int8x16_t Pair(const Number* values) {
  int16_t pair;
  memcpy(&pair, values, sizeof(pair));
  return vreinterpretq_s8_s16(vdupq_n_s16(pair));
}

template <int pixels>
void Int8Dots(const Number* const* segments, int count, int64_t at, int64_t step, const Number* filter,
              int64_t numbers, int32_t* sums) {
  int32x4_t totals[pixels][4] = {};
  for (int s = 0; s < count; ++s) {
    const Number* values = segments[s] + at;
    for (int64_t i = 0; i < numbers; i += 4, filter += 4 * kInt8Channels) {
      const int8x16_t a = vld1q_s8(filter), b = vld1q_s8(filter + 16);
      const int8x16_t c = vld1q_s8(filter + 32), d = vld1q_s8(filter + 48);
      for (int p = 0; p < pixels; ++p) {
        const int8x16_t x = Pair(values + p * step + i), y = Pair(values + p * step + i + 2);
        const int8x8_t low_x = vget_low_s8(x), low_y = vget_low_s8(y);
        int32x4_t* total = totals[p];
        total[0] = vpadalq_s16(total[0], vmlal_s8(vmull_s8(vget_low_s8(a), low_x), vget_low_s8(c), low_y));
        total[1] = vpadalq_s16(total[1], vmlal_high_s8(vmull_high_s8(a, x), c, y));
        total[2] = vpadalq_s16(total[2], vmlal_s8(vmull_s8(vget_low_s8(b), low_x), vget_low_s8(d), low_y));
        total[3] = vpadalq_s16(total[3], vmlal_high_s8(vmull_high_s8(b, x), d, y));
      }
    }
  }
  memcpy(sums, totals, sizeof(totals));
}

constexpr int kInt8Tile = 4;
constexpr decltype(&Int8Dots<1>) kInt8Dots[] = {Int8Dots<1>, Int8Dots<2>, Int8Dots<3>, Int8Dots<4>};

inline const NeonInt8Dots* DotsOf(const Int8Plan& plan) { return plan.step == 4 ? kNeonInt8Dots : kInt8Dots; }
