#include "delegate/fuse.h"

#include <stdlib.h>
#include <string.h>

#include "delegate/ops.h"

namespace fsg {
namespace {

constexpr int kMaxNodes = 4096;  // keeps planning, which is quadratic, below a moment
constexpr int kMaxBranch = 8;
constexpr int kPostOpsPerNode = 4;  // at most: kKeep or kSwap, the operation, its activation, kStore
constexpr int64_t kMaxPad = 1 << 20;

struct Node {
  int index;  // in the interpreter
  const TfLiteNode* node;
  int32_t code;
  OpKind lce;
  int unit;  // or -1
  bool is_seen;
};

// A way an operator changes the value that runs through it: an operation and perhaps an activation.
struct Element {
  FusedPostOp post_ops[2];
  int post_op_count;
  int pad;  // position of a PAD of channels that becomes part of the operand, or -1
};

FusedPostOp MakePostOp(PostOpKind kind, int tensor = -1) { return {kind, false, tensor, 0, 0, 0, 0, -1}; }

template <typename T>
bool Allocate(T** pointer, size_t count) {
  *pointer = static_cast<T*>(calloc(count > 0 ? count : 1, sizeof(T)));
  return *pointer != nullptr;
}

// Appends the clamp of a fused activation. False for those that are none.
bool AddActivation(int activation, Element* element) {
  const float infinity = __builtin_huge_valf();
  FusedPostOp clamp = MakePostOp(PostOpKind::kClamp);
  switch (activation) {
    case kTfLiteActNone:
      return true;
    case kTfLiteActRelu:
      clamp.high = infinity;
      break;
    case kTfLiteActReluN1To1:
      clamp.low = -1, clamp.high = 1;
      break;
    case kTfLiteActRelu6:
      clamp.high = 6;
      break;
    default:
      return false;
  }
  element->post_ops[element->post_op_count++] = clamp;
  return true;
}

class Planner {
 public:
  Planner(TfLiteContext* context, FusionPlan* plan) : context_(context), plan_(plan) {}
  ~Planner() {
    free(nodes_);
    free(producer_);
    free(first_use_);
    free(uses_);
    free(stack_);
    free(ready_);
  }

  // The graph: who writes and who reads each tensor.
  bool Read(const TfLiteIntArray& nodes) {
    count_ = nodes.size;
    tensors_ = static_cast<int>(context_->tensors_size);
    if (count_ > kMaxNodes) return false;
    const size_t count = static_cast<size_t>(count_), tensors = static_cast<size_t>(tensors_);
    if (!Allocate(&nodes_, count) || !Allocate(&producer_, tensors) || !Allocate(&first_use_, tensors + 2) ||
        !Allocate(&stack_, count) || !Allocate(&ready_, tensors) || !Allocate(&plan_->units, count + 1) ||
        !Allocate(&plan_->order, count) || !Allocate(&plan_->members, 2 * count) ||
        !Allocate(&plan_->post_ops, 2 * count * kPostOpsPerNode)) {
      return false;
    }
    for (int t = 0; t < tensors_; ++t) producer_[t] = -1;
    for (int p = 0; p < count_; ++p) {
      if (!ReadNode(nodes.data[p], p)) return false;
    }
    return ReadUses();
  }

  void FormUnits() {
    for (int p = 0; p < count_; ++p) {
      if (nodes_[p].lce == OpKind::kConv) FormConv(p);
    }
    for (int p = 0; p < count_; ++p) {
      if (nodes_[p].unit < 0) FormFromTensor(p);
    }
    for (int p = 0; p < count_; ++p) {
      if (nodes_[p].unit < 0 && nodes_[p].lce != OpKind::kNone) BeginWith(p);
    }
    for (int p = 0; p < count_; ++p) {
      if (nodes_[p].unit < 0 && JoinsUnits(p)) BeginWith(p);
    }
  }

  // Deals the units into partitions as the interpreter itself would deal single nodes: alternately all that
  // can run of what is claimed and of what is not.
  //
  // Given one partition's nodes, the interpreter keeps them together unless the very first node that can run
  // is among them and the others cannot yet. A unit that would cause this is taken apart.
  void FormPartitions() {
    const int first = FirstRunnable();
    if (first >= 0 && !Deal(first)) {
      TakeApart(nodes_[first].unit);
      Deal(first);
    }
    for (int i = 0; i < plan_->ordered_count; ++i) {
      const Unit& unit = plan_->units[plan_->order[i]];
      for (int m = 0; m < unit.member_count; ++m) {
        int* member = &plan_->members[unit.first_member + m];
        *member = nodes_[*member].index;
      }
    }
  }

