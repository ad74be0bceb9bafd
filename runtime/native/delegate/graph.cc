#include "delegate/graph.h"

#include <string.h>

namespace fsg {
namespace {

constexpr int kMaxNodes = 4096;  // keeps planning, which is quadratic, below a moment

}  // namespace

Graph::~Graph() {
  free(nodes_);
  free(producer_);
  free(first_use_);
  free(uses_);
}

bool Graph::Read(const TfLiteIntArray& nodes) {
  count_ = nodes.size;
  tensors_ = static_cast<int>(context_->tensors_size);
  if (count_ > kMaxNodes) return false;
  const size_t count = static_cast<size_t>(count_), tensors = static_cast<size_t>(tensors_);
  if (!Allocate(&nodes_, count) || !Allocate(&producer_, tensors) || !Allocate(&first_use_, tensors + 2)) {
    return false;
  }
  for (int t = 0; t < tensors_; ++t) producer_[t] = -1;
  for (int p = 0; p < count_; ++p) {
    if (!ReadNode(nodes.data[p], p)) return false;
  }
  return ReadUses();
}

bool Graph::ReadNode(int index, int position) {
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

bool Graph::ReadUses() {
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

int Graph::Output(int position) const {
  const TfLiteIntArray& outputs = *nodes_[position].node->outputs;
  return outputs.size == 1 ? outputs.data[0] : -1;
}

bool Graph::IsFloatImage(int tensor) const {
  if (tensor < 0) return false;
  const TfLiteTensor& t = Tensor(tensor);
  if (t.type != kTfLiteFloat32 || t.dims == nullptr || t.dims->size != 4 || t.is_variable) return false;
  for (int i = 0; i < 4; ++i) {
    if (t.dims->data[i] < 1) return false;
  }
  return true;
}

bool Graph::SameImages(int a, int b) const {
  return IsFloatImage(a) && IsFloatImage(b) &&
         memcmp(Tensor(a).dims->data, Tensor(b).dims->data, 4 * sizeof(int)) == 0;
}

}  // namespace fsg
