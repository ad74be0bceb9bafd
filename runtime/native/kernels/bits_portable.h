// Comparisons to bits, 32 values to one word, and rounding to bytes. Included like kernels_body.h, before it.

template <typename T, int lanes>
using Lanes = T __attribute__((vector_size(sizeof(T) * lanes)));

template <typename Mask>
uint32_t ToWord(const Mask* masks) {
  using Bits = bool __attribute__((ext_vector_type(16)));
  const auto bits = [](Mask mask) {
    return uint32_t{__builtin_bit_cast(uint16_t, __builtin_convertvector(mask, Bits))};
  };
  return bits(masks[0]) | bits(masks[1]) << 16;
}

// Bit i is values[i] < bound.
template <typename T>
uint32_t BitsBelow(const T* values, T bound) {
  using Vector = Lanes<T, 16>;
  Vector loaded[2];
  memcpy(loaded, values, sizeof(loaded));
  const decltype(loaded[0] < loaded[0]) masks[] = {loaded[0] < Vector{} + bound,
                                                   loaded[1] < Vector{} + bound};
  return ToWord(masks);
}

// Bit i is values[i] > bounds[i].
inline uint32_t BitsAbove(const int32_t* values, const int32_t* bounds) {
  using Vector = Lanes<int32_t, 16>;
  Vector left[2], right[2];
  memcpy(left, values, sizeof(left));
  memcpy(right, bounds, sizeof(right));
  const Vector masks[] = {left[0] > right[0], left[1] > right[1]};
  return ToWord(masks);
}

// Bit i is low[i] < 0, bit 16 + i is high[i] < 0, of 16 values each.
template <typename Vector>
uint32_t SignBits(const Vector& low, const Vector& high) {
  const decltype(low < low) masks[] = {low < 0.0f, high < 0.0f};
  return ToWord(masks);
}

// 16 values, half away from zero and saturated; what is not a number becomes -128.
template <typename Vector>
void RoundToInt8(Vector value, int8_t* out) {
  value = value > -128.0f ? value : Vector{} - 128.0f;
  value = value < 127.0f ? value : Vector{} + 127.0f;
  Lanes<int32_t, 16> whole = __builtin_convertvector(value, Lanes<int32_t, 16>);
  const Vector rest = value - __builtin_convertvector(whole, Vector);
  whole -= rest >= 0.5f;  // comparisons are -1 where true
  whole += rest <= -0.5f;
  const auto bytes = __builtin_convertvector(whole, Lanes<int8_t, 16>);
  memcpy(out, &bytes, sizeof(bytes));
}
