// Post-operations of an operator: from tensors and their shapes to memory.
#ifndef FSG_DELEGATE_PREPARE_POST_OPS_H_
#define FSG_DELEGATE_PREPARE_POST_OPS_H_

#include "delegate/op.h"

namespace fsg {

// Makes the post-operations for an image of `dims` [N, H, W, C] and infers the shapes of what they store.
TfLiteStatus PreparePostOps(TfLiteContext* context, Value* values, const int* dims, Op* op);

}  // namespace fsg

#endif  // FSG_DELEGATE_PREPARE_POST_OPS_H_
