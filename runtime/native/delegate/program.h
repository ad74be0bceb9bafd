// Programs of an operator's steps: from tensors and their shapes to memory.
#ifndef FSG_DELEGATE_PROGRAM_H_
#define FSG_DELEGATE_PROGRAM_H_

#include "delegate/ops.h"

namespace fsg {

// Makes the program for an image of `dims` [N, H, W, C] and infers the shapes of what it stores.
TfLiteStatus PrepareProgram(TfLiteContext* context, Value* values, const int* dims, Op* op);

bool IsDestination(StepKind kind);

}  // namespace fsg

#endif  // FSG_DELEGATE_PROGRAM_H_
