#include "delegate/run.h"

#include <stdio.h>
#include <string.h>

#include "kernels/reference.h"

namespace fsg {
namespace {

void RunQuantize(const Runtime& runtime, const Value& input, int64_t rows, const void* in, uint32_t* out) {
  const int channels = input.dims[input.rank - 1];
  if (input.type == kTfLiteFloat32) {
    runtime.kernels->pack_float(runtime.pool, static_cast<const float*>(in), rows, channels, out);
    return;
  }
  // A bool is +1 where true, -1 where false: an int8 below one.
  const int zero_point = input.type == kTfLiteBool ? 1 : input.quantization.zero_point;
  runtime.kernels->pack_int8(runtime.pool, static_cast<const int8_t*>(in), rows, channels, zero_point, out);
}

void RunPadOfInt8(const Value& input, const Value& output, const Border& padding, const int8_t* in,
                  int8_t* out) {
  const int* dims = input.dims;
  const int64_t row = int64_t{dims[2]} * dims[3], padded = int64_t{output.dims[2]} * dims[3];
  memset(out, static_cast<int>(padding.value), static_cast<size_t>(output.bytes));
  for (int64_t n = 0; n < dims[0]; ++n) {
    for (int64_t y = 0; y < dims[1]; ++y, in += row) {
      int8_t* const to = out + (n * output.dims[1] + y + padding.before[1]) * padded;
      memcpy(to + int64_t{padding.before[2]} * dims[3], in, static_cast<size_t>(row));
    }
  }
}

// Values beside the image: of float images the constant, of packed ones its sign in all bits in use.
void RunPad(const Value& input, const Value& output, const Border& padding, const uint32_t* in,
            uint32_t* out) {
  const int words = output.dims[3];
  uint32_t fill, last;
  memcpy(&fill, &padding.value, sizeof(fill));
  last = fill;
  if (input.type == kTfLiteInt32) {
    const int used = (input.declared_channels - 1) % 32 + 1;
    fill = padding.value < 0 ? ~uint32_t{0} : 0;
    last = fill >> (32 - used);
  }
  const int64_t pixels = output.bytes / 4 / words;
  for (int64_t i = 0; i < pixels; ++i) {
    for (int c = 0; c < words; ++c) out[i * words + c] = c == words - 1 ? last : fill;
  }
  const int* dims = input.dims;
  for (int64_t n = 0; n < dims[0]; ++n) {
    for (int64_t y = 0; y < dims[1]; ++y) {
      const int64_t row = (n + padding.before[0]) * output.dims[1] + y + padding.before[1];
      for (int64_t x = 0; x < dims[2]; ++x, in += dims[3]) {
        const int64_t pixel = row * output.dims[2] + x + padding.before[2];
        memcpy(out + pixel * words + padding.before[3], in, 4 * static_cast<size_t>(dims[3]));
      }
    }
  }
}

void RunDequantize(const Value& output, int64_t rows, const uint32_t* in, void* out) {
  const int channels = output.dims[output.rank - 1];
  if (output.type == kTfLiteFloat32) {
    reference::Unpack<float>(in, rows, channels, 1.0f, -1.0f, static_cast<float*>(out));
  } else if (output.type == kTfLiteBool) {
    reference::Unpack<int8_t>(in, rows, channels, 1, 0, static_cast<int8_t*>(out));
  } else {
    const float one = 1.0f / output.quantization.scale,
                zero = static_cast<float>(output.quantization.zero_point);
    const float step = one < 256.0f ? static_cast<float>(static_cast<int>(one + 0.5f)) : 256.0f;
    reference::Unpack<int8_t>(in, rows, channels, reference::RoundToInt8(zero + step),
                              reference::RoundToInt8(zero - step), static_cast<int8_t*>(out));
  }
}

}  // namespace

void DescribeOp(const Value* values, const Op& op, Event* event) {
  const Window& w = op.conv.window;
  const Value* image = op.input_count > 0 ? &values[op.inputs[0]] : nullptr;
  const auto describe = [&](const char* name) {
    if (image == nullptr || image->rank != 4) {
      snprintf(event->name, sizeof(event->name), "%s", name);
    } else {
      const int channels = image->dims[3] * (image->type == kTfLiteInt32 ? 32 : 1);
      snprintf(event->name, sizeof(event->name), "%s %dx%dx%d", name, image->dims[1], image->dims[2],
               channels);
    }
  };
  event->macs = 0;
  switch (op.kind) {
    case OpKind::kConv:
      snprintf(event->name, sizeof(event->name), "LceBconv2d %dx%dx%d -> %d, %dx%d%s", w.in_height,
               w.in_width, op.options.channels_in, op.conv.channels_out, w.filter_height, w.filter_width,
               op.post_ops.count > 2 ? " with what follows" : "");
      event->macs = int64_t{w.batch} * w.out_height * w.out_width * w.filter_height * w.filter_width *
                    op.conv.channels_in * op.conv.channels_out;
      return;
    case OpKind::kQuantize:
      return describe("LceQuantize");
    case OpKind::kDequantize:
      return describe("LceDequantize");
    case OpKind::kMaxPool:
      return describe("LceBMaxPool2d");
    case OpKind::kConcatenate:
      return describe("CONCATENATION");
    case OpKind::kPad:
      return describe(image != nullptr && image->type == kTfLiteInt8 ? "PAD of int8" : "PAD of bits");
    case OpKind::kInt8MaxPool:
      return describe("MAX_POOL_2D of int8");
    case OpKind::kInt8Conv:
      snprintf(event->name, sizeof(event->name), "CONV_2D of int8 %dx%dx%d -> %d, %dx%d",
               op.int8.window.in_height, op.int8.window.in_width, op.int8.window.words, op.int8.channels_out,
               op.int8.window.filter_height, op.int8.window.filter_width);
      return;
    case OpKind::kPostOps:
      return describe(op.post_ops.list[0].kind == PostOpKind::kPool ? "MAX_POOL_2D with what follows"
                                                                    : "elementwise operators");
    case OpKind::kNone:
      return describe("none");
  }
}

void RunOp(const Runtime& runtime, const Value* values, const Op& op, const void* in, void* out) {
  const uint32_t* packed = static_cast<const uint32_t*>(in);
  switch (op.kind) {
    case OpKind::kQuantize:
      return RunQuantize(runtime, values[op.inputs[0]], op.rows, in, static_cast<uint32_t*>(out));
    case OpKind::kDequantize:
      return RunDequantize(values[op.output], op.rows, packed, out);
    case OpKind::kConv:
      return runtime.kernels->convolve(runtime.pool, op.conv, op.plan, packed, out);
    case OpKind::kPostOps:
      return runtime.kernels->apply(runtime.pool, op.post_ops, op.rows);
    case OpKind::kPad:
      if (values[op.output].type == kTfLiteInt8) {
        return RunPadOfInt8(values[op.inputs[0]], values[op.output], op.padding,
                            static_cast<const int8_t*>(in), static_cast<int8_t*>(out));
      }
      return RunPad(values[op.inputs[0]], values[op.output], op.padding, packed, static_cast<uint32_t*>(out));
    case OpKind::kMaxPool:
      return runtime.kernels->max_pool(runtime.pool, op.pool, packed, static_cast<uint32_t*>(out));
    case OpKind::kInt8Conv:
      return runtime.kernels->convolve_int8(runtime.pool, op.int8, op.int8_plan,
                                            static_cast<const int8_t*>(in), static_cast<int8_t*>(out));
    case OpKind::kInt8MaxPool:
      return runtime.kernels->max_pool_int8(runtime.pool, op.pool, static_cast<const int8_t*>(in),
                                            static_cast<int8_t*>(out));
    case OpKind::kConcatenate:  // the partition's, which knows what is in place already
    case OpKind::kNone:
      return;
  }
}

}  // namespace fsg
