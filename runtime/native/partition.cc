#include "partition.h"

#include <stdlib.h>
#include <string.h>

namespace fsg {
namespace {

struct Slot {
  void* data;
  int64_t bytes, capacity;
  bool is_taken;
};

struct Partition {
  const Runtime* runtime;
  bool is_valid;  // init cannot fail in every version of the interface; prepare reports what it met
  int op_count, value_count, slot_count;
  Op* ops;
  Value* values;
  Slot* slots;
};

bool Contains(const TfLiteIntArray* array, int index) {
  for (int i = 0; array != nullptr && i < array->size; ++i) {
    if (array->data[i] == index) return true;
  }
  return false;
}

bool IsConstant(const TfLiteTensor& tensor) {
  return tensor.allocation_type == kTfLiteMmapRo || tensor.allocation_type == kTfLitePersistentRo;
}

// The value of an interpreter's tensor, added on first sight.
int FindValue(Partition* partition, int tensor) {
  for (int i = 0; i < partition->value_count; ++i) {
    if (partition->values[i].tensor == tensor) return i;
  }
  Value* value = &partition->values[partition->value_count];
  value->tensor = tensor;
  value->last_use = -1;
  value->slot = -1;
  return partition->value_count++;
}

TfLiteStatus AddOp(TfLiteContext* context, const TfLiteDelegateParams& params, int index,
                   Partition* partition) {
  TfLiteNode* node;
  TfLiteRegistration* registration;
  if (context->GetNodeAndRegistration(context, params.nodes_to_replace->data[index], &node, &registration) !=
      kTfLiteOk) {
    return kTfLiteError;
  }
  Op* op = &partition->ops[index];
  op->kind = FindOp(registration->custom_name);
  FSG_ENSURE(context, op->kind != OpKind::kNone, "asked to run an operator it did not claim");
  if (ReadOp(context, *node, op) != kTfLiteOk) return kTfLiteError;
  const int tensors = static_cast<int>(context->tensors_size);
  for (int i = 0; i < op->input_count; ++i) {
    const int tensor = node->inputs->data[i];
    FSG_ENSURE(context, tensor >= kTfLiteOptionalTensor && tensor < tensors,
               "an operator reads no such tensor: %d", tensor);
    op->inputs[i] = tensor == kTfLiteOptionalTensor ? -1 : FindValue(partition, tensor);
    if (op->inputs[i] >= 0) partition->values[op->inputs[i]].last_use = index;
  }
  const int tensor = node->outputs->data[0];
  FSG_ENSURE(context, tensor >= 0 && tensor < tensors, "an operator writes no such tensor: %d", tensor);
  op->output = FindValue(partition, tensor);
  partition->values[op->output].is_internal = !Contains(params.output_tensors, tensor);
  return kTfLiteOk;
}

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  const auto& params = *reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  auto* partition = static_cast<Partition*>(calloc(1, sizeof(Partition)));
  if (partition == nullptr) return nullptr;
  const size_t count = static_cast<size_t>(params.nodes_to_replace->size);
  partition->runtime = static_cast<const Runtime*>(params.delegate->data);
  partition->ops = static_cast<Op*>(calloc(count, sizeof(Op)));
  partition->values = static_cast<Value*>(calloc(count * (kMaxInputs + 1), sizeof(Value)));
  partition->slots = static_cast<Slot*>(calloc(count, sizeof(Slot)));
  if (partition->ops == nullptr || partition->values == nullptr || partition->slots == nullptr)
    return partition;
  partition->op_count = static_cast<int>(count);
  partition->is_valid = true;
  for (int i = 0; i < partition->op_count && partition->is_valid; ++i) {
    partition->is_valid = AddOp(context, params, i, partition) == kTfLiteOk;
  }
  return partition;
}

void Free(TfLiteContext*, void* user_data) {
  auto* partition = static_cast<Partition*>(user_data);
  if (partition == nullptr) return;
  for (int i = 0; i < partition->op_count; ++i) FreeOp(&partition->ops[i]);
  for (int i = 0; i < partition->slot_count; ++i) free(partition->slots[i].data);
  free(partition->ops);
  free(partition->values);
  free(partition->slots);
  free(partition);
}

// Takes over what the interpreter knows: everything of a tensor from outside, all but the shape of an
// internal one.
TfLiteStatus ReadTensor(TfLiteContext* context, Value* value) {
  const TfLiteTensor& tensor = context->tensors[value->tensor];
  FSG_ENSURE(context, tensor.dims != nullptr, "tensor %d has no shape", value->tensor);
  const int rank = tensor.dims->size;
  value->type = tensor.type;
  value->quantization = tensor.params;
  value->declared_channels = rank > 0 ? tensor.dims->data[rank - 1] : 0;
  value->constant = IsConstant(tensor) ? tensor.data : nullptr;
  value->constant_bytes = static_cast<int64_t>(tensor.bytes);
  value->is_defined = false;
  value->slot = -1;
  value->rank = rank;
  if (rank >= 0 && rank <= kMaxRank)
    memcpy(value->dims, tensor.dims->data, sizeof(int) * static_cast<size_t>(rank));
  return kTfLiteOk;
}

// Gives an internal tensor memory that no tensor alive beside it uses.
int TakeSlot(Partition* partition, int64_t bytes) {
  int best = -1;
  for (int i = 0; i < partition->slot_count; ++i) {
    if (partition->slots[i].is_taken) continue;
    if (best < 0 || partition->slots[i].bytes > partition->slots[best].bytes) best = i;
  }
  if (best < 0) best = partition->slot_count++;
  Slot* slot = &partition->slots[best];
  slot->is_taken = true;
  if (slot->bytes < bytes) slot->bytes = bytes;
  return best;
}

TfLiteStatus PlaceOutput(TfLiteContext* context, Partition* partition, Value* value) {
  FSG_ENSURE(context, !value->is_defined, "tensor %d is written twice", value->tensor);
  value->is_defined = true;
  if (value->is_internal) {
    value->slot = TakeSlot(partition, value->bytes);
    return kTfLiteOk;
  }
  TfLiteTensor* tensor = &context->tensors[value->tensor];
  FSG_ENSURE(context, !IsConstant(*tensor), "tensor %d is a constant and cannot be written", value->tensor);
  auto* shape = static_cast<TfLiteIntArray*>(malloc(sizeof(int) * static_cast<size_t>(value->rank + 1)));
  FSG_ENSURE(context, shape != nullptr, "out of memory");
  shape->size = value->rank;
  memcpy(shape->data, value->dims, sizeof(int) * static_cast<size_t>(value->rank));
  return context->ResizeTensor(context, tensor, shape);
}

void ReleaseSlots(Partition* partition, const Op& op, int index) {
  const auto release = [&](int v) {
    const Value* value = v < 0 ? nullptr : &partition->values[v];
    if (value != nullptr && value->slot >= 0 && value->last_use <= index)
      partition->slots[value->slot].is_taken = false;
  };
  for (int i = 0; i < op.input_count; ++i) release(op.inputs[i]);
  release(op.output);
}

TfLiteStatus CheckInputs(TfLiteContext* context, Partition* partition, const Op& op) {
  for (int i = 0; i < op.input_count; ++i) {
    if (op.inputs[i] < 0) continue;
    Value* value = &partition->values[op.inputs[i]];
    FSG_ENSURE(context, value->is_defined || !value->is_internal, "tensor %d is read before it is written",
               value->tensor);
    const bool is_measured = Measure(value);
    FSG_ENSURE(context, is_measured || i > 1, "tensor %d has an empty, huge or unknown shape", value->tensor);
  }
  return kTfLiteOk;
}

TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node) {
  auto* partition = static_cast<Partition*>(node->user_data);
  FSG_ENSURE(context, partition != nullptr && partition->is_valid,
             "the binary operators could not be set up");
  for (int i = 0; i < partition->value_count; ++i) {
    if (ReadTensor(context, &partition->values[i]) != kTfLiteOk) return kTfLiteError;
  }
  for (int i = 0; i < partition->slot_count; ++i)
    partition->slots[i].bytes = partition->slots[i].is_taken = 0;
  for (int i = 0; i < partition->op_count; ++i) {
    Op* op = &partition->ops[i];
    if (CheckInputs(context, partition, *op) != kTfLiteOk ||
        PrepareOp(context, *partition->runtime, partition->values, op) != kTfLiteOk ||
        PlaceOutput(context, partition, &partition->values[op->output]) != kTfLiteOk) {
      return kTfLiteError;
    }
    ReleaseSlots(partition, *op, i);
  }
  for (int i = 0; i < partition->slot_count; ++i) {
    Slot* slot = &partition->slots[i];
    if (slot->capacity >= slot->bytes) continue;
    free(slot->data);
    slot->data = malloc(static_cast<size_t>(slot->bytes));
    slot->capacity = slot->data == nullptr ? 0 : slot->bytes;
    FSG_ENSURE(context, slot->data != nullptr, "out of memory");
  }
  return kTfLiteOk;
}

