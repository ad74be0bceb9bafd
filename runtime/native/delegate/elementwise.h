// Operators that treat every value of an image alike, as post-operations.
#ifndef FSG_DELEGATE_ELEMENTWISE_H_
#define FSG_DELEGATE_ELEMENTWISE_H_

#include "delegate/fusion_plan.h"
#include "delegate/graph.h"

namespace fsg {

// A way an operator changes the value that runs through it: an operation and perhaps an activation.
struct Element {
  FusedPostOp post_ops[2];
  int post_op_count;
  int pad;  // position of a PAD of channels that becomes part of the operand, or -1
};

inline FusedPostOp MakePostOp(PostOpKind kind, int tensor = -1) {
  return {kind, false, tensor, 0, 0, 0, 0, -1};
}

// Appends the clamp of a fused activation. False for those that are none.
bool AddActivation(int activation, Element* element);

// Of ADD, SUB, MUL, MAXIMUM and MINIMUM.
bool IsArithmetic(const Graph& graph, int position);
PostOpKind ArithmeticKind(const Graph& graph, int position, bool is_left);

// -1, which is no activation, where the parameters are missing.
int ArithmeticActivation(const Graph& graph, int position);

// How an operator changes the value of tensor `image`, which it reads. False if it is not elementwise.
bool ReadElement(const Graph& graph, int position, int image, Element* element);

// The same, of an operator that reads nothing else but constants.
bool ReadUnary(const Graph& graph, int position, int image, Element* element);

}  // namespace fsg

#endif  // FSG_DELEGATE_ELEMENTWISE_H_
