// Comparisons to bits and rounding to bytes for NEON. Included like kernels_body.h, before it. As in
// bits_portable.h, but register by register: for longer vectors the compiler detours through bytes.

inline uint32_t ToWord(const uint32x4_t* masks) {
  // Lane i gathers channels i, i + 4, ... in a nibble each, and keeps bit i of the nibbles.
  const uint32x4_t first =
      vsliq_n_u32(vsliq_n_u32(masks[0], masks[1], 4), vsliq_n_u32(masks[2], masks[3], 4), 8);
  const uint32x4_t last =
      vsliq_n_u32(vsliq_n_u32(masks[4], masks[5], 4), vsliq_n_u32(masks[6], masks[7], 4), 8);
  constexpr uint32x4_t kBits = {0x11111111, 0x22222222, 0x44444444, 0x88888888};
  return vaddvq_u32(vandq_u32(vsliq_n_u32(first, last, 16), kBits));
}

inline uint32_t BitsBelow(const float* values, float bound) {
  uint32x4_t masks[8];
  for (int i = 0; i < 8; ++i) masks[i] = vcltq_f32(vld1q_f32(values + 4 * i), vdupq_n_f32(bound));
  return ToWord(masks);
}

inline uint32_t BitsBelow(const int8_t* values, int8_t bound) {
  constexpr uint8x16_t kBits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t low = vcltq_s8(vld1q_s8(values), vdupq_n_s8(bound));
  const uint8x16_t high = vcltq_s8(vld1q_s8(values + 16), vdupq_n_s8(bound));
  uint8x16_t sums = vpaddq_u8(vandq_u8(low, kBits), vandq_u8(high, kBits));
  sums = vpaddq_u8(sums, sums);
  return vgetq_lane_u32(vreinterpretq_u32_u8(vpaddq_u8(sums, sums)), 0);
}

inline uint32_t BitsAbove(const int32_t* values, const int32_t* bounds) {
  uint32x4_t masks[8];
  for (int i = 0; i < 8; ++i) masks[i] = vcgtq_s32(vld1q_s32(values + 4 * i), vld1q_s32(bounds + 4 * i));
  return ToWord(masks);
}

// Bit i is low[i] < 0, bit 16 + i is high[i] < 0, of 16 values each.
template <typename Vector>
uint32_t SignBits(const Vector& low, const Vector& high) {
  float32x4_t parts[8];
  memcpy(parts, &low, sizeof(low));
  memcpy(parts + 4, &high, sizeof(high));
  uint32x4_t masks[8];
  for (int i = 0; i < 8; ++i) masks[i] = vcltzq_f32(parts[i]);
  return ToWord(masks);
}

// 16 values, half away from zero and saturated; what is not a number becomes -128.
template <typename Vector>
void RoundToInt8(const Vector& values, int8_t* out) {
  float32x4_t parts[4];
  memcpy(parts, &values, sizeof(parts));
  int32x4_t whole[4];
  for (int i = 0; i < 4; ++i) whole[i] = vcvtaq_s32_f32(vmaxnmq_f32(parts[i], vdupq_n_f32(-128.0f)));
  const int16x8_t low = vqmovn_high_s32(vqmovn_s32(whole[0]), whole[1]);
  const int16x8_t high = vqmovn_high_s32(vqmovn_s32(whole[2]), whole[3]);
  vst1q_s8(out, vqmovn_high_s16(vqmovn_s16(low), high));
}
