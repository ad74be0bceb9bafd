// This room is for LiteRT: what the delegate reads of a graph, claims, prepares and runs. It may include
// kernels/ and nothing else. Here are its operators and the values between them.
#ifndef FSG_DELEGATE_OP_H_
#define FSG_DELEGATE_OP_H_

#include "delegate/fusion_plan.h"
#include "delegate/profile.h"
#include "delegate/tflite_abi.h"
#include "kernels/kernels.h"

// Reports "fsg: ..." to the interpreter and leaves the calling function with kTfLiteError.
#define FSG_ENSURE(context, condition, ...)                   \
  do {                                                        \
    if (!(condition)) {                                       \
      (context)->ReportError((context), "fsg: " __VA_ARGS__); \
      return kTfLiteError;                                    \
    }                                                         \
  } while (0)

namespace fsg {

constexpr int kMaxRank = 8;
constexpr int kMaxInputs = 5;

// A tensor as the operators see it. Tensors that live and die inside a partition have no memory in the
// interpreter and keep the shapes the file declares, so their shapes and bytes are the partition's.
struct Value {
  int tensor;  // index in the interpreter; -1 for packed bits that are to be padded or pooled
  TfLiteType type;
  TfLiteQuantizationParams quantization;
  int rank, dims[kMaxRank];
  int declared_channels;  // last dimension in the file
  int parent;             // the concatenation that this is a part of, in place; or -1
  int parent_channel;     // where it begins there
  int64_t bytes;
  const void* constant;  // the data, if known before execution
  int64_t constant_bytes;
  bool is_internal, is_defined, is_placed;
  bool is_whole;       // some operator reads or writes it as rows without gaps
  int last_use, slot;  // -1 if nothing reads it; -1 if its memory is the interpreter's
};

// What all of a delegate's partitions compute with.
struct Runtime {
  const Kernels* kernels;
  ThreadPool* pool;
  bool takes_int8;         // convolutions of integers
  const FusionPlan* plan;  // of the graph that is being partitioned, or nullptr
  int partition;           // of the plan
  Profile* profile;
};

// As the LCE operators' options number them.
enum Padding { kSame = 0, kValid = 1 };
enum Activation { kNone = 0, kRelu = 1, kReluN1To1 = 2, kRelu6 = 3 };

// What PAD and PADV2 add to an image.
struct Border {
  int before[4], after[4];
  float value;
};

// The LCE operators come first.
enum class OpKind {
  kQuantize,
  kDequantize,
  kConv,
  kMaxPool,
  kNone,
  kPostOps,
  kConcatenate,
  kPad,
  kInt8Conv,
  kInt8MaxPool
};

struct Options {
  int channels_in, stride_height, stride_width, dilation_height, dilation_width, filter_height, filter_width;
  int padding, pad_values, activation;
};

// A post-operation, and the value that is its operand or destination; -1 without one.
struct BoundPostOp {
  FusedPostOp fused;
  int value;
};

struct Op {
  OpKind kind;
  Options options;
  int input_count, inputs[kMaxInputs];  // indices of values; -1 where an optional input is left out
  int output;                           // one with post-operations writes what they store instead
  int64_t rows;                         // of the quantising operators
  Window pool;
  Conv conv;
  ConvPlan plan;
  Int8Conv int8;
  Int8Plan int8_plan;
  float* scaled;  // multipliers, then biases, of doubled popcounts and in units of the output's scale
  Border padding;
  // What happens to the values on the way to memory.
  BoundPostOp* bound;
  PostOp* post_op_list;
  float* constants;
  PostOps post_ops;
};

inline bool IsDestination(PostOpKind kind) { return kind == PostOpKind::kStore || kind == PostOpKind::kPack; }

void FreeOp(Op* op);

// The channels from one pixel of a value to the next: its own, or those of what it is a part of.
int PixelStep(const Value* values, int value);

// Sets `bytes` from the shape. False for a rank, dimension or size that no kernel takes.
bool Measure(Value* value);

}  // namespace fsg

#endif  // FSG_DELEGATE_OP_H_
