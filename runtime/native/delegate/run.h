// Executes operators that are ready.
#ifndef FSG_DELEGATE_RUN_H_
#define FSG_DELEGATE_RUN_H_

#include "delegate/op.h"

namespace fsg {

// What the operator is, in words, and how much it computes.
void DescribeOp(const Value* values, const Op& op, Event* event);

void RunOp(const Runtime& runtime, const Value* values, const Op& op, const void* in, void* out);

}  // namespace fsg

#endif  // FSG_DELEGATE_RUN_H_
