#include "delegate/deal.h"

#include <string.h>

namespace fsg {
namespace {

class Dealer {
 public:
  Dealer(Graph* graph, Units* units, FusionPlan* plan) : graph_(graph), units_(units), plan_(plan) {}
  Dealer(const Dealer&) = delete;
  ~Dealer() { free(ready_); }

  bool Reserve() { return Allocate(&ready_, static_cast<size_t>(graph_->TensorCount())); }

  void FormPartitions() {
    const int first = FirstRunnable();
    if (first >= 0 && !Deal(first)) {
      TakeApart(graph_->At(first).unit);
      Deal(first);
    }
    for (int i = 0; i < plan_->ordered_count; ++i) {
      const Unit& unit = plan_->units[plan_->order[i]];
      for (int m = 0; m < unit.member_count; ++m) {
        int* member = &plan_->members[unit.first_member + m];
        *member = graph_->At(*member).index;
      }
    }
  }

 private:
  bool CanRun(int position) const {
    const int unit = graph_->At(position).unit;
    for (int i = 0; i < graph_->InputCount(position); ++i) {
      const int tensor = graph_->Input(position, i);
      if (tensor < 0 || graph_->Producer(tensor) < 0 || ready_[tensor]) continue;
      if (unit < 0 || graph_->At(graph_->Producer(tensor)).unit != unit) return false;
    }
    return true;
  }

  bool CanRunUnit(const Unit& unit) const {
    for (int i = 0; i < unit.member_count; ++i) {
      if (!CanRun(plan_->members[unit.first_member + i])) return false;
    }
    return true;
  }

  int FirstRunnable() const {
    for (int p = 0; p < graph_->Count(); ++p) {
      bool can_run = true;
      for (int i = 0; i < graph_->InputCount(p); ++i) {
        can_run &= graph_->Input(p, i) < 0 || graph_->Producer(graph_->Input(p, i)) < 0;
      }
      if (can_run) return p;
    }
    return -1;
  }

  void Finish(int position) {
    graph_->At(position).is_seen = true;
    const TfLiteIntArray& outputs = *graph_->At(position).node->outputs;
    for (int i = 0; i < outputs.size; ++i) ready_[outputs.data[i]] = true;
  }

  // Runs, in thought, all that can run and is claimed, or all that is not. False if there is nothing.
  bool RunAll(bool claimed, int partition, int* ordered) {
    bool any = false;
    for (bool again = true; again;) {
      again = false;
      for (int p = 0; p < graph_->Count(); ++p) {
        const int u = graph_->At(p).unit;
        if (graph_->At(p).is_seen || (u >= 0) != claimed) continue;
        if (!claimed && CanRun(p)) {
          Finish(p);
          again = true;
        } else if (claimed && CanRunUnit(plan_->units[u])) {
          Unit* unit = &plan_->units[u];
          for (int i = 0; i < unit->member_count; ++i) Finish(plan_->members[unit->first_member + i]);
          unit->partition = partition;
          plan_->order[(*ordered)++] = u;
          again = true;
        }
      }
      any |= again;
    }
    return any;
  }

  // False if the node `first`, which can run before all others, waits in a unit for something else.
  bool Deal(int first) {
    for (int p = 0; p < graph_->Count(); ++p) graph_->At(p).is_seen = false;
    memset(ready_, 0, static_cast<size_t>(graph_->TensorCount()) * sizeof(bool));
    plan_->ordered_count = plan_->partition_count = 0;
    bool claimed = graph_->At(first).unit >= 0;
    while (RunAll(claimed, plan_->partition_count, &plan_->ordered_count)) {
      plan_->partition_count += claimed;
      claimed = !claimed;
    }
    return graph_->At(first).is_seen;
  }

  // Leaves a unit's builtin operators to the interpreter.
  void TakeApart(int index) {
    const Unit unit = plan_->units[index];
    plan_->units[index].member_count = 0;
    for (int i = 0; i < unit.member_count; ++i) {
      const int position = plan_->members[unit.first_member + i];
      graph_->At(position).unit = -1;
      if (graph_->At(position).lce != OpKind::kNone) units_->BeginWith(position);
    }
  }

  Graph* graph_;
  Units* units_;
  FusionPlan* plan_;
  bool* ready_ = nullptr;  // tensors
};

}  // namespace

bool DealUnits(Graph* graph, Units* units, FusionPlan* plan) {
  Dealer dealer(graph, units, plan);
  if (!dealer.Reserve()) return false;
  dealer.FormPartitions();
  return true;
}

}  // namespace fsg
