#include "delegate/op.h"

#include <stdlib.h>

namespace fsg {

int PixelStep(const Value* values, int value) {
  if (values[value].parent < 0) return values[value].dims[values[value].rank - 1];
  while (values[value].parent >= 0) value = values[value].parent;
  return values[value].declared_channels;
}

bool Measure(Value* value) {
  if (value->rank < 1 || value->rank > kMaxRank) return false;
  int64_t count = 1;
  for (int i = 0; i < value->rank; ++i) {
    if (value->dims[i] < 1 || __builtin_mul_overflow(count, value->dims[i], &count) || count > INT32_MAX)
      return false;
  }
  value->bytes = count * (value->type == kTfLiteFloat32 || value->type == kTfLiteInt32 ? 4 : 1);
  return true;
}

void FreeOp(Op* op) {
  FreePlan(&op->plan);
  FreePlan(&op->int8_plan);
  free(op->int8.scale);
  free(op->scaled);
  free(op->bound);
  free(op->post_op_list);
  free(op->constants);
}

}  // namespace fsg
