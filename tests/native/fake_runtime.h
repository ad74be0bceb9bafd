// A stand-in for TensorFlow Lite: just enough of an interpreter to drive the delegate without Python. Every
// array has memory of its own and of its exact size, so that a sanitizer sees each byte read or written too
// far.
#ifndef FSG_TESTS_NATIVE_FAKE_RUNTIME_H_
#define FSG_TESTS_NATIVE_FAKE_RUNTIME_H_

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "delegate/tflite_abi.h"

extern "C" TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values,
                                                         size_t count, void (*report_error)(const char*));
extern "C" void tflite_plugin_destroy_delegate(TfLiteDelegate*);

namespace fake {

// What a model file says of a tensor, a node and the graph. Nothing here has been checked.
struct Tensor {
  int type = kTfLiteFloat32;
  std::vector<int> dims;
  float scale = 0;
  int zero_point = 0;
  std::vector<float> steps;  // of the channels on an axis
  std::vector<int> zeros;
  int axis = 0;
  bool is_constant = false, has_shape = true;
  std::vector<uint8_t> data;  // of a constant
};

struct Node {
  int builtin_code = 32;  // custom
  std::string custom_name;
  std::vector<int> inputs, outputs;
  std::vector<uint8_t> options;
  std::vector<int> parameters;  // of a builtin operator: all of its structs are int and float fields
  bool has_parameters = true;
};

struct Graph {
  std::vector<Tensor> tensors;
  std::vector<Node> nodes;
  std::vector<int> inputs, outputs;
};

inline int SizeOf(int type) { return type == kTfLiteFloat32 || type == kTfLiteInt32 ? 4 : 1; }

// -1 where the interpreter would refuse the shape, or where it is too large for a quick test.
inline int64_t BytesOf(int type, const TfLiteIntArray* dims) {
  constexpr int64_t kLimit = 1 << 20;
  int64_t bytes = SizeOf(type);
  for (int i = 0; i < dims->size; ++i) {
    if (dims->data[i] < 0 || dims->data[i] > kLimit) return -1;
    bytes *= dims->data[i];
    if (bytes > kLimit) return -1;
  }
  return bytes;
}

inline TfLiteIntArray* NewIntArray(const std::vector<int>& values) {
  auto* array = static_cast<TfLiteIntArray*>(malloc(sizeof(int) * (values.size() + 1)));
  array->size = static_cast<int>(values.size());
  if (!values.empty()) memcpy(array->data, values.data(), sizeof(int) * values.size());
  return array;
}

inline TfLiteFloatArray* NewFloatArray(const std::vector<float>& values) {
  auto* array = static_cast<TfLiteFloatArray*>(malloc(sizeof(int) + sizeof(float) * values.size()));
  array->size = static_cast<int>(values.size());
  if (!values.empty()) memcpy(array->data, values.data(), sizeof(float) * values.size());
  return array;
}

template <typename T>
T* NewCopy(const std::vector<T>& values) {
  auto* copy = static_cast<T*>(malloc(sizeof(T) * values.size()));
  if (!values.empty()) memcpy(copy, values.data(), sizeof(T) * values.size());
  return copy;
}

class Interpreter {
 public:
  explicit Interpreter(const Graph& graph) : graph_(graph) {
    for (const Tensor& tensor : graph.tensors) AddTensor(tensor);
    for (const Node& node : graph.nodes) AddNode(node);
    context_.tensors = tensors_.data();
    context_.tensors_size = tensors_.size();
    context_.impl = this;
    context_.recommended_num_threads = 1;
    context_.GetExecutionPlan = GetExecutionPlan;
    context_.ResizeTensor = ResizeTensor;
    context_.ReportError = ReportError;
    context_.GetNodeAndRegistration = GetNodeAndRegistration;
    context_.ReplaceNodeSubsetsWithDelegateKernels = ReplaceNodes;
  }
  Interpreter(const Interpreter&) = delete;

