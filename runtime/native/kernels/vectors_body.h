// Part of kernels_body.h: 16 channels as a vector, and a convolution's sums as values.
#ifndef FSG_KERNELS_VECTORS_BODY_H_
#define FSG_KERNELS_VECTORS_BODY_H_

constexpr int kLanes = 16;  // of the vectors below

constexpr int64_t kValueGrain = kGrain / 32;  // values worth a thread's attention

using Ints = int32_t __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(64)));

inline Floats LoadFloats(const float* from) {
  Floats values;
  memcpy(&values, from, sizeof(values));
  return values;
}

inline Floats Transform(Ints twice, Floats multiplier, Floats bias) {
#pragma clang fp contract(off)  // as in reference.h
  return bias + multiplier * __builtin_convertvector(twice, Floats);
}

inline bool Clamps(const Conv& conv) { return conv.clamp_min != INT32_MIN || conv.clamp_max != INT32_MAX; }

inline Ints Clamp(Ints twice, int32_t low, int32_t high) {
  return __builtin_elementwise_min(__builtin_elementwise_max(twice, Ints{} + low), Ints{} + high);
}

#endif  // FSG_KERNELS_VECTORS_BODY_H_
