// What the fast kernels share, written once in portable vector code. Each kernels_*.cc includes this file in
// a namespace of its own under the instruction set it is named after, hence no include guard. It defines
// beforehand:
//
//   FSG_KERNELS_NAME
//   kTile      pixels of a tile
//   kChannels  output channels of a filter block
//   kStep      bytes of one channel that stand together in a filter block
//   kGrain     binary multiply-accumulates worth a thread's attention
//   kDots      [kTile] functions: the dot products of one filter block with 1, 2, ... kTile patches, as
//              twice the popcounts, into rows of `lanes` int32

constexpr int kLanes = 16;  // of the vectors below

using Ints = int32_t __attribute__((vector_size(64)));
using Floats = float __attribute__((vector_size(64)));
using SmallInts = int8_t __attribute__((vector_size(16)));
using Bits = bool __attribute__((ext_vector_type(16)));

inline uint16_t ToBits(Ints mask) {
  return __builtin_bit_cast(uint16_t, __builtin_convertvector(mask, Bits));
}

// An output pixel, and the top left corner of what its filter sees.
struct Place {
  int batch, y, x;

  int Top(const Window& w) const { return y * w.stride_height - w.pad_top; }
  int Left(const Window& w) const { return x * w.stride_width - w.pad_left; }

  bool IsInside(const Window& w) const {
    const int top = Top(w), left = Left(w);
    return top >= 0 && left >= 0 && top + (w.filter_height - 1) * w.dilation_height < w.in_height &&
           left + (w.filter_width - 1) * w.dilation_width < w.in_width;
  }

  void Advance(const Window& w) {
    if (++x < w.out_width) return;
    x = 0;
    if (++y < w.out_height) return;
    y = 0;
    ++batch;
  }
};

Place PlaceOf(const Window& w, int64_t pixel) {
  const int64_t row = pixel / w.out_width;
  return {static_cast<int>(row / w.out_height), static_cast<int>(row % w.out_height),
          static_cast<int>(pixel % w.out_width)};
}

// memcpy for short runs of whole half-words: the last copy may overlap the one before.
inline void CopyRun(const uint8_t* from, int bytes, uint8_t* to) {
  if (bytes >= 16) {
    for (int i = 0; i < bytes - 16; i += 16) __builtin_memcpy(to + i, from + i, 16);
    __builtin_memcpy(to + bytes - 16, from + bytes - 16, 16);
  } else if (bytes >= 8) {
    __builtin_memcpy(to, from, 8);
    __builtin_memcpy(to + bytes - 8, from + bytes - 8, 8);
  } else if (bytes >= 4) {
    __builtin_memcpy(to, from, 4);
    __builtin_memcpy(to + bytes - 4, from + bytes - 4, 4);
  } else {
    __builtin_memcpy(to, from, 2);
  }
}

// The bits under the taps of one output pixel that lies inside, in the filter's order.
void GatherInside(const Window& w, const ConvPlan& plan, const uint32_t* image, Place at, uint8_t* to) {
  const int64_t pixel = int64_t{4} * w.words, row = w.in_width * pixel;
  const auto* from = reinterpret_cast<const uint8_t*>(image) + at.Top(w) * row + at.Left(w) * pixel;
  const bool is_dense = w.dilation_width == 1 && plan.tap_bytes == pixel;
  const int runs = is_dense ? 1 : w.filter_width, bytes = plan.tap_bytes * (is_dense ? w.filter_width : 1);
  for (int ky = 0; ky < w.filter_height; ++ky, from += w.dilation_height * row) {
    for (int i = 0; i < runs; ++i, to += bytes) CopyRun(from + i * w.dilation_width * pixel, bytes, to);
  }
}

// The same at the border: a tap outside the image is all 0 bits, +1.
void GatherBorder(const Window& w, const ConvPlan& plan, const uint32_t* image, Place at, uint8_t* to) {
  for (int ky = 0; ky < w.filter_height; ++ky) {
    const int y = at.Top(w) + ky * w.dilation_height;
    for (int kx = 0; kx < w.filter_width; ++kx, to += plan.tap_bytes) {
      const int x = at.Left(w) + kx * w.dilation_width;
      const bool is_inside = y >= 0 && y < w.in_height && x >= 0 && x < w.in_width;
      const uint32_t* from = image + (static_cast<int64_t>(y) * w.in_width + x) * w.words;
      is_inside ? CopyRun(reinterpret_cast<const uint8_t*>(from), plan.tap_bytes, to)
                : static_cast<void>(memset(to, 0, static_cast<size_t>(plan.tap_bytes)));
    }
  }
}

// Patches [count, patch_bytes] of one group of input channels. The bytes beyond the last tap stay zero.
void Gather(const Conv& conv, const ConvPlan& plan, const uint32_t* in, int group, Place at, int count,
            uint8_t* patches) {
  const Window& w = conv.window;
  const int64_t image_words = static_cast<int64_t>(w.in_height) * w.in_width * w.words;
  in += group * (w.words / conv.groups);
  for (int p = 0; p < count; ++p, at.Advance(w), patches += plan.patch_bytes) {
    const uint32_t* image = in + at.batch * image_words;
    at.IsInside(w) ? GatherInside(w, plan, image, at, patches) : GatherBorder(w, plan, image, at, patches);
  }
}

