#include <stdlib.h>
#include <string.h>

#include "delegate/partition.h"
#include "delegate/read.h"

namespace fsg {
namespace {

bool Contains(const TfLiteIntArray* array, int index) {
  for (int i = 0; array != nullptr && i < array->size; ++i) {
    if (array->data[i] == index) return true;
  }
  return false;
}

// What is under construction.
struct Builder {
  TfLiteContext* context;
  const TfLiteDelegateParams& params;
  Partition* partition;
};

TfLiteStatus FindNode(const Builder& b, int index, TfLiteNode** node, TfLiteRegistration** registration) {
  FSG_ENSURE(b.context, b.context->GetNodeAndRegistration(b.context, index, node, registration) == kTfLiteOk,
             "there is no node %d", index);
  return kTfLiteOk;
}

int AddValue(const Builder& b, int tensor) {
  Value* value = &b.partition->values[b.partition->value_count];
  value->tensor = tensor;
  value->last_use = value->slot = value->parent = -1;
  value->is_internal = tensor < 0;
  return b.partition->value_count++;
}

// The value of an interpreter's tensor, added on first sight.
int FindValue(const Builder& b, int tensor) {
  for (int i = 0; i < b.partition->value_count; ++i) {
    if (b.partition->values[i].tensor == tensor) return i;
  }
  return AddValue(b, tensor);
}

int ReadValue(const Builder& b, int tensor, int reader) {
  const int value = FindValue(b, tensor);
  b.partition->values[value].last_use = reader;
  return value;
}

int WrittenValue(const Builder& b, int tensor) {
  const int value = FindValue(b, tensor);
  b.partition->values[value].is_internal = !Contains(b.params.output_tensors, tensor);
  return value;
}

int OpIndex(const Builder& b, const Op* op) { return static_cast<int>(op - b.partition->ops); }

TfLiteStatus AddOp(const Builder& b, OpKind kind, Op** op) {
  Partition* partition = b.partition;
  FSG_ENSURE(b.context, partition->op_count < partition->op_limit, "more operators than planned");
  *op = &partition->ops[partition->op_count++];
  (*op)->kind = kind;
  (*op)->output = -1;
  return kTfLiteOk;
}

// Inputs and output as the node has them.
TfLiteStatus TakeTensors(const Builder& b, const TfLiteNode& node, Op* op) {
  const int tensors = static_cast<int>(b.context->tensors_size);
  for (int i = 0; i < op->input_count; ++i) {
    const int tensor = node.inputs->data[i];
    FSG_ENSURE(b.context, tensor >= kTfLiteOptionalTensor && tensor < tensors,
               "an operator reads no such tensor: %d", tensor);
    op->inputs[i] = tensor == kTfLiteOptionalTensor ? -1 : ReadValue(b, tensor, OpIndex(b, op));
  }
  const int tensor = node.outputs->data[0];
  FSG_ENSURE(b.context, tensor >= 0 && tensor < tensors, "an operator writes no such tensor: %d", tensor);
  op->output = WrittenValue(b, tensor);
  return kTfLiteOk;
}

// `pad` is the node that pads the image of one of integers, or -1.
TfLiteStatus AddNode(const Builder& b, int index, int pad, Op** op) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (FindNode(b, index, &node, &registration) != kTfLiteOk) return kTfLiteError;
  const OpKind lce = FindOp(registration->custom_name);
  const bool is_lce = lce != OpKind::kNone;
  const OpKind int8 = is_lce ? OpKind::kNone : FindInt8(*b.context, *node, registration->builtin_code);
  const bool is_int8 = int8 != OpKind::kNone;
  FSG_ENSURE(b.context, is_lce || is_int8 || registration->builtin_code == kTfLiteBuiltinConcatenation,
             "asked to run an operator it did not claim");
  const OpKind kind = is_lce ? lce : is_int8 ? int8 : OpKind::kConcatenate;
  if (AddOp(b, kind, op) != kTfLiteOk) return kTfLiteError;
  if (is_int8) {
    (*op)->input_count = node->inputs->size;
    if (kind == OpKind::kInt8Conv) ReadInt8Conv(*node, &(*op)->options);
    if (kind == OpKind::kInt8MaxPool && ReadPool(b.context, *node, &(*op)->options) != kTfLiteOk)
      return kTfLiteError;
  } else if (!is_lce) {
    (*op)->input_count = node->inputs->size;
  } else if (ReadOp(b.context, *node, *op) != kTfLiteOk) {
    return kTfLiteError;
  }
  if (TakeTensors(b, *node, *op) != kTfLiteOk) return kTfLiteError;
  if (pad < 0) return kTfLiteOk;
  if (FindNode(b, pad, &node, &registration) != kTfLiteOk) return kTfLiteError;
  FSG_ENSURE(b.context,
             IsInt8Padding(*b.context, *node, registration->builtin_code, kind == OpKind::kInt8MaxPool,
                           &(*op)->padding),
             "PAD: its padding has changed");
  (*op)->inputs[0] = ReadValue(b, node->inputs->data[0], OpIndex(b, *op));
  return kTfLiteOk;
}

TfLiteStatus AddPostOps(const Builder& b, const FusedPostOp* post_ops, int count, Op* op) {
  op->bound = static_cast<BoundPostOp*>(calloc(static_cast<size_t>(count), sizeof(BoundPostOp)));
  op->post_op_list = static_cast<PostOp*>(calloc(static_cast<size_t>(count), sizeof(PostOp)));
  FSG_ENSURE(b.context, op->bound != nullptr && op->post_op_list != nullptr, "out of memory");
  op->post_ops.count = count;
  for (int i = 0; i < count; ++i) {
    const FusedPostOp& post_op = post_ops[i];
    const bool is_hidden = post_op.kind == PostOpKind::kPack && post_op.node >= 0;
    op->bound[i] = {post_op, is_hidden                     ? AddValue(b, -1)
                             : post_op.tensor < 0          ? -1
                             : IsDestination(post_op.kind) ? WrittenValue(b, post_op.tensor)
                                                           : ReadValue(b, post_op.tensor, OpIndex(b, op))};
  }
  return kTfLiteOk;
}

// A pooling or padding as an operator of its own, from the value `input` to a tensor.
TfLiteStatus AddResize(const Builder& b, const TfLiteNode& node, int32_t code, int input, int output) {
  const bool is_pool = code == kTfLiteBuiltinMaxPool2d;
  Op* op;
  if (AddOp(b, is_pool ? OpKind::kMaxPool : OpKind::kPad, &op) != kTfLiteOk) return kTfLiteError;
  op->input_count = 1;
  op->inputs[0] = input;
  b.partition->values[input].last_use = OpIndex(b, op);
  op->output = WrittenValue(b, output);
  if (is_pool) return ReadPool(b.context, node, &op->options);
  FSG_ENSURE(b.context, ReadPadding(*b.context, node, &op->padding), "PAD: its padding has changed");
  return kTfLiteOk;
}

// The bits of a tensor that the graph pads or pools before it takes its signs.
TfLiteStatus AddResizeOfBits(const Builder& b, const BoundPostOp& pack) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (FindNode(b, pack.fused.node, &node, &registration) != kTfLiteOk) return kTfLiteError;
  return AddResize(b, *node, registration->builtin_code, pack.value, pack.fused.tensor);
}

