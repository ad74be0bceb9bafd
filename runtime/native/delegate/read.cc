#include "delegate/read.h"

#include <string.h>

#include "delegate/options.h"

namespace fsg {
namespace {

constexpr struct {
  const char* name;
  int inputs;
} kOps[] = {{"LceQuantize", 1}, {"LceDequantize", 1}, {"LceBconv2d", 5}, {"LceBMaxPool2d", 1}};

constexpr int64_t kMaxPad = 1 << 20;
constexpr int64_t kMaxTerms =
    1 << 15;  // of a sum: 255 * 128 times as many, and a bias of 2^30, stay below 2^31
constexpr int32_t kMaxBias = 1 << 30;

struct Field {
  const char* name;
  int Options::* member;
  int64_t low, high;
  int64_t fallback;  // below `low` where the option is required
};

constexpr int64_t kMax = INT32_MAX, kRequired = -1;
constexpr Field kConvFields[] = {
    {"channels_in", &Options::channels_in, 1, kMax, kRequired},
    {"stride_height", &Options::stride_height, 1, kMax, kRequired},
    {"stride_width", &Options::stride_width, 1, kMax, kRequired},
    {"dilation_height_factor", &Options::dilation_height, 1, kMax, kRequired},
    {"dilation_width_factor", &Options::dilation_width, 1, kMax, kRequired},
    {"padding", &Options::padding, kSame, kValid, kRequired},
    {"pad_values", &Options::pad_values, 0, 1, 0},
    {"fused_activation_function", &Options::activation, kNone, kRelu6, kNone},
};
constexpr Field kPoolFields[] = {
    {"stride_height", &Options::stride_height, 1, kMax, kRequired},
    {"stride_width", &Options::stride_width, 1, kMax, kRequired},
    {"filter_height", &Options::filter_height, 1, kMax, kRequired},
    {"filter_width", &Options::filter_width, 1, kMax, kRequired},
    {"padding", &Options::padding, kSame, kValid, kRequired},
};

TfLiteStatus ReadOptions(TfLiteContext* context, const TfLiteNode& node, const char* op, const Field* fields,
                         size_t count, Options* options) {
  const size_t size =
      node.custom_initial_data_size < 0 ? 0 : static_cast<size_t>(node.custom_initial_data_size);
  for (const Field* field = fields; field != fields + count; ++field) {
    int64_t value = field->fallback;
    const Lookup lookup = FindInt(node.custom_initial_data, size, field->name, &value);
    FSG_ENSURE(context, lookup != Lookup::kMalformed, "%s: its options are damaged (reading %s)", op,
               field->name);
    FSG_ENSURE(context, lookup == Lookup::kFound || field->fallback >= field->low, "%s: no option %s", op,
               field->name);
    FSG_ENSURE(context, value >= field->low && value <= field->high, "%s: option %s is out of range", op,
               field->name);
    options->*field->member = static_cast<int>(value);
  }
  return kTfLiteOk;
}

// A constant of `count` values of a type, or nullptr.
const void* Constant(const TfLiteContext& context, const TfLiteNode& node, int i, TfLiteType type,
                     size_t count) {
  if (i >= node.inputs->size) return nullptr;
  const int index = node.inputs->data[i];
  if (index < 0 || index >= static_cast<int>(context.tensors_size)) return nullptr;
  const TfLiteTensor& tensor = context.tensors[index];
  return tensor.type == type && IsConstant(tensor) && tensor.bytes >= 4 * count ? tensor.data : nullptr;
}

}  // namespace

OpKind FindOp(const char* custom_name) {
  for (int kind = 0; custom_name != nullptr && kind < static_cast<int>(OpKind::kNone); ++kind) {
    if (strcmp(custom_name, kOps[kind].name) == 0) return static_cast<OpKind>(kind);
  }
  return OpKind::kNone;
}

const char* CustomName(OpKind kind) { return kOps[static_cast<int>(kind)].name; }

TfLiteStatus ReadOp(TfLiteContext* context, const TfLiteNode& node, Op* op) {
  const auto& expected = kOps[static_cast<int>(op->kind)];
  op->input_count = node.inputs == nullptr ? 0 : node.inputs->size;
  const int outputs = node.outputs == nullptr ? 0 : node.outputs->size;
  FSG_ENSURE(context, op->input_count == expected.inputs && outputs == 1,
             "%s: %d inputs and %d outputs instead of %d and 1", expected.name, op->input_count, outputs,
             expected.inputs);
  if (op->kind == OpKind::kConv) {
    return ReadOptions(context, node, expected.name, kConvFields, sizeof(kConvFields) / sizeof(Field),
                       &op->options);
  }
  if (op->kind == OpKind::kMaxPool) {
    return ReadOptions(context, node, expected.name, kPoolFields, sizeof(kPoolFields) / sizeof(Field),
                       &op->options);
  }
  return kTfLiteOk;
}

TfLiteStatus ReadPool(TfLiteContext* context, const TfLiteNode& node, Options* options) {
  const auto* params = static_cast<const TfLitePoolParams*>(node.builtin_data);
  FSG_ENSURE(context, params != nullptr, "MAX_POOL_2D: its parameters are missing");
  FSG_ENSURE(context, params->padding == kTfLitePaddingSame || params->padding == kTfLitePaddingValid,
             "MAX_POOL_2D: unknown padding %d", params->padding);
  FSG_ENSURE(context,
             params->stride_height >= 1 && params->stride_width >= 1 && params->filter_height >= 1 &&
                 params->filter_width >= 1,
             "MAX_POOL_2D: stride or filter below 1");
  options->stride_height = params->stride_height, options->stride_width = params->stride_width;
  options->filter_height = params->filter_height, options->filter_width = params->filter_width;
  options->padding = params->padding == kTfLitePaddingSame ? kSame : kValid;
  return kTfLiteOk;
}

namespace {

bool IsScale(float scale) { return scale >= 1e-30f && scale <= 1e30f; }

bool IsInt8Image(const TfLiteTensor& tensor) {
  const bool is_image = tensor.type == kTfLiteInt8 && tensor.dims != nullptr && tensor.dims->size == 4;
  const int zero = tensor.params.zero_point;
  return is_image && !tensor.is_variable && IsScale(tensor.params.scale) && zero >= -128 && zero <= 127;
}

// Whether the first of a node's inputs, which are so many, and its output are images of int8 on the same
// grid.
bool AreInt8Images(const TfLiteContext& context, const TfLiteNode& node, int inputs) {
  if (node.inputs == nullptr || node.outputs == nullptr || node.inputs->size != inputs ||
      node.outputs->size != 1)
    return false;
  const int tensors = static_cast<int>(context.tensors_size), from = node.inputs->data[0],
            to = node.outputs->data[0];
  if (from < 0 || from >= tensors || to < 0 || to >= tensors) return false;
  const TfLiteTensor &image = context.tensors[from], &result = context.tensors[to];
  return IsInt8Image(image) && !IsConstant(image) && IsInt8Image(result) &&
         image.params.scale == result.params.scale && image.params.zero_point == result.params.zero_point;
}

// How many values are added on each side.
bool ReadPads(const TfLiteContext& context, const TfLiteNode& node, Border* padding) {
  const auto* pads = static_cast<const int32_t*>(Constant(context, node, 1, kTfLiteInt32, 8));
  if (pads == nullptr) return false;
  for (int i = 0; i < 4; ++i) {
    padding->before[i] = pads[2 * i], padding->after[i] = pads[2 * i + 1];
    if (padding->before[i] < 0 || padding->before[i] > kMaxPad || padding->after[i] < 0 ||
        padding->after[i] > kMaxPad) {
      return false;
    }
  }
  return true;
}

// Weights [O, H, W, I] of one group for images of `channels`, none of them -128, and their steps.
bool IsInt8Filter(const TfLiteTensor& filter, int channels) {
  if (filter.type != kTfLiteInt8 || filter.dims == nullptr || filter.dims->size != 4 || !IsConstant(filter))
    return false;
  const int* dims = filter.dims->data;
  int64_t count = 1;
  for (int i = 4; i-- > 0;) {
    if (dims[i] < 1 || dims[i] > kMaxPad || (i > 0 && (count *= dims[i]) > kMaxTerms)) return false;
  }
  if (dims[3] != channels || filter.bytes < static_cast<size_t>(count * dims[0]) || filter.data == nullptr)
    return false;
  if (memchr(filter.data, 0x80, static_cast<size_t>(count * dims[0])) != nullptr) return false;
  const auto* affine = static_cast<const TfLiteAffineQuantization*>(filter.quantization.params);
  if (filter.quantization.type != kTfLiteAffineQuantization || affine == nullptr ||
      affine->scale == nullptr || affine->zero_point == nullptr ||
      (affine->scale->size != 1 && affine->scale->size != dims[0]) ||
      (affine->scale->size > 1 && affine->quantized_dimension != 0)) {
    return false;
  }
  for (int i = 0; i < affine->zero_point->size; ++i) {
    if (affine->zero_point->data[i] != 0) return false;
  }
  for (int i = 0; i < affine->scale->size; ++i) {
    if (!IsScale(affine->scale->data[i])) return false;
  }
  return true;
}

bool IsInt8Conv(const TfLiteContext& context, const TfLiteNode& node, int32_t code) {
  const auto* params = static_cast<const TfLiteConvParams*>(node.builtin_data);
  if (code != kTfLiteBuiltinConv2d || params == nullptr || node.inputs == nullptr || node.inputs->size != 3 ||
      node.outputs == nullptr || node.outputs->size != 1) {
    return false;
  }
  const int tensors[] = {node.inputs->data[0], node.inputs->data[1], node.inputs->data[2],
                         node.outputs->data[0]};
  for (const int tensor : tensors) {
    if (tensor < 0 || tensor >= static_cast<int>(context.tensors_size)) return false;
  }
  const TfLiteTensor &image = context.tensors[tensors[0]], &filter = context.tensors[tensors[1]];
  if (!IsInt8Image(image) || IsConstant(image) || !IsInt8Image(context.tensors[tensors[3]]) ||
      !IsInt8Filter(filter, image.dims->data[3])) {
    return false;
  }
  const int channels = filter.dims->data[0];
  const TfLiteFloatArray& steps = FilterSteps(filter);
  for (int i = 0; i < steps.size; ++i) {
    if (!IsScale(image.params.scale * steps.data[i] / context.tensors[tensors[3]].params.scale)) return false;
  }
  const auto* bias =
      static_cast<const int32_t*>(Constant(context, node, 2, kTfLiteInt32, static_cast<size_t>(channels)));
  for (int i = 0; i < channels; ++i) {
    if (bias == nullptr || bias[i] < -kMaxBias || bias[i] > kMaxBias) return false;
  }
  const int sizes[] = {params->stride_width, params->stride_height, params->dilation_width,
                       params->dilation_height};
  for (const int size : sizes) {
    if (size < 1 || size > kMaxPad) return false;
  }
  return (params->padding == kTfLitePaddingSame || params->padding == kTfLitePaddingValid) &&
         params->activation >= kTfLiteActNone && params->activation <= kTfLiteActRelu6;
}

bool IsInt8Pool(const TfLiteContext& context, const TfLiteNode& node, int32_t code) {
  const auto* params = static_cast<const TfLitePoolParams*>(node.builtin_data);
  return code == kTfLiteBuiltinMaxPool2d && params != nullptr && params->activation == kTfLiteActNone &&
         AreInt8Images(context, node, 1);
}

}  // namespace

OpKind FindInt8(const TfLiteContext& context, const TfLiteNode& node, int32_t code) {
  return IsInt8Conv(context, node, code)   ? OpKind::kInt8Conv
         : IsInt8Pool(context, node, code) ? OpKind::kInt8MaxPool
                                           : OpKind::kNone;
}

bool IsInt8Padding(const TfLiteContext& context, const TfLiteNode& node, int32_t code, bool of_pool,
                   Border* padding) {
  if ((code != kTfLiteBuiltinPad && code != kTfLiteBuiltinPadv2) || node.inputs == nullptr) return false;
  const int inputs = code == kTfLiteBuiltinPad ? 2 : 3;
  if (!AreInt8Images(context, node, inputs) || !ReadPads(context, node, padding)) return false;
  const int zero = context.tensors[node.inputs->data[0]].params.zero_point;
  int value = zero;
  if (inputs == 3) {
    const int index = node.inputs->data[2];
    if (index < 0 || index >= static_cast<int>(context.tensors_size)) return false;
    const TfLiteTensor& tensor = context.tensors[index];
    if (tensor.type != kTfLiteInt8 || !IsConstant(tensor) || tensor.bytes != 1 || tensor.data == nullptr)
      return false;
    value = *static_cast<const int8_t*>(tensor.data);
  }
  padding->value = static_cast<float>(value);
  return value == (of_pool ? -128 : zero) && padding->before[0] == 0 && padding->after[0] == 0 &&
         padding->before[3] == 0 && padding->after[3] == 0;
}

const TfLiteFloatArray& FilterSteps(const TfLiteTensor& filter) {
  return *static_cast<const TfLiteAffineQuantization*>(filter.quantization.params)->scale;
}

void ReadInt8Conv(const TfLiteNode& node, Options* options) {
  const auto& params = *static_cast<const TfLiteConvParams*>(node.builtin_data);
  options->stride_height = params.stride_height, options->stride_width = params.stride_width;
  options->dilation_height = params.dilation_height, options->dilation_width = params.dilation_width;
  options->padding = params.padding == kTfLitePaddingSame ? kSame : kValid;
  options->activation = params.activation;  // numbered alike
}

bool IsConstant(const TfLiteTensor& tensor) {
  return tensor.allocation_type == kTfLiteMmapRo || tensor.allocation_type == kTfLitePersistentRo;
}

bool ReadPadding(const TfLiteContext& context, const TfLiteNode& node, Border* padding) {
  if (!ReadPads(context, node, padding)) return false;
  padding->value = 0;
  if (node.inputs->size == 2) return true;
  const void* value = Constant(context, node, 2, kTfLiteFloat32, 1);
  if (value != nullptr) memcpy(&padding->value, value, sizeof(float));
  return value != nullptr && node.inputs->size == 3;
}

}  // namespace fsg
