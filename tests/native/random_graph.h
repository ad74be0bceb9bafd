// Graphs of binary operators and their neighbours, as a fuzzer's input describes them, perhaps with some
// damage.
#ifndef FSG_TESTS_RANDOM_GRAPH_H_
#define FSG_TESTS_RANDOM_GRAPH_H_

#include <limits.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "fake_runtime.h"
#include "flexmap.h"

using fake::Graph;
using fake::Node;
using fake::Tensor;

// The input, read from its beginning; zeros after its end.
struct Stream {
  const uint8_t* data;
  size_t size;

  int Byte() {
    if (size == 0) return 0;
    --size;
    return *data++;
  }
  int Below(int count) { return (count > 256 ? Byte() << 8 | Byte() : Byte()) % count; }
  bool OneIn(int count) { return Below(count) == 1; }
  template <typename T, size_t count>
  T Pick(const T (&choices)[count]) {
    return choices[Below(static_cast<int>(count))];
  }
};

constexpr int kChannels[] = {1, 3, 16, 16, 31, 32, 32, 33, 48, 64, 65, 128};
constexpr int kOddValues[] = {0,  -1,    1,     2,       7,       31,          32,      33,      255,
                              -2, 65535, 65536, 1 << 20, 1 << 28, INT_MAX - 1, INT_MAX, INT_MIN, 4};

inline int Words(int channels) { return (channels + 31) / 32; }

enum Builtin {
  kAdd = 0,
  kConcatenation = 2,
  kConv2d = 3,
  kMaxPool2d = 17,
  kMul = 18,
  kRelu = 19,
  kReluN1To1 = 20,
  kRelu6 = 21,
  kPad = 34,
  kSub = 41,
  kPrelu = 54,
  kNeg = 59,
  kPadV2 = 60,
  kLeakyRelu = 98,
  kQuantize = 114,
};

class GraphMaker {
 public:
  explicit GraphMaker(Stream* stream) : in_(*stream) {}

  Graph Make() {
    const int channels = in_.Pick(kChannels);
    graph_.inputs = {
        Activation(kTfLiteFloat32, {1 + in_.Below(2), 1 + in_.Below(6), 1 + in_.Below(6), channels})};
    const int count = 1 + in_.Below(7);
    for (int i = 0; i < count; ++i) AddOperator();
    graph_.outputs = {static_cast<int>(graph_.tensors.size()) - 1};
    if (in_.OneIn(2))
      graph_.outputs.push_back(activations_[in_.Below(static_cast<int>(activations_.size()))]);
    const int damages = in_.OneIn(2) ? 1 + in_.Below(4) : 0;
    is_damaged_ = damages > 0;
    for (int i = 0; i < damages; ++i) Damage();
    return graph_;
  }

  bool IsDamaged() const { return is_damaged_; }

 private:
  Tensor& At(int tensor) { return graph_.tensors[tensor]; }

  int Activation(int type, const std::vector<int>& dims) {
    Tensor tensor;
    tensor.type = type;
    tensor.dims = dims;
    if (type == kTfLiteInt8) tensor.scale = 0.25f, tensor.zero_point = in_.Byte() - 128;
    graph_.tensors.push_back(tensor);
    activations_.push_back(static_cast<int>(graph_.tensors.size()) - 1);
    return activations_.back();
  }

  template <typename T>
  int Constant(int type, const std::vector<int>& dims, const std::vector<T>& values) {
    Tensor tensor;
    tensor.type = type;
    tensor.dims = dims;
    tensor.is_constant = true;
    tensor.data.resize(values.size() * sizeof(T));
    if (!values.empty()) memcpy(tensor.data.data(), values.data(), tensor.data.size());
    graph_.tensors.push_back(tensor);
    return static_cast<int>(graph_.tensors.size()) - 1;
  }