bool IsStored(const Builder& b, const Op* first, int tensor) {
  const Op* end = b.partition->ops + b.partition->op_count;
  for (const Op* op = first; op != end; ++op) {
    for (int i = 0; op->bound != nullptr && i < op->post_ops.count; ++i) {
      if (op->bound[i].fused.kind == PostOpKind::kStore && op->bound[i].fused.tensor == tensor) return true;
    }
  }
  return false;
}

// A padded or pooled tensor that the graph outputs, though in the unit only its bits exist.
TfLiteStatus AddResizeOfFloats(const Builder& b, int index, const Op* first) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (FindNode(b, index, &node, &registration) != kTfLiteOk) return kTfLiteError;
  const int32_t code = FindOp(registration->custom_name) == OpKind::kNone ? registration->builtin_code : -1;
  const int output = node->outputs->data[0];
  if (!Contains(b.params.output_tensors, output) || IsStored(b, first, output)) return kTfLiteOk;
  if (code == kTfLiteBuiltinPad || code == kTfLiteBuiltinPadv2) {
    return AddResize(b, *node, code, FindValue(b, node->inputs->data[0]), output);
  }
  if (code != kTfLiteBuiltinMaxPool2d) return kTfLiteOk;
  const FusedPostOp post_ops[] = {{PostOpKind::kPool, false, node->inputs->data[0], 0, 0, 0, 0, index},
                                  {PostOpKind::kStore, false, output, 0, 0, 0, 0, -1}};
  Op* op;
  if (AddOp(b, OpKind::kPostOps, &op) != kTfLiteOk) return kTfLiteError;
  if (ReadPool(b.context, *node, &op->options) != kTfLiteOk) return kTfLiteError;
  return AddPostOps(b, post_ops, 2, op);
}

