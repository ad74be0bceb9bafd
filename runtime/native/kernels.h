// Binary kernels. They know nothing of TensorFlow Lite.
//
// Activations are NHWC and packed: 32 channels per word, channel c in bit c % 32, 1 means -1 and 0 means +1;
// the unused bits of a pixel's last word are 0. Filters are OHWI and packed the same way. Two signs differ
// where their bits differ, so a dot product over K channels and taps is K - 2 * popcount(activations xor
// filter).
#ifndef FSG_NATIVE_KERNELS_H_
#define FSG_NATIVE_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

namespace fsg {

constexpr int PackedWords(int64_t channels) { return static_cast<int>((channels + 31) / 32); }

// What a sliding window does to a packed image; shared by convolution and pooling.
struct Window {
  int batch, in_height, in_width, out_height, out_width;
  int words;  // per pixel
  int filter_height, filter_width, stride_height, stride_width, dilation_height, dilation_width;
  int pad_top, pad_left;
};

enum class Output { kFloat, kInt8, kPacked };

// float: bias + multiplier * clamp(dot); int8: the same, rounded half away from zero and saturated;
// packed: bit = popcount > threshold.
struct Conv {
  Window window;
  int channels_in, channels_out;
  bool zero_padding;  // a tap outside the image counts 0; otherwise +1
  int32_t clamp_min, clamp_max;
  Output output;
  const uint32_t* filter;
  const float* multiplier;  // [channels_out], as are the next two
  const float* bias;
  const int32_t* thresholds;
};

// A convolution made ready for the fast kernels.
struct ConvPlan {
  int steps, groups;  // words per dot product; groups of 16 output channels
  int padded_height, padded_width;
  uint32_t* filter;     // [groups, steps, 16]
  int32_t* offsets;     // [steps] from a pixel's first tap, in words of the padded image
  int32_t* tap_sums;    // [taps, groups * 16] sum of a tap's weights, for zero padding
  int32_t* thresholds;  // [groups * 16] twice the threshold
  int32_t* dots;        // scratch [pixels, groups * 16]
  uint32_t* padded;     // scratch: one image with its border
};

// Frees what an earlier call made. False if memory is short or the padded image is beyond 2^31 words.
bool PlanConv(const Conv& conv, ConvPlan* plan);
void FreePlan(ConvPlan* plan);

struct Kernels {
  const char* name;
  // bit = value < zero_point (0 for float), for `rows` rows of `channels` values.
  void (*pack_float)(const float* in, int64_t rows, int channels, uint32_t* out);
  void (*pack_int8)(const int8_t* in, int64_t rows, int channels, int zero_point, uint32_t* out);
  void (*convolve)(const Conv& conv, const ConvPlan& plan, const uint32_t* in, void* out);
  void (*max_pool)(const Window& window, const uint32_t* in, uint32_t* out);
};

// By name, or the best this processor runs for "auto"; nullptr if the name is unknown or the processor lacks
// it.
const Kernels* FindKernels(const char* name);

}  // namespace fsg

#endif  // FSG_NATIVE_KERNELS_H_
