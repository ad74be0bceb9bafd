// The units of a plan while they are formed, one after the other; the last one can still change.
#ifndef FSG_DELEGATE_UNITS_H_
#define FSG_DELEGATE_UNITS_H_

#include "delegate/fusion_plan.h"
#include "delegate/graph.h"

namespace fsg {

constexpr int kPostOpsPerNode = 4;  // at most: kKeep or kSwap, the operation, its activation, kStore

class Units {
 public:
  Units(Graph* graph, FusionPlan* plan) : graph_(graph), plan_(plan) {}

  // Makes room for the units of all nodes. False if memory is short.
  bool Reserve();

  Unit* Current() { return &plan_->units[plan_->unit_count - 1]; }

  // Begins a unit, which is the node `node` or, if that is -1, loads a tensor.
  void Begin(int node);

  // A unit of one operator.
  void BeginWith(int position);

  void Claim(int position);
  void Push(const FusedPostOp& post_op);

  // Shortens the unit that was formed last.
  void Cut(int members, int post_ops);

 private:
  Graph* graph_;
  FusionPlan* plan_;
};

}  // namespace fsg

#endif  // FSG_DELEGATE_UNITS_H_