// The node that pads the image of a unit's operator on integers, or -1.
int PadOf(const Unit& unit, const int* members) {
  if (unit.node < 0 || unit.post_op_count > 0 || unit.member_count != 2) return -1;
  return members[members[0] == unit.node ? 1 : 0];
}

// A padded image of integers, if the graph outputs it.
TfLiteStatus AddPadding(const Builder& b, int index, int input) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (FindNode(b, index, &node, &registration) != kTfLiteOk) return kTfLiteError;
  const int output = node->outputs->data[0];
  if (!Contains(b.params.output_tensors, output)) return kTfLiteOk;
  Op* op;
  if (AddOp(b, OpKind::kPad, &op) != kTfLiteOk) return kTfLiteError;
  op->padding = b.partition->ops[b.partition->op_count - 2].padding;
  op->input_count = 1;
  op->inputs[0] = input;
  b.partition->values[input].last_use = OpIndex(b, op);
  op->output = WrittenValue(b, output);
  return kTfLiteOk;
}

TfLiteStatus AddUnit(const Builder& b, const Unit& unit, const FusedPostOp* post_ops, const int* members) {
  Op* op;
  const int pad = PadOf(unit, members);
  if ((unit.node >= 0 ? AddNode(b, unit.node, pad, &op) : AddOp(b, OpKind::kPostOps, &op)) != kTfLiteOk) {
    return kTfLiteError;
  }
  if (pad >= 0) return AddPadding(b, pad, op->inputs[0]);
  const int first = OpIndex(b, op);
  const bool stores_floats =
      op->kind == OpKind::kConv && unit.post_op_count == 0 &&
      b.context->tensors[b.partition->values[op->output].tensor].type == kTfLiteFloat32;
  if (stores_floats) {
    const int output = b.partition->values[op->output].tensor;
    const FusedPostOp plain[] = {{PostOpKind::kDots, false, -1, 0, 0, 0, 0, -1},
                                 {PostOpKind::kStore, false, output, 0, 0, 0, 0, -1}};
    return AddPostOps(b, plain, 2, op);
  }
  if (unit.post_op_count == 0) return kTfLiteOk;
  if (AddPostOps(b, post_ops, unit.post_op_count, op) != kTfLiteOk) return kTfLiteError;
  if (post_ops[0].kind == PostOpKind::kPool) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (FindNode(b, post_ops[0].node, &node, &registration) != kTfLiteOk ||
        ReadPool(b.context, *node, &op->options) != kTfLiteOk) {
      return kTfLiteError;
    }
  }
  for (int i = 0; i < unit.post_op_count; ++i) {
    const BoundPostOp& post_op = op->bound[i];
    if (post_op.fused.kind != PostOpKind::kPack || post_op.fused.node < 0) continue;
    if (AddResizeOfBits(b, post_op) != kTfLiteOk) return kTfLiteError;
  }
  for (int i = 0; i < unit.member_count; ++i) {
    if (AddResizeOfFloats(b, members[i], b.partition->ops + first) != kTfLiteOk) return kTfLiteError;
  }
  return kTfLiteOk;
}

// Values that nobody reads stay in registers.
void DropUnreadStores(Partition* partition) {
  for (Op* op = partition->ops; op != partition->ops + partition->op_count; ++op) {
    if (op->bound == nullptr) continue;
    int kept = 0;
    for (int i = 0; i < op->post_ops.count; ++i) {
      const BoundPostOp& post_op = op->bound[i];
      const Value* value = post_op.value < 0 ? nullptr : &partition->values[post_op.value];
      const bool is_unread = value != nullptr && value->is_internal && value->last_use < 0;
      if (post_op.fused.kind != PostOpKind::kStore || !is_unread) op->bound[kept++] = post_op;
    }
    op->post_ops.count = kept;
  }
}

