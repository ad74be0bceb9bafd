// The four LCE operators between the interpreter's tensors and the kernels: validation, shapes, execution.
#ifndef FSG_NATIVE_OPS_H_
#define FSG_NATIVE_OPS_H_

#include "kernels.h"
#include "tflite_abi.h"

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
  int tensor;  // index in the interpreter
  TfLiteType type;
  TfLiteQuantizationParams quantization;
  int rank, dims[kMaxRank];
  int declared_channels;  // last dimension in the file
  int64_t bytes;
  const void* constant;  // the data, if known before execution
  int64_t constant_bytes;
  bool is_internal, is_defined;
  int last_use, slot;
};

// What all of a delegate's partitions compute with.
struct Runtime {
  const Kernels* kernels;
  ThreadPool* pool;
};

enum class OpKind { kQuantize, kDequantize, kConv, kMaxPool, kNone };

struct Options {
  int channels_in, stride_height, stride_width, dilation_height, dilation_width, filter_height, filter_width;
  int padding, pad_values, activation;
};

struct Op {
  OpKind kind;
  Options options;
  int input_count, inputs[kMaxInputs], output;  // indices of values; -1 where an optional input is left out
  int64_t rows;                                 // of the quantising operators
  Window pool;
  Conv conv;
  ConvPlan plan;
  float* scaled;  // int8 output: multipliers, then biases, in units of the output's scale
};

OpKind FindOp(const char* custom_name);

// Checks a node's options and arity and fills everything of `op` but the value indices.
TfLiteStatus ReadOp(TfLiteContext* context, const TfLiteNode& node, Op* op);

// Infers the output's shape from the inputs' and makes the kernels ready. May be called again after a resize.
TfLiteStatus PrepareOp(TfLiteContext* context, const Runtime& runtime, Value* values, Op* op);

void RunOp(const Runtime& runtime, const Value* values, const Op& op, const void* in, void* out);

void FreeOp(Op* op);

// Sets `bytes` from the shape. False for a rank, dimension or size that no kernel takes.
bool Measure(Value* value);

}  // namespace fsg

#endif  // FSG_NATIVE_OPS_H_
