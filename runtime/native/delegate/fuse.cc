#include "delegate/fuse.h"

#include <string.h>

#include "delegate/deal.h"
#include "delegate/elementwise.h"
#include "delegate/read.h"
#include "delegate/units.h"

namespace fsg {
namespace {

constexpr int kMaxBranch = 8;

class Fuser {
 public:
  Fuser(Graph* graph, Units* units, FusionPlan* plan) : graph_(graph), units_(units), plan_(plan) {}
  Fuser(const Fuser&) = delete;
  ~Fuser() { free(stack_); }

  bool Reserve() { return Allocate(&stack_, static_cast<size_t>(graph_->Count())); }

  void FormUnits(bool takes_int8) {
    for (int p = 0; p < graph_->Count(); ++p) {
      if (graph_->At(p).lce == OpKind::kConv) FormConv(p);
      if (takes_int8) FormInt8(p);
    }
    for (int p = 0; p < graph_->Count(); ++p) {
      if (graph_->At(p).unit < 0) FormFromTensor(p);
    }
    for (int p = 0; p < graph_->Count(); ++p) {
      if (graph_->At(p).unit < 0 && graph_->At(p).lce != OpKind::kNone) units_->BeginWith(p);
    }
    for (int p = 0; p < graph_->Count(); ++p) {
      if (graph_->At(p).unit < 0 && JoinsUnits(p)) units_->BeginWith(p);
    }
  }

 private:
  // The result of an operator that is part of the unit: stored if anybody else needs it, which is seen when
  // the partition is built.
  void PushElement(int position, const Element& element) {
    units_->Claim(position);
    if (element.pad >= 0) units_->Claim(element.pad);
    for (int i = 0; i < element.post_op_count; ++i) units_->Push(element.post_ops[i]);
    units_->Push(MakePostOp(PostOpKind::kStore, graph_->Output(position)));
  }

  // A convolution or pooling of integers, with what pads its image.
  void FormInt8(int position) {
    const Node& node = graph_->At(position);
    const OpKind kind = FindInt8(graph_->Context(), *node.node, node.code);
    if (kind == OpKind::kNone) return;
    units_->BeginWith(position);
    const int image = graph_->Input(position, 0), before = graph_->Producer(image);
    Border padding;
    if (before >= 0 && graph_->IsFree(before) && graph_->OnlyUse(image) == position &&
        IsInt8Padding(graph_->Context(), *graph_->At(before).node, graph_->At(before).code,
                      kind == OpKind::kInt8MaxPool, &padding)) {
      units_->Claim(before);
    }
  }

  void FormConv(int position) {
    const int output = graph_->Output(position);
    units_->BeginWith(position);
    if (!graph_->IsFloatImage(output)) return;
    units_->Push(MakePostOp(PostOpKind::kDots));
    units_->Push(MakePostOp(PostOpKind::kStore, output));
    Grow(output);
  }

  // Post-operations that begin at a tensor pay where they end in bits.
  void FormFromTensor(int position) {
    if (!BeginWithPool(position) && !BeginWithElement(position, graph_->Input(position, 0)) &&
        !BeginWithElement(position, graph_->Input(position, 1))) {
      return;
    }
    Grow(graph_->Output(position));
    const Unit& unit = *units_->Current();
    int post_ops = unit.post_op_count;
    while (post_ops > 0 && plan_->post_ops[unit.first_post_op + post_ops - 1].kind != PostOpKind::kPack)
      --post_ops;
    units_->Cut(post_ops > 0 ? packed_members_ : 0, post_ops);
  }

  bool BeginWithPool(int position) {
    const auto* params = static_cast<const TfLitePoolParams*>(graph_->At(position).node->builtin_data);
    Element element = {};
    element.pad = -1;
    element.post_ops[element.post_op_count++] = MakePostOp(PostOpKind::kPool, graph_->Input(position, 0));
    element.post_ops[0].node = graph_->At(position).index;
    if (graph_->At(position).code != kTfLiteBuiltinMaxPool2d || params == nullptr ||
        graph_->InputCount(position) != 1 || !graph_->IsFloatImage(graph_->Input(position, 0)) ||
        graph_->IsConstantTensor(graph_->Input(position, 0)) ||
        !graph_->IsFloatImage(graph_->Output(position)) || !AddActivation(params->activation, &element)) {
      return false;
    }
    units_->Begin(-1);
    PushElement(position, element);
    return true;
  }

