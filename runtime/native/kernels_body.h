// The fast kernels, written once in portable vector code. Each kernels_*.cc includes this file in a namespace
// of its own under the instruction set it is named after, hence no include guard: FSG_KERNELS_NAME is what
// differs.
//
// A vector register holds 16 output channels; one step loads 32 input channels of their filters, xors them
// with the broadcast activations of one tap and adds the popcount of each byte. Byte counters need widening
// only every 31 steps, which leaves three instructions per step: the least that xor, count, add can be on
// NEON, AVX2 and AVX-512 alike.

constexpr int kLanes = 16;
constexpr int kPixels = 4;  // per filter load
constexpr int kBlock = 31;  // 31 * 8 bits still fit a byte

using Bytes = uint8_t __attribute__((vector_size(64)));
using Words = uint32_t __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(64)));
using SmallInts = int8_t __attribute__((vector_size(16)));
using Bits = bool __attribute__((ext_vector_type(16)));

inline uint16_t ToBits(Ints mask) {
  return __builtin_bit_cast(uint16_t, __builtin_convertvector(mask, Bits));
}

inline Ints WidenTwice(Bytes counts) {
  const Words words = (Words)counts;
  Words sums = (words & 0x00ff00ffu) + (words >> 8 & 0x00ff00ffu);
  sums += sums >> 16;
  return (Ints)((sums & 0xffffu) << 1);
}

// Twice the popcounts of one group of output channels at `pixels` pixels, `stride` apart in `dots`.
template <int pixels>
void Dots(const ConvPlan& plan, const uint32_t* const* taps, const uint32_t* filter, int32_t* dots,
          int stride) {
  Ints totals[pixels] = {};
  for (int begin = 0; begin < plan.steps; begin += kBlock) {
    const int end = plan.steps - begin < kBlock ? plan.steps : begin + kBlock;
    Bytes counts[pixels] = {};
    for (int i = begin; i < end; ++i, filter += kLanes) {
      Words weights;
      memcpy(&weights, filter, sizeof(weights));
      const int32_t offset = plan.offsets[i];
      for (int p = 0; p < pixels; ++p) {
        counts[p] += __builtin_elementwise_popcount((Bytes)(weights ^ taps[p][offset]));
      }
    }
    for (int p = 0; p < pixels; ++p) totals[p] += WidenTwice(counts[p]);
  }
  for (int p = 0; p < pixels; ++p) memcpy(dots + p * stride, &totals[p], sizeof(Ints));
}

// A tap outside the image was computed against 0 bits, +1; with zero padding its weights must count nothing.
void RemovePadding(const Conv& conv, const ConvPlan& plan, int out_y, int out_x, int32_t* dots) {
  const Window& w = conv.window;
  const int lanes = plan.groups * kLanes;
  const int top = out_y * w.stride_height - w.pad_top, left = out_x * w.stride_width - w.pad_left;
  const int bottom = top + (w.filter_height - 1) * w.dilation_height;
  const int right = left + (w.filter_width - 1) * w.dilation_width;
  if (top >= 0 && left >= 0 && bottom < w.in_height && right < w.in_width) return;
  for (int ky = 0; ky < w.filter_height; ++ky) {
    const int y = top + ky * w.dilation_height;
    for (int kx = 0; kx < w.filter_width; ++kx) {
      const int x = left + kx * w.dilation_width;
      if (y >= 0 && y < w.in_height && x >= 0 && x < w.in_width) continue;
      const int32_t* sums = plan.tap_sums + static_cast<int64_t>(ky * w.filter_width + kx) * lanes;
      for (int c = 0; c < lanes; ++c) dots[c] += sums[c];
    }
  }
}

inline Floats Transform(const Conv& conv, int32_t full, const int32_t* dots, const float* multiplier,
                        const float* bias) {
#pragma clang fp contract(off)  // as in reference.h
  Ints dot;
  Floats scale, shift;
  memcpy(&dot, dots, sizeof(dot));
  memcpy(&scale, multiplier, sizeof(scale));
  memcpy(&shift, bias, sizeof(shift));
  dot = full - dot;
  dot = __builtin_elementwise_min(__builtin_elementwise_max(dot, Ints{} + conv.clamp_min),
                                  Ints{} + conv.clamp_max);
  return shift + scale * __builtin_convertvector(dot, Floats);
}

