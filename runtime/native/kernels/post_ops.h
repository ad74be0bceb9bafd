// Post-operations: everything between binary convolutions that treats every value alike. A short list of them
// runs over all channels of all pixels in one pass over memory, from the dot products of a convolution or
// from a tensor to as many tensors, float or packed, as are needed.
#ifndef FSG_KERNELS_POST_OPS_H_
#define FSG_KERNELS_POST_OPS_H_

#include <stdint.h>

namespace fsg {

struct Window;

// Each changes one value v per channel and pixel by a single IEEE operation on floats, so that a list gives
// the bits that its members give one by one.
enum class PostOpKind {
  // A list begins with one of these, and has no more of them.
  kDots,  // v = the convolution's output
  kLoad,  // v = operand
  kPool,  // v = the operand's maximum under `window`

  kAdd,           // v + operand
  kSubtract,      // v - operand
  kSubtractFrom,  // operand - v
  kMultiply,      // v * operand
  kMaximum,       // max(v, operand)
  kMinimum,       // min(v, operand)
  kPrelu,         // v < 0 ? v * operand : v
  kClamp,         // min(max(v, low), high)
  kNegate,        // -v
  kAbsolute,      // |v|
  kSwap,          // exchanges v with the kept value
  kKeep,          // the kept value becomes v; v stays
  kStore,         // tensor = v
  kPack,          // bits of the tensor = v < 0
};

struct PostOp {
  PostOpKind kind;
  bool is_kept;                    // the operand is the kept value; otherwise a tensor
  float low, high;                 // of kClamp
  void* data;                      // float, of kPack uint32_t
  int64_t pixel_step, image_step;  // elements from one pixel to the next, and from one image to the next
  int first_channel, channels;     // that the operand covers; elsewhere it is 0
  const Window* window;            // of kPool; its words are channels
};

constexpr int kMaxPostOps = 64;

struct PostOps {
  const PostOp* list;
  int count;  // at most kMaxPostOps
  int channels;
  int64_t image_pixels;  // of what they compute
};

}  // namespace fsg

#endif  // FSG_KERNELS_POST_OPS_H_
