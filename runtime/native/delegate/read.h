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

// What a node of integers is, if the kernels take it: kInt8Conv, of one group, with constant weights and a
// step for each channel or one for all; kInt8MaxPool; or kNone.
OpKind FindInt8(const TfLiteContext& context, const TfLiteNode& node, int32_t code);

// Whether a node adds rows and columns of int8 to an image, around a convolution the 0 of its grid, around a
// pooling the least number: so these can do without. Reads how many.
bool IsInt8Padding(const TfLiteContext& context, const TfLiteNode& node, int32_t code, bool of_pool,
                   Border* padding);

// The steps of the channels of a kInt8Conv's filter, one for all or one for each.
const TfLiteFloatArray& FilterSteps(const TfLiteTensor& filter);

// Reads the parameters of a kInt8Conv.
void ReadInt8Conv(const TfLiteNode& node, Options* options);

bool IsConstant(const TfLiteTensor& tensor);

}  // namespace fsg

#endif  // FSG_DELEGATE_READ_H_
