// Fuzz target: the whole delegate. An input describes a small graph of binary operators and their neighbours,
// and perhaps some damage to it. Every kernel set must run a valid one and give the bytes of the plain loops;
// a damaged one must be refused or run without a fault, whatever it then computes.
#include "random_graph.h"

namespace {

struct Result {
  bool ran = false, is_too_large = false;
  std::vector<std::vector<uint8_t>> outputs;
};

bool IsNan(const uint8_t* bytes) {
  float value;
  memcpy(&value, bytes, sizeof(value));
  return value != value;
}

// Equal bytes, but for the payload of a NaN.
bool Agree(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, bool is_float) {
  if (a == b) return true;
  if (a.size() != b.size() || !is_float) return false;
  for (size_t i = 0; i < a.size(); i += 4) {
    if (memcmp(&a[i], &b[i], 4) != 0 && !(IsNan(&a[i]) && IsNan(&b[i]))) return false;
  }
  return true;
}

Result Run(const Graph& graph, TfLiteDelegate* delegate, int new_batch) {
  Result result;
  fake::Interpreter interpreter(graph);
  result.ran = interpreter.Apply(delegate) && interpreter.Allocate() && interpreter.Invoke();
  if (result.ran && new_batch > 0 && !graph.tensors[graph.inputs[0]].dims.empty()) {
    interpreter.ResizeBatch(graph.tensors[graph.inputs[0]].dims[0], new_batch);
    result.ran = interpreter.Allocate() && interpreter.Invoke();
  }
  result.is_too_large = interpreter.HasRefused();
  if (!result.ran) return result;
  for (int output : graph.outputs) result.outputs.push_back(interpreter.Read(output));
  return result;
}

// On one thread: waking others would take longer than the small graphs do.
TfLiteDelegate* MakeDelegate(const char* kernels, const char* fuse) {
  const char* keys[] = {"kernels", "num_threads", "fuse"};
  const char* values[] = {kernels, "1", fuse};
  return tflite_plugin_create_delegate(keys, values, 3, nullptr);
}

// For both values of the option fuse: the plain loops first, then what must agree with them. By name all take
// int8, "auto" does not on every processor.
struct Delegates {
  std::vector<TfLiteDelegate*> sets[2];

  Delegates() {
    for (int fuse = 0; fuse < 2; ++fuse) {
      for (const char* kernels : {"scalar", "avx512", "avx2", "sse2"}) {
        TfLiteDelegate* delegate = MakeDelegate(kernels, fuse == 0 ? "0" : "1");
        if (delegate != nullptr) sets[fuse].push_back(delegate);
      }
    }
    if (sets[0].empty()) abort();
  }
  ~Delegates() {
    for (auto& set : sets) {
      for (TfLiteDelegate* delegate : set) tflite_plugin_destroy_delegate(delegate);
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Delegates delegates;
  Stream stream{data, size};
  const int choices = stream.Byte();
  const auto& set = delegates.sets[choices & 1];
  GraphMaker maker(&stream);
  const Graph graph = maker.Make();
  const int new_batch = (choices & 2) != 0 ? 1 + (choices >> 2 & 3) : 0;
  const Result expected = Run(graph, set[0], new_batch);
  const size_t other = 1 + static_cast<size_t>(choices >> 4) % (set.size() - 1);
  const Result got = Run(graph, set[other], new_batch);
  if (maker.IsDamaged() || got.is_too_large || expected.is_too_large) return 0;
  if (!got.ran || !expected.ran) abort();
  for (size_t i = 0; i < expected.outputs.size(); ++i) {
    const bool is_float = graph.tensors[graph.outputs[i]].type == kTfLiteFloat32;
    if (!Agree(got.outputs[i], expected.outputs[i], is_float)) abort();
  }
  return 0;
}
