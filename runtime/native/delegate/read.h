// What the interpreter says of a node, checked.
#ifndef FSG_DELEGATE_READ_H_
#define FSG_DELEGATE_READ_H_

#include "delegate/op.h"

namespace fsg {

// The LCE operator of that name, or kNone.
OpKind FindOp(const char* custom_name);

// Of an LCE operator.
const char* CustomName(OpKind kind);

// Checks a node's options and arity and fills everything of `op` but the value indices.
TfLiteStatus ReadOp(TfLiteContext* context, const TfLiteNode& node, Op* op);

// Reads the parameters of a MAX_POOL_2D.
TfLiteStatus ReadPool(TfLiteContext* context, const TfLiteNode& node, Options* options);

// Reads a PAD or PADV2. False for what is not a constant, small and positive padding.
bool ReadPadding(const TfLiteContext& context, const TfLiteNode& node, Border* padding);

// Whether a node is a CONV_2D of int8 that the kernels take: one group, constant weights with a step each
// channel.
bool IsInt8Conv(const TfLiteContext& context, const TfLiteNode& node, int32_t code);

// The steps of its filter's channels, one for all or one for each.
const TfLiteFloatArray& FilterSteps(const TfLiteTensor& filter);

// Reads the parameters of such a one.
void ReadInt8Conv(const TfLiteNode& node, Op* op);

bool IsConstant(const TfLiteTensor& tensor);

}  // namespace fsg

#endif  // FSG_DELEGATE_READ_H_
