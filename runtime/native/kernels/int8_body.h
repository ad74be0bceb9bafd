// Part of kernels_body.h: convolution and pooling of 8-bit integers. The file of an instruction set has
// before:
//
//   Number    what rows and filters are copied to: int8_t or int16_t
//   kInt8Tile pixels whose sums are computed together
//   DotsOf    for a plan functions: sums of the segments of 1, 2, ... kInt8Tile pixels with a block of the
//             filter, into rows of kInt8Channels int32
#ifndef FSG_KERNELS_INT8_BODY_H_
#define FSG_KERNELS_INT8_BODY_H_

#include "kernels/vectors_body.h"
#include "kernels/window_body.h"

using Bytes16 = int8_t __attribute__((vector_size(16)));
using Numbers16 = Number __attribute__((vector_size(16 * sizeof(Number))));

inline void CopyNumbers(const int8_t* from, int64_t count, Number* to) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
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

// A block of channels of `count` pixels, of which `used` exist.
inline void StoreInt8(const Int8Conv& conv, const Int8Plan& plan, const int32_t* sums, int block, int count,
                      int used, int8_t* out) {
#pragma clang fp contract(off)
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
    value = (value + kInt8Round) - kInt8Round;
    whole = __builtin_convertvector(value, Ints) + conv.out_zero;
    const Bytes16 bytes = __builtin_convertvector(whole, Bytes16);
    memcpy(out + int64_t{p} * conv.channels_out + block, &bytes, static_cast<size_t>(used));
  }
}

// The copied rows that are under the filter: those of the rows above, as far as they are the same, stay.
class Rows {
 public:
  Rows(const Int8Conv& conv, const Int8Plan& plan, const int8_t* in, int thread)
      : conv_(conv), plan_(plan), in_(in) {
    const Window& w = conv.window;
    uint8_t* scratch = plan.scratch + thread * plan.scratch_bytes;
    segments_ = reinterpret_cast<const Number**>(scratch);
    held_ = reinterpret_cast<int64_t*>(scratch + sizeof(Number*) * static_cast<size_t>(plan.segments));
    rows_ = reinterpret_cast<Number*>(held_ + w.filter_height);
    for (int i = 0; i < w.filter_height; ++i) held_[i] = INT64_MIN;
  }

  // The segments of the first pixel of an output row.
  const Number* const* MoveTo(int64_t batch, int y) {
    const Window& w = conv_.window;
    const int per_row = plan_.segments / w.filter_height;
    for (int ky = 0; ky < w.filter_height; ++ky) {
      const int64_t row = int64_t{y} * w.stride_height - w.pad_top + int64_t{ky} * w.dilation_height;
      const Number* copied = Copied(batch, row, ky);
      for (int s = 0; s < per_row; ++s)
        segments_[ky * per_row + s] = copied + int64_t{s} * w.dilation_width * w.words;
    }
    return segments_;
  }

 private:
  const Number* Copied(int64_t batch, int64_t row, int ky) {
    const Window& w = conv_.window;
    const int64_t padded = row + w.pad_top;  // not negative
    const int64_t slot = w.dilation_height == 1 ? padded % w.filter_height : ky;
    Number* const to = rows_ + slot * plan_.row_numbers;
    const int64_t name = (batch << 32) + padded;
    if (held_[slot] != name) Copy(batch, row, to);
    held_[slot] = name;
    return to;
  }

  FSG_OUTLINE void Copy(int64_t batch, int64_t row, Number* to) {
    const Window& w = conv_.window;
    const int64_t channels = w.words, wanted = plan_.row_numbers - kInt8Slack;
    const Number zero = static_cast<Number>(conv_.in_zero);
    if (row < 0 || row >= w.in_height) return FillNumbers(zero, wanted, to);
    const int64_t left = w.pad_left * channels, inside = w.in_width * channels;
    FillNumbers(zero, left < wanted ? left : wanted, to);
    if (left >= wanted) return;
    const int64_t count = inside < wanted - left ? inside : wanted - left;
    CopyNumbers(in_ + (batch * w.in_height + row) * inside, count, to + left);
    FillNumbers(zero, wanted - left - count, to + left + count);
  }

  const Int8Conv& conv_;
  const Int8Plan& plan_;
  const int8_t* in_;
  const Number** segments_;
  int64_t* held_;  // the row in each place, by its number in all images
  Number* rows_;
};

