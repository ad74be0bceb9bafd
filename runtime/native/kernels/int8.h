// Images of 8-bit integers: convolutions, with filters OHWI and one step per output channel, and maximum
// pooling.
#ifndef FSG_KERNELS_INT8_H_
#define FSG_KERNELS_INT8_H_

#include <stdint.h>

#include "kernels/window.h"

namespace fsg {

// out = round(float(sum of (in - in_zero) * filter + bias) * scale) + out_zero, halves to even, within [low,
// high]; outside the image is in_zero. No weight is -128, and no sum overflows.
struct Int8Conv {
  Window window;  // `words` are the input's channels
  int channels_out;
  int in_zero, out_zero, low, high;
  const int8_t* filter;  // [channels_out, filter_height, filter_width, channels_in]
  const int32_t* bias;   // [channels_out]
  float* scale;          // [channels_out]
};

// One made ready for fast kernels. They copy the rows under the filter, with what is beside them, and
// multiply segments of these rows: the numbers under a row of the filter, or, where that has gaps, under one
// of its taps.
struct Int8Plan {
  int segments;         // of a filter
  int numbers;          // of a segment, rounded up to whole steps
  int step;             // numbers of one channel that stand together in the filter
  int64_t row_numbers;  // of a copied row
  void* filter;         // [channels / kInt8Channels, segments, numbers / step, kInt8Channels, step]
  int32_t* bias;        // [channels], rounded up to kInt8Channels, with in_zero taken out of the sums
  float* scale;         // as many
  uint8_t* scratch;     // per thread: int which row is where, segments' beginnings, rows
  int64_t scratch_bytes;
};

constexpr int kInt8Channels = 16;

// Of `count` segments at a place in them, for pixels that are `step` numbers apart, with a block of the
// filter.
using NeonInt8Dots = void (*)(const int8_t* const* segments, int count, int64_t at, int64_t step,
                              const int8_t* filter, int64_t numbers, int32_t* sums);
extern const NeonInt8Dots
    kNeonInt8Dots[4];           // for 1 to 4 pixels, in steps of 4 numbers, with dot products of bytes
constexpr int kInt8Slack = 32;  // numbers behind a row that may be read

constexpr float kInt8Round = 12582912.0f;  // 1.5 * 2^23: added, nothing is left behind the point

// How a sum times its scale becomes one of 8 bits.
inline int8_t Requantize(float value, int low, int high, int zero) {
#pragma clang fp contract(off)
  const float least = static_cast<float>(low - zero), most = static_cast<float>(high - zero);
  value = value < least ? least : value > most ? most : value;
  return static_cast<int8_t>(static_cast<int>((value + kInt8Round) - kInt8Round) + zero);
}

}  // namespace fsg

#endif  // FSG_KERNELS_INT8_H_
