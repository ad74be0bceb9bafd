// The part of TensorFlow Lite's C interface that a delegate needs, declared by hand: no wheel ships the
// headers, and this way one binary loads in every LiteRT, tflite-runtime and tf.lite since 2.14. Layouts are
// those of LP64 Linux.
#ifndef FSG_DELEGATE_TFLITE_ABI_H_
#define FSG_DELEGATE_TFLITE_ABI_H_

#include <stddef.h>
#include <stdint.h>

enum TfLiteStatus : int { kTfLiteOk = 0, kTfLiteError = 1 };

enum TfLiteType : int { kTfLiteFloat32 = 1, kTfLiteInt32 = 2, kTfLiteBool = 6, kTfLiteInt8 = 9 };

enum TfLiteAllocationType : int { kTfLiteMmapRo = 1, kTfLitePersistentRo = 5 };

constexpr int kTfLiteOptionalTensor = -1;

struct TfLiteIntArray {
  int size;
  int data[];
};

struct TfLiteFloatArray {
  int size;
  float data[];
};

// Of each channel on an axis.
struct TfLiteAffineQuantization {
  TfLiteFloatArray* scale;
  TfLiteIntArray* zero_point;
  int32_t quantized_dimension;
};
constexpr int kTfLiteAffineQuantization = 1;

struct TfLiteQuantizationParams {
  float scale;
  int32_t zero_point;
};

struct TfLiteTensor {
  TfLiteType type;
  void* data;
  TfLiteIntArray* dims;
  TfLiteQuantizationParams params;
  TfLiteAllocationType allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  void* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct {
    int type;
    void* params;
  } quantization;
  void* sparsity;
  const TfLiteIntArray* dims_signature;
};
static_assert(sizeof(TfLiteTensor) == 112, "TfLiteTensor");
static_assert(offsetof(TfLiteTensor, params) == 24 && offsetof(TfLiteTensor, bytes) == 40, "TfLiteTensor");

struct TfLiteNode {
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
  TfLiteIntArray* intermediates;
  TfLiteIntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
};
static_assert(offsetof(TfLiteNode, custom_initial_data_size) == 56, "TfLiteNode");

// The operators that post-operations can take over, and what `builtin_data` points to for those that have
// parameters.
enum TfLiteBuiltinOperator : int32_t {
  kTfLiteBuiltinAdd = 0,
  kTfLiteBuiltinConcatenation = 2,
  kTfLiteBuiltinConv2d = 3,
  kTfLiteBuiltinMaxPool2d = 17,
  kTfLiteBuiltinMul = 18,
  kTfLiteBuiltinRelu = 19,
  kTfLiteBuiltinReluN1To1 = 20,
  kTfLiteBuiltinRelu6 = 21,
  kTfLiteBuiltinPad = 34,
  kTfLiteBuiltinSub = 41,
  kTfLiteBuiltinPrelu = 54,
  kTfLiteBuiltinMaximum = 55,
  kTfLiteBuiltinMinimum = 57,
  kTfLiteBuiltinNeg = 59,
  kTfLiteBuiltinPadv2 = 60,
  kTfLiteBuiltinLeakyRelu = 98,
  kTfLiteBuiltinAbs = 101,
};

enum TfLiteFusedActivation : int { kTfLiteActNone = 0, kTfLiteActRelu, kTfLiteActReluN1To1, kTfLiteActRelu6 };

// Of ADD, SUB and MUL; what follows in the first two concerns integers only.
struct TfLiteArithmeticParams {
  TfLiteFusedActivation activation;
};

struct TfLiteLeakyReluParams {
  float alpha;
};

enum TfLitePadding : int { kTfLitePaddingSame = 1, kTfLitePaddingValid = 2 };

struct TfLitePoolParams {
  TfLitePadding padding;
  int stride_width, stride_height, filter_width, filter_height;
  TfLiteFusedActivation activation;
};

// What follows concerns other types of biases.
struct TfLiteConvParams {
  TfLitePadding padding;
  int stride_width, stride_height;
  TfLiteFusedActivation activation;
  int dilation_width, dilation_height;
};

struct TfLiteConcatenationParams {
  int axis;
  TfLiteFusedActivation activation;
};

struct TfLiteContext;
struct TfLiteDelegate;

// Passed by value across the boundary, and longer in newer versions: the zeroed tail is what they read past
// our end.
struct TfLiteRegistration {
  void* (*init)(TfLiteContext*, const char* buffer, size_t length);
  void (*free)(TfLiteContext*, void* user_data);
  TfLiteStatus (*prepare)(TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
  const char* (*profiling_string)(const TfLiteContext*, const TfLiteNode*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* newer_versions[8];
};
static_assert(offsetof(TfLiteRegistration, custom_name) == 48, "TfLiteRegistration");

// The fields after the last one that is used here are left out: the runtime allocates this struct, never we.
struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(TfLiteContext*, TfLiteIntArray** plan);
  TfLiteTensor* tensors;
  void* impl;
  TfLiteStatus (*ResizeTensor)(TfLiteContext*, TfLiteTensor*, TfLiteIntArray* owned_shape);
  void (*ReportError)(TfLiteContext*, const char* format, ...);
  TfLiteStatus (*AddTensors)(TfLiteContext*, int count, int* first);
  TfLiteStatus (*GetNodeAndRegistration)(TfLiteContext*, int index, TfLiteNode**, TfLiteRegistration**);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext*, TfLiteRegistration,
                                                        const TfLiteIntArray* nodes, TfLiteDelegate*);
  int recommended_num_threads;  // -1 if the program did not say
};
static_assert(offsetof(TfLiteContext, ReplaceNodeSubsetsWithDelegateKernels) == 64, "TfLiteContext");

// Without this flag the runtime prepares the unresolved custom ops before the delegate has claimed them, and
// fails.
constexpr int64_t kTfLiteDelegateFlagsAllowDynamicTensors = 1;

struct TfLiteDelegate {
  void* data;
  TfLiteStatus (*Prepare)(TfLiteContext*, TfLiteDelegate*);
  void* copy_from_buffer_handle;
  void* copy_to_buffer_handle;
  void* free_buffer_handle;
  int64_t flags;
  void* opaque_delegate_builder;
};
static_assert(sizeof(TfLiteDelegate) == 56, "TfLiteDelegate");

struct TfLiteDelegateParams {
  TfLiteDelegate* delegate;
  TfLiteIntArray* nodes_to_replace;
  TfLiteIntArray* input_tensors;
  TfLiteIntArray* output_tensors;
};

#endif  // FSG_DELEGATE_TFLITE_ABI_H_