inline SmallInts RoundToInt8(Floats value) {
  value = value > -128.0f ? value : Floats{} - 128.0f;
  value = value < 127.0f ? value : Floats{} + 127.0f;
  Ints whole = __builtin_convertvector(value, Ints);
  const Floats rest = value - __builtin_convertvector(whole, Floats);
  whole -= rest >= 0.5f;  // comparisons are -1 where true
  whole += rest <= -0.5f;
  return __builtin_convertvector(whole, SmallInts);
}

// Turns one pixel's doubled popcounts into its output values.
void Store(const Conv& conv, const ConvPlan& plan, const int32_t* dots, int64_t pixel, void* out) {
  const Window& w = conv.window;
  if (conv.output == Output::kPacked) {
    const int out_words = PackedWords(conv.channels_out);
    uint32_t* words = static_cast<uint32_t*>(out) + pixel * out_words;
    words[out_words - 1] = 0;
    for (int g = 0; g < plan.groups; ++g) {
      Ints twice, thresholds;
      memcpy(&twice, dots + g * kLanes, sizeof(twice));
      memcpy(&thresholds, plan.thresholds + g * kLanes, sizeof(thresholds));
      const uint16_t bits = ToBits(twice > thresholds);
      memcpy(reinterpret_cast<uint16_t*>(words) + g, &bits, sizeof(bits));
    }
    return;
  }
  const int32_t full = w.filter_height * w.filter_width * conv.channels_in;
  const int64_t first = pixel * conv.channels_out;
  for (int c = 0; c < conv.channels_out; c += kLanes) {
    const int count = conv.channels_out - c < kLanes ? conv.channels_out - c : kLanes;
    float multiplier[kLanes] = {}, bias[kLanes] = {};
    const bool whole = count == kLanes;
    if (!whole) memcpy(multiplier, conv.multiplier + c, sizeof(float) * count);
    if (!whole) memcpy(bias, conv.bias + c, sizeof(float) * count);
    const Floats values = Transform(conv, full, dots + c, whole ? conv.multiplier + c : multiplier,
                                    whole ? conv.bias + c : bias);
    if (conv.output == Output::kFloat) {
      float* to = static_cast<float*>(out) + first + c;
      whole ? memcpy(to, &values, sizeof(values)) : memcpy(to, &values, sizeof(float) * count);
    } else {
      const SmallInts rounded = RoundToInt8(values);
      memcpy(static_cast<int8_t*>(out) + first + c, &rounded, count);
    }
  }
}

template <int pixels>
void ConvolvePixels(const Conv& conv, const ConvPlan& plan, int64_t base, int y, int x, const uint32_t* image,
                    void* out) {
  const Window& w = conv.window;
  const int lanes = plan.groups * kLanes;
  const uint32_t* taps[pixels];
  for (int p = 0; p < pixels; ++p) {
    const int64_t at =
        static_cast<int64_t>(y) * w.stride_height * plan.padded_width + (x + p) * w.stride_width;
    taps[p] = image + at * w.words;
  }
  for (int g = 0; g < plan.groups; ++g) {
    const uint32_t* filter = plan.filter + static_cast<int64_t>(g) * plan.steps * kLanes;
    Dots<pixels>(plan, taps, filter, plan.dots + g * kLanes, lanes);
  }
  for (int p = 0; p < pixels; ++p) {
    int32_t* dots = plan.dots + p * lanes;
    if (plan.tap_sums != nullptr) RemovePadding(conv, plan, y, x + p, dots);
    Store(conv, plan, dots, base + x + p, out);
  }
}