 private:
  bool ReadNode(int index, int position) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context_->GetNodeAndRegistration(context_, index, &node, &registration) != kTfLiteOk) return false;
    if (node->inputs == nullptr || node->outputs == nullptr) return false;
    const OpKind lce = FindOp(registration->custom_name);
    nodes_[position] = {index, node, lce == OpKind::kNone ? registration->builtin_code : -1, lce, -1, false};
    for (int i = 0; i < node->inputs->size; ++i) {
      const int tensor = node->inputs->data[i];
      if (tensor < kTfLiteOptionalTensor || tensor >= tensors_) return false;
      if (tensor >= 0) ++first_use_[tensor + 2];
    }
    for (int i = 0; i < node->outputs->size; ++i) {
      const int tensor = node->outputs->data[i];
      if (tensor < 0 || tensor >= tensors_ || producer_[tensor] >= 0) return false;
      producer_[tensor] = position;
    }
    return true;
  }

  bool ReadUses() {
    for (int t = 2; t < tensors_ + 2; ++t) first_use_[t] += first_use_[t - 1];
    if (!Allocate(&uses_, static_cast<size_t>(first_use_[tensors_ + 1]))) return false;
    for (int p = 0; p < count_; ++p) {
      const TfLiteIntArray& inputs = *nodes_[p].node->inputs;
      for (int i = 0; i < inputs.size; ++i) {
        if (inputs.data[i] >= 0) uses_[first_use_[inputs.data[i] + 1]++] = p;
      }
    }
    return true;
  }

  const TfLiteTensor& Tensor(int t) const { return context_->tensors[t]; }
  int UseCount(int tensor) const { return first_use_[tensor + 1] - first_use_[tensor]; }
  int Use(int tensor, int i) const { return uses_[first_use_[tensor] + i]; }
  int Input(int position, int i) const {
    const TfLiteIntArray& inputs = *nodes_[position].node->inputs;
    return i < inputs.size ? inputs.data[i] : -1;
  }
  int InputCount(int position) const { return nodes_[position].node->inputs->size; }
  bool IsFree(int position) const { return nodes_[position].unit < 0; }

  // The output of an operator that has one, or -1.
  int Output(int position) const {
    const TfLiteIntArray& outputs = *nodes_[position].node->outputs;
    return outputs.size == 1 ? outputs.data[0] : -1;
  }

  // The only reader of a tensor, or -1.
  int OnlyUse(int tensor) const { return UseCount(tensor) == 1 ? Use(tensor, 0) : -1; }

  bool IsFloatImage(int tensor) const {
    if (tensor < 0) return false;
    const TfLiteTensor& t = Tensor(tensor);
    if (t.type != kTfLiteFloat32 || t.dims == nullptr || t.dims->size != 4 || t.is_variable) return false;
    for (int i = 0; i < 4; ++i) {
      if (t.dims->data[i] < 1) return false;
    }
    return true;
  }

  bool HasShape(int tensor, const int* dims) const {
    return memcmp(Tensor(tensor).dims->data, dims, 4 * sizeof(int)) == 0;
  }

  bool SameImages(int a, int b) const {
    return IsFloatImage(a) && IsFloatImage(b) && HasShape(a, Tensor(b).dims->data);
  }

  bool IsConstantTensor(int tensor) const { return tensor >= 0 && IsConstant(Tensor(tensor)); }

  // Whether an operand stretches over an image without being as large: one value, one per channel, one per
  // channel of each image.
  bool Stretches(int tensor, int image) const {
    const TfLiteTensor& t = Tensor(tensor);
    if (t.type != kTfLiteFloat32 || t.dims == nullptr || t.dims->size > 4 || t.is_variable) return false;
    const int* dims = Tensor(image).dims->data;
    const int rank = t.dims->size;
    const int images = rank == 4 ? t.dims->data[0] : 1, channels = rank > 0 ? t.dims->data[rank - 1] : 1;
    for (int i = rank == 4 ? 1 : 0; i < rank - 1; ++i) {
      if (t.dims->data[i] != 1) return false;
    }
    if (images == 1) return channels == dims[3] || (channels == 1 && IsConstant(t));
    return images == dims[0] && channels == dims[3] && !IsConstant(t);
  }

