// The nodes of an execution plan by their position in it: who writes and who reads each tensor.
#ifndef FSG_DELEGATE_GRAPH_H_
#define FSG_DELEGATE_GRAPH_H_

#include <stdlib.h>

#include "delegate/read.h"

namespace fsg {

template <typename T>
bool Allocate(T** pointer, size_t count) {
  *pointer = static_cast<T*>(calloc(count > 0 ? count : 1, sizeof(T)));
  return *pointer != nullptr;
}

// An operator of the graph.
struct Node {
  int index;  // in the interpreter
  const TfLiteNode* node;
  int32_t code;
  OpKind lce;
  int unit;  // or -1
  bool is_seen;
};

class Graph {
 public:
  explicit Graph(TfLiteContext* context) : context_(context) {}
  Graph(const Graph&) = delete;
  ~Graph();

  // False if the graph is too large or not one in which every tensor has a single producer.
  bool Read(const TfLiteIntArray& nodes);

  const TfLiteContext& Context() const { return *context_; }
  int Count() const { return count_; }
  int TensorCount() const { return tensors_; }
  Node& At(int position) { return nodes_[position]; }
  const Node& At(int position) const { return nodes_[position]; }
  int Producer(int tensor) const { return producer_[tensor]; }  // a position, or -1

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
  int Output(int position) const;

  // The only reader of a tensor, or -1.
  int OnlyUse(int tensor) const { return UseCount(tensor) == 1 ? Use(tensor, 0) : -1; }

  bool IsFloatImage(int tensor) const;
  bool SameImages(int a, int b) const;
  bool IsConstantTensor(int tensor) const { return tensor >= 0 && IsConstant(Tensor(tensor)); }

 private:
  bool ReadNode(int index, int position);
  bool ReadUses();

  TfLiteContext* context_;
  Node* nodes_ = nullptr;
  int* producer_ = nullptr;   // of a tensor
  int* first_use_ = nullptr;  // of a tensor, in uses_
  int* uses_ = nullptr;       // positions
  int count_ = 0, tensors_ = 0;
};

}  // namespace fsg

#endif  // FSG_DELEGATE_GRAPH_H_
