#include "delegate/program.h"

#include <stdlib.h>
#include <string.h>

namespace fsg {
namespace {

constexpr int64_t kLanes = 16;  // constants are rounded up to whole vectors

// What preparing a program needs to know at every step.
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

void UseConstant(Preparation* p, const float* from, int64_t count, Step* step) {
  float* to = p->constants;
  p->constants += p->rounded;
  for (int64_t c = 0; c < p->rounded; ++c) to[c] = count == 1 ? *from : c < count ? from[c] : 0.0f;
  step->data = to;
  step->channels = static_cast<int>(p->rounded);
}

// One constant for all channels or one for each.
TfLiteStatus PrepareConstant(Preparation* p, const Value& value, Step* step) {
  const int64_t count = value.rank <= kMaxRank && value.rank >= 0 ? Count(value) : 0;
  const int64_t last = value.rank > 0 ? value.dims[value.rank - 1] : 1;
  FSG_ENSURE(p->context, value.type == kTfLiteFloat32 && count == last && (count == 1 || count == p->dims[3]),
             "tensor %d is no float constant for %d channels", value.tensor, p->dims[3]);
  FSG_ENSURE(p->context, value.constant_bytes >= 4 * count, "tensor %d is too short", value.tensor);
  UseConstant(p, static_cast<const float*>(value.constant), count, step);
  return kTfLiteOk;
}

// A tensor of the image's shape, or of one value per channel for all images or for each.
TfLiteStatus PrepareTensor(Preparation* p, const FusedStep& fused, int index, Step* step) {
  const Value& value = p->values[index];
  const int* dims = p->dims;
  const int channels = fused.channels > 0 ? fused.channels : dims[3];
  FSG_ENSURE(p->context, value.type == kTfLiteFloat32 && value.rank >= 1,
             "tensor %d is no operand of type float32", value.tensor);
  FSG_ENSURE(p->context,
             value.dims[value.rank - 1] == channels && int64_t{fused.first_channel} + channels <= dims[3],
             "tensor %d has %d channels, not %d", value.tensor, value.dims[value.rank - 1], channels);
  step->first_channel = fused.first_channel;
  step->channels = channels;
  const bool is_image = value.rank == 4 && memcmp(value.dims, dims, 3 * sizeof(int)) == 0;
  if (is_image) {
    step->pixel_step = PixelStep(p->values, index);
    return kTfLiteOk;
  }
  const int64_t rows = Count(value) / channels;
  const bool is_per_image = value.rank == 4 && value.dims[0] == dims[0] && rows == dims[0];
  FSG_ENSURE(p->context, rows == 1 || is_per_image, "tensor %d does not fit a %dx%dx%dx%d image",
             value.tensor, dims[0], dims[1], dims[2], dims[3]);
  if (rows > 1) step->image_step = PixelStep(p->values, index);
  return kTfLiteOk;
}

TfLiteStatus PrepareOperand(Preparation* p, const OpStep& from, Step* step) {
  if (step->is_kept) return kTfLiteOk;
  if (from.value < 0) {
    UseConstant(p, &from.fused.low, 1, step);
    return kTfLiteOk;
  }
  const Value& value = p->values[from.value];
  return value.constant != nullptr ? PrepareConstant(p, value, step)
                                   : PrepareTensor(p, from.fused, from.value, step);
}

TfLiteStatus PrepareDestination(Preparation* p, const OpStep& from, Step* step) {
  Value* value = &p->values[from.value];
  const bool packs = step->kind == StepKind::kPack;
  FSG_ENSURE(p->context, value->type == (packs ? kTfLiteInt32 : kTfLiteFloat32),
             "tensor %d of type %d cannot hold what is computed for it", value->tensor, value->type);
  value->rank = 4;
  memcpy(value->dims, p->dims, 4 * sizeof(int));
  if (packs) {
    if (value->tensor < 0) value->declared_channels = p->dims[3];
    value->dims[3] = PackedWords(p->dims[3]);
    step->pixel_step = value->dims[3];
  } else {
    step->pixel_step = PixelStep(p->values, from.value);
  }
  FSG_ENSURE(p->context, Measure(value), "tensor %d would have more than 2^31 elements", value->tensor);
  return kTfLiteOk;
}

TfLiteStatus PrepareStep(Preparation* p, const OpStep& from, const Window* pool, Step* step) {
  *step = {};
  step->kind = from.fused.kind;
  step->is_kept = from.fused.is_kept;
  step->low = from.fused.low, step->high = from.fused.high;
  switch (step->kind) {
    case StepKind::kDots:
    case StepKind::kClamp:
    case StepKind::kNegate:
    case StepKind::kAbsolute:
    case StepKind::kSwap:
    case StepKind::kKeep:
      return kTfLiteOk;
    case StepKind::kPool:
      step->window = pool;
      step->pixel_step = PixelStep(p->values, from.value);
      return kTfLiteOk;
    case StepKind::kStore:
    case StepKind::kPack:
      return PrepareDestination(p, from, step);
    default:
      return PrepareOperand(p, from, step);
  }
}

}  // namespace

bool IsDestination(StepKind kind) { return kind == StepKind::kStore || kind == StepKind::kPack; }

TfLiteStatus PrepareProgram(TfLiteContext* context, Value* values, const int* dims, Op* op) {
  Preparation p = {context, values, dims, (dims[3] + kLanes - 1) / kLanes * kLanes, nullptr};
  const int count = op->program.step_count;
  int constants = 0;
  for (int i = 0; i < count; ++i) {
    const OpStep& step = op->steps[i];
    constants += step.value < 0 || values[step.value].constant != nullptr;
  }
  free(op->constants);
  op->constants = static_cast<float*>(calloc(static_cast<size_t>(constants * p.rounded + 1), sizeof(float)));
  FSG_ENSURE(context, op->constants != nullptr, "out of memory");
  p.constants = op->constants;
  for (int i = 0; i < count; ++i) {
    if (PrepareStep(&p, op->steps[i], &op->pool, &op->program_steps[i]) != kTfLiteOk) return kTfLiteError;
  }
  op->program.steps = op->program_steps;
  op->program.channels = dims[3];
  op->program.image_pixels = static_cast<int64_t>(dims[1]) * dims[2];
  return kTfLiteOk;
}

}  // namespace fsg