// The memory of a value, or nullptr if the interpreter's tensor is not what it was when the partition was
// prepared.
void* Data(TfLiteContext* context, const Partition& partition, const Value& value) {
  if (value.slot >= 0) return partition.slots[value.slot].data;
  const TfLiteTensor& tensor = context->tensors[value.tensor];
  const bool same_shape =
      tensor.dims != nullptr && tensor.dims->size == value.rank &&
      memcmp(tensor.dims->data, value.dims, sizeof(int) * static_cast<size_t>(value.rank)) == 0;
  return same_shape && tensor.bytes >= static_cast<size_t>(value.bytes) ? tensor.data : nullptr;
}

TfLiteStatus Invoke(TfLiteContext* context, TfLiteNode* node) {
  const auto& partition = *static_cast<const Partition*>(node->user_data);
  for (int i = 0; i < partition.op_count; ++i) {
    const Op& op = partition.ops[i];
    const void* in = Data(context, partition, partition.values[op.inputs[0]]);
    void* out = Data(context, partition, partition.values[op.output]);
    FSG_ENSURE(context, in != nullptr && out != nullptr,
               "a tensor has no data or changed its shape: tensors of dynamic shape are not supported");
    RunOp(*partition.runtime, partition.values, op, in, out);
  }
  return kTfLiteOk;
}

}  // namespace

TfLiteRegistration PartitionRegistration() {
  TfLiteRegistration registration = {};
  registration.init = Init;
  registration.free = Free;
  registration.prepare = Prepare;
  registration.invoke = Invoke;
  registration.custom_name = "FsgBinaryOps";
  registration.version = 1;
  return registration;
}

}  // namespace fsg