  // The post-operation that combines the value of tensor `image` with `operand`.
  bool ReadOperand(PostOpKind kind, int operand, int image, Element* element) const {
    if (operand < 0) return false;
    FusedPostOp post_op = MakePostOp(kind, operand);
    if (!Stretches(operand, image)) {
      if (!SameImages(operand, image) || IsConstantTensor(operand)) return false;
      // Zeros beside the channels of a smaller tensor are not worth a tensor of their own.
      const int pad = producer_[operand];
      Border padding;
      if (pad >= 0 && nodes_[pad].code == kTfLiteBuiltinPad && IsFree(pad) && UseCount(operand) == 1 &&
          ReadPadding(*context_, *nodes_[pad].node, &padding) && PadsOnlyChannels(padding) &&
          IsFloatImage(Input(pad, 0))) {
        element->pad = pad;
        post_op.tensor = Input(pad, 0);
        post_op.first_channel = padding.before[3];
        post_op.channels = Tensor(post_op.tensor).dims->data[3];
      }
    }
    element->post_ops[element->post_op_count++] = post_op;
    return true;
  }

  static bool PadsOnlyChannels(const Border& padding) {
    for (int i = 0; i < 3; ++i) {
      if (padding.before[i] != 0 || padding.after[i] != 0) return false;
    }
    return true;
  }

  // ADD, SUB, MUL, MAXIMUM, MINIMUM of `image` and one other tensor.
  bool ReadArithmetic(int position, int image, Element* element) const {
    const int left = Input(position, 0), right = Input(position, 1);
    if (InputCount(position) != 2 || (left == image) == (right == image)) return false;
    return ReadOperand(ArithmeticKind(position, left == image), left == image ? right : left, image,
                       element) &&
           AddActivation(ArithmeticActivation(position), element);
  }

  PostOpKind ArithmeticKind(int position, bool is_left) const {
    switch (nodes_[position].code) {
      case kTfLiteBuiltinAdd:
        return PostOpKind::kAdd;
      case kTfLiteBuiltinSub:
        return is_left ? PostOpKind::kSubtract : PostOpKind::kSubtractFrom;
      case kTfLiteBuiltinMaximum:
        return PostOpKind::kMaximum;
      case kTfLiteBuiltinMinimum:
        return PostOpKind::kMinimum;
      default:
        return PostOpKind::kMultiply;
    }
  }

  bool IsArithmetic(int position) const {
    const int32_t code = nodes_[position].code;
    return code == kTfLiteBuiltinAdd || code == kTfLiteBuiltinSub || code == kTfLiteBuiltinMul ||
           code == kTfLiteBuiltinMaximum || code == kTfLiteBuiltinMinimum;
  }

  // -1, which is no activation, where the parameters are missing.
  int ArithmeticActivation(int position) const {
    const int32_t code = nodes_[position].code;
    if (code == kTfLiteBuiltinMaximum || code == kTfLiteBuiltinMinimum) return kTfLiteActNone;
    const auto* params = static_cast<const TfLiteArithmeticParams*>(nodes_[position].node->builtin_data);
    return params == nullptr ? -1 : params->activation;
  }

  // How an operator changes the value of tensor `image`, which it reads. False if it is not elementwise.
  bool ReadElement(int position, int image, Element* element) const {
    *element = {};
    element->pad = -1;
    if (!SameImages(image, Output(position))) return false;
    if (IsArithmetic(position)) return ReadArithmetic(position, image, element);
    if (Input(position, 0) != image) return false;
    const auto single = [&](PostOpKind kind) {
      element->post_ops[element->post_op_count++] = MakePostOp(kind);
      return true;
    };
    switch (nodes_[position].code) {
      case kTfLiteBuiltinRelu:
        return AddActivation(kTfLiteActRelu, element);
      case kTfLiteBuiltinRelu6:
        return AddActivation(kTfLiteActRelu6, element);
      case kTfLiteBuiltinReluN1To1:
        return AddActivation(kTfLiteActReluN1To1, element);
      case kTfLiteBuiltinNeg:
        return single(PostOpKind::kNegate);
      case kTfLiteBuiltinAbs:
        return single(PostOpKind::kAbsolute);
      case kTfLiteBuiltinPrelu: {
        const int slope = Input(position, 1);
        return IsConstantTensor(slope) && ReadOperand(PostOpKind::kPrelu, slope, image, element);
      }
      case kTfLiteBuiltinLeakyRelu: {
        const auto* params = static_cast<const TfLiteLeakyReluParams*>(nodes_[position].node->builtin_data);
        if (params == nullptr) return false;
        single(PostOpKind::kPrelu);
        element->post_ops[0].low = params->alpha;
        return true;
      }
      default:
        return false;
    }
  }