void ConvolveInt8Row(const Int8Conv& conv, const Int8Plan& plan, const Number* const* segments, int8_t* out) {
  const Window& w = conv.window;
  const int64_t step = int64_t{w.stride_width} * w.words;
  const int64_t block_numbers = int64_t{plan.numbers} * plan.segments * kInt8Channels;
  const auto* dots = DotsOf(plan);
  for (int x = 0; x < w.out_width; x += kInt8Tile, out += int64_t{kInt8Tile} * conv.channels_out) {
    const int count = w.out_width - x < kInt8Tile ? w.out_width - x : kInt8Tile;
    const auto* filter = static_cast<const Number*>(plan.filter);
    for (int block = 0; block < conv.channels_out; block += kInt8Channels, filter += block_numbers) {
      int32_t sums[kInt8Tile * kInt8Channels];
      dots[count - 1](segments, plan.segments, x * step, step, filter, plan.numbers, sums);
      const int used = conv.channels_out - block;
      if (used >= kInt8Channels) {
        StoreInt8(conv, plan, sums, block, count, kInt8Channels, out);
      } else {
        StoreInt8(conv, plan, sums, block, count, used, out);
      }
    }
  }
}

void ConvolveInt8(ThreadPool* pool, const Int8Conv& conv, const Int8Plan& plan, const int8_t* in,
                  int8_t* out) {
  const Window& w = conv.window;
  const int64_t out_row = int64_t{w.out_width} * conv.channels_out;
  const int64_t work = int64_t{plan.numbers} * plan.segments * out_row / 4 + 1;
  ParallelFor(pool, int64_t{w.batch} * w.out_height, {1, kValueGrain / work + 1},
              [&](int64_t begin, int64_t end, int thread) {
                Rows rows(conv, plan, in, thread);
                for (int64_t row = begin; row < end; ++row) {
                  const auto y = static_cast<int>(row % w.out_height);
                  ConvolveInt8Row(conv, plan, rows.MoveTo(row / w.out_height, y), out + row * out_row);
                }
              });
}

// The maxima at an output pixel, of channels in steps of `width`.
template <typename Vector>
inline int PoolInt8Channels(const Window& w, const int8_t* image, Taps rows, Taps columns, int from,
                            int8_t* out) {
  constexpr int width = sizeof(Vector);
  int c = from;
  for (; c + width <= w.words; c += width) {
    Vector best = Vector{} + static_cast<int8_t>(-128);
    for (int ky = rows.begin; ky < rows.end; ++ky) {
      const int8_t* pixel = image + (int64_t{ky} * w.in_width + columns.begin) * w.words + c;
      for (int kx = columns.begin; kx < columns.end; ++kx, pixel += w.words) {
        Vector values;
        memcpy(&values, pixel, sizeof(values));
        best = __builtin_elementwise_max(best, values);
      }
    }
    memcpy(out + c, &best, sizeof(best));
  }
  return c;
}

void MaxPoolInt8Row(const Window& w, const int8_t* image, int y, int8_t* out) {
  using Bytes64 = int8_t __attribute__((vector_size(64)));
  using Byte = int8_t __attribute__((vector_size(1)));
  const int top = y * w.stride_height - w.pad_top;
  const Taps rows = TapsInside(top, 1, w.filter_height, w.in_height);
  for (int x = 0; x < w.out_width; ++x, out += w.words) {
    const int left = x * w.stride_width - w.pad_left;
    const Taps columns = TapsInside(left, 1, w.filter_width, w.in_width);
    const int8_t* first = image + (int64_t{top} * w.in_width + left) * w.words;
    int c = PoolInt8Channels<Bytes64>(w, first, rows, columns, 0, out);
    c = PoolInt8Channels<Bytes16>(w, first, rows, columns, c, out);
    PoolInt8Channels<Byte>(w, first, rows, columns, c, out);
  }
}

void MaxPoolInt8(ThreadPool* pool, const Window& w, const int8_t* in, int8_t* out) {
  const int64_t image = int64_t{w.in_height} * w.in_width * w.words, out_row = int64_t{w.out_width} * w.words;
  const int64_t work = out_row * w.filter_height * w.filter_width;
  ParallelFor(pool, int64_t{w.batch} * w.out_height, {1, kValueGrain / work + 1},
              [&](int64_t begin, int64_t end, int) {
                for (int64_t row = begin; row < end; ++row) {
                  MaxPoolInt8Row(w, in + row / w.out_height * image, static_cast<int>(row % w.out_height),
                                 out + row * out_row);
                }
              });
}

#endif  // FSG_KERNELS_INT8_BODY_H_
