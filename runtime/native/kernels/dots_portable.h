// The dot products in portable vector code, for instruction sets without a popcount of words. Included like
// kernels_body.h, before it.
//
// A vector holds 16 output channels; one step takes a word of their filters, xors it with that word of a
// pixel's patch and adds the popcount of each byte. Byte counters need widening only every 31 steps.

constexpr int kTile = 4, kChannels = 16, kStep = 4, kPostOpTile = 4;
constexpr int64_t kGrain = 1 << 20;
constexpr int kCounterSteps = 31;  // 31 * 8 bits still fit a byte

using Counters = uint8_t __attribute__((vector_size(64)));
using Weights = uint32_t __attribute__((vector_size(64)));

inline Weights TwiceSums(Counters counters) {
  const Weights words = (Weights)counters;
  Weights sums = (words & 0x00ff00ffu) + (words >> 8 & 0x00ff00ffu);
  sums += sums >> 16;
  return (sums & 0xffffu) << 1;
}

template <int pixels>
void Dots(const uint8_t* patches, int64_t patch_bytes, const uint8_t* filter, int blocks, int32_t* dots,
          int64_t lanes) {
  const int64_t steps = patch_bytes / kStep;
  for (; blocks > 0; --blocks, dots += kChannels) {
    Weights totals[pixels] = {};
    for (int64_t begin = 0; begin < steps; begin += kCounterSteps) {
      const int64_t end = steps - begin < kCounterSteps ? steps : begin + kCounterSteps;
      Counters counters[pixels] = {};
      for (int64_t i = begin; i < end; ++i, filter += sizeof(Weights)) {
        Weights weights;
        memcpy(&weights, filter, sizeof(weights));
        for (int p = 0; p < pixels; ++p) {
          uint32_t word;
          memcpy(&word, patches + p * patch_bytes + i * kStep, sizeof(word));
          counters[p] += __builtin_elementwise_popcount((Counters)(weights ^ word));
        }
      }
      for (int p = 0; p < pixels; ++p) totals[p] += TwiceSums(counters[p]);
    }
    for (int p = 0; p < pixels; ++p) memcpy(dots + p * lanes, &totals[p], sizeof(Weights));
  }
}

constexpr decltype(&Dots<1>) kDots[kTile] = {Dots<1>, Dots<2>, Dots<3>, Dots<4>};
