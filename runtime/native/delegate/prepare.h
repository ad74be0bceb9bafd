// Makes operators ready for the shapes of their inputs.
#ifndef FSG_DELEGATE_PREPARE_H_
#define FSG_DELEGATE_PREPARE_H_

#include "delegate/op.h"

namespace fsg {

// Infers the output's shape from the inputs' and makes the kernels ready. May be called again after a resize.
TfLiteStatus PrepareOp(TfLiteContext* context, const Runtime& runtime, Value* values, Op* op);

}  // namespace fsg

#endif  // FSG_DELEGATE_PREPARE_H_
