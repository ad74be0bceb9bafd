// Sums of 8-bit products for x86, included like kernels_body.h, before it, after kInt8Width, the bytes of a
// register, and kInt8Tile, at most 6: rows and filters are of 16 bits, and one instruction multiplies pairs
// and adds the two products.

using Number = int16_t;

template <int pixels>
void Int8Dots(const Number* const* segments, int count, int64_t at, int64_t step, const Number* filter,
              int64_t numbers, int32_t* sums) {
  constexpr int kRegisters = 4 * kInt8Channels / kInt8Width;
  Sums totals[pixels][kRegisters] = {};
  for (int s = 0; s < count; ++s) {
    const Number* values = segments[s] + at;
    for (int64_t i = 0; i < numbers; i += 2, filter += 2 * kInt8Channels) {
      Shorts weights[kRegisters];
      memcpy(weights, filter, sizeof(weights));
      for (int p = 0; p < pixels; ++p) {
        int32_t pair;
        memcpy(&pair, values + p * step + i, sizeof(pair));
        const Shorts both = (Shorts)(Sums{} + pair);
        for (int r = 0; r < kRegisters; ++r) totals[p][r] += MultiplyPairs(weights[r], both);
      }
    }
  }
  memcpy(sums, totals, sizeof(totals));
}

constexpr decltype(&Int8Dots<1>) kInt8Dots[] = {Int8Dots<1>, Int8Dots<2>, Int8Dots<3>,
                                                Int8Dots<4>, Int8Dots<5>, Int8Dots<6>};

inline const decltype(&Int8Dots<1>)* DotsOf(const Int8Plan&) { return kInt8Dots; }