// A tap outside the image was computed against 0 bits, +1; with zero padding its weights must count nothing.
void RemovePadding(const Window& w, const ConvPlan& plan, Place at, int32_t* dots) {
  if (at.IsInside(w)) return;
  for (int ky = 0; ky < w.filter_height; ++ky) {
    const int y = at.Top(w) + ky * w.dilation_height;
    for (int kx = 0; kx < w.filter_width; ++kx) {
      const int x = at.Left(w) + kx * w.dilation_width;
      if (y >= 0 && y < w.in_height && x >= 0 && x < w.in_width) continue;
      const int32_t* sums = plan.tap_sums + static_cast<int64_t>(ky * w.filter_width + kx) * plan.lanes;
      for (int c = 0; c < plan.lanes; ++c) dots[c] += sums[c];
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
    for (int g = 0; g < (conv.channels_out + kLanes - 1) / kLanes; ++g) {
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

// The dot products of a tile's patches with all output channels. Blocks are whole: what one writes beyond the
// last channel of its group is overwritten by the next group.
void TileDots(const Conv& conv, const ConvPlan& plan, const uint32_t* in, int64_t pixel, Place at, int count,
              int32_t* dots, uint8_t* patches) {
  const int64_t block_bytes = int64_t{kChannels} * plan.patch_bytes;
  const uint8_t* filter = plan.filter;
  if (plan.is_direct) patches = (uint8_t*)(in + pixel * conv.window.words);
  for (int group = 0; group < conv.groups; ++group) {
    int32_t* to = dots + group * (conv.channels_out / conv.groups);
    if (!plan.is_direct) Gather(conv, plan, in, group, at, count, patches);
    for (int b = 0; b < plan.blocks; ++b, filter += block_bytes, to += kChannels) {
      kDots[count - 1](patches, plan.patch_bytes, filter, to, plan.lanes);
    }
  }
}

void ConvolvePixels(const Conv& conv, const ConvPlan& plan, const uint32_t* in, int64_t begin, int64_t end,
                    int thread, void* out) {
  const Window& w = conv.window;
  uint8_t* scratch = plan.scratch + thread * plan.scratch_bytes;
  auto* dots = reinterpret_cast<int32_t*>(scratch);
  uint8_t* patches = scratch + sizeof(int32_t) * kTile * static_cast<size_t>(plan.lanes);
  Place at = PlaceOf(w, begin);
  for (int64_t pixel = begin; pixel < end; pixel += kTile) {
    const int count = end - pixel < kTile ? static_cast<int>(end - pixel) : kTile;
    TileDots(conv, plan, in, pixel, at, count, dots, patches);
    for (int p = 0; p < count; ++p, at.Advance(w)) {
      if (plan.tap_sums != nullptr) RemovePadding(w, plan, at, dots + p * plan.lanes);
      Store(conv, plan, dots + p * plan.lanes, pixel + p, out);
    }
  }
}

void Convolve(ThreadPool* pool, const Conv& conv, const ConvPlan& plan, const uint32_t* in, void* out) {
  const Window& w = conv.window;
  const int64_t work = int64_t{8} * plan.patch_bytes * conv.channels_out;  // of a pixel
  const int64_t tiles = kGrain / (work * kTile) + 1;
  ParallelFor(pool, static_cast<int64_t>(w.batch) * w.out_height * w.out_width, tiles * kTile,
              [&](int64_t begin, int64_t end, int thread) {
                ConvolvePixels(conv, plan, in, begin, end, thread, out);
              });
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

constexpr int64_t kPackGrain = 1 << 15;  // values

template <typename T, typename Vector>
void Pack(ThreadPool* pool, const T* in, int64_t rows, int channels, T zero_point, uint32_t* out) {
  if (channels % 32 == 0) rows *= channels / 32, channels = 32;
  const int64_t words = PackedWords(channels);
  ParallelFor(pool, rows, kPackGrain / channels + 1, [=](int64_t begin, int64_t end, int) {
    if (channels == 32) {
      return PackRow<T, Vector>(in + begin * 32, (end - begin) * 32, zero_point, out + begin);
    }
    for (int64_t row = begin; row < end; ++row) {
      PackRow<T, Vector>(in + row * channels, channels, zero_point, out + row * words);
    }
  });
}

void PackFloat(ThreadPool* pool, const float* in, int64_t rows, int channels, uint32_t* out) {
  Pack<float, Floats>(pool, in, rows, channels, 0.0f, out);
}

void PackInt8(ThreadPool* pool, const int8_t* in, int64_t rows, int channels, int zero_point, uint32_t* out) {
  Pack<int8_t, SmallInts>(pool, in, rows, channels, static_cast<int8_t>(zero_point), out);
}

// One row of output pixels.
void MaxPoolRow(const Window& w, const uint32_t* image, int y, uint32_t* out) {
  const int64_t row = static_cast<int64_t>(w.in_width) * w.words;
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
        const uint32_t* pixel = image + in_y * row + static_cast<int64_t>(in_x) * w.words;
        for (int i = 0; i < w.words; ++i) out[i] &= pixel[i];
      }
    }
  }
}

void MaxPool(ThreadPool* pool, const Window& w, const uint32_t* in, uint32_t* out) {
  const int64_t image = static_cast<int64_t>(w.in_height) * w.in_width * w.words;
  const int64_t out_row = static_cast<int64_t>(w.out_width) * w.words;
  const int64_t work = out_row * w.filter_height * w.filter_width * 32;
  ParallelFor(pool, static_cast<int64_t>(w.batch) * w.out_height, kPackGrain / work + 1,
              [&](int64_t begin, int64_t end, int) {
                for (int64_t row = begin; row < end; ++row) {
                  MaxPoolRow(w, in + row / w.out_height * image, static_cast<int>(row % w.out_height),
                             out + row * out_row);
                }
              });
}

constexpr Kernels kKernels = {FSG_KERNELS_NAME, kTile,    kChannels, kStep,
                              PackFloat,        PackInt8, Convolve,  MaxPool};