  // The same, of an operator that reads nothing else but constants.
  bool ReadUnary(int position, int image, Element* element) const {
    if (!IsFree(position) || !ReadElement(position, image, element)) return false;
    const int operand = element->post_ops[0].tensor;
    return operand < 0 || IsConstantTensor(operand);
  }

  Unit* Current() { return &plan_->units[plan_->unit_count - 1]; }

  // Begins a unit, which is the node `node` or, if that is -1, loads a tensor.
  void Begin(int node) {
    const Unit* before = plan_->unit_count > 0 ? Current() : nullptr;
    Unit* unit = &plan_->units[plan_->unit_count++];
    *unit = {};
    unit->node = node;
    if (before != nullptr) {
      unit->first_member = before->first_member + before->member_count;
      unit->first_post_op = before->first_post_op + before->post_op_count;
    }
  }

  // A unit of one operator.
  void BeginWith(int position) {
    Begin(nodes_[position].index);
    Claim(position);
  }

  void Claim(int position) {
    Unit* unit = Current();
    nodes_[position].unit = plan_->unit_count - 1;
    plan_->members[unit->first_member + unit->member_count++] = position;
  }

  void Push(const FusedPostOp& post_op) {
    Unit* unit = Current();
    plan_->post_ops[unit->first_post_op + unit->post_op_count++] = post_op;
  }

  // Shortens the unit that was formed last.
  void Cut(int members, int post_ops) {
    Unit* unit = Current();
    for (int i = members; i < unit->member_count; ++i)
      nodes_[plan_->members[unit->first_member + i]].unit = -1;
    unit->member_count = members;
    unit->post_op_count = post_ops;
    if (members == 0) --plan_->unit_count;
  }

  // The result of an operator that is part of the unit: stored if anybody else needs it, which is seen when
  // the partition is built.
  void PushElement(int position, const Element& element) {
    Claim(position);
    if (element.pad >= 0) Claim(element.pad);
    for (int i = 0; i < element.post_op_count; ++i) Push(element.post_ops[i]);
    Push(MakePostOp(PostOpKind::kStore, Output(position)));
  }

  void FormConv(int position) {
    const int output = Output(position);
    BeginWith(position);
    if (!IsFloatImage(output)) return;
    Push(MakePostOp(PostOpKind::kDots));
    Push(MakePostOp(PostOpKind::kStore, output));
    Grow(output);
  }

  // Post-operations that begin at a tensor pay where they end in bits.
  void FormFromTensor(int position) {
    if (!BeginWithPool(position) && !BeginWithElement(position, Input(position, 0)) &&
        !BeginWithElement(position, Input(position, 1))) {
      return;
    }
    Grow(Output(position));
    const Unit& unit = *Current();
    int post_ops = unit.post_op_count;
    while (post_ops > 0 && plan_->post_ops[unit.first_post_op + post_ops - 1].kind != PostOpKind::kPack)
      --post_ops;
    Cut(post_ops > 0 ? packed_members_ : 0, post_ops);
  }

  bool BeginWithPool(int position) {
    const auto* params = static_cast<const TfLitePoolParams*>(nodes_[position].node->builtin_data);
    Element element = {};
    element.pad = -1;
    element.post_ops[element.post_op_count++] = MakePostOp(PostOpKind::kPool, Input(position, 0));
    element.post_ops[0].node = nodes_[position].index;
    if (nodes_[position].code != kTfLiteBuiltinMaxPool2d || params == nullptr || InputCount(position) != 1 ||
        !IsFloatImage(Input(position, 0)) || IsConstantTensor(Input(position, 0)) ||
        !IsFloatImage(Output(position)) || !AddActivation(params->activation, &element)) {
      return false;
    }
    Begin(-1);
    PushElement(position, element);
    return true;
  }

