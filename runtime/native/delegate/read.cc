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

bool IsConstant(const TfLiteTensor& tensor) {
  return tensor.allocation_type == kTfLiteMmapRo || tensor.allocation_type == kTfLitePersistentRo;
}

bool ReadPadding(const TfLiteContext& context, const TfLiteNode& node, Border* padding) {
  const auto* pads = static_cast<const int32_t*>(Constant(context, node, 1, kTfLiteInt32, 8));
  if (pads == nullptr) return false;
  for (int i = 0; i < 4; ++i) {
    padding->before[i] = pads[2 * i], padding->after[i] = pads[2 * i + 1];
    if (padding->before[i] < 0 || padding->before[i] > kMaxPad || padding->after[i] < 0 ||
        padding->after[i] > kMaxPad) {
      return false;
    }
  }
  padding->value = 0;
  if (node.inputs->size == 2) return true;
  const void* value = Constant(context, node, 2, kTfLiteFloat32, 1);
  if (value != nullptr) memcpy(&padding->value, value, sizeof(float));
  return value != nullptr && node.inputs->size == 3;
}

}  // namespace fsg
