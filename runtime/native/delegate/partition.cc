#include "delegate/partition.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "delegate/prepare.h"
#include "delegate/read.h"
#include "delegate/run.h"

namespace fsg {
namespace {

// The values an operator reads or writes.
template <typename Visit>
void ForEachRead(const Op& op, const Visit& visit) {
  for (int i = 0; i < op.input_count; ++i) {
    if (op.inputs[i] >= 0) visit(op.inputs[i]);
  }
  for (int i = 0; i < op.post_ops.count; ++i) {
    const BoundPostOp& post_op = op.bound[i];
    if (post_op.value >= 0 && !IsDestination(post_op.fused.kind)) visit(post_op.value);
  }
}

template <typename Visit>
void ForEachWrite(const Op& op, const Visit& visit) {
  if (op.bound == nullptr) visit(op.output);
  for (int i = 0; i < op.post_ops.count; ++i) {
    if (IsDestination(op.bound[i].fused.kind)) visit(op.bound[i].value);
  }
}

// The value whose memory a value is a part of: itself if it is not concatenated in place.
int Whole(const Partition& partition, int value) {
  while (partition.values[value].parent >= 0) value = partition.values[value].parent;
  return value;
}

// Notes that a partition runs these nodes; false if there is no memory for that.
bool Own(Profile* profile, const TfLiteIntArray& nodes, int partition) {
  for (int i = 0; i < nodes.size; ++i) {
    const int node = nodes.data[i];
    if (node >= profile->owner_count) {
      auto* owners =
          static_cast<int*>(realloc(profile->owners, sizeof(int) * (static_cast<size_t>(node) + 1)));
      if (owners == nullptr) return false;
      for (int j = profile->owner_count; j <= node; ++j) owners[j] = -1;
      profile->owners = owners, profile->owner_count = node + 1;
    }
    profile->owners[node] = partition;
  }
  return true;
}

void* Init(TfLiteContext* context, const char* buffer, size_t) {
  const auto& params = *reinterpret_cast<const TfLiteDelegateParams*>(buffer);
  auto* partition = static_cast<Partition*>(calloc(1, sizeof(Partition)));
  if (partition == nullptr) return nullptr;
  partition->runtime = static_cast<const Runtime*>(params.delegate->data);
  Profile* profile = partition->runtime->profile;
  partition->number = profile->partition_count++;
  partition->is_valid = BuildPartition(context, params, partition) == kTfLiteOk &&
                        Own(profile, *params.nodes_to_replace, partition->number);
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
  value->is_defined = value->is_placed = false;
  value->slot = -1;
  if (value->tensor < 0) {
    value->type = kTfLiteInt32;
    return kTfLiteOk;
  }
  const TfLiteTensor& tensor = context->tensors[value->tensor];
  FSG_ENSURE(context, tensor.dims != nullptr, "tensor %d has no shape", value->tensor);
  const int rank = tensor.dims->size;
  value->type = tensor.type;
  value->quantization = tensor.params;
  value->declared_channels = rank > 0 ? tensor.dims->data[rank - 1] : 0;
  value->constant = IsConstant(tensor) ? tensor.data : nullptr;
  value->constant_bytes = static_cast<int64_t>(tensor.bytes);
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

// Where the parts of a concatenation begin that are in place.
void PlaceParts(Partition* partition) {
  for (const Op* op = partition->ops; op != partition->ops + partition->op_count; ++op) {
    if (op->kind != OpKind::kConcatenate) continue;
    int channel = 0;
    for (int i = 0; i < op->input_count; ++i) {
      Value* input = &partition->values[op->inputs[i]];
      if (input->parent == op->output) input->parent_channel = channel;
      if (__builtin_add_overflow(channel, input->declared_channels, &channel)) channel = INT32_MAX / 2;
    }
  }
}

// Makes sure that what is written to a part of a concatenation stays there, and gives the whole its shape.
TfLiteStatus CheckPart(TfLiteContext* context, Partition* partition, int index) {
  const Value& part = partition->values[index];
  if (part.parent < 0) return kTfLiteOk;
  FSG_ENSURE(context, part.rank == 4 && part.dims[3] == part.declared_channels,
             "tensor %d has not the channels that the file declares", part.tensor);
  for (int v = index; partition->values[v].parent >= 0; v = partition->values[v].parent) {
    const Value& inner = partition->values[v];
    FSG_ENSURE(context,
               int64_t{inner.parent_channel} + inner.declared_channels <=
                   partition->values[inner.parent].declared_channels,
               "tensor %d has more channels than what it is concatenated to", inner.tensor);
  }
  Value* whole = &partition->values[Whole(*partition, index)];
  FSG_ENSURE(context, !whole->is_placed || memcmp(whole->dims, part.dims, 3 * sizeof(int)) == 0,
             "CONCATENATION: images of different sizes");
  memcpy(whole->dims, part.dims, 3 * sizeof(int));
  whole->dims[3] = whole->declared_channels;
  whole->rank = 4;
  FSG_ENSURE(context, Measure(whole), "tensor %d would have more than 2^31 elements", whole->tensor);
  return kTfLiteOk;
}

// The last position in an operator's post-operations that reads a value, or -1.
int LastRead(const Op& op, int value) {
  int last = -1;
  for (int i = 0; i < op.post_ops.count; ++i) {
    if (op.bound[i].value == value && !IsDestination(op.bound[i].fused.kind)) last = i;
  }
  return last;
}

// An operand whose memory `output` can take because each of its values is read for the last time before what
// replaces it is stored; or -1.
int FindPredecessor(const Partition& partition, const Op& op, int output) {
  const Value& to = partition.values[output];
  for (int i = 0; i < op.post_ops.count; ++i) {
    if (op.bound[i].value == output) return -1;
    const int v = op.bound[i].value;
    if (v < 0 || IsDestination(op.bound[i].fused.kind) || op.bound[i].fused.kind == PostOpKind::kPool)
      continue;
    const Value& from = partition.values[v];
    const bool is_last = &partition.ops[from.last_use] == &op && LastRead(op, v) == i;
    const bool is_alike =
        from.parent < 0 && from.rank == 4 && memcmp(from.dims, to.dims, sizeof(int) * 4) == 0;
    if (is_last && is_alike && from.slot >= 0 && partition.slots[from.slot].owner == v) return v;
  }
  return -1;
}

// Only what post-operations store as it is, not a whole that they store a part of, can replace an operand.
void TakeMemory(Partition* partition, const Op& op, int index, bool is_stored) {
  Value* value = &partition->values[index];
  const int before = is_stored && op.bound != nullptr ? FindPredecessor(*partition, op, index) : -1;
  value->slot = before >= 0 ? partition->values[before].slot : TakeSlot(partition, value->bytes);
  partition->slots[value->slot].owner = index;
}

TfLiteStatus PlaceOutput(TfLiteContext* context, Partition* partition, const Op& op, int index) {
  Value* value = &partition->values[index];
  FSG_ENSURE(context, !value->is_defined, "tensor %d is written twice, or after it is read", value->tensor);
  FSG_ENSURE(context, value->constant == nullptr, "tensor %d is a constant and cannot be written",
             value->tensor);
  value->is_defined = true;
  if (CheckPart(context, partition, index) != kTfLiteOk) return kTfLiteError;
  const int whole = Whole(*partition, index);
  value = &partition->values[whole];
  if (value->is_placed) return kTfLiteOk;
  value->is_placed = true;
  if (value->is_internal) {
    TakeMemory(partition, op, whole, whole == index);
    return kTfLiteOk;
  }
  TfLiteTensor* tensor = &context->tensors[value->tensor];
  auto* shape = static_cast<TfLiteIntArray*>(malloc(sizeof(int) * static_cast<size_t>(value->rank + 1)));
  FSG_ENSURE(context, shape != nullptr, "out of memory");
  shape->size = value->rank;
  memcpy(shape->data, value->dims, sizeof(int) * static_cast<size_t>(value->rank));
  return context->ResizeTensor(context, tensor, shape);
}

TfLiteStatus PlaceOutputs(TfLiteContext* context, Partition* partition, const Op& op) {
  TfLiteStatus status = kTfLiteOk;
  ForEachWrite(op, [&](int v) {
    if (status == kTfLiteOk) status = PlaceOutput(context, partition, op, v);
  });
  return status;
}

void ReleaseSlots(Partition* partition, const Op& op, int index) {
  const auto release = [&](int v) {
    const int whole = Whole(*partition, v);
    const Value& value = partition->values[whole];
    Slot* slot = value.slot < 0 ? nullptr : &partition->slots[value.slot];
    if (slot != nullptr && slot->owner == whole && value.last_use <= index) slot->is_taken = false;
  };
  ForEachRead(op, release);
  ForEachWrite(op, release);
}

TfLiteStatus CheckInput(TfLiteContext* context, Value* value, bool needs_shape) {
  FSG_ENSURE(context, value->is_defined || !value->is_internal, "tensor %d is read before it is written",
             value->tensor);
  const bool is_measured = Measure(value);
  FSG_ENSURE(context, is_measured || !needs_shape, "tensor %d has an empty, huge or unknown shape",
             value->tensor);
  value->is_defined = true;  // a later writer could give it another shape than its readers were prepared for
  return kTfLiteOk;
}

// Constants of a convolution and of post-operations are checked where they are used.
TfLiteStatus CheckInputs(TfLiteContext* context, Partition* partition, const Op& op) {
  TfLiteStatus status = kTfLiteOk;
  ForEachRead(op, [&](int v) {
    Value* value = &partition->values[v];
    const bool is_parameter = op.kind == OpKind::kConv ? v != op.inputs[0] && v != op.inputs[1] : false;
    const bool needs_shape = value->constant == nullptr || !(is_parameter || op.kind == OpKind::kPostOps);
    if (status == kTfLiteOk) status = CheckInput(context, value, needs_shape);
  });
  return status;
}

TfLiteStatus Prepare(TfLiteContext* context, TfLiteNode* node) {
  auto* partition = static_cast<Partition*>(node->user_data);
  FSG_ENSURE(context, partition != nullptr && partition->is_valid,
             "the binary operators could not be set up");
  for (int i = 0; i < partition->value_count; ++i) {
    if (ReadTensor(context, &partition->values[i]) != kTfLiteOk) return kTfLiteError;
  }
  PlaceParts(partition);
  for (int i = 0; i < partition->slot_count; ++i)
    partition->slots[i].bytes = partition->slots[i].is_taken = 0;
  for (int i = 0; i < partition->op_count; ++i) {
    Op* op = &partition->ops[i];
    if (CheckInputs(context, partition, *op) != kTfLiteOk ||
        PrepareOp(context, *partition->runtime, partition->values, op) != kTfLiteOk ||
        PlaceOutputs(context, partition, *op) != kTfLiteOk) {
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
void* Data(TfLiteContext* context, const Partition& partition, int index) {
  int64_t channel = 0;
  for (; partition.values[index].parent >= 0; index = partition.values[index].parent) {
    channel += partition.values[index].parent_channel;
  }
  const Value& value = partition.values[index];
  if (value.slot >= 0) return static_cast<float*>(partition.slots[value.slot].data) + channel;
  const TfLiteTensor& tensor = context->tensors[value.tensor];
  const bool same_shape =
      tensor.dims != nullptr && tensor.dims->size == value.rank &&
      memcmp(tensor.dims->data, value.dims, sizeof(int) * static_cast<size_t>(value.rank)) == 0;
  const bool is_large = tensor.bytes >= static_cast<size_t>(value.bytes);
  return same_shape && is_large && tensor.data != nullptr ? static_cast<float*>(tensor.data) + channel
                                                          : nullptr;
}

// Gives post-operations the memory of this run.
bool BindPostOps(TfLiteContext* context, const Partition& partition, const Op& op) {
  bool is_bound = true;
  for (int i = 0; i < op.post_ops.count; ++i) {
    const int value = op.bound[i].value;
    if (value < 0 || partition.values[value].constant != nullptr) continue;
    op.post_op_list[i].data = Data(context, partition, value);
    is_bound &= op.post_op_list[i].data != nullptr;
  }
  return is_bound;
}

// Copies the inputs that are not in place.
bool Concatenate(TfLiteContext* context, const Partition& partition, const Op& op) {
  auto* to = static_cast<float*>(Data(context, partition, op.output));
  const int64_t to_step = PixelStep(partition.values, op.output);
  int channel = 0;
  for (int i = 0; i < op.input_count; ++i) {
    const Value& input = partition.values[op.inputs[i]];
    const auto* from = static_cast<const float*>(Data(context, partition, op.inputs[i]));
    if (to == nullptr || from == nullptr) return false;
    const int64_t from_step = PixelStep(partition.values, op.inputs[i]), width = input.dims[3];
    float* const start = to + channel;
    channel += input.dims[3];
    if (start == from) continue;
    ParallelFor(partition.runtime->pool, input.bytes / 4 / width, {1, 4096 / width + 1},
                [=](int64_t begin, int64_t end, int) {
                  for (int64_t row = begin; row < end; ++row) {
                    memcpy(start + row * to_step, from + row * from_step,
                           sizeof(float) * static_cast<size_t>(width));
                  }
                });
  }
  return true;
}

bool Run(TfLiteContext* context, const Partition& partition, const Op& op) {
  if (op.kind == OpKind::kConcatenate) return Concatenate(context, partition, op);
  if (!BindPostOps(context, partition, op)) return false;
  const void* in = op.input_count > 0 ? Data(context, partition, op.inputs[0]) : &op.post_ops;
  const bool has_post_ops = op.bound != nullptr;
  void* out = has_post_ops ? const_cast<PostOps*>(&op.post_ops) : Data(context, partition, op.output);
  if (in == nullptr || out == nullptr) return false;
  RunOp(*partition.runtime, partition.values, op, in, out);
  return true;
}

double Seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Run, and an event if someone asks for it.
bool RunWithProfile(TfLiteContext* context, const Partition& partition, const Op& op) {
  Profile* profile = partition.runtime->profile;
  if (profile->events == nullptr || profile->count == profile->capacity) return Run(context, partition, op);
  Event* event = &profile->events[profile->count++];
  if (event->op != &op) {  // the same in every inference: what is between operators shall be short
    DescribeOp(partition.values, op, event);
    event->partition = partition.number, event->op = &op;
  }
  event->begin = Seconds();
  const bool has_run = Run(context, partition, op);
  event->end = Seconds();
  return has_run;
}

TfLiteStatus Invoke(TfLiteContext* context, TfLiteNode* node) {
  auto* partition = static_cast<Partition*>(node->user_data);
  ThreadPool* pool = partition->runtime->pool;
  const bool calls = partition->shares_loops;
  if (calls) Call(pool);
  const uint64_t shared = SharedLoops(pool);
  bool has_run = true;
  for (int i = 0; i < partition->op_count && has_run; ++i) {
    has_run = RunWithProfile(context, *partition, partition->ops[i]);
  }
  partition->shares_loops = SharedLoops(pool) != shared;
  if (calls) Dismiss(pool);
  FSG_ENSURE(context, has_run,
             "a tensor has no data or changed its shape: tensors of dynamic shape are not supported");
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
