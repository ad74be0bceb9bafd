// Convolutions of 8-bit integers: images NHWC, filters OHWI, one step per output channel.
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

// One made ready for fast kernels, whose patches are the values under the filter in one row.
struct Int8Plan {
  int pairs;         // of values in a patch, rounded up to an even number
  int blocks;        // of kInt8Channels output channels
  void* filter;      // [blocks, pairs, kInt8Channels, 2] of the kernels' numbers
  int32_t* bias;     // [blocks * kInt8Channels], with in_zero taken out of the sums
  float* scale;      // as many
  uint8_t* scratch;  // per thread: patches
  int64_t scratch_bytes;
};

constexpr int kInt8Channels = 16, kInt8Tile = 4;
constexpr int kInt8Slack = 32;  // values that may be written behind a patch

// How an integer becomes one of 8 bits: `value` is a sum times its scale, within +-2^22 when it is rounded.
inline int8_t Requantize(float value, int low, int high, int zero) {
#pragma clang fp contract(off)
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: behind the point nothing is left
  const float least = static_cast<float>(low - zero), most = static_cast<float>(high - zero);
  value = value < least ? least : value > most ? most : value;
  return static_cast<int8_t>(static_cast<int>((value + kRound) - kRound) + zero);
}

}  // namespace fsg

#endif  // FSG_KERNELS_INT8_H_
