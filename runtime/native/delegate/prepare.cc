#include "delegate/prepare.h"

#include <stdlib.h>
#include <string.h>

#include "delegate/prepare_post_ops.h"
#include "delegate/read.h"

namespace fsg {
namespace {

// Dot products stay below 2^28, so that none of the kernels' sums overflows.
constexpr int64_t kMaxDot = int64_t{1} << 28;

constexpr int64_t kMaxExtent = int64_t{1} << 28;  // nor does a sum of two coordinates

// One axis of TensorFlow's SAME and VALID. False where the window does not fit.
bool PlaceWindow(int padding, int in, int filter, int stride, int dilation, int* out, int* pad) {
  const int64_t reach = int64_t{filter - 1} * dilation + 1;
  if (reach > kMaxExtent || in > kMaxExtent) return false;
  const int64_t count =
      padding == kSame ? (int64_t{in} + stride - 1) / stride : (in - reach + stride) / stride;
  if (padding == kValid && reach > in) return false;
  const int64_t missing = padding == kSame ? (count - 1) * stride + reach - in : 0;
  *out = static_cast<int>(count);
  *pad = missing > 0 ? static_cast<int>(missing / 2) : 0;
  return true;
}

bool PlaceWindow(const Options& options, Window* w) {
  return PlaceWindow(options.padding, w->in_height, w->filter_height, w->stride_height, w->dilation_height,
                     &w->out_height, &w->pad_top) &&
         PlaceWindow(options.padding, w->in_width, w->filter_width, w->stride_width, w->dilation_width,
                     &w->out_width, &w->pad_left);
}

bool IsPackedImage(const Value& value) { return value.type == kTfLiteInt32 && value.rank == 4; }

void SetShape(Value* value, int batch, int height, int width, int channels) {
  const int dims[] = {batch, height, width, channels};
  value->rank = 4;
  memcpy(value->dims, dims, sizeof(dims));
}

// The constant input `i` of a convolution, one value for each of `count` output channels.
TfLiteStatus ChannelConstant(TfLiteContext* context, const Value* values, const Op& op, int i,
                             TfLiteType type, int count, const char* what, const void** data) {
  FSG_ENSURE(context, op.inputs[i] >= 0, "LceBconv2d: its %s tensor is missing", what);
  const Value& value = values[op.inputs[i]];
  FSG_ENSURE(context, value.type == type, "LceBconv2d: %s of type %d, not %d", what, value.type, type);
  FSG_ENSURE(context, value.constant != nullptr, "LceBconv2d: its %s must be a constant", what);
  FSG_ENSURE(context, value.rank == 1 && value.dims[0] == count && value.constant_bytes >= 4 * int64_t{count},
             "LceBconv2d: %s of %d values for %d output channels", what, value.rank > 0 ? value.dims[0] : 0,
             count);
  *data = value.constant;
  return kTfLiteOk;
}

int FilterLength(const Conv& conv) {
  return conv.window.filter_height * conv.window.filter_width * conv.channels_in;
}

// Multiplier and bias of a doubled popcount instead of a dot product, for int8 in units of the output's
// scale; computed and rounded as LCE does, so that the outputs have the same bits.
TfLiteStatus PrepareTransform(TfLiteContext* context, const Value* values, const Value& output, Op* op) {
#pragma clang fp contract(off)
  const int count = op->conv.channels_out;
  const void *multiplier, *bias;
  if (ChannelConstant(context, values, *op, 2, kTfLiteFloat32, count, "multiplier", &multiplier) !=
          kTfLiteOk ||
      ChannelConstant(context, values, *op, 3, kTfLiteFloat32, count, "bias", &bias) != kTfLiteOk) {
    return kTfLiteError;
  }
  const bool is_int8 = output.type == kTfLiteInt8;
  FSG_ENSURE(context, !is_int8 || output.quantization.scale > 0, "LceBconv2d: int8 output without a scale");
  const double scale = is_int8 ? static_cast<double>(output.quantization.scale) : 1.0;
  const double zero_point = is_int8 ? output.quantization.zero_point : 0;
  const double length = FilterLength(op->conv);
  free(op->scaled);
  op->scaled = static_cast<float*>(malloc(sizeof(float) * 2 * static_cast<size_t>(count)));
  FSG_ENSURE(context, op->scaled != nullptr, "LceBconv2d: out of memory");
  for (int i = 0; i < count; ++i) {
    const double m = static_cast<double>(static_cast<const float*>(multiplier)[i]);
    const double b = static_cast<double>(static_cast<const float*>(bias)[i]);
    op->scaled[i] = static_cast<float>(-m / scale);
    op->scaled[count + i] = static_cast<float>((b + m * length) / scale + zero_point);
  }
  op->conv.multiplier = op->scaled;
  op->conv.bias = op->scaled + count;
  return kTfLiteOk;
}

TfLiteStatus PrepareFilter(TfLiteContext* context, const Value* values, const Value& input, Op* op) {
  FSG_ENSURE(context, op->inputs[1] >= 0, "LceBconv2d: its filter tensor is missing");
  const Value& filter = values[op->inputs[1]];
  FSG_ENSURE(context, IsPackedImage(filter), "LceBconv2d: the filter must be packed int32 [O,H,W,I]");
  FSG_ENSURE(context, filter.constant != nullptr && filter.constant_bytes >= filter.bytes,
             "LceBconv2d: the filter must be a constant");
  const int words = PackedWords(op->options.channels_in);
  FSG_ENSURE(context, input.dims[3] == words, "LceBconv2d: input of %d words a pixel for %d channels",
             input.dims[3], op->options.channels_in);
  FSG_ENSURE(context, words % filter.dims[3] == 0, "LceBconv2d: filter of %d words for an input of %d",
             filter.dims[3], words);
  const int groups = words / filter.dims[3];
  FSG_ENSURE(context, groups == 1 || op->options.channels_in % (32 * groups) == 0,
             "LceBconv2d: %d groups of %d channels; only groups of a multiple of 32", groups,
             op->options.channels_in);
  FSG_ENSURE(context, filter.dims[0] % groups == 0, "LceBconv2d: %d output channels in %d groups",
             filter.dims[0], groups);
  FSG_ENSURE(context, filter.bytes / 4 / filter.dims[0] * 32 <= kMaxDot,
             "LceBconv2d: the filter is too large");
  op->conv.filter = static_cast<const uint32_t*>(filter.constant);
  op->conv.groups = groups;
  op->conv.channels_in = op->options.channels_in / groups;
  op->conv.channels_out = filter.dims[0];
  op->conv.window.filter_height = filter.dims[1];
  op->conv.window.filter_width = filter.dims[2];
  return kTfLiteOk;
}

// The bounds of an activation for the doubled popcount, which falls as the dot product rises.
void PlaceClamp(int activation, Conv* conv) {
  const int length = FilterLength(*conv);
  conv->clamp_min = activation == kReluN1To1 ? length - 1 : activation == kRelu6 ? length - 6 : INT32_MIN;
  conv->clamp_max = activation == kNone ? INT32_MAX : activation == kReluN1To1 ? length + 1 : length;
}

TfLiteStatus PrepareConv(TfLiteContext* context, const Runtime& runtime, Value* values, Op* op) {
  const Value& input = values[op->inputs[0]];
  Value* output = &values[op->output];
  const Options& options = op->options;
  FSG_ENSURE(context, IsPackedImage(input), "LceBconv2d: the input must be packed int32 [N,H,W,C]");
  if (PrepareFilter(context, values, input, op) != kTfLiteOk) return kTfLiteError;

  Conv* conv = &op->conv;
  Window* w = &conv->window;
  w->batch = input.dims[0], w->in_height = input.dims[1], w->in_width = input.dims[2],
  w->words = input.dims[3];
  w->stride_height = options.stride_height, w->stride_width = options.stride_width;
  w->dilation_height = options.dilation_height, w->dilation_width = options.dilation_width;
  FSG_ENSURE(context, PlaceWindow(options, w), "LceBconv2d: a %dx%d filter does not fit a %dx%d image",
             w->filter_height, w->filter_width, w->in_height, w->in_width);
  conv->zero_padding = options.padding == kSame && options.pad_values == 0;
  PlaceClamp(options.activation, conv);

  int channels = conv->channels_out;
  if (output->type == kTfLiteInt32) {
    const void* thresholds;
    if (ChannelConstant(context, values, *op, 4, kTfLiteInt32, channels, "thresholds", &thresholds) !=
        kTfLiteOk) {
      return kTfLiteError;
    }
    conv->output = Output::kPacked;
    conv->thresholds = static_cast<const int32_t*>(thresholds);
    channels = PackedWords(channels);
  } else {
    FSG_ENSURE(context, output->type == kTfLiteFloat32 || output->type == kTfLiteInt8,
               "LceBconv2d: output of type %d; only float32, int8 and packed int32", output->type);
    if (PrepareTransform(context, values, *output, op) != kTfLiteOk) return kTfLiteError;
    conv->output = output->type == kTfLiteInt8 ? Output::kInt8 : Output::kFloat;
    FSG_ENSURE(context, conv->output == Output::kInt8 || op->bound != nullptr,
               "LceBconv2d: the type of its output has changed");
  }
  FSG_ENSURE(context, PlanConv(*runtime.kernels, *conv, ThreadCount(runtime.pool), &op->plan),
             "LceBconv2d: out of memory");
  if (conv->output != Output::kFloat) {
    SetShape(output, w->batch, w->out_height, w->out_width, channels);
    return kTfLiteOk;
  }
  const int dims[] = {w->batch, w->out_height, w->out_width, channels};
  return PreparePostOps(context, values, dims, op);
}

// The same with an image that is padded before.
bool PlacePadded(const Options& options, const Border& border, Window* w) {
  const int rows = border.before[1] + border.after[1], columns = border.before[2] + border.after[2];
  if (w->in_height > kMaxExtent || w->in_width > kMaxExtent) return false;
  w->in_height += rows, w->in_width += columns;
  const bool fits = PlaceWindow(options, w);
  w->in_height -= rows, w->in_width -= columns;
  w->pad_top += border.before[1], w->pad_left += border.before[2];
  return fits;
}

// The integers that an activation lets through.
int Bound(float number, const Value& output) {
  const double whole = static_cast<double>(number) / static_cast<double>(output.quantization.scale);
  const double near = whole < -512 ? -512 : whole > 512 ? 512 : whole;  // no zero brings others back
  const int at = output.quantization.zero_point + static_cast<int>(near + (near < 0 ? -0.5 : 0.5));
  return at < -128 ? -128 : at > 127 ? 127 : at;
}

TfLiteStatus PrepareInt8Conv(TfLiteContext* context, const Runtime& runtime, Value* values, Op* op) {
#pragma clang fp contract(off)
  const Value &input = values[op->inputs[0]], &filter = values[op->inputs[1]], &bias = values[op->inputs[2]];
  Value* output = &values[op->output];
  const Options& options = op->options;
  FSG_ENSURE(context, input.rank == 4 && filter.rank == 4 && input.dims[3] == filter.dims[3],
             "CONV_2D: no image [N,H,W,C] of as many channels as its filter has");
  FSG_ENSURE(context, input.dims[1] > 0 && input.dims[2] > 0, "CONV_2D: an image without pixels");
  Int8Conv* conv = &op->int8;
  Window* w = &conv->window;
  w->batch = input.dims[0], w->in_height = input.dims[1], w->in_width = input.dims[2],
  w->words = input.dims[3];
  w->filter_height = filter.dims[1], w->filter_width = filter.dims[2];
  w->stride_height = options.stride_height, w->stride_width = options.stride_width;
  w->dilation_height = options.dilation_height, w->dilation_width = options.dilation_width;
  FSG_ENSURE(context, PlacePadded(options, op->padding, w),
             "CONV_2D: a %dx%d filter does not fit a %dx%d image", w->filter_height, w->filter_width,
             w->in_height, w->in_width);
  const int channels = conv->channels_out = filter.dims[0];
  conv->in_zero = input.quantization.zero_point, conv->out_zero = output->quantization.zero_point;
  conv->low =
      options.activation == kNone ? -128 : Bound(options.activation == kReluN1To1 ? -1.0f : 0.0f, *output);
  conv->high = options.activation == kReluN1To1 ? Bound(1.0f, *output)
               : options.activation == kRelu6   ? Bound(6.0f, *output)
                                                : 127;
  conv->filter = static_cast<const int8_t*>(filter.constant);
  conv->bias = static_cast<const int32_t*>(bias.constant);
  free(conv->scale);
  conv->scale = static_cast<float*>(malloc(sizeof(float) * static_cast<size_t>(channels)));
  FSG_ENSURE(context, conv->scale != nullptr, "CONV_2D: out of memory");
  const TfLiteFloatArray& steps = FilterSteps(context->tensors[filter.tensor]);
  for (int i = 0; i < channels; ++i) {
    const float step = steps.data[steps.size > 1 ? i : 0];
    conv->scale[i] = input.quantization.scale * step / output->quantization.scale;
  }
  FSG_ENSURE(context, PlanInt8(*runtime.kernels, *conv, ThreadCount(runtime.pool), &op->int8_plan),
             "CONV_2D: out of memory");
  SetShape(output, w->batch, w->out_height, w->out_width, channels);
  return kTfLiteOk;
}

// The window of a pooling over an image whose pixels are `words` words or values.
TfLiteStatus PlacePool(TfLiteContext* context, const Value& input, Op* op) {
  const Options& options = op->options;
  Window* w = &op->pool;
  *w = Window{};
  w->batch = input.dims[0], w->in_height = input.dims[1], w->in_width = input.dims[2],
  w->words = input.dims[3];
  w->filter_height = options.filter_height, w->filter_width = options.filter_width;
  w->stride_height = options.stride_height, w->stride_width = options.stride_width;
  w->dilation_height = w->dilation_width = 1;
  FSG_ENSURE(context, PlacePadded(options, op->padding, w),
             "a pooling window of %dx%d does not fit a %dx%d image", w->filter_height, w->filter_width,
             w->in_height, w->in_width);
  return kTfLiteOk;
}

TfLiteStatus PrepareInt8Pool(TfLiteContext* context, Value* values, Op* op) {
  const Value& input = values[op->inputs[0]];
  FSG_ENSURE(context,
             input.rank == 4 && input.constant == nullptr && input.dims[1] > 0 && input.dims[2] > 0 &&
                 input.dims[3] > 0,
             "MAX_POOL_2D: no image [N,H,W,C], or one without pixels");
  if (PlacePool(context, input, op) != kTfLiteOk) return kTfLiteError;
  const Window& w = op->pool;
  SetShape(&values[op->output], w.batch, w.out_height, w.out_width, w.words);
  return kTfLiteOk;
}

TfLiteStatus PreparePool(TfLiteContext* context, Value* values, Op* op) {
  const Value& input = values[op->inputs[0]];
  FSG_ENSURE(context, IsPackedImage(input) && values[op->output].type == kTfLiteInt32,
             "LceBMaxPool2d: input and output must be packed int32 [N,H,W,C]");
  if (PlacePool(context, input, op) != kTfLiteOk) return kTfLiteError;
  const Window& w = op->pool;
  SetShape(&values[op->output], w.batch, w.out_height, w.out_width, w.words);
  return kTfLiteOk;
}

TfLiteStatus PreparePostOpsOfTensor(TfLiteContext* context, Value* values, Op* op) {
  const Value& input = values[op->bound[0].value];
  FSG_ENSURE(context, input.type == kTfLiteFloat32 && input.rank == 4 && input.constant == nullptr,
             "tensor %d is no float32 image [N,H,W,C]", input.tensor);
  int dims[4];
  memcpy(dims, input.dims, sizeof(dims));
  if (op->bound[0].fused.kind == PostOpKind::kPool) {
    if (PlacePool(context, input, op) != kTfLiteOk) return kTfLiteError;
    dims[1] = op->pool.out_height, dims[2] = op->pool.out_width;
  }
  op->rows = static_cast<int64_t>(dims[0]) * dims[1] * dims[2];
  return PreparePostOps(context, values, dims, op);
}

TfLiteStatus PrepareConcatenate(TfLiteContext* context, Value* values, Op* op) {
  Value* output = &values[op->output];
  int64_t channels = 0;
  for (int i = 0; i < op->input_count; ++i) {
    const Value& input = values[op->inputs[i]];
    FSG_ENSURE(context, input.type == kTfLiteFloat32 && input.rank == 4 && input.constant == nullptr,
               "CONCATENATION: tensor %d is no float32 image [N,H,W,C]", input.tensor);
    FSG_ENSURE(context, memcmp(input.dims, values[op->inputs[0]].dims, 3 * sizeof(int)) == 0,
               "CONCATENATION: images of different sizes");
    channels += input.dims[3];
  }
  FSG_ENSURE(context, output->type == kTfLiteFloat32 && channels == output->declared_channels,
             "CONCATENATION: %d channels for an output of %d", static_cast<int>(channels),
             output->declared_channels);
  const int* dims = values[op->inputs[0]].dims;
  SetShape(output, dims[0], dims[1], dims[2], output->declared_channels);
  return kTfLiteOk;
}

TfLiteStatus PreparePad(TfLiteContext* context, Value* values, Op* op) {
  const Value& input = values[op->inputs[0]];
  Value* output = &values[op->output];
  FSG_ENSURE(context,
             input.rank == 4 && input.type == output->type &&
                 (input.type == kTfLiteInt32 || input.type == kTfLiteFloat32 || input.type == kTfLiteInt8),
             "PAD: no image [N,H,W,C] of 8- or 32-bit values");
  int dims[4];
  for (int i = 0; i < 4; ++i) {
    FSG_ENSURE(context, input.dims[i] <= kMaxExtent, "PAD: an image of %d", input.dims[i]);
    dims[i] = input.dims[i] + op->padding.before[i] + op->padding.after[i];
  }
  SetShape(output, dims[0], dims[1], dims[2], dims[3]);
  return kTfLiteOk;
}

TfLiteStatus PrepareQuantize(TfLiteContext* context, Value* values, Op* op) {
  const Value& input = values[op->inputs[0]];
  Value* output = &values[op->output];
  const TfLiteType type = input.type;
  FSG_ENSURE(context, type == kTfLiteFloat32 || type == kTfLiteInt8 || type == kTfLiteBool,
             "LceQuantize: input of type %d; only float32, int8 and bool", type);
  FSG_ENSURE(context, output->type == kTfLiteInt32, "LceQuantize: the output must be packed int32");
  const int channels = input.dims[input.rank - 1];
  op->rows = input.bytes / (type == kTfLiteFloat32 ? 4 : 1) / channels;
  output->rank = input.rank;
  memcpy(output->dims, input.dims, sizeof(output->dims));
  output->dims[output->rank - 1] = PackedWords(channels);
  return kTfLiteOk;
}

TfLiteStatus PrepareDequantize(TfLiteContext* context, Value* values, Op* op) {
  const Value& input = values[op->inputs[0]];
  Value* output = &values[op->output];
  const TfLiteType type = output->type;
  FSG_ENSURE(context, input.type == kTfLiteInt32, "LceDequantize: the input must be packed int32");
  FSG_ENSURE(context, type == kTfLiteFloat32 || type == kTfLiteInt8 || type == kTfLiteBool,
             "LceDequantize: output of type %d; only float32, int8 and bool", type);
  FSG_ENSURE(context, type != kTfLiteInt8 || output->quantization.scale > 0,
             "LceDequantize: int8 output without a scale");
  const int channels = output->declared_channels, words = input.dims[input.rank - 1];
  FSG_ENSURE(context, channels > 0 && PackedWords(channels) == words,
             "LceDequantize: %d words for %d channels", words, channels);
  op->rows = input.bytes / 4 / words;
  output->rank = input.rank;
  memcpy(output->dims, input.dims, sizeof(output->dims));
  output->dims[output->rank - 1] = channels;
  return kTfLiteOk;
}

}  // namespace

TfLiteStatus PrepareOp(TfLiteContext* context, const Runtime& runtime, Value* values, Op* op) {
  const bool is_lce = op->kind < OpKind::kNone;
  const char* name = is_lce ? CustomName(op->kind) : "a fused operator";
  FSG_ENSURE(context, !is_lce || op->inputs[0] >= 0, "%s: its input tensor is missing", name);
  TfLiteStatus status = kTfLiteError;
  switch (op->kind) {
    case OpKind::kQuantize:
      status = PrepareQuantize(context, values, op);
      break;
    case OpKind::kDequantize:
      status = PrepareDequantize(context, values, op);
      break;
    case OpKind::kConv:
      status = PrepareConv(context, runtime, values, op);
      break;
    case OpKind::kMaxPool:
      status = PreparePool(context, values, op);
      break;
    case OpKind::kPostOps:
      status = PreparePostOpsOfTensor(context, values, op);
      break;
    case OpKind::kConcatenate:
      status = PrepareConcatenate(context, values, op);
      break;
    case OpKind::kPad:
      status = PreparePad(context, values, op);
      break;
    case OpKind::kInt8Conv:
      status = PrepareInt8Conv(context, runtime, values, op);
      break;
    case OpKind::kInt8MaxPool:
      status = PrepareInt8Pool(context, values, op);
      break;
    case OpKind::kNone:
      break;
  }
  if (status != kTfLiteOk || op->bound != nullptr) return status;
  FSG_ENSURE(context, Measure(&values[op->output]), "%s: its output would have more than 2^31 elements",
             name);
  return kTfLiteOk;
}

}  // namespace fsg
