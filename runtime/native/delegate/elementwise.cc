#include "delegate/elementwise.h"

#include "delegate/read.h"

namespace fsg {
namespace {

// Whether an operand stretches over an image without being as large: one value, one per channel, one per
// channel of each image.
bool Stretches(const Graph& graph, int tensor, int image) {
  const TfLiteTensor& t = graph.Tensor(tensor);
  if (t.type != kTfLiteFloat32 || t.dims == nullptr || t.dims->size > 4 || t.is_variable) return false;
  const int* dims = graph.Tensor(image).dims->data;
  const int rank = t.dims->size;
  const int images = rank == 4 ? t.dims->data[0] : 1, channels = rank > 0 ? t.dims->data[rank - 1] : 1;
  for (int i = rank == 4 ? 1 : 0; i < rank - 1; ++i) {
    if (t.dims->data[i] != 1) return false;
  }
  if (images == 1) return channels == dims[3] || (channels == 1 && IsConstant(t));
  return images == dims[0] && channels == dims[3] && !IsConstant(t);
}

bool PadsOnlyChannels(const Border& padding) {
  for (int i = 0; i < 3; ++i) {
    if (padding.before[i] != 0 || padding.after[i] != 0) return false;
  }
  return true;
}

// The post-operation that combines the value of tensor `image` with `operand`.
bool ReadOperand(const Graph& graph, PostOpKind kind, int operand, int image, Element* element) {
  if (operand < 0) return false;
  FusedPostOp post_op = MakePostOp(kind, operand);
  if (!Stretches(graph, operand, image)) {
    if (!graph.SameImages(operand, image) || graph.IsConstantTensor(operand)) return false;
    // Zeros beside the channels of a smaller tensor are not worth a tensor of their own.
    const int pad = graph.Producer(operand);
    Border padding;
    if (pad >= 0 && graph.At(pad).code == kTfLiteBuiltinPad && graph.IsFree(pad) &&
        graph.UseCount(operand) == 1 && ReadPadding(graph.Context(), *graph.At(pad).node, &padding) &&
        PadsOnlyChannels(padding) && graph.IsFloatImage(graph.Input(pad, 0))) {
      element->pad = pad;
      post_op.tensor = graph.Input(pad, 0);
      post_op.first_channel = padding.before[3];
      post_op.channels = graph.Tensor(post_op.tensor).dims->data[3];
    }
  }
  element->post_ops[element->post_op_count++] = post_op;
  return true;
}

// ADD, SUB, MUL, MAXIMUM, MINIMUM of `image` and one other tensor.
bool ReadArithmetic(const Graph& graph, int position, int image, Element* element) {
  const int left = graph.Input(position, 0), right = graph.Input(position, 1);
  if (graph.InputCount(position) != 2 || (left == image) == (right == image)) return false;
  return ReadOperand(graph, ArithmeticKind(graph, position, left == image), left == image ? right : left,
                     image, element) &&
         AddActivation(ArithmeticActivation(graph, position), element);
}

}  // namespace

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

PostOpKind ArithmeticKind(const Graph& graph, int position, bool is_left) {
  switch (graph.At(position).code) {
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

bool IsArithmetic(const Graph& graph, int position) {
  const int32_t code = graph.At(position).code;
  return code == kTfLiteBuiltinAdd || code == kTfLiteBuiltinSub || code == kTfLiteBuiltinMul ||
         code == kTfLiteBuiltinMaximum || code == kTfLiteBuiltinMinimum;
}

int ArithmeticActivation(const Graph& graph, int position) {
  const int32_t code = graph.At(position).code;
  if (code == kTfLiteBuiltinMaximum || code == kTfLiteBuiltinMinimum) return kTfLiteActNone;
  const auto* params = static_cast<const TfLiteArithmeticParams*>(graph.At(position).node->builtin_data);
  return params == nullptr ? -1 : params->activation;
}

bool ReadElement(const Graph& graph, int position, int image, Element* element) {
  *element = {};
  element->pad = -1;
  if (!graph.SameImages(image, graph.Output(position))) return false;
  if (IsArithmetic(graph, position)) return ReadArithmetic(graph, position, image, element);
  if (graph.Input(position, 0) != image) return false;
  const auto single = [&](PostOpKind kind) {
    element->post_ops[element->post_op_count++] = MakePostOp(kind);
    return true;
  };
  switch (graph.At(position).code) {
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
      const int slope = graph.Input(position, 1);
      return graph.IsConstantTensor(slope) && ReadOperand(graph, PostOpKind::kPrelu, slope, image, element);
    }
    case kTfLiteBuiltinLeakyRelu: {
      const auto* params = static_cast<const TfLiteLeakyReluParams*>(graph.At(position).node->builtin_data);
      if (params == nullptr) return false;
      single(PostOpKind::kPrelu);
      element->post_ops[0].low = params->alpha;
      return true;
    }
    default:
      return false;
  }
}

bool ReadUnary(const Graph& graph, int position, int image, Element* element) {
  if (!graph.IsFree(position) || !ReadElement(graph, position, image, element)) return false;
  const int operand = element->post_ops[0].tensor;
  return operand < 0 || graph.IsConstantTensor(operand);
}

}  // namespace fsg
