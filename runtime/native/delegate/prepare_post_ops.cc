#include "delegate/prepare_post_ops.h"

#include <stdlib.h>
#include <string.h>

namespace fsg {
namespace {

constexpr int64_t kLanes = 16;  // constants are rounded up to whole vectors

// What preparing needs to know at every post-operation.
struct Preparation {
  TfLiteContext* context;
  Value* values;
  const int* dims;
  int64_t rounded;   // channels
  float* constants;  // room for the next
};

int64_t Count(const Value& value) {
  int64_t count = 1;
  for (int i = 0; i < value.rank; ++i) count *= value.dims[i];
  return count;
}

void UseConstant(Preparation* p, const float* from, int64_t count, PostOp* post_op) {
  float* to = p->constants;
  p->constants += p->rounded;
  for (int64_t c = 0; c < p->rounded; ++c) to[c] = count == 1 ? *from : c < count ? from[c] : 0.0f;
  post_op->data = to;
  post_op->channels = static_cast<int>(p->rounded);
}

// One constant for all channels or one for each.
TfLiteStatus PrepareConstant(Preparation* p, const Value& value, PostOp* post_op) {
  const int64_t count = value.rank <= kMaxRank && value.rank >= 0 ? Count(value) : 0;
  const int64_t last = value.rank > 0 ? value.dims[value.rank - 1] : 1;
  FSG_ENSURE(p->context, value.type == kTfLiteFloat32 && count == last && (count == 1 || count == p->dims[3]),
             "tensor %d is no float constant for %d channels", value.tensor, p->dims[3]);
  FSG_ENSURE(p->context, value.constant_bytes >= 4 * count, "tensor %d is too short", value.tensor);
  UseConstant(p, static_cast<const float*>(value.constant), count, post_op);
  return kTfLiteOk;
}

// A tensor of the image's shape, or of one value per channel for all images or for each.
TfLiteStatus PrepareTensor(Preparation* p, const FusedPostOp& fused, int index, PostOp* post_op) {
  const Value& value = p->values[index];
  const int* dims = p->dims;
  const int channels = fused.channels > 0 ? fused.channels : dims[3];
  FSG_ENSURE(p->context, value.type == kTfLiteFloat32 && value.rank >= 1,
             "tensor %d is no operand of type float32", value.tensor);
  FSG_ENSURE(p->context,
             value.dims[value.rank - 1] == channels && int64_t{fused.first_channel} + channels <= dims[3],
             "tensor %d has %d channels, not %d", value.tensor, value.dims[value.rank - 1], channels);
  post_op->first_channel = fused.first_channel;
  post_op->channels = channels;
  const bool is_image = value.rank == 4 && memcmp(value.dims, dims, 3 * sizeof(int)) == 0;
  if (is_image) {
    post_op->pixel_step = PixelStep(p->values, index);
    return kTfLiteOk;
  }
  const int64_t rows = Count(value) / channels;
  const bool is_per_image = value.rank == 4 && value.dims[0] == dims[0] && rows == dims[0];
  FSG_ENSURE(p->context, rows == 1 || is_per_image, "tensor %d does not fit a %dx%dx%dx%d image",
             value.tensor, dims[0], dims[1], dims[2], dims[3]);
  if (rows > 1) post_op->image_step = PixelStep(p->values, index);
  return kTfLiteOk;
}

TfLiteStatus PrepareOperand(Preparation* p, const BoundPostOp& from, PostOp* post_op) {
  if (post_op->is_kept) return kTfLiteOk;
  if (from.value < 0) {
    UseConstant(p, &from.fused.low, 1, post_op);
    return kTfLiteOk;
  }
  const Value& value = p->values[from.value];
  return value.constant != nullptr ? PrepareConstant(p, value, post_op)
                                   : PrepareTensor(p, from.fused, from.value, post_op);
}

TfLiteStatus PrepareDestination(Preparation* p, const BoundPostOp& from, PostOp* post_op) {
  Value* value = &p->values[from.value];
  const bool packs = post_op->kind == PostOpKind::kPack;
  FSG_ENSURE(p->context, value->type == (packs ? kTfLiteInt32 : kTfLiteFloat32),
             "tensor %d of type %d cannot hold what is computed for it", value->tensor, value->type);
  value->rank = 4;
  memcpy(value->dims, p->dims, 4 * sizeof(int));
  if (packs) {
    if (value->tensor < 0) value->declared_channels = p->dims[3];
    value->dims[3] = PackedWords(p->dims[3]);
    post_op->pixel_step = value->dims[3];
  } else {
    post_op->pixel_step = PixelStep(p->values, from.value);
  }
  FSG_ENSURE(p->context, Measure(value), "tensor %d would have more than 2^31 elements", value->tensor);
  return kTfLiteOk;
}

TfLiteStatus PreparePostOp(Preparation* p, const BoundPostOp& from, const Window* pool, PostOp* post_op) {
  *post_op = {};
  post_op->kind = from.fused.kind;
  post_op->is_kept = from.fused.is_kept;
  post_op->low = from.fused.low, post_op->high = from.fused.high;
  switch (post_op->kind) {
    case PostOpKind::kDots:
    case PostOpKind::kClamp:
    case PostOpKind::kNegate:
    case PostOpKind::kAbsolute:
    case PostOpKind::kSwap:
    case PostOpKind::kKeep:
      return kTfLiteOk;
    case PostOpKind::kPool:
      post_op->window = pool;
      post_op->pixel_step = PixelStep(p->values, from.value);
      return kTfLiteOk;
    case PostOpKind::kStore:
    case PostOpKind::kPack:
      return PrepareDestination(p, from, post_op);
    default:
      return PrepareOperand(p, from, post_op);
  }
}

}  // namespace

TfLiteStatus PreparePostOps(TfLiteContext* context, Value* values, const int* dims, Op* op) {
  Preparation p = {context, values, dims, (dims[3] + kLanes - 1) / kLanes * kLanes, nullptr};
  const int count = op->post_ops.count;
  int constants = 0;
  for (int i = 0; i < count; ++i) {
    const BoundPostOp& post_op = op->bound[i];
    constants += post_op.value < 0 || values[post_op.value].constant != nullptr;
  }
  free(op->constants);
  op->constants = static_cast<float*>(calloc(static_cast<size_t>(constants * p.rounded + 1), sizeof(float)));
  FSG_ENSURE(context, op->constants != nullptr, "out of memory");
  p.constants = op->constants;
  for (int i = 0; i < count; ++i) {
    if (PreparePostOp(&p, op->bound[i], &op->pool, &op->post_op_list[i]) != kTfLiteOk) return kTfLiteError;
  }
  op->post_ops.list = op->post_op_list;
  op->post_ops.channels = dims[3];
  op->post_ops.image_pixels = static_cast<int64_t>(dims[1]) * dims[2];
  return kTfLiteOk;
}

}  // namespace fsg
