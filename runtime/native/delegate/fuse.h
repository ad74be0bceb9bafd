// Decides which of a graph's operators the delegate runs, and which of them together in one pass over memory.
#ifndef FSG_DELEGATE_FUSE_H_
#define FSG_DELEGATE_FUSE_H_

#include "delegate/tflite_abi.h"
#include "kernels/post_ops.h"

namespace fsg {

// A post-operation whose operand or destination is a tensor of the interpreter.
struct FusedPostOp {
  PostOpKind kind;
  bool is_kept;
  int tensor;         // -1 without one: kPrelu's slope is then `low`
  float low, high;    // of kClamp
  int first_channel;  // where the operand begins
  int channels;       // that it has if they are fewer than those of the image; otherwise 0
  int node;  // of kPool the MAX_POOL_2D, of kPack the padding or pooling of the bits in between; or -1
};

// Nodes of the graph that run as one: an LceBconv2d or a tensor and what follows it, or a single operator.
struct Unit {
  int node;  // of the interpreter: an LCE operator or CONCATENATION; -1 where the first post-operation loads
             // a tensor
  int first_member, member_count;    // in FusionPlan::members
  int first_post_op, post_op_count;  // in FusionPlan::post_ops; none for what an operator does by itself
  int partition;
};

struct FusionPlan {
  Unit* units;
  int* order;  // units in an order in which they can run, partition by partition
  int* members;
  FusedPostOp* post_ops;
  int unit_count, ordered_count, partition_count;
};

// What PAD and PADV2 add to an image.
struct Border {
  int before[4], after[4];
  float value;
};
bool ReadPadding(const TfLiteContext& context, const TfLiteNode& node, Border* padding);

bool IsConstant(const TfLiteTensor& tensor);

// Plans the nodes of an execution plan. False, with an empty plan, if the graph is too large or not one in
// which every tensor has a single producer.
bool PlanFusion(TfLiteContext* context, const TfLiteIntArray& nodes, FusionPlan* plan);
void FreeFusionPlan(FusionPlan* plan);

}  // namespace fsg

#endif  // FSG_DELEGATE_FUSE_H_