  bool BeginWithElement(int position, int image) {
    Element element;
    if (image < 0 || IsConstantTensor(image) || !ReadElement(position, image, &element)) return false;
    Begin(-1);
    Push(MakePostOp(PostOpKind::kLoad, image));
    PushElement(position, element);
    return true;
  }

  // Adds what follows a tensor whose value the unit has just computed.
  void Grow(int image) {
    packed_members_ = 0;
    while (image >= 0) {
      PackForReaders(image);
      image = Extend(image);
    }
  }

  bool HasRoom(int nodes) { return Current()->post_op_count + nodes * kPostOpsPerNode <= kMaxPostOps; }

  // Bits for every LceQuantize of a tensor, also those behind a padding or pooling, which is done on bits.
  void PackForReaders(int image) {
    for (int i = 0; i < UseCount(image); ++i) {
      const int use = Use(image, i);
      if (!IsFree(use) || !HasRoom(1)) continue;
      const bool is_direct = nodes_[use].lce == OpKind::kQuantize;
      const int quantize = is_direct ? use : PacksBehind(use);
      if (quantize < 0 || InputCount(quantize) != 1 || Output(quantize) < 0) continue;
      FusedPostOp pack = MakePostOp(PostOpKind::kPack, Output(quantize));
      if (!is_direct) pack.node = nodes_[use].index, Claim(use);
      Claim(quantize);
      Push(pack);
      packed_members_ = Current()->member_count;
    }
  }

  // The LceQuantize that is all that reads a padded or pooled tensor, or -1.
  int PacksBehind(int position) const {
    const int output = Output(position);
    const int32_t code = nodes_[position].code;
    if (!IsFloatImage(output)) return -1;
    if (code == kTfLiteBuiltinPad || code == kTfLiteBuiltinPadv2) {
      Border padding;
      if (!ReadPadding(*context_, *nodes_[position].node, &padding)) return -1;
      if (padding.before[3] != 0 || padding.after[3] != 0) return -1;
    } else if (code == kTfLiteBuiltinMaxPool2d) {
      const auto* params = static_cast<const TfLitePoolParams*>(nodes_[position].node->builtin_data);
      if (params == nullptr || params->activation != kTfLiteActNone || InputCount(position) != 1) return -1;
    } else {
      return -1;
    }
    const int use = OnlyUse(output);
    return use >= 0 && IsFree(use) && nodes_[use].lce == OpKind::kQuantize ? use : -1;
  }

  // Adds one operator, or two branches and the one that joins them, and returns the tensor it computes; -1 if
  // nothing fits.
  int Extend(int image) {
    for (int i = 0; i < UseCount(image); ++i) {
      const int use = Use(image, i);
      Element element;
      if (!IsFree(use) || !HasRoom(1) || !ReadElement(use, image, &element)) continue;
      if (element.post_ops[0].tensor >= 0 && DependsOnUnit(element.post_ops[0].tensor)) continue;
      const int join = JoinOf(use, image);
      if (join >= 0) return join;
      PushElement(use, element);
      return Output(use);
    }
    for (int i = 0; i < UseCount(image); ++i) {
      const int join = JoinOf(Use(image, i), image);
      if (join >= 0) return join;
    }
    return -1;
  }

  // Two branches of constant operations on `image` that meet again, one of which begins with `position` and
  // one of which may be empty: PReLU and the like, written out. Adds them and returns what they compute.
  int JoinOf(int position, int image) {
    int kept[kMaxBranch], other[kMaxBranch], kept_count = 0, other_count = 0;
    int end = image, next = position;
    Element element;
    while (next >= 0 && kept_count < kMaxBranch && ReadUnary(next, end, &element)) {
      kept[kept_count++] = next;
      end = Output(next);
      next = OnlyUse(end);
    }
    if (kept_count == 0 || next < 0 || !IsFree(next) || !IsArithmetic(next) || InputCount(next) != 2)
      return -1;
    const bool is_left = Input(next, 0) == end;
    int from = Input(next, is_left ? 1 : 0);
    while (from != image) {
      const int before = from < 0 ? -1 : producer_[from];
      if (before < 0 || UseCount(from) != 1 || other_count == kMaxBranch) return -1;
      const int read = IsConstantTensor(Input(before, 0)) ? Input(before, 1) : Input(before, 0);
      if (read < 0 || !ReadUnary(before, read, &element)) return -1;
      other[other_count++] = before;
      from = read;
    }
    return PushJoin(image, kept, kept_count, other, other_count, next, is_left);
  }