// The operators that take and leave rows of pixels without gaps.
void MarkWholeValues(Partition* partition) {
  for (const Op* op = partition->ops; op != partition->ops + partition->op_count; ++op) {
    if (op->kind == OpKind::kConcatenate) continue;
    for (int i = 0; i < op->input_count; ++i) {
      if (op->inputs[i] >= 0) partition->values[op->inputs[i]].is_whole = true;
    }
    if (op->bound == nullptr && op->output >= 0) partition->values[op->output].is_whole = true;
  }
}

// Lets operators write what is only to be concatenated to where it belongs.
void JoinInPlace(Partition* partition) {
  Value* values = partition->values;
  for (const Op* op = partition->ops; op != partition->ops + partition->op_count; ++op) {
    if (op->kind != OpKind::kConcatenate) continue;
    for (int i = 0; i < op->input_count; ++i) {
      Value* input = &values[op->inputs[i]];
      bool is_above = false;
      for (int v = op->output; v >= 0; v = values[v].parent) is_above |= v == op->inputs[i];
      if (!is_above && input->is_internal && !input->is_whole && input->parent < 0)
        input->parent = op->output;
    }
  }
  for (int i = 0; i < partition->value_count; ++i) {
    for (int v = values[i].parent; v >= 0; v = values[v].parent) {
      if (values[v].last_use < values[i].last_use) values[v].last_use = values[i].last_use;
    }
  }
}

struct Size {
  int units, members, post_ops;
};

TfLiteStatus Reserve(const Builder& b, const Size& size) {
  Partition* partition = b.partition;
  partition->op_limit = size.units + size.members + size.post_ops;
  partition->value_limit = partition->op_limit * (kMaxInputs + 1) + 2 * size.post_ops;
  partition->ops = static_cast<Op*>(calloc(static_cast<size_t>(partition->op_limit), sizeof(Op)));
  partition->values = static_cast<Value*>(calloc(static_cast<size_t>(partition->value_limit), sizeof(Value)));
  partition->slots = static_cast<Slot*>(calloc(static_cast<size_t>(partition->value_limit), sizeof(Slot)));
  FSG_ENSURE(b.context,
             partition->ops != nullptr && partition->values != nullptr && partition->slots != nullptr,
             "out of memory");
  return kTfLiteOk;
}

TfLiteStatus AddPlannedUnits(const Builder& b, const FusionPlan& plan, int index) {
  Size size = {};
  for (int i = 0; i < plan.ordered_count; ++i) {
    const Unit& unit = plan.units[plan.order[i]];
    if (unit.partition != index) continue;
    ++size.units, size.members += unit.member_count, size.post_ops += unit.post_op_count;
  }
  FSG_ENSURE(b.context, size.members == b.params.nodes_to_replace->size,
             "the interpreter divided %d nodes that belong together", size.members);
  if (Reserve(b, size) != kTfLiteOk) return kTfLiteError;
  for (int i = 0; i < plan.ordered_count; ++i) {
    const Unit& unit = plan.units[plan.order[i]];
    if (unit.partition != index) continue;
    const FusedPostOp* post_ops = plan.post_ops + unit.first_post_op;
    if (AddUnit(b, unit, post_ops, plan.members + unit.first_member) != kTfLiteOk) return kTfLiteError;
  }
  return kTfLiteOk;
}

TfLiteStatus AddSingleNodes(const Builder& b) {
  const TfLiteIntArray& nodes = *b.params.nodes_to_replace;
  if (Reserve(b, {nodes.size, 0, 2 * nodes.size}) != kTfLiteOk) return kTfLiteError;
  for (int i = 0; i < nodes.size; ++i) {
    Unit unit = {};
    unit.node = nodes.data[i];
    unit.member_count = 1;
    if (AddUnit(b, unit, nullptr, &nodes.data[i]) != kTfLiteOk) return kTfLiteError;
  }
  return kTfLiteOk;
}

}  // namespace

TfLiteStatus BuildPartition(TfLiteContext* context, const TfLiteDelegateParams& params,
                            Partition* partition) {
  const Builder b = {context, params, partition};
  const FusionPlan* plan = partition->runtime->plan;
  const TfLiteStatus status =
      plan == nullptr ? AddSingleNodes(b) : AddPlannedUnits(b, *plan, partition->runtime->partition);
  if (status != kTfLiteOk) return status;
  DropUnreadStores(partition);
  MarkWholeValues(partition);
  JoinInPlace(partition);
  return kTfLiteOk;
}

}  // namespace fsg