  ~Interpreter() {
    for (Step& step : steps_) {
      if (step.registration.free != nullptr && step.is_delegated)
        step.registration.free(&context_, step.node.user_data);
      free(step.node.inputs);
      free(step.node.outputs);
      free(step.node.builtin_data);
      free(const_cast<void*>(step.node.custom_initial_data));
      for (void* array : step.owned) free(array);
    }
    for (TfLiteTensor& tensor : tensors_) {
      if (auto* affine = static_cast<TfLiteAffineQuantization*>(tensor.quantization.params)) {
        free(affine->scale);
        free(affine->zero_point);
        free(affine);
      }
      free(tensor.dims);
      free(tensor.data);
    }
    free(handed_out_plan_);
  }

  bool Apply(TfLiteDelegate* delegate) { return delegate->Prepare(&context_, delegate) == kTfLiteOk; }

  // Prepares the nodes and gives memory to the tensors between them. False if either fails.
  bool Allocate() {
    for (int index : plan_) {
      Step& step = steps_[index];
      if (step.is_delegated && step.registration.prepare(&context_, &step.node) != kTfLiteOk) return false;
    }
    for (int index : plan_) {
      const Step& step = steps_[index];
      for (const TfLiteIntArray* array : {step.node.inputs, step.node.outputs}) {
        for (int i = 0; i < array->size; ++i) {
          if (IsTensor(array->data[i]) && !GiveMemory(array->data[i])) return false;
        }
      }
    }
    for (int tensor : graph_.inputs) {
      if (!GiveMemory(tensor)) return false;
    }
    return true;
  }

  // Runs the delegate's nodes. What others would compute is noise that depends on nothing but the tensor.
  bool Invoke() {
    for (int tensor : graph_.inputs) FillWithNoise(tensor);
    for (int index : plan_) {
      Step& step = steps_[index];
      if (!step.is_delegated) {
        for (int tensor : graph_.nodes[index].outputs) FillWithNoise(tensor);
      } else if (step.registration.invoke(&context_, &step.node) != kTfLiteOk) {
        return false;
      }
    }
    return true;
  }

