// The dot products for baseline armv8.0. Included like kernels_body.h, before it; kDots is left to the file
// that does.
//
// A filter block holds 8 output channels. Their bits under 16 bytes of a pixel's patch are xored and counted
// per byte, and a tree of pairwise additions turns the 8 registers of counts into one that holds 2 bytes for
// each channel, which one more instruction adds to the channels' 16-bit sums: three instructions for 128
// products, and nothing is left to reduce at the end. The last 8 and 4 bytes of a patch are repeated over the
// register, which then holds 2 and 4 channels of the filter: the same for fewer registers.

constexpr int kChannels = 8, kStep = 16, kPostOpTile = 4;
constexpr int64_t kGrain = 1 << 19;
constexpr int64_t kSumBytes = 511 * 16;  // of a patch: a 16-bit sum grows by up to 128 in 16 bytes

// Adds up the counts of `registers` registers of the filter, 2 bytes for each of the 8 channels.
template <int registers>
uint8x16_t Tree(const uint8x16_t* weights, uint8x16_t bits) {
  return vpaddq_u8(Tree<registers / 2>(weights, bits), Tree<registers / 2>(weights + registers / 2, bits));
}

template <>
inline uint8x16_t Tree<1>(const uint8x16_t* weights, uint8x16_t bits) {
  return vcntq_u8(veorq_u8(*weights, bits));
}

// `bytes` bytes of a patch, repeated to fill a register.
template <int bytes>
uint8x16_t LoadBits(const uint8_t* patch) {
  if constexpr (bytes == 16) return vld1q_u8(patch);
  if constexpr (bytes == 8)
    return vreinterpretq_u8_u64(vld1q_dup_u64(reinterpret_cast<const uint64_t*>(patch)));
  return vreinterpretq_u8_u32(vld1q_dup_u32(reinterpret_cast<const uint32_t*>(patch)));
}

// The `bytes` bytes at `at` of the patches.
template <int pixels, int bytes>
FSG_INLINE void Step(const uint8_t* const* patches, int64_t at, const uint8_t* filter, uint16x8_t* sums) {
  constexpr int kRegisters = bytes / 2;
  uint8x16_t weights[kRegisters];
  for (int i = 0; i < kRegisters; ++i) weights[i] = vld1q_u8(filter + 16 * i);
#pragma clang loop unroll(full)
  for (int p = 0; p < pixels; ++p) {
    sums[p] = vpadalq_u8(sums[p], Tree<kRegisters>(weights, LoadBits<bytes>(patches[p] + at)));
  }
}

// Twice the sums over `bytes` bytes of the patches, at most kSumBytes. Returns the place after the block.
template <int pixels>
FSG_INLINE const uint8_t* BlockDots(const uint8_t* const* patches, int64_t bytes, const uint8_t* filter,
                                    int32_t* dots, int64_t lanes) {
  uint16x8_t sums[pixels];
#pragma clang loop unroll(full)
  for (int p = 0; p < pixels; ++p) sums[p] = vdupq_n_u16(0);
  int64_t at = 0;
  for (; at + 16 <= bytes; at += 16, filter += 16 * kChannels) Step<pixels, 16>(patches, at, filter, sums);
  if (bytes & 8) {
    Step<pixels, 8>(patches, at, filter, sums);
    at += 8, filter += 8 * kChannels;
  }
  if (bytes & 4) {
    Step<pixels, 4>(patches, at, filter, sums);
    filter += 4 * kChannels;
  }
#pragma clang loop unroll(full)
  for (int p = 0; p < pixels; ++p, dots += lanes) {
    vst1q_s32(dots, vreinterpretq_s32_u32(vshll_n_u16(vget_low_u16(sums[p]), 1)));
    vst1q_s32(dots + 4, vreinterpretq_s32_u32(vshll_high_n_u16(sums[p], 1)));
  }
  return filter;
}

template <int pixels>
FSG_OUTLINE void LongDots(const uint8_t* const* patches, int64_t patch_bytes, const uint8_t* filter,
                          int blocks, int32_t* dots, int64_t lanes) {
  for (; blocks > 0; --blocks, dots += kChannels) {
    for (int p = 0; p < pixels; ++p) memset(dots + p * lanes, 0, sizeof(int32_t) * kChannels);
    for (int64_t begin = 0; begin < patch_bytes; begin += kSumBytes) {
      const int64_t bytes = patch_bytes - begin < kSumBytes ? patch_bytes - begin : kSumBytes;
      const uint8_t* parts[pixels];
      for (int p = 0; p < pixels; ++p) parts[p] = patches[p] + begin;
      int32_t part[pixels * kChannels];
      filter = BlockDots<pixels>(parts, bytes, filter, part, kChannels);
      for (int i = 0; i < pixels * kChannels; ++i) dots[i / kChannels * lanes + i % kChannels] += part[i];
    }
  }
}

template <int pixels>
void Dots(const uint8_t* first, int64_t patch_bytes, const uint8_t* filter, int blocks, int32_t* dots,
          int64_t lanes) {
  const uint8_t* patches[pixels];
#pragma clang loop unroll(full)
  for (int p = 0; p < pixels; ++p, first += patch_bytes) {
    patches[p] = first;
    // Hides that the patches are evenly spaced, or the compiler finds every address by an addition.
    __asm__("" : "+r"(patches[p]));
  }
  if (patch_bytes > kSumBytes) return LongDots<pixels>(patches, patch_bytes, filter, blocks, dots, lanes);
  for (; blocks > 0; --blocks, dots += kChannels) {
    filter = BlockDots<pixels>(patches, patch_bytes, filter, dots, lanes);
  }
}
