#include <string.h>

#include "kernels/kernels.h"

#if defined(__x86_64__)
#define FSG_KERNELS_NAME "avx512"

namespace fsg::avx512 {
namespace {
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq"))), \
                             apply_to = function)
#include "kernels/bits_portable.h"

// A register holds 16 output channels; one step takes a word of their filters, and for each pixel xors it
// with the broadcast word of the patch, counts and adds: three instructions on two ports for 512 products.
constexpr int kTile = 8, kChannels = 16, kStep = 4, kPostOpTile = 8;
constexpr int64_t kGrain = 1 << 22;

using Weights = uint32_t __attribute__((vector_size(64)));

template <int pixels>
void Dots(const uint8_t* patches, int64_t patch_bytes, const uint8_t* filter, int blocks, int32_t* dots,
          int64_t lanes) {
  for (; blocks > 0; --blocks, dots += kChannels) {
    Weights counts[pixels] = {};
    for (int64_t i = 0; i < patch_bytes; i += kStep, filter += sizeof(Weights)) {
      Weights weights;
      memcpy(&weights, filter, sizeof(weights));
      for (int p = 0; p < pixels; ++p) {
        uint32_t word;
        memcpy(&word, patches + p * patch_bytes + i, sizeof(word));
        counts[p] += __builtin_elementwise_popcount(weights ^ word);
      }
    }
    for (int p = 0; p < pixels; ++p) {
      counts[p] += counts[p];
      memcpy(dots + p * lanes, &counts[p], sizeof(Weights));
    }
  }
}

constexpr decltype(&Dots<1>) kDots[kTile] = {Dots<1>, Dots<2>, Dots<3>, Dots<4>,
                                             Dots<5>, Dots<6>, Dots<7>, Dots<8>};

constexpr int kInt8Width = 64, kInt8Tile = 6;
using Sums = int32_t __attribute__((vector_size(64)));
using Shorts = int16_t __attribute__((vector_size(64)));
inline Sums MultiplyPairs(Shorts a, Shorts b) { return __builtin_ia32_pmaddwd512(a, b); }
#include "kernels/int8_x86.h"
#include "kernels/kernels_body.h"
#pragma clang attribute pop
}  // namespace

extern const Kernels kExported;
constexpr Kernels kExported = kKernels;

}  // namespace fsg::avx512
#endif
