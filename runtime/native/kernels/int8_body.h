// Part of kernels_body.h: a convolution of 8-bit integers. The file of an instruction set has before:
//
//   Number    what patches and filters are of: int8_t or int16_t
//   kInt8Dots [kInt8Tile] functions: sums of 1, 2, ... patches with a block of the filter, into rows of
//             kInt8Channels int32
#ifndef FSG_KERNELS_INT8_BODY_H_
#define FSG_KERNELS_INT8_BODY_H_

#include "kernels/vectors_body.h"
#include "kernels/window_body.h"

using Bytes16 = int8_t __attribute__((vector_size(16)));
using Numbers16 = Number __attribute__((vector_size(16 * sizeof(Number))));

// Copies values, and whatever is behind them up to a multiple of 16 if that is before `end`.
inline void CopyNumbers(const int8_t* from, int64_t count, const int8_t* end, Number* to) {
  int64_t i = 0;
  for (; i < count && end - from >= i + 16; i += 16) {
    Bytes16 bytes;
    memcpy(&bytes, from + i, sizeof(bytes));
    const Numbers16 numbers = __builtin_convertvector(bytes, Numbers16);
    memcpy(to + i, &numbers, sizeof(numbers));
  }
  for (; i < count; ++i) to[i] = from[i];
}

inline void FillNumbers(Number value, int64_t count, Number* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// The values under the filter at an output pixel.
void GatherNumbers(const Int8Conv& conv, const int8_t* in, Place at, Number* to) {
  const Window& w = conv.window;
  const int64_t channels = w.words, row_bytes = channels * w.in_width, image_bytes = row_bytes * w.in_height;
  const int8_t* const image = in + at.batch * image_bytes;
  const int8_t* const end = in + w.batch * image_bytes;
  const Number zero = static_cast<Number>(conv.in_zero);
  const int top = at.y * w.stride_height - w.pad_top, left = at.x * w.stride_width - w.pad_left;
  const Taps rows = TapsInside(top, w.dilation_height, w.filter_height, w.in_height);
  const Taps columns = TapsInside(left, w.dilation_width, w.filter_width, w.in_width);
  for (int ky = 0; ky < w.filter_height; ++ky, to += w.filter_width * channels) {
    if (ky < rows.begin || ky >= rows.end || columns.begin >= columns.end) {
      FillNumbers(zero, w.filter_width * channels, to);
      continue;
    }
    const int8_t* row = image + (top + ky * w.dilation_height) * row_bytes + left * channels;
    FillNumbers(zero, columns.begin * channels, to);
    if (w.dilation_width == 1) {
      const int64_t first = columns.begin * channels;
      CopyNumbers(row + first, (columns.end - columns.begin) * channels, end, to + first);
    } else {
      for (int kx = columns.begin; kx < columns.end; ++kx)
        CopyNumbers(row + kx * w.dilation_width * channels, channels, end, to + kx * channels);
    }
    FillNumbers(zero, (w.filter_width - columns.end) * channels, to + columns.end * channels);
  }
}

// A block of channels of `count` pixels, of which `used` exist.
inline void StoreInt8(const Int8Conv& conv, const Int8Plan& plan, const int32_t* sums, int block, int count,
                      int used, int8_t* out) {
#pragma clang fp contract(off)
  constexpr float kRound = 12582912.0f;  // as in int8.h
  const Floats least = Floats{} + static_cast<float>(conv.low - conv.out_zero);
  const Floats most = Floats{} + static_cast<float>(conv.high - conv.out_zero);
  const Floats scale = LoadFloats(plan.scale + block);
  Ints bias;
  memcpy(&bias, plan.bias + block, sizeof(bias));
  for (int p = 0; p < count; ++p) {
    Ints whole;
    memcpy(&whole, sums + p * kInt8Channels, sizeof(whole));
    Floats value = __builtin_convertvector(whole + bias, Floats) * scale;
    value = value < least ? least : value;
    value = value > most ? most : value;
    value = (value + kRound) - kRound;
    whole = __builtin_convertvector(value, Ints) + conv.out_zero;
    const Bytes16 bytes = __builtin_convertvector(whole, Bytes16);
    memcpy(out + int64_t{p} * conv.channels_out + block, &bytes, static_cast<size_t>(used));
  }
}

void ConvolveInt8Pixels(const Int8Conv& conv, const Int8Plan& plan, const int8_t* in, int64_t begin,
                        int64_t end, int thread, int8_t* out) {
  const Window& w = conv.window;
  auto* patches = reinterpret_cast<Number*>(plan.scratch + thread * plan.scratch_bytes);
  const int64_t step = int64_t{2} * plan.pairs + kInt8Slack;
  const int64_t block_numbers = int64_t{2} * plan.pairs * kInt8Channels;
  Place at = PlaceOf(w, begin);
  for (int64_t pixel = begin; pixel < end; pixel += kInt8Tile) {
    const int count = end - pixel < kInt8Tile ? static_cast<int>(end - pixel) : kInt8Tile;
    for (int p = 0; p < count; ++p) {
      GatherNumbers(conv, in, at, patches + p * step);
      if (++at.x == w.out_width) at = NextRow(w, at);
    }
    const auto* filter = static_cast<const Number*>(plan.filter);
    for (int block = 0; block < conv.channels_out; block += kInt8Channels, filter += block_numbers) {
      int32_t sums[kInt8Tile * kInt8Channels];
      kInt8Dots[count - 1](patches, step, filter, plan.pairs, sums);
      const int used = conv.channels_out - block < kInt8Channels ? conv.channels_out - block : kInt8Channels;
      int8_t* const to = out + pixel * conv.channels_out;
      if (used == kInt8Channels) {
        StoreInt8(conv, plan, sums, block, count, kInt8Channels, to);
      } else {
        StoreInt8(conv, plan, sums, block, count, used, to);
      }
    }
  }
}

void ConvolveInt8(ThreadPool* pool, const Int8Conv& conv, const Int8Plan& plan, const int8_t* in,
                  int8_t* out) {
  const Window& w = conv.window;
  const int64_t work = int64_t{2} * plan.pairs * conv.channels_out;  // of a pixel
  ParallelFor(pool, int64_t{w.batch} * w.out_height * w.out_width, {kInt8Tile, kValueGrain / work + 1},
              [&](int64_t begin, int64_t end, int thread) {
                ConvolveInt8Pixels(conv, plan, in, begin, end, thread, out);
              });
}

#endif  // FSG_KERNELS_INT8_BODY_H_