  // What an interpreter does to the shapes of its own tensors when the batch of the inputs changes.
  void ResizeBatch(int from, int to) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      TfLiteIntArray* dims = tensors_[i].dims;
      if (graph_.tensors[i].is_constant || dims == nullptr || dims->size == 0 || dims->data[0] != from)
        continue;
      dims->data[0] = to;
    }
  }

  // The bytes of a graph output after Invoke.
  std::vector<uint8_t> Read(int index) const {
    const TfLiteTensor& tensor = tensors_[index];
    if (tensor.data == nullptr) return {};
    const auto* data = static_cast<const uint8_t*>(tensor.data);
    return std::vector<uint8_t>(data, data + tensor.bytes);
  }

  // Whether it was this interpreter, not the delegate, that refused a shape.
  bool HasRefused() const { return has_refused_; }

 private:
  struct Step {
    TfLiteNode node = {};
    TfLiteRegistration registration = {};
    bool is_delegated = false;
    std::string name;
    std::vector<void*> owned;
  };

  static Interpreter* Self(TfLiteContext* context) { return static_cast<Interpreter*>(context->impl); }

  bool IsTensor(int index) const { return index >= 0 && index < static_cast<int>(tensors_.size()); }

  void AddTensor(const Tensor& from) {
    TfLiteTensor tensor = {};
    tensor.type = static_cast<TfLiteType>(from.type);
    tensor.dims = from.has_shape ? NewIntArray(from.dims) : nullptr;
    tensor.params = {from.scale, from.zero_point};
    if (!from.steps.empty()) {
      auto* affine = static_cast<TfLiteAffineQuantization*>(malloc(sizeof(TfLiteAffineQuantization)));
      *affine = {NewFloatArray(from.steps), NewIntArray(from.zeros), from.axis};
      tensor.quantization.type = kTfLiteAffineQuantization;
      tensor.quantization.params = affine;
    }
    if (from.is_constant) {
      tensor.allocation_type = kTfLiteMmapRo;
      tensor.data = NewCopy(from.data);
      tensor.bytes = from.data.size();
    }
    tensors_.push_back(tensor);
  }

  void AddNode(const Node& from) {
    steps_.emplace_back();
    Step& step = steps_.back();
    step.name = from.custom_name;
    step.registration.builtin_code = from.builtin_code;
    step.registration.version = 1;
    step.node.inputs = NewIntArray(from.inputs);
    step.node.outputs = NewIntArray(from.outputs);
    if (from.builtin_code == 32) {
      step.node.custom_initial_data = NewCopy(from.options);
      step.node.custom_initial_data_size = static_cast<int>(from.options.size());
    } else if (from.has_parameters) {
      step.node.builtin_data = NewCopy(from.parameters);
    }
    plan_.push_back(static_cast<int>(steps_.size()) - 1);
  }

  bool GiveMemory(int index) {
    TfLiteTensor& tensor = tensors_[index];
    if (tensor.allocation_type == kTfLiteMmapRo) return true;
    const int64_t bytes = tensor.dims == nullptr ? -1 : BytesOf(tensor.type, tensor.dims);
    if (bytes < 0) has_refused_ = true;
    if (bytes < 0) return false;
    free(tensor.data);
    tensor.data = malloc(static_cast<size_t>(bytes));
    tensor.bytes = static_cast<size_t>(bytes);
    memset(tensor.data, 0x55, tensor.bytes);
    return true;
  }

  void FillWithNoise(int index) {
    if (!IsTensor(index) || tensors_[index].allocation_type == kTfLiteMmapRo) return;
    const TfLiteTensor& tensor = tensors_[index];
    uint32_t state = static_cast<uint32_t>(index) * 2654435761u + 1;
    for (size_t i = 0; tensor.data != nullptr && i < tensor.bytes / SizeOf(tensor.type); ++i) {
      state = state * 1664525u + 1013904223u;
      if (tensor.type == kTfLiteFloat32) {
        static_cast<float*>(tensor.data)[i] = static_cast<float>(static_cast<int>(state >> 24) - 128) / 16.0f;
      } else if (tensor.type == kTfLiteInt32) {
        static_cast<uint32_t*>(tensor.data)[i] = state ^ state >> 13;
      } else {
        const uint32_t byte = state >> 24;
        static_cast<uint8_t*>(tensor.data)[i] =
            static_cast<uint8_t>(tensor.type == kTfLiteBool ? byte & 1 : byte);
      }
    }
  }

  static TfLiteStatus GetExecutionPlan(TfLiteContext* context, TfLiteIntArray** plan) {
    Interpreter* self = Self(context);
    free(self->handed_out_plan_);
    *plan = self->handed_out_plan_ = NewIntArray(self->plan_);
    return kTfLiteOk;
  }

  static TfLiteStatus GetNodeAndRegistration(TfLiteContext* context, int index, TfLiteNode** node,
                                             TfLiteRegistration** registration) {
    Interpreter* self = Self(context);
    // As in TensorFlow Lite, whoever still reads the plan after this call reads freed memory.
    free(self->handed_out_plan_);
    self->handed_out_plan_ = nullptr;
    if (index < 0 || index >= static_cast<int>(self->steps_.size())) return kTfLiteError;
    Step& step = self->steps_[index];
    step.registration.custom_name = step.registration.builtin_code == 32 ? step.name.c_str() : nullptr;
    *node = &step.node;
    *registration = &step.registration;
    return kTfLiteOk;
  }

  static TfLiteStatus ResizeTensor(TfLiteContext* context, TfLiteTensor* tensor, TfLiteIntArray* shape) {
    const int64_t bytes = BytesOf(tensor->type, shape);
    Interpreter* self = Self(context);
    if (tensor < self->tensors_.data() || tensor >= self->tensors_.data() + self->tensors_.size()) abort();
    free(tensor->dims);
    tensor->dims = shape;
    tensor->bytes = bytes < 0 ? 0 : static_cast<size_t>(bytes);
    if (bytes < 0) self->has_refused_ = true;
    return bytes < 0 ? kTfLiteError : kTfLiteOk;
  }

  static void ReportError(TfLiteContext*, const char* format, ...) {
    char message[512];  // formatted so that a sanitizer sees the arguments
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    if (getenv("FAKE_RUNTIME_VERBOSE") != nullptr) fprintf(stderr, "%s\n", message);
  }

  // Splits the plan, as TensorFlow Lite does, into the longest stretches of claimed and of other nodes whose
  // inputs are ready, and makes a node of each claimed stretch.
  static TfLiteStatus ReplaceNodes(TfLiteContext* context, TfLiteRegistration registration,
                                   const TfLiteIntArray* nodes, TfLiteDelegate* delegate) {
    Interpreter* self = Self(context);
    std::vector<char> is_claimed(self->steps_.size()), is_done(self->steps_.size());
    for (int i = 0; i < nodes->size; ++i) is_claimed.at(static_cast<size_t>(nodes->data[i])) = 1;
    std::vector<char> is_ready(self->tensors_.size(), 1);
    for (int index : self->plan_) {
      for (int tensor : self->graph_.nodes[index].outputs) {
        if (self->IsTensor(tensor)) is_ready[tensor] = 0;
      }
    }
    std::vector<int> plan;
    bool claims = false, has_stalled = false;
    for (;;) {
      const std::vector<int> stretch =
          self->TakeReady(claims ? is_claimed : Inverse(is_claimed), &is_done, &is_ready);
      if (stretch.empty() && has_stalled) break;
      has_stalled = stretch.empty();
      if (claims && !stretch.empty()) {
        plan.push_back(self->AddPartition(registration, stretch, delegate));
      } else {
        plan.insert(plan.end(), stretch.begin(), stretch.end());
      }
      claims = !claims;
    }
    self->plan_ = plan;
    return kTfLiteOk;
  }

  static std::vector<char> Inverse(std::vector<char> flags) {
    for (char& flag : flags) flag = !flag;
    return flags;
  }

  std::vector<int> TakeReady(const std::vector<char>& is_wanted, std::vector<char>* is_done,
                             std::vector<char>* is_ready) {
    std::vector<int> taken;
    for (int index : plan_) {
      const Node& node = graph_.nodes[index];
      if ((*is_done)[index] || !is_wanted[index]) continue;
      bool ready = true;
      for (int tensor : node.inputs) ready = ready && (!IsTensor(tensor) || (*is_ready)[tensor]);
      if (!ready) continue;
      (*is_done)[index] = 1;
      for (int tensor : node.outputs) {
        if (IsTensor(tensor)) (*is_ready)[tensor] = 1;
      }
      taken.push_back(index);
    }
    return taken;
  }

  int AddPartition(const TfLiteRegistration& registration, const std::vector<int>& nodes,
                   TfLiteDelegate* delegate) {
    std::vector<char> is_inside(graph_.nodes.size()), is_written(tensors_.size()), is_used(tensors_.size());
    for (int index : nodes) is_inside[index] = 1;
    for (int tensor : graph_.outputs) is_used[tensor] = 1;
    std::vector<int> inputs, outputs;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      for (int tensor : graph_.nodes[i].outputs) {
        if (is_inside[i] && IsTensor(tensor)) is_written[tensor] = 1;
      }
      for (int tensor : graph_.nodes[i].inputs) {
        if (!is_inside[i] && IsTensor(tensor)) is_used[tensor] = 1;
      }
    }
    for (int index : nodes) {
      for (int tensor : graph_.nodes[index].inputs) {
        if (IsTensor(tensor) && !is_written[tensor]) inputs.push_back(tensor);
      }
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (is_written[i] && is_used[i]) outputs.push_back(static_cast<int>(i));
    }
    TfLiteDelegateParams params = {delegate, NewIntArray(nodes), NewIntArray(inputs), NewIntArray(outputs)};
    graph_.nodes.push_back({0, "", inputs, outputs, {}, {}, false});
    steps_.emplace_back();
    Step& step = steps_.back();
    step.is_delegated = true;
    step.registration = registration;
    step.node.inputs = NewIntArray(inputs);
    step.node.outputs = NewIntArray(outputs);
    step.owned = {params.nodes_to_replace, params.input_tensors, params.output_tensors};
    const int index = static_cast<int>(steps_.size()) - 1;
    void* user_data = registration.init(&context_, reinterpret_cast<const char*>(&params), 0);
    steps_[index].node.user_data = user_data;
    return index;
  }

  Graph graph_;
  TfLiteContext context_ = {};
  std::vector<TfLiteTensor> tensors_;
  std::vector<Step> steps_;
  std::vector<int> plan_;
  TfLiteIntArray* handed_out_plan_ = nullptr;
  bool has_refused_ = false;
};

}  // namespace fake

#endif  // FSG_TESTS_NATIVE_FAKE_RUNTIME_H_
