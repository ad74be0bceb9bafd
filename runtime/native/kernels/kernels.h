// This room is for arithmetic on bits: packing, convolution, pooling, post-operations, threads, the
// processor. It knows nothing of TensorFlow Lite and includes no other room; reference.h says what is right.
//
// Activations are NHWC and packed: 32 channels per word, channel c in bit c % 32, 1 means -1 and 0 means +1;
// the unused bits of a pixel's last word are 0. Filters are OHWI and packed the same way. Two signs differ
// where their bits differ, so a dot product over K channels and taps is K - 2 * popcount(activations xor
// filter).
#ifndef FSG_KERNELS_KERNELS_H_
#define FSG_KERNELS_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

#include "kernels/int8.h"
#include "kernels/post_ops.h"
#include "kernels/threads.h"
#include "kernels/window.h"

// For functions whose loops would take each other's registers in one.
#define FSG_OUTLINE __attribute__((noinline))
#define FSG_INLINE __attribute__((always_inline)) inline

// For loops of so few rounds that preparing for more of them costs more than they do.
#define FSG_SHORT_LOOP _Pragma("clang loop unroll(disable) vectorize(disable)")

namespace fsg {

constexpr int PackedWords(int64_t channels) { return static_cast<int>((channels + 31) / 32); }

enum class Output { kFloat, kInt8, kPacked };

// float: bias + multiplier * clamp(2 * popcount), into post-operations; int8: the same, rounded half away
// from zero and saturated; packed: bit = popcount > threshold.
struct Conv {
  Window window;
  int groups;         // each output channel sees 1 / groups of the input's words
  int channels_in;    // that an output channel sees: a multiple of 32 if there are several groups
  int channels_out;   // of all groups together
  bool zero_padding;  // a tap outside the image counts 0; otherwise +1
  int32_t clamp_min, clamp_max;
  Output output;
  const uint32_t* filter;   // [channels_out, filter_height, filter_width, words / groups]
  const float* multiplier;  // [channels_out], as are the next two
  const float* bias;
  const int32_t* thresholds;
};

// A convolution made ready for one of the fast sets of kernels. They gather the bits under the filter at a
// tile of output pixels, its patches, and multiply them with the filter's blocks of channels.
struct ConvPlan {
  bool is_direct;     // the input is its own patches: a 1x1 filter
  int tap_bytes;      // of a patch, without the upper half of its last word if that is unused
  int patch_bytes;    // of all taps, rounded up to words
  int lanes;          // dot products per pixel: channels_out and what the last block writes beyond
  int blocks;         // per group
  uint8_t* filter;    // [groups, blocks, patch_bytes * the kernels' channels], in the order they read it
  int32_t* tap_sums;  // [taps, lanes] sum of a tap's weights, for zero padding
  float* multiplier;  // [lanes], as are the next two
  float* bias;
  int32_t* thresholds;    // twice the convolution's
  uint8_t* scratch;       // per thread: dots int32 [tile, lanes], patches [tile, patch_bytes]
  int64_t scratch_bytes;  // per thread
};

struct Kernels {
  const char* name;
  int tile;      // pixels that a filter block is multiplied with at once
  int channels;  // of a filter block; 0 if the kernels need no plan
  int step;      // bytes of one channel that stand together in a filter block
  // bit = value < zero_point (0 for float), for `rows` rows of `channels` values.
  void (*pack_float)(ThreadPool* pool, const float* in, int64_t rows, int channels, uint32_t* out);
  void (*pack_int8)(ThreadPool* pool, const int8_t* in, int64_t rows, int channels, int zero_point,
                    uint32_t* out);
  // `out` is the tensor; for float output the PostOps, which begin with kDots.
  void (*convolve)(ThreadPool* pool, const Conv& conv, const ConvPlan& plan, const uint32_t* in, void* out);
  void (*max_pool)(ThreadPool* pool, const Window& window, const uint32_t* in, uint32_t* out);
  void (*apply)(ThreadPool* pool, const PostOps& post_ops, int64_t pixels);
  int int8_bytes;  // of a number in the plan of a convolution of int8; 0 if that needs no plan
  void (*convolve_int8)(ThreadPool* pool, const Int8Conv& conv, const Int8Plan& plan, const int8_t* in,
                        int8_t* out);
  void (*max_pool_int8)(ThreadPool* pool, const Window& window, const int8_t* in, int8_t* out);
};

// Frees what an earlier call made. False if memory is short.
bool PlanConv(const Kernels& kernels, const Conv& conv, int threads, ConvPlan* plan);
void FreePlan(ConvPlan* plan);

// The same for a convolution of 8-bit integers.
bool PlanInt8(const Kernels& kernels, const Int8Conv& conv, int threads, Int8Plan* plan);
void FreePlan(Int8Plan* plan);

// By name. "auto" stands for the name in the environment variable FSG_KERNELS, and without that for the best
// this processor runs, as "neon" does on aarch64. nullptr if it runs none of that name.
const Kernels* FindKernels(const char* name);

// Whether the kernels of that name are to compute in int8: on x86 not the best ones of a processor that has
// an instruction for sums of such products, of which LiteRT's own kernels make better use.
bool TakesInt8(const char* name);

// What FindKernels finds on this processor, best first, separated by ", ".
constexpr int kKernelNames = 128;
void ListKernels(char names[kKernelNames]);

}  // namespace fsg

#endif  // FSG_KERNELS_KERNELS_H_
