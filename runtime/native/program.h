// Programs of an operator's steps: from tensors and their shapes to memory.
#ifndef FSG_NATIVE_PROGRAM_H_
#define FSG_NATIVE_PROGRAM_H_

#include "ops.h"

namespace fsg {

// Makes the program for an image of `dims` [N, H, W, C] and infers the shapes of what it stores.
TfLiteStatus PrepareProgram(TfLiteContext* context, Value* values, const int* dims, Op* op);

bool IsDestination(StepKind kind);

}  // namespace fsg

#endif  // FSG_NATIVE_PROGRAM_H_