  bool BeginWithElement(int position, int image) {
    Element element;
    if (image < 0 || graph_->IsConstantTensor(image) || !ReadElement(*graph_, position, image, &element))
      return false;
    units_->Begin(-1);
    units_->Push(MakePostOp(PostOpKind::kLoad, image));
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

  bool HasRoom(int nodes) {
    return units_->Current()->post_op_count + nodes * kPostOpsPerNode <= kMaxPostOps;
  }

  // Bits for every LceQuantize of a tensor, also those behind a padding or pooling, which is done on bits.
  void PackForReaders(int image) {
    for (int i = 0; i < graph_->UseCount(image); ++i) {
      const int use = graph_->Use(image, i);
      if (!graph_->IsFree(use) || !HasRoom(1)) continue;
      const bool is_direct = graph_->At(use).lce == OpKind::kQuantize;
      const int quantize = is_direct ? use : PacksBehind(use);
      if (quantize < 0 || graph_->InputCount(quantize) != 1 || graph_->Output(quantize) < 0) continue;
      FusedPostOp pack = MakePostOp(PostOpKind::kPack, graph_->Output(quantize));
      if (!is_direct) pack.node = graph_->At(use).index, units_->Claim(use);
      units_->Claim(quantize);
      units_->Push(pack);
      packed_members_ = units_->Current()->member_count;
    }
  }

  // The LceQuantize that is all that reads a padded or pooled tensor, or -1.
  int PacksBehind(int position) const {
    const int output = graph_->Output(position);
    const int32_t code = graph_->At(position).code;
    if (!graph_->IsFloatImage(output)) return -1;
    if (code == kTfLiteBuiltinPad || code == kTfLiteBuiltinPadv2) {
      Border padding;
      if (!ReadPadding(graph_->Context(), *graph_->At(position).node, &padding)) return -1;
      if (padding.before[3] != 0 || padding.after[3] != 0) return -1;
    } else if (code == kTfLiteBuiltinMaxPool2d) {
      const auto* params = static_cast<const TfLitePoolParams*>(graph_->At(position).node->builtin_data);
      if (params == nullptr || params->activation != kTfLiteActNone || graph_->InputCount(position) != 1)
        return -1;
    } else {
      return -1;
    }
    const int use = graph_->OnlyUse(output);
    return use >= 0 && graph_->IsFree(use) && graph_->At(use).lce == OpKind::kQuantize ? use : -1;
  }

  // Adds one operator, or two branches and the one that joins them, and returns the tensor it computes; -1 if
  // nothing fits.
  int Extend(int image) {
    for (int i = 0; i < graph_->UseCount(image); ++i) {
      const int use = graph_->Use(image, i);
      Element element;
      if (!graph_->IsFree(use) || !HasRoom(1) || !ReadElement(*graph_, use, image, &element)) continue;
      if (element.post_ops[0].tensor >= 0 && DependsOnUnit(element.post_ops[0].tensor)) continue;
      const int join = JoinOf(use, image);
      if (join >= 0) return join;
      PushElement(use, element);
      return graph_->Output(use);
    }
    for (int i = 0; i < graph_->UseCount(image); ++i) {
      const int join = JoinOf(graph_->Use(image, i), image);
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
    while (next >= 0 && kept_count < kMaxBranch && ReadUnary(*graph_, next, end, &element)) {
      kept[kept_count++] = next;
      end = graph_->Output(next);
      next = graph_->OnlyUse(end);
    }
    if (kept_count == 0 || next < 0 || !graph_->IsFree(next) || !IsArithmetic(*graph_, next) ||
        graph_->InputCount(next) != 2)
      return -1;
    const bool is_left = graph_->Input(next, 0) == end;
    int from = graph_->Input(next, is_left ? 1 : 0);
    while (from != image) {
      const int before = from < 0 ? -1 : graph_->Producer(from);
      if (before < 0 || graph_->UseCount(from) != 1 || other_count == kMaxBranch) return -1;
      const int read = graph_->IsConstantTensor(graph_->Input(before, 0)) ? graph_->Input(before, 1)
                                                                          : graph_->Input(before, 0);
      if (read < 0 || !ReadUnary(*graph_, before, read, &element)) return -1;
      other[other_count++] = before;
      from = read;
    }
    return PushJoin(image, kept, kept_count, other, other_count, next, is_left);
  }

  int PushJoin(int image, const int* kept, int kept_count, const int* other, int other_count, int join,
               bool is_left) {
    Element last = {};
    FusedPostOp combine = MakePostOp(ArithmeticKind(*graph_, join, !is_left));
    combine.is_kept = true;
    last.pad = -1;
    last.post_ops[last.post_op_count++] = combine;
    if (!graph_->SameImages(image, graph_->Output(join)) ||
        !AddActivation(ArithmeticActivation(*graph_, join), &last))
      return -1;
    if (!HasRoom(kept_count + other_count + 2)) return -1;
    units_->Push(MakePostOp(PostOpKind::kKeep));
    Element element;
    int end = image;
    for (int i = 0; i < kept_count; end = graph_->Output(kept[i++])) {
      ReadElement(*graph_, kept[i], end, &element);
      PushElement(kept[i], element);
    }
    units_->Push(MakePostOp(PostOpKind::kSwap));
    end = image;
    for (int i = other_count; i-- > 0; end = graph_->Output(other[i])) {
      ReadElement(*graph_, other[i], end, &element);
      PushElement(other[i], element);
    }
    PushElement(join, last);
    return graph_->Output(join);
  }

  // Whether a tensor is computed, over whatever way through units and other nodes, from the current unit.
  bool DependsOnUnit(int tensor) {
    for (int p = 0; p < graph_->Count(); ++p) graph_->At(p).is_seen = false;
    int depth = 0;
    const int current = plan_->unit_count - 1;
    const auto push = [&](int p) {
      if (!graph_->At(p).is_seen) stack_[depth++] = p;
      graph_->At(p).is_seen = true;
    };
    const auto push_producer = [&](int t) {
      if (t >= 0 && graph_->Producer(t) >= 0) push(graph_->Producer(t));
    };
    push_producer(tensor);
    while (depth > 0) {
      const int p = stack_[--depth];
      if (graph_->At(p).unit == current) return true;
      for (int i = 0; i < graph_->InputCount(p); ++i) push_producer(graph_->Input(p, i));
      if (graph_->At(p).unit < 0) continue;
      const Unit& unit = plan_->units[graph_->At(p).unit];
      for (int i = 0; i < unit.member_count; ++i) push(plan_->members[unit.first_member + i]);
    }
    return false;
  }

  // A CONCATENATION of channels that units compute and units read.
  bool JoinsUnits(int position) const {
    const int output = graph_->Output(position), count = graph_->InputCount(position);
    const auto* params =
        static_cast<const TfLiteConcatenationParams*>(graph_->At(position).node->builtin_data);
    if (graph_->At(position).code != kTfLiteBuiltinConcatenation || params == nullptr ||
        !graph_->IsFloatImage(output) || count < 1 || count > kMaxInputs ||
        params->activation != kTfLiteActNone || (params->axis != 3 && params->axis != -1)) {
      return false;
    }
    bool is_computed = false, is_read = false;
    int64_t channels = 0;
    for (int i = 0; i < count; ++i) {
      const int input = graph_->Input(position, i);
      if (!graph_->IsFloatImage(input) || graph_->IsConstantTensor(input)) return false;
      if (memcmp(graph_->Tensor(input).dims->data, graph_->Tensor(output).dims->data, 3 * sizeof(int)) != 0)
        return false;
      channels += graph_->Tensor(input).dims->data[3];
      is_computed |= graph_->Producer(input) >= 0 && graph_->At(graph_->Producer(input)).unit >= 0;
    }
    for (int i = 0; i < graph_->UseCount(output); ++i)
      is_read |= graph_->At(graph_->Use(output, i)).unit >= 0;
    return is_computed && is_read && channels == graph_->Tensor(output).dims->data[3];
  }

  Graph* graph_;
  Units* units_;
  FusionPlan* plan_;
  int* stack_ = nullptr;    // positions
  int packed_members_ = 0;  // of the current unit, up to its last kPack
};

}  // namespace

bool PlanFusion(TfLiteContext* context, const TfLiteIntArray& nodes, bool takes_int8, FusionPlan* plan) {
  *plan = {};
  Graph graph(context);
  Units units(&graph, plan);
  Fuser fuser(&graph, &units, plan);
  const bool is_read = graph.Read(nodes) && units.Reserve() && fuser.Reserve();
  if (is_read) fuser.FormUnits(takes_int8);
  if (is_read && DealUnits(&graph, &units, plan)) return true;
  FreeFusionPlan(plan);
  return false;
}

void FreeFusionPlan(FusionPlan* plan) {
  free(plan->units);
  free(plan->order);
  free(plan->members);
  free(plan->post_ops);
  *plan = {};
}

}  // namespace fsg