const uint32_t* PadImage(const Window& w, const ConvPlan& plan, const uint32_t* image) {
  if (plan.padded == nullptr) return image;
  const int64_t row = static_cast<int64_t>(w.in_width) * w.words,
                padded_row = static_cast<int64_t>(plan.padded_width) * w.words;
  uint32_t* to = plan.padded + w.pad_top * padded_row + static_cast<int64_t>(w.pad_left) * w.words;
  for (int y = 0; y < w.in_height; ++y) memcpy(to + y * padded_row, image + y * row, sizeof(uint32_t) * row);
  return plan.padded;
}

void Convolve(const Conv& conv, const ConvPlan& plan, const uint32_t* in, void* out) {
  const Window& w = conv.window;
  int64_t base = 0;
  for (int n = 0; n < w.batch; ++n, in += static_cast<int64_t>(w.in_height) * w.in_width * w.words) {
    const uint32_t* image = PadImage(w, plan, in);
    for (int y = 0; y < w.out_height; ++y, base += w.out_width) {
      int x = 0;
      for (; x <= w.out_width - kPixels; x += kPixels)
        ConvolvePixels<kPixels>(conv, plan, base, y, x, image, out);
      for (; x < w.out_width; ++x) ConvolvePixels<1>(conv, plan, base, y, x, image, out);
    }
  }
}

template <typename T, typename Vector>
void PackRow(const T* in, int64_t count, T zero_point, uint32_t* out) {
  using Mask = decltype(Vector{} < Vector{});
  const Vector zero = Vector{} + zero_point;
  out[(count - 1) / 32] = 0;
  for (int64_t c = 0; c < count; c += kLanes) {
    Vector values = zero;
    memcpy(&values, in + c, count - c >= kLanes ? sizeof(values) : sizeof(T) * (count - c));
    const Mask negative = values < zero;
    const uint16_t bits = __builtin_bit_cast(uint16_t, __builtin_convertvector(negative, Bits));
    memcpy(reinterpret_cast<uint16_t*>(out) + c / kLanes, &bits, sizeof(bits));
  }
}

template <typename T, typename Vector>
void Pack(const T* in, int64_t rows, int channels, T zero_point, uint32_t* out) {
  if (rows > 0 && channels % 32 == 0) return PackRow<T, Vector>(in, rows * channels, zero_point, out);
  for (int64_t row = 0; row < rows; ++row, in += channels, out += PackedWords(channels)) {
    PackRow<T, Vector>(in, channels, zero_point, out);
  }
}

void PackFloat(const float* in, int64_t rows, int channels, uint32_t* out) {
  Pack<float, Floats>(in, rows, channels, 0.0f, out);
}

void PackInt8(const int8_t* in, int64_t rows, int channels, int zero_point, uint32_t* out) {
  Pack<int8_t, SmallInts>(in, rows, channels, static_cast<int8_t>(zero_point), out);
}

void MaxPool(const Window& w, const uint32_t* in, uint32_t* out) {
  const int64_t row = static_cast<int64_t>(w.in_width) * w.words;
  for (int n = 0; n < w.batch; ++n, in += w.in_height * row) {
    for (int y = 0; y < w.out_height; ++y) {
      const int top = y * w.stride_height - w.pad_top;
      const int first_y = top < 0 ? 0 : top;
      const int end_y = top + w.filter_height > w.in_height ? w.in_height : top + w.filter_height;
      for (int x = 0; x < w.out_width; ++x, out += w.words) {
        const int left = x * w.stride_width - w.pad_left;
        const int first_x = left < 0 ? 0 : left;
        const int end_x = left + w.filter_width > w.in_width ? w.in_width : left + w.filter_width;
        for (int i = 0; i < w.words; ++i) out[i] = ~uint32_t{0};
        for (int in_y = first_y; in_y < end_y; ++in_y) {
          for (int in_x = first_x; in_x < end_x; ++in_x) {
            const uint32_t* pixel = in + in_y * row + static_cast<int64_t>(in_x) * w.words;
            for (int i = 0; i < w.words; ++i) out[i] &= pixel[i];
          }
        }
      }
    }
  }
}

const Kernels kKernels = {FSG_KERNELS_NAME, PackFloat, PackInt8, Convolve, MaxPool};