  int PushJoin(int image, const int* kept, int kept_count, const int* other, int other_count, int join,
               bool is_left) {
    Element last = {};
    FusedPostOp combine = MakePostOp(ArithmeticKind(join, !is_left));
    combine.is_kept = true;
    last.pad = -1;
    last.post_ops[last.post_op_count++] = combine;
    if (!SameImages(image, Output(join)) || !AddActivation(ArithmeticActivation(join), &last)) return -1;
    if (!HasRoom(kept_count + other_count + 2)) return -1;
    Push(MakePostOp(PostOpKind::kKeep));
    Element element;
    int end = image;
    for (int i = 0; i < kept_count; end = Output(kept[i++])) {
      ReadElement(kept[i], end, &element);
      PushElement(kept[i], element);
    }
    Push(MakePostOp(PostOpKind::kSwap));
    end = image;
    for (int i = other_count; i-- > 0; end = Output(other[i])) {
      ReadElement(other[i], end, &element);
      PushElement(other[i], element);
    }
    PushElement(join, last);
    return Output(join);
  }

  // Whether a tensor is computed, over whatever way through units and other nodes, from the current unit.
  bool DependsOnUnit(int tensor) {
    for (int p = 0; p < count_; ++p) nodes_[p].is_seen = false;
    int depth = 0;
    const int current = plan_->unit_count - 1;
    const auto push = [&](int p) {
      if (!nodes_[p].is_seen) stack_[depth++] = p;
      nodes_[p].is_seen = true;
    };
    const auto push_producer = [&](int t) {
      if (t >= 0 && producer_[t] >= 0) push(producer_[t]);
    };
    push_producer(tensor);
    while (depth > 0) {
      const int p = stack_[--depth];
      if (nodes_[p].unit == current) return true;
      for (int i = 0; i < InputCount(p); ++i) push_producer(Input(p, i));
      if (nodes_[p].unit < 0) continue;
      const Unit& unit = plan_->units[nodes_[p].unit];
      for (int i = 0; i < unit.member_count; ++i) push(plan_->members[unit.first_member + i]);
    }
    return false;
  }

  // A CONCATENATION of channels that units compute and units read.
  bool JoinsUnits(int position) const {
    const int output = Output(position), count = InputCount(position);
    const auto* params = static_cast<const TfLiteConcatenationParams*>(nodes_[position].node->builtin_data);
    if (nodes_[position].code != kTfLiteBuiltinConcatenation || params == nullptr || !IsFloatImage(output) ||
        count < 1 || count > kMaxInputs || params->activation != kTfLiteActNone ||
        (params->axis != 3 && params->axis != -1)) {
      return false;
    }
    bool is_computed = false, is_read = false;
    int64_t channels = 0;
    for (int i = 0; i < count; ++i) {
      const int input = Input(position, i);
      if (!IsFloatImage(input) || IsConstantTensor(input)) return false;
      if (memcmp(Tensor(input).dims->data, Tensor(output).dims->data, 3 * sizeof(int)) != 0) return false;
      channels += Tensor(input).dims->data[3];
      is_computed |= producer_[input] >= 0 && nodes_[producer_[input]].unit >= 0;
    }
    for (int i = 0; i < UseCount(output); ++i) is_read |= nodes_[Use(output, i)].unit >= 0;
    return is_computed && is_read && channels == Tensor(output).dims->data[3];
  }

