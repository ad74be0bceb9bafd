// Decides which of a graph's operators the delegate runs, and which of them together in one pass over memory.
#ifndef FSG_DELEGATE_FUSE_H_
#define FSG_DELEGATE_FUSE_H_

#include "delegate/fusion_plan.h"
#include "delegate/tflite_abi.h"

namespace fsg {

// Plans the nodes of an execution plan. False, with an empty plan, if the graph is too large or not one in
// which every tensor has a single producer.
bool PlanFusion(TfLiteContext* context, const TfLiteIntArray& nodes, bool takes_int8, FusionPlan* plan);
void FreeFusionPlan(FusionPlan* plan);

}  // namespace fsg

#endif  // FSG_DELEGATE_FUSE_H_
