// Which nodes of a graph run as one, and in which order.
#ifndef FSG_DELEGATE_FUSION_PLAN_H_
#define FSG_DELEGATE_FUSION_PLAN_H_

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

}  // namespace fsg

#endif  // FSG_DELEGATE_FUSION_PLAN_H_