  uint32_t Random() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_ ^ state_ >> 15;
  }

  int Floats(int count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(static_cast<int>(Random() % 65) - 32) / 8.0f;
    return Constant(kTfLiteFloat32, {count}, values);
  }

  // A recent activation of that type and rank 4, or -1.
  int Find(int type) {
    std::vector<int> found;
    for (int tensor : activations_) {
      if (At(tensor).type == type && At(tensor).dims.size() == 4) found.push_back(tensor);
    }
    if (found.empty()) return -1;
    return in_.OneIn(3) ? found[in_.Below(static_cast<int>(found.size()))] : found.back();
  }

  Node& Add(int code, const char* name, const std::vector<int>& inputs, int output) {
    Node node;
    node.builtin_code = code;
    node.custom_name = name;
    node.inputs = inputs;
    node.outputs = {output};
    node.parameters.resize(16);
    graph_.nodes.push_back(node);
    return graph_.nodes.back();
  }

  // The shape of a sliding window's output; the window is made smaller where it does not fit.
  std::vector<int> Slide(const std::vector<int>& dims, int padding, const int* stride, const int* dilation,
                         int* filter, int channels) {
    std::vector<int> out = {dims[0], 0, 0, channels};
    for (int axis = 0; axis < 2; ++axis) {
      const int in = dims[axis + 1];
      if (padding == 1 && (filter[axis] - 1) * dilation[axis] + 1 > in) filter[axis] = 1;
      const int reach = padding == 1 ? (filter[axis] - 1) * dilation[axis] : 0;
      out[axis + 1] = (in - reach + stride[axis] - 1) / stride[axis];
    }
    return out;
  }

  void AddOperator() {
    const int kind = in_.Below(20);
    const int packed = Find(kTfLiteInt32), floats = Find(kTfLiteFloat32);
    if (kind < 2 || (packed < 0 && kind < 9)) return AddQuantize();
    if (kind < 7) return AddConvolution(packed);
    if (kind == 7) return AddPool(packed);
    if (kind == 8) return AddDequantize(packed);
    if (kind == 9) return AddPad(floats);
    if (kind == 10) return AddFloatPool(floats);
    if (kind == 11) return AddConcatenation(floats);
    if (kind == 12) return AddUnary(floats);
    if (kind == 13 && in_.OneIn(4)) {
      Add(32, "Unknown", {floats}, Activation(kTfLiteFloat32, At(floats).dims));
      return;
    }
    if (kind > 15) return AddOnIntegers(floats);
    AddBinary(floats);
  }

  void AddQuantize() {
    const int type = in_.OneIn(4) ? kTfLiteInt8 : in_.OneIn(8) ? kTfLiteBool : kTfLiteFloat32;
    int source = Find(type);
    if (source < 0) source = Find(kTfLiteFloat32);
    std::vector<int> dims = At(source).dims;
    channels_of_.resize(graph_.tensors.size() + 1);
    dims[3] = Words(dims[3]);
    const int channels = At(source).dims[3];
    const int output = Activation(kTfLiteInt32, dims);
    Remember(output, channels);
    Add(32, "LceQuantize", {source}, output);
  }

  void Remember(int tensor, int channels) {
    channels_of_.resize(static_cast<size_t>(tensor) + 1);
    channels_of_[tensor] = channels;
  }

  int ChannelsOf(int packed) {
    const int known = packed < static_cast<int>(channels_of_.size()) ? channels_of_[packed] : 0;
    return known > 0 ? known : At(packed).dims[3] * 32;
  }

  void AddDequantize(int source) {
    constexpr int kTypes[] = {kTfLiteFloat32, kTfLiteInt8, kTfLiteBool};
    std::vector<int> dims = At(source).dims;
    dims[3] = ChannelsOf(source);
    Add(32, "LceDequantize", {source}, Activation(in_.Pick(kTypes), dims));
  }

  void AddConvolution(int source) {
    constexpr int kTypes[] = {kTfLiteFloat32, kTfLiteFloat32, kTfLiteInt32, kTfLiteInt8};
    const std::vector<int> dims = At(source).dims;
    const int channels_in = ChannelsOf(source), channels_out = in_.Pick(kChannels);
    const bool is_wide = in_.OneIn(4);
    int filter[] = {1 + in_.Below(is_wide ? 5 : 3), 1 + in_.Below(3)};
    const int stride[] = {1 + in_.Below(2), 1 + in_.Below(2)},
              dilation[] = {1 + in_.Below(2), 1 + in_.Below(2)};
    const int padding = in_.Below(2), pad_values = in_.Below(2), type = in_.Pick(kTypes);
    const bool is_packed = type == kTfLiteInt32;
    std::vector<int> out = Slide(dims, padding, stride, dilation, filter, channels_out);
    if (is_packed) out[3] = Words(channels_out);
    int words = dims[3];
    if (words % 2 == 0 && channels_in == words * 32 && channels_out % 2 == 0 && in_.OneIn(4))
      words /= 2;  // groups
    state_ = static_cast<uint32_t>(in_.Byte()) + 1;
    std::vector<uint32_t> weights(static_cast<size_t>(channels_out) * filter[0] * filter[1] * words);
    const uint32_t last = channels_in % 32 == 0 ? ~0u : (1u << channels_in % 32) - 1;
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = Random() & ((i + 1) % words == 0 ? last : ~0u);
    const int bits = Constant(kTfLiteInt32, {channels_out, filter[0], filter[1], words}, weights);
    std::vector<int> inputs = {source, bits, -1, -1, -1};
    if (is_packed) {
      std::vector<int> thresholds(channels_out);
      const int length = filter[0] * filter[1] * words * 32;
      for (int& threshold : thresholds) threshold = length / 2 - 8 + static_cast<int>(Random() % 17);
      inputs[4] = Constant(kTfLiteInt32, {channels_out}, thresholds);
    } else {
      inputs[2] = Floats(channels_out);
      inputs[3] = Floats(channels_out);
    }
    const int output = Activation(type, out);
    if (is_packed) Remember(output, channels_out);
    Add(32, "LceBconv2d", inputs, output).options =
        Flexmap({{"channels_in", channels_in},
                 {"dilation_height_factor", dilation[0]},
                 {"dilation_width_factor", dilation[1]},
                 {"fused_activation_function", in_.OneIn(3) ? in_.Below(4) : 0},
                 {"pad_values", pad_values},
                 {"padding", padding},
                 {"stride_height", stride[0]},
                 {"stride_width", stride[1]}});
  }

  void AddPool(int source) {
    int filter[] = {1 + in_.Below(3), 1 + in_.Below(3)};
    const int stride[] = {1 + in_.Below(2), 1 + in_.Below(2)}, dilation[] = {1, 1}, padding = in_.Below(2);
    const std::vector<int> out =
        Slide(At(source).dims, padding, stride, dilation, filter, At(source).dims[3]);
    const int channels = ChannelsOf(source), output = Activation(kTfLiteInt32, out);
    Remember(output, channels);
    Add(32, "LceBMaxPool2d", {source}, output).options = Flexmap({{"filter_height", filter[0]},
                                                                  {"filter_width", filter[1]},
                                                                  {"padding", padding},
                                                                  {"stride_height", stride[0]},
                                                                  {"stride_width", stride[1]}});
  }

  void AddPad(int source) {
    std::vector<int> dims = At(source).dims, borders(8);
    for (int axis = 1; axis < 3; ++axis) {
      borders[2 * axis] = in_.Below(3), borders[2 * axis + 1] = in_.Below(3);
      dims[axis] += borders[2 * axis] + borders[2 * axis + 1];
    }
    const int where = Constant(kTfLiteInt32, {4, 2}, borders);
    if (in_.OneIn(3)) {
      Add(kPad, "", {source, where}, Activation(kTfLiteFloat32, dims));
      return;
    }
    const int value = Constant(kTfLiteFloat32, {}, std::vector<float>{in_.OneIn(3) ? -1.0f : 1.0f});
    Add(kPadV2, "", {source, where, value}, Activation(kTfLiteFloat32, dims));
  }

  void AddFloatPool(int source) {
    int filter[] = {1 + in_.Below(3), 1 + in_.Below(3)};
    const int stride[] = {1 + in_.Below(2), 1 + in_.Below(2)}, dilation[] = {1, 1}, padding = in_.Below(2);
    const std::vector<int> out =
        Slide(At(source).dims, padding, stride, dilation, filter, At(source).dims[3]);
    Node& node = Add(kMaxPool2d, "", {source}, Activation(kTfLiteFloat32, out));
    // TfLitePoolParams: padding (1 SAME, 2 VALID), stride w and h, filter w and h, activation
    node.parameters = {padding + 1,          stride[1], stride[0], filter[1], filter[0],
                       in_.OneIn(4) ? 1 : 0, 0,         0,         0,         0};
  }

  void AddConcatenation(int source) {
    std::vector<int> inputs = {source}, dims = At(source).dims;
    for (int more = 1 + in_.Below(2); more > 0; --more) {
      for (int tensor : activations_) {
        const std::vector<int>& other = At(tensor).dims;
        if (At(tensor).type == kTfLiteFloat32 && other.size() == 4 && other[0] == dims[0] &&
            other[1] == dims[1] && other[2] == dims[2] && dims[3] + other[3] <= 512 && !in_.OneIn(3)) {
          inputs.push_back(tensor);
          dims[3] += other[3];
          break;
        }
      }
    }
    Node& node = Add(kConcatenation, "", inputs, Activation(kTfLiteFloat32, dims));
    node.parameters = {in_.OneIn(4) ? -1 : 3, 0};
  }

  void AddUnary(int source) {
    constexpr int kCodes[] = {kRelu, kReluN1To1, kRelu6, kNeg, kLeakyRelu, kPrelu};
    const int code = in_.Pick(kCodes);
    std::vector<int> inputs = {source};
    if (code == kPrelu) {
      inputs.push_back(Floats(At(source).dims[3]));
      At(inputs[1]).dims = {1, 1, At(source).dims[3]};
    }
    Node& node = Add(code, "", inputs, Activation(kTfLiteFloat32, At(source).dims));
    const float alpha = 0.25f;
    memcpy(node.parameters.data(), &alpha, sizeof(alpha));
  }

  void AddBinary(int source) {
    constexpr int kCodes[] = {kAdd, kAdd, kMul, kSub};
    const int code = in_.Pick(kCodes);
    const std::vector<int> dims = At(source).dims;
    int other = -1;
    for (int tensor : activations_) {
      const bool fits = At(tensor).type == kTfLiteFloat32 && At(tensor).dims == dims;
      if (fits && (other < 0 || in_.OneIn(2))) other = tensor;
    }
    const int form = in_.Below(4);
    if (form == 0) other = Floats(dims[3]);
    if (form == 1) other = Constant(kTfLiteFloat32, {}, std::vector<float>{0.5f});
    std::vector<int> inputs = {source, other};
    if (in_.OneIn(3)) std::swap(inputs[0], inputs[1]);
    Node& node = Add(code, "", inputs, Activation(kTfLiteFloat32, dims));
    constexpr int kActivations[] = {0, 0, 1, 2, 3, 4};
    node.parameters[0] = in_.Pick(kActivations);
  }

  // A convolution or pooling of int8, of an image that is perhaps padded before.
  void AddOnIntegers(int floats) {
    int source = Find(kTfLiteInt8);
    if (source < 0 || in_.OneIn(8)) {
      source = Activation(kTfLiteInt8, At(floats).dims);
      Add(kQuantize, "", {floats}, source);
    }
    const bool is_pool = in_.OneIn(3);
    if (in_.OneIn(2)) source = AddPadOfIntegers(source, is_pool);
    is_pool ? AddPoolOfIntegers(source) : AddConvolutionOfIntegers(source);
  }

  int OnGridOf(int source, const std::vector<int>& dims) {
    const int tensor = Activation(kTfLiteInt8, dims);
    if (!in_.OneIn(16)) At(tensor).zero_point = At(source).zero_point;
    return tensor;
  }

  int AddPadOfIntegers(int source, bool is_pool) {
    std::vector<int> dims = At(source).dims, borders(8);
    const int first = in_.OneIn(16) ? 0 : 1;
    for (int axis = first; axis < 3; ++axis) {
      borders[2 * axis] = in_.Below(4), borders[2 * axis + 1] = in_.Below(4);
      dims[axis] += borders[2 * axis] + borders[2 * axis + 1];
    }
    const int where = Constant(kTfLiteInt32, {4, 2}, borders), output = OnGridOf(source, dims);
    if (!is_pool && !in_.OneIn(4)) {
      Add(kPad, "", {source, where}, output);
      return output;
    }
    const int least = in_.OneIn(4) ? At(source).zero_point : -128;
    const int value = Constant(kTfLiteInt8, {}, std::vector<int8_t>{static_cast<int8_t>(least)});
    At(value).scale = At(source).scale, At(value).zero_point = At(source).zero_point;
    Add(kPadV2, "", {source, where, value}, output);
    return output;
  }

  void AddPoolOfIntegers(int source) {
    int filter[] = {1 + in_.Below(3), 1 + in_.Below(3)};
    const int stride[] = {1 + in_.Below(3), 1 + in_.Below(3)}, dilation[] = {1, 1}, padding = in_.Below(2);
    const std::vector<int> out =
        Slide(At(source).dims, padding, stride, dilation, filter, At(source).dims[3]);
    Add(kMaxPool2d, "", {source}, OnGridOf(source, out)).parameters = {
        padding + 1, stride[1], stride[0], filter[1], filter[0], in_.OneIn(8) ? 1 : 0, 0, 0, 0, 0};
  }

  void AddConvolutionOfIntegers(int source) {
    const std::vector<int> dims = At(source).dims;
    const int channels = in_.Pick(kChannels);
    int filter[] = {1 + in_.Below(4), 1 + in_.Below(4)};
    const int stride[] = {1 + in_.Below(3), 1 + in_.Below(3)},
              dilation[] = {1 + in_.Below(3), 1 + in_.Below(3)}, padding = in_.Below(2);
    const std::vector<int> out = Slide(dims, padding, stride, dilation, filter, channels);
    const int length = filter[0] * filter[1] * dims[3];
    state_ = static_cast<uint32_t>(in_.Byte()) + 1;
    std::vector<int8_t> weights(static_cast<size_t>(channels) * length);
    const bool is_extreme = in_.OneIn(8);
    for (int8_t& weight : weights)
      weight = static_cast<int8_t>(is_extreme ? 127 : static_cast<int>(Random() % 255) - 127);
    if (in_.OneIn(16)) weights[Random() % weights.size()] = -128;
    std::vector<int> bias(channels);
    const int spread = is_extreme ? 1 << 30 : length * 500 + 1;
    for (int& value : bias) value = static_cast<int>(Random() % (2u * spread + 1)) - spread;
    const int kernel = Constant(kTfLiteInt8, {channels, filter[0], filter[1], dims[3]}, weights);
    At(kernel).steps.resize(in_.OneIn(8) ? 1 : channels);
    for (float& step : At(kernel).steps)
      step = static_cast<float>(1 + Random() % 8) / static_cast<float>(is_extreme ? 1 << 24 : 64 * length);
    At(kernel).zeros.resize(At(kernel).steps.size());
    const int biases = Constant(kTfLiteInt32, {channels}, bias);
    Node& node = Add(kConv2d, "", {source, kernel, biases}, Activation(kTfLiteInt8, out));
    const int activation = in_.OneIn(4) ? in_.Below(4) : 0;
    node.parameters = {padding + 1, stride[1], stride[0], activation, dilation[1], dilation[0], 0, 0, 0, 0};
  }

  // Something that no converter writes.
  void Damage() {
    Tensor& tensor = At(in_.Below(static_cast<int>(graph_.tensors.size())));
    Node& node = graph_.nodes[in_.Below(static_cast<int>(graph_.nodes.size()))];
    const int odd = in_.Pick(kOddValues), where = in_.Byte();
    const auto choose = [&](std::vector<int>* values, int value) {
      if (!values->empty()) (*values)[where % values->size()] = value;
    };
    const int any_tensor = in_.Below(static_cast<int>(graph_.tensors.size()) + 2) - 1;
    switch (in_.Below(19)) {
      case 0:
        return choose(&tensor.dims, odd);
      case 1:
        tensor.type = odd & 15;
        return;
      case 2:
        tensor.dims.resize(where % 10, 1);
        return;
      case 3:
        tensor.is_constant = !tensor.is_constant;
        return;
      case 4:
        tensor.data.resize(tensor.data.size() * (where % 4) / 4);
        return;
      case 5:
        tensor.scale = where % 2 == 0 ? static_cast<float>(odd) : OddStep();
        return;
      case 6:
        tensor.zero_point = odd;
        return;
      case 7:
        tensor.has_shape = where % 4 != 0;
        return;
      case 8:
        return choose(&node.inputs, any_tensor);
      case 9:
        node.inputs.resize(where % 7, any_tensor);
        return;
      case 10:
        return choose(&node.outputs, any_tensor);
      case 11:
        node.outputs.resize(where % 3, any_tensor);
        return;
      case 12:
        return choose(&node.parameters, odd);
      case 13:
        node.has_parameters = false;
        return;
      case 14:
        if (!node.options.empty())
          node.options[where % node.options.size()] = static_cast<uint8_t>(in_.Byte());
        return;
      case 15:
        node.options.resize(node.options.size() * (where % 8) / 8);
        return;
      case 16:
        tensor.steps.resize(where % 4 == 0 ? 0 : tensor.steps.size() * (where % 4) / 4);
        return;
      case 17:
        if (!tensor.steps.empty()) tensor.steps[where % tensor.steps.size()] = OddStep();
        return;
      case 18:
        tensor.axis = odd, tensor.zeros.resize(where % 3, odd);
        return;
    }
  }

  float OddStep() {
    constexpr float kSteps[] = {0.0f,  -1.0f, 1e-45f,           1e-29f,
                                1e29f, 3e38f, __builtin_inff(), __builtin_nanf("")};
    return in_.Pick(kSteps);
  }

  Stream& in_;
  Graph graph_;
  std::vector<int> activations_;
  std::vector<int> channels_of_;  // of packed tensors
  uint32_t state_ = 1;
  bool is_damaged_ = false;
};

#endif  // FSG_TESTS_RANDOM_GRAPH_H_
