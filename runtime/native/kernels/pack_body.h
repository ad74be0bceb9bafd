// Part of kernels_body.h: the signs of values as bits.
#ifndef FSG_KERNELS_PACK_BODY_H_
#define FSG_KERNELS_PACK_BODY_H_

#include "kernels/vectors_body.h"

// One row of `count` values; the bits beyond it are 0.
template <typename T>
void PackRow(const T* in, int64_t count, T zero_point, uint32_t* out) {
  for (; count >= 32; count -= 32, in += 32) *out++ = BitsBelow(in, zero_point);
  if (count == 0) return;
  T last[32];
  for (T& value : last) value = zero_point;
  memcpy(last, in, sizeof(T) * static_cast<size_t>(count));
  *out = BitsBelow(last, zero_point);
}

// Rows of 16 values: a word of bits makes two.
template <typename T>
void PackHalfWords(const T* in, int64_t rows, T zero_point, uint32_t* out) {
  for (; rows >= 2; rows -= 2, in += 32, out += 2) {
    const uint32_t bits = BitsBelow(in, zero_point);
    out[0] = bits & 0xffff;
    out[1] = bits >> 16;
  }
  if (rows > 0) PackRow<T>(in, 16, zero_point, out);
}

template <typename T>
void PackRows(const T* in, int64_t rows, int64_t channels, T zero_point, uint32_t* out) {
  if (channels == 16) return PackHalfWords(in, rows, zero_point, out);
  if (channels % 32 == 0) rows *= channels, channels = rows, rows = rows > 0;
  for (; rows > 0; --rows, in += channels, out += (channels + 31) / 32) {
    PackRow<T>(in, channels, zero_point, out);
  }
}

template <typename T>
void Pack(ThreadPool* pool, const T* in, int64_t rows, int channels, T zero_point, uint32_t* out) {
  ParallelFor(pool, rows, {1, kValueGrain / channels + 1}, [=](int64_t begin, int64_t end, int) {
    PackRows(in + begin * channels, end - begin, channels, zero_point, out + begin * PackedWords(channels));
  });
}

void PackFloat(ThreadPool* pool, const float* in, int64_t rows, int channels, uint32_t* out) {
  Pack<float>(pool, in, rows, channels, 0.0f, out);
}

void PackInt8(ThreadPool* pool, const int8_t* in, int64_t rows, int channels, int zero_point, uint32_t* out) {
  Pack<int8_t>(pool, in, rows, channels, static_cast<int8_t>(zero_point), out);
}

#endif  // FSG_KERNELS_PACK_BODY_H_
