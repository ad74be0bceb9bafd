#include "delegate/units.h"

namespace fsg {

bool Units::Reserve() {
  const size_t count = static_cast<size_t>(graph_->Count());
  return Allocate(&plan_->units, count + 1) && Allocate(&plan_->order, count) &&
         Allocate(&plan_->members, 2 * count) && Allocate(&plan_->post_ops, 2 * count * kPostOpsPerNode);
}

void Units::Begin(int node) {
  const Unit* before = plan_->unit_count > 0 ? Current() : nullptr;
  Unit* unit = &plan_->units[plan_->unit_count++];
  *unit = {};
  unit->node = node;
  if (before != nullptr) {
    unit->first_member = before->first_member + before->member_count;
    unit->first_post_op = before->first_post_op + before->post_op_count;
  }
}

void Units::BeginWith(int position) {
  Begin(graph_->At(position).index);
  Claim(position);
}

void Units::Claim(int position) {
  Unit* unit = Current();
  graph_->At(position).unit = plan_->unit_count - 1;
  plan_->members[unit->first_member + unit->member_count++] = position;
}

void Units::Push(const FusedPostOp& post_op) {
  Unit* unit = Current();
  plan_->post_ops[unit->first_post_op + unit->post_op_count++] = post_op;
}

void Units::Cut(int members, int post_ops) {
  Unit* unit = Current();
  for (int i = members; i < unit->member_count; ++i)
    graph_->At(plan_->members[unit->first_member + i]).unit = -1;
  unit->member_count = members;
  unit->post_op_count = post_ops;
  if (members == 0) --plan_->unit_count;
}

}  // namespace fsg