  bool CanRun(int position) const {
    const int unit = nodes_[position].unit;
    for (int i = 0; i < InputCount(position); ++i) {
      const int tensor = Input(position, i);
      if (tensor < 0 || producer_[tensor] < 0 || ready_[tensor]) continue;
      if (unit < 0 || nodes_[producer_[tensor]].unit != unit) return false;
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
    for (int p = 0; p < count_; ++p) {
      bool can_run = true;
      for (int i = 0; i < InputCount(p); ++i) {
        can_run &= Input(p, i) < 0 || producer_[Input(p, i)] < 0;
      }
      if (can_run) return p;
    }
    return -1;
  }

  void Finish(int position) {
    nodes_[position].is_seen = true;
    const TfLiteIntArray& outputs = *nodes_[position].node->outputs;
    for (int i = 0; i < outputs.size; ++i) ready_[outputs.data[i]] = true;
  }

  // Runs, in thought, all that can run and is claimed, or all that is not. False if there is nothing.
  bool RunAll(bool claimed, int partition, int* ordered) {
    bool any = false;
    for (bool again = true; again;) {
      again = false;
      for (int p = 0; p < count_; ++p) {
        const int u = nodes_[p].unit;
        if (nodes_[p].is_seen || (u >= 0) != claimed) continue;
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
    for (int p = 0; p < count_; ++p) nodes_[p].is_seen = false;
    memset(ready_, 0, static_cast<size_t>(tensors_) * sizeof(bool));
    plan_->ordered_count = plan_->partition_count = 0;
    bool claimed = nodes_[first].unit >= 0;
    while (RunAll(claimed, plan_->partition_count, &plan_->ordered_count)) {
      plan_->partition_count += claimed;
      claimed = !claimed;
    }
    return nodes_[first].is_seen;
  }

  // Leaves a unit's builtin operators to the interpreter.
  void TakeApart(int index) {
    const Unit unit = plan_->units[index];
    plan_->units[index].member_count = 0;
    for (int i = 0; i < unit.member_count; ++i) {
      const int position = plan_->members[unit.first_member + i];
      nodes_[position].unit = -1;
      if (nodes_[position].lce != OpKind::kNone) BeginWith(position);
    }
  }

  TfLiteContext* context_;
  FusionPlan* plan_;
  Node* nodes_ = nullptr;     // by position in the execution plan
  int* producer_ = nullptr;   // of a tensor: a position, or -1
  int* first_use_ = nullptr;  // of a tensor, in uses_
  int* uses_ = nullptr;       // positions
  int* stack_ = nullptr;
  bool* ready_ = nullptr;  // tensors
  int count_ = 0, tensors_ = 0;
  int packed_members_ = 0;  // of the current unit, up to its last kPack
};

// A constant of `count` values of a type, or nullptr.
const void* Constant(const TfLiteContext& context, const TfLiteNode& node, int i, TfLiteType type,
                     size_t count) {
  if (i >= node.inputs->size) return nullptr;
  const int index = node.inputs->data[i];
  if (index < 0 || index >= static_cast<int>(context.tensors_size)) return nullptr;
  const TfLiteTensor& tensor = context.tensors[index];
  return tensor.type == type && IsConstant(tensor) && tensor.bytes >= 4 * count ? tensor.data : nullptr;
}

}  // namespace

bool IsConstant(const TfLiteTensor& tensor) {
  return tensor.allocation_type == kTfLiteMmapRo || tensor.allocation_type == kTfLitePersistentRo;
}

bool ReadPadding(const TfLiteContext& context, const TfLiteNode& node, Border* padding) {
  const auto* pads = static_cast<const int32_t*>(Constant(context, node, 1, kTfLiteInt32, 8));
  if (pads == nullptr) return false;
  for (int i = 0; i < 4; ++i) {
    padding->before[i] = pads[2 * i], padding->after[i] = pads[2 * i + 1];
    if (padding->before[i] < 0 || padding->before[i] > kMaxPad || padding->after[i] < 0 ||
        padding->after[i] > kMaxPad) {
      return false;
    }
  }
  padding->value = 0;
  if (node.inputs->size == 2) return true;
  const void* value = Constant(context, node, 2, kTfLiteFloat32, 1);
  if (value != nullptr) memcpy(&padding->value, value, sizeof(float));
  return value != nullptr && node.inputs->size == 3;
}

bool PlanFusion(TfLiteContext* context, const TfLiteIntArray& nodes, FusionPlan* plan) {
  *plan = {};
  Planner planner(context, plan);
  if (!planner.Read(nodes)) {
    FreeFusionPlan(plan);
    return false;
  }
  planner.FormUnits();
  planner.FormPartitions();
  return true;
}

void FreeFusionPlan(FusionPlan* plan) {
  free(plan->units);
  free(plan->order);
  free(plan->members);
  free(plan->post_ops);
  *plan = {};
}

}  // namespace fsg
