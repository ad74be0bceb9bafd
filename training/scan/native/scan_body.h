// The fused Mamba block of scan.h, written once in portable vector code. Each scan*.cc includes this file in
// a namespace of its own under the instruction set it is named after, hence no include guard: FSG_SCAN_NAME
// is what differs.
//
// Arrays of vectors are [groups][kChunk] or [states][kChunk], a group being as many channels as fill a
// vector. The states are the outer loop of the scan and the tokens its inner one, so that the recurrence
// needs one register and the exponentials of later tokens fill its waiting time. A decay of 0 at the first
// token of a sequence keeps it apart from the one before, forward and backward.

#include "scan_math.h"

constexpr int kRowBlock = 8;        // accumulators of the small matrix products
constexpr int kWalk = 16 * kChunk;  // older tokens than these are worth asking whether they still matter

// Where the rows of `parameters` begin; a gradient has the same.
template <typename T>
struct Rows {
  using V = Vector<T>;
  V *taps, *conv_bias, *gate, *project, *dt_weight, *dt_bias, *A, *D, *out;

  Rows(void* parameters, const Scan& scan) {
    const int64_t groups = scan.channels * sizeof(T) / kVectorBytes;
    V* row = static_cast<V*>(parameters);
    const auto take = [&](int64_t count) {
      V* first = row;
      row += count * groups;
      return first;
    };
    taps = take(scan.taps);
    conv_bias = take(1);
    gate = take(1);
    project = take(1 + 2 * scan.states);
    dt_weight = take(1);
    dt_bias = take(1);
    A = take(scan.states);
    D = take(1);
    out = take(1);
  }
};

template <typename T>
class Worker {
 public:
  using V = Vector<T>;
  static constexpr int kLanes = kVectorBytes / sizeof(T);

  Worker(const Scan& scan, const Item& item)
      : scan_(scan),
        item_(item),
        groups_(static_cast<int>(scan.channels) / kLanes),
        states_(static_cast<int>(scan.states)),
        taps_(static_cast<int>(scan.taps)),
        projected_(1 + 2 * states_),
        width_((projected_ + kLanes - 1) / kLanes * kLanes),
        weights_(const_cast<void*>(scan.parameters), scan),
        grads_(item.grad_parameters, scan),
        tokens_(static_cast<const T*>(scan.tokens)) {}
  ~Worker() { free(memory_); }

  bool Forward() {
    if (!Allocate(false)) return false;
    for (int64_t i = item_.first; i < item_.end; ++i) scan_.starts[i] = FirstThatMatters(i);
    Cursor at = Begin(item_.first);
    V* border = static_cast<V*>(item_.borders);
    while (at.sequence < item_.end) {
      if (border != nullptr) {
        memcpy(border, state_, sizeof(V) * groups_ * states_);
        border += groups_ * states_;
      }
      Fill(&at);
      Activate<false>();
      Project(width_);
      FindSteps<false>();
      is_wanted_ ? Advance<true>() : Advance<false>();
      if (is_wanted_) WriteOutputs();
    }
    return true;
  }

  bool Backward() {
    if (!Allocate(true)) return false;
    int64_t chunks = 0;
    for (Cursor at = Begin(item_.first); at.sequence < item_.end; Fill(&at)) cursors_[chunks++] = at;
    while (chunks > 0) {
      Cursor at = cursors_[--chunks];
      const V* border = static_cast<const V*>(item_.borders) + chunks * groups_ * states_;
      Fill(&at);
      Activate<true>();
      Project(width_);
      FindSteps<true>();
      ReadOutputGradients();
      is_wanted_ ? Retreat<true>(border) : Retreat<false>(border);
      CollectProjectedGradients();
      LeaveScan();
      LeaveProjection();
      LeaveConvolution();
    }
    return true;
  }

 private:
  struct Cursor {
    int64_t sequence, token;
  };

  bool Allocate(bool backward) {
    const int64_t chunk = int64_t{groups_} * kChunk, states = int64_t{groups_} * states_;
    const int64_t tokens = scan_.token_ends[item_.end] - scan_.token_ends[item_.first];
    for (size_t size = 0;; size = 0) {  // first to measure, then to hand out
      const auto take_one = [&](auto& pointer, int64_t count) {
        pointer = reinterpret_cast<__typeof__(*pointer)*>(memory_ + size);
        size += (count * sizeof(*pointer) + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
      };
      const auto take = [&](int64_t count, auto&... pointers) { (take_one(pointers, count), ...); };
      take(kChunk, keep_, token_, first_, output_);
      take(kChunk * taps_, windows_);
      take(kChunk * width_, projection_);
      take(scan_.channels * width_, transposed_);
      take(states, rates_, state_);
      take(chunk, u_, dt_, input_, y_);
      if (backward) {
        take(tokens / kChunk + 1, cursors_);
        take(kChunk * width_, grad_projection_);
        take(kChunk + 1, grad_token_, decay_, before_);
        take(states, carry_);
        take(int64_t{states_} * kChunk, grad_B_, grad_C_);
        take(chunk, u_slope_, dt_slope_, gated_, gate_slope_, grad_y_, grad_dt_, grad_input_);
      }
      if (memory_ != nullptr) break;
      memory_ = static_cast<char*>(aligned_alloc(kVectorBytes, size));
      if (memory_ == nullptr) return false;
      memset(memory_, 0, size);
    }
    for (int64_t i = 0; i < states; ++i) rates_[i] = weights_.A[i] * T(kLog2E);
    Transpose();
    return true;
  }

  // The projection's rows, one vector of outputs per channel.
  void Transpose() {
    for (int j = 0; j < projected_; ++j) {
      const T* row = reinterpret_cast<const T*>(weights_.project + j * groups_);
      for (int64_t c = 0; c < scan_.channels; ++c) transposed_[c * width_ + j] = row[c];
    }
  }

  // ---- which tokens ----

  int64_t FirstOutput(int64_t sequence) const {
    return scan_.token_ends[sequence + 1] - (scan_.output_ends[sequence + 1] - scan_.output_ends[sequence]);
  }

  Cursor Begin(int64_t sequence) const {
    return {sequence, sequence < item_.end ? scan_.token_ends[sequence] + scan_.starts[sequence] : 0};
  }

  // The windows of the rows `row` to `row + count`, whose tokens follow each other.
  void FillWindows(int row, int count, int64_t token, int64_t first) {
    const int taps = taps_;
    const T* tokens = tokens_;
    T* to = windows_ + row * taps;
    for (; count > 0; --count, ++token) {
      for (int64_t seen = token - taps + 1; seen <= token; ++seen) *to++ = seen < first ? T{0} : tokens[seen];
    }
  }

  // Takes the next tokens for the chunk, of as many sequences as it needs, and moves the cursor behind them.
  void Fill(Cursor* at) {
    rows_ = 0;
    is_wanted_ = false;
    while (rows_ < kChunk && at->sequence < item_.end) {
      const int64_t left = scan_.token_ends[at->sequence + 1] - at->token;
      const int count = left < kChunk - rows_ ? static_cast<int>(left) : kChunk - rows_;
      FillRows(*at, count);
      rows_ += count;
      at->token += count;
      if (count == left) *at = Begin(at->sequence + 1);
    }
  }

  void FillRows(Cursor at, int count) {
    const int64_t first = scan_.token_ends[at.sequence], first_output = FirstOutput(at.sequence);
    const int64_t shift = scan_.output_ends[at.sequence] - first_output;
    T* keep = keep_ + rows_;
    int64_t *tokens = token_ + rows_, *firsts = first_ + rows_, *outputs = output_ + rows_;
    FillWindows(rows_, count, at.token, first);
    for (int r = 0; r < count; ++r) {
      const int64_t token = at.token + r;
      keep[r] = 1;
      tokens[r] = token;
      firsts[r] = first;
      outputs[r] = token < first_output ? -1 : token + shift;
    }
    if (at.token == first + scan_.starts[at.sequence]) keep[0] = 0;
    is_wanted_ |= at.token + count > first_output;
  }

  // Walks back from the first wanted token of a long sequence until every state has decayed by more than
  // `reach`.
  int64_t FirstThatMatters(int64_t sequence) {
    const int64_t first = scan_.token_ends[sequence];
    int64_t at = FirstOutput(sequence);
    if (at - first <= kWalk) return 0;
    memset(y_, 0, sizeof(V) * groups_);  // borrowed for the time that has passed, times the slowest decay
    while (at > first) {
      rows_ = at - first < kChunk ? static_cast<int>(at - first) : kChunk;
      at -= rows_;
      FillWindows(0, rows_, at, first);
      Activate<false>();
      Project(kLanes);
      FindSteps<false>();
      bool has_decayed = true;
      for (int g = 0; g < groups_; ++g) {
        V slowest = weights_.A[g], passed = {};
        for (int s = 1; s < states_; ++s) {
          const V rate = weights_.A[s * groups_ + g];
          slowest = rate > slowest ? rate : slowest;
        }
        for (int r = 0; r < rows_; ++r) passed += dt_[g * kChunk + r];
        y_[g] -= passed * slowest;
        for (int lane = 0; lane < kLanes; ++lane) has_decayed &= y_[g][lane] > scan_.reach;
      }
      if (has_decayed) return at - first;
    }
    return 0;
  }

  // ---- forward ----

  T Token(int row) const { return windows_[row * taps_ + taps_ - 1]; }

  template <bool slopes>
  void Activate() {
    const int rows = rows_, taps = taps_;
    for (int g = 0; g < groups_; ++g) {
      const V *weights = weights_.taps + g, bias = weights_.conv_bias[g];
      V *to = u_ + g * kChunk, *slope = slopes ? u_slope_ + g * kChunk : nullptr;
      const T* window = windows_;
      for (int r = 0; r < rows; ++r, window += taps) {
        V sum = bias;
        for (int k = 0; k < taps; ++k) sum += weights[k * groups_] * window[k];
        const V sigmoid = Sigmoid<T>(sum), u = sum * sigmoid;
        to[r] = u;
        if (slopes) slope[r] = sigmoid + u * (T{1} - sigmoid);
      }
    }
  }

  // The first `columns` of r, B and C; whole blocks of rows, those behind the last one hold anything.
  void Project(int columns) {
    const int64_t width = width_;
    for (int column = 0; column < columns; column += kLanes) {
      for (int row = 0; row < rows_; row += kRowBlock) {
        V sums[kRowBlock] = {};
        for (int g = 0; g < groups_; ++g) {
          const T* u = reinterpret_cast<const T*>(u_ + g * kChunk + row);
          const T* weight = transposed_ + g * kLanes * width + column;
          for (int lane = 0; lane < kLanes; ++lane, ++u, weight += width) {
            const V w = *reinterpret_cast<const V*>(weight);
            for (int i = 0; i < kRowBlock; ++i) sums[i] += w * u[i * kLanes];
          }
        }
        for (int i = 0; i < kRowBlock; ++i)
          *reinterpret_cast<V*>(projection_ + (row + i) * width_ + column) = sums[i];
      }
    }
  }

  // softplus(x) = max(x, 0) + log(1 + e^-|x|), and log(1 + e) = 2 atanh(e / (2 + e))
  template <bool slopes>
  void FindSteps() {
    const int rows = rows_, width = width_;
    const T* projection = projection_;
    for (int g = 0; g < groups_; ++g) {
      const V weight = weights_.dt_weight[g], bias = weights_.dt_bias[g], *u = u_ + g * kChunk;
      V *dt = dt_ + g * kChunk, *input = input_ + g * kChunk;
      V* slope = slopes ? dt_slope_ + g * kChunk : nullptr;
      for (int r = 0; r < rows; ++r) {
        const V x = weight * projection[r * width] + bias;
        const auto is_positive = x > T{0};
        const V e = Exp2<T>((is_positive ? -x : x) * T(kLog2E));
        const V z = e / (T{2} + e);
        const V log = T{2} * z * Polynomial<T>(Numbers<T>::kAtanh, z * z);
        const V step = is_positive ? x + log : log;
        dt[r] = step;
        input[r] = step * u[r];
        if (slopes) slope[r] = (is_positive ? V{} + T{1} : e) / (T{1} + e);
      }
    }
  }

  template <bool wanted>
  void Advance() {
    const int rows = rows_, width = width_;
    const T* keep = keep_;
    for (int g = 0; g < groups_; ++g) {
      const V *dt = dt_ + g * kChunk, *input = input_ + g * kChunk;
      V* y = y_ + g * kChunk;
      if (wanted) StartWithD(g);
      for (int s = 0; s < states_; ++s) {
        const V rate = rates_[s * groups_ + g];
        const T *B = projection_ + 1 + s, *C = B + states_;
        V h = state_[s * groups_ + g];
        for (int r = 0; r < rows; ++r, B += width, C += width) {
          h = Exp2<T>(dt[r] * rate) * keep[r] * h + input[r] * *B;
          if (wanted) y[r] += h * *C;
        }
        state_[s * groups_ + g] = h;
      }
    }
  }

  void StartWithD(int g) {
    const V D = weights_.D[g];
    for (int r = 0; r < rows_; ++r) y_[g * kChunk + r] = D * u_[g * kChunk + r];
  }

  void WriteOutputs() {
    for (int r = 0; r < rows_; ++r) {
      if (output_[r] < 0) continue;
      V sum = {};
      for (int g = 0; g < groups_; ++g) {
        const V gate = weights_.gate[g] * Token(r);
        sum += weights_.out[g] * y_[g * kChunk + r] * (gate * Sigmoid<T>(gate));
      }
      static_cast<T*>(scan_.outputs)[output_[r]] = Sum<T>(sum);
    }
  }

  // ---- backward ----

  // silu(gate) and its slope, both times the output's gradient, and the gradient of y.
  void ReadOutputGradients() {
    if (!is_wanted_) return;
    for (int g = 0; g < groups_; ++g) {
      for (int r = 0; r < rows_; ++r) {
        const int at = g * kChunk + r;
        if (output_[r] < 0) {
          gated_[at] = gate_slope_[at] = grad_y_[at] = V{};
          continue;
        }
        const T gradient = static_cast<const T*>(scan_.grad_outputs)[output_[r]];
        const V gate = weights_.gate[g] * Token(r), sigmoid = Sigmoid<T>(gate), silu = gate * sigmoid;
        gated_[at] = silu * gradient;
        gate_slope_[at] = (sigmoid + silu * (T{1} - sigmoid)) * gradient;
        grad_y_[at] = gated_[at] * weights_.out[g];
      }
    }
  }

  // Runs every state forward once more from the chunk's border, then backward.
  template <bool wanted>
  void Retreat(const V* border) {
    memset(grad_B_, 0, sizeof(V) * states_ * kChunk);
    memset(grad_C_, 0, sizeof(V) * states_ * kChunk);
    memset(grad_dt_, 0, sizeof(V) * groups_ * kChunk);
    memset(grad_input_, 0, sizeof(V) * groups_ * kChunk);
    for (int g = 0; g < groups_; ++g) {
      if (wanted) StartWithD(g);
      for (int s = 0; s < states_; ++s) {
        Replay<wanted>(g, s, border[s * groups_ + g]);
        Reverse<wanted>(g, s);
      }
    }
  }

  template <bool wanted>
  void Replay(int g, int s, V h) {
    const int rows = rows_, width = width_;
    const T *keep = keep_, *B = projection_ + 1 + s, *C = B + states_;
    const V rate = rates_[s * groups_ + g], *dt = dt_ + g * kChunk, *input = input_ + g * kChunk;
    V *y = y_ + g * kChunk, *decay = decay_, *before = before_;
    for (int r = 0; r < rows; ++r, B += width, C += width) {
      before[r] = h;
      decay[r] = Exp2<T>(dt[r] * rate) * keep[r];
      h = decay[r] * h + input[r] * *B;
      if (wanted) y[r] += h * *C;
    }
    before[rows] = h;
  }

  template <bool wanted>
  void Reverse(int g, int s) {
    const int rows = rows_, width = width_;
    const V *dt = dt_ + g * kChunk, *input = input_ + g * kChunk, *grad_y = grad_y_ + g * kChunk;
    const V *decay = decay_, *before = before_, A = weights_.A[s * groups_ + g];
    const T *B = projection_ + (rows - 1) * width + 1 + s, *C = B + states_;
    V *grad_B = grad_B_ + s * kChunk, *grad_C = grad_C_ + s * kChunk;
    V *grad_dt = grad_dt_ + g * kChunk, *grad_input = grad_input_ + g * kChunk;
    V carry = carry_[s * groups_ + g], grad_A = {};
    for (int r = rows - 1; r >= 0; --r, B -= width, C -= width) {
      V grad = carry;
      if (wanted) {
        grad += grad_y[r] * *C;
        grad_C[r] += grad_y[r] * before[r + 1];
      }
      carry = grad * decay[r];
      const V exponent = carry * before[r];
      grad_A += exponent * dt[r];
      grad_dt[r] += exponent * A;
      grad_input[r] += grad * *B;
      grad_B[r] += grad * input[r];
    }
    carry_[s * groups_ + g] = carry;
    grads_.A[s * groups_ + g] += grad_A;
  }

  void CollectProjectedGradients() {
    for (int r = 0; r < rows_; ++r) {
      T* to = grad_projection_ + r * width_ + 1;
      for (int s = 0; s < states_; ++s) {
        to[s] = Sum<T>(grad_B_[s * kChunk + r]);
        to[states_ + s] = is_wanted_ ? Sum<T>(grad_C_[s * kChunk + r]) : T{0};
      }
    }
  }

  // From the gradients of dt, dt * u and y to those of r, u (left in grad_input_), gate and their parameters.
  void LeaveScan() {
    V grad_r[kChunk] = {};
    memset(grad_token_, 0, sizeof(V) * kChunk);
    for (int g = 0; g < groups_; ++g) {
      V weight = {}, bias = {};
      for (int r = 0; r < rows_; ++r) {
        const int at = g * kChunk + r;
        const V gradient = (grad_dt_[at] + grad_input_[at] * u_[at]) * dt_slope_[at];
        weight += gradient * projection_[r * width_];
        bias += gradient;
        grad_r[r] += gradient * weights_.dt_weight[g];
        grad_input_[at] *= dt_[at];
      }
      grads_.dt_weight[g] += weight;
      grads_.dt_bias[g] += bias;
      if (is_wanted_) LeaveGate(g);
    }
    for (int r = 0; r < rows_; ++r) grad_projection_[r * width_] = Sum<T>(grad_r[r]);
  }

  void LeaveGate(int g) {
    V D = {}, out = {}, gate = {};
    for (int r = 0; r < rows_; ++r) {
      if (output_[r] < 0) continue;
      const int at = g * kChunk + r;
      grad_input_[at] += grad_y_[at] * weights_.D[g];
      D += grad_y_[at] * u_[at];
      out += gated_[at] * y_[at];
      const V gradient = gate_slope_[at] * weights_.out[g] * y_[at];
      gate += gradient * Token(r);
      grad_token_[r] += gradient * weights_.gate[g];
    }
    grads_.D[g] += D;
    grads_.out[g] += out;
    grads_.gate[g] += gate;
  }

  // Adds the projection's share to the gradient of u, and finds that of its weights.
  void LeaveProjection() {
    const int64_t width = width_, rows = rows_;
    for (int g = 0; g < groups_; ++g) {
      for (int row = 0; row < rows_; row += kRowBlock) {
        V* grad_u = grad_input_ + g * kChunk + row;
        const T* gradient = grad_projection_ + row * width;
        V sums[kRowBlock];
        memcpy(sums, grad_u, sizeof(sums));
        for (int j = 0; j < projected_; ++j, ++gradient) {
          const V weight = weights_.project[j * groups_ + g];
          for (int i = 0; i < kRowBlock; ++i) sums[i] += weight * gradient[i * width];
        }
        memcpy(grad_u, sums, sizeof(sums));
      }
      for (int j = 0; j < projected_; j += kRowBlock) {
        V sums[kRowBlock] = {};
        const V* u = u_ + g * kChunk;
        const T* gradient = grad_projection_ + j;
        for (int r = 0; r < rows; ++r, gradient += width) {
          for (int i = 0; i < kRowBlock; ++i) sums[i] += u[r] * gradient[i];
        }
        for (int i = 0; i < kRowBlock && j + i < projected_; ++i)
          grads_.project[(j + i) * groups_ + g] += sums[i];
      }
    }
  }

  void LeaveConvolution() {
    const int rows = rows_, taps = taps_;
    for (int g = 0; g < groups_; ++g) {
      V *gradient = grad_input_ + g * kChunk, bias = {};
      const V* slope = u_slope_ + g * kChunk;
      for (int r = 0; r < rows; ++r) bias += gradient[r] *= slope[r];
      grads_.conv_bias[g] += bias;
      for (int k = 0; k < taps; ++k) {
        V sum = {};
        const T* seen = windows_ + k;
        for (int r = 0; r < rows; ++r, seen += taps) sum += gradient[r] * *seen;
        grads_.taps[k * groups_ + g] += sum;
      }
    }
    if (scan_.grad_tokens != nullptr) WriteTokenGradients();
  }

  void WriteTokenGradients() {
    T* grad_tokens = static_cast<T*>(scan_.grad_tokens);
    for (int r = 0; r < rows_; ++r) {
      for (int k = 0; k < taps_; ++k) {
        const int64_t token = token_[r] - taps_ + 1 + k;
        if (token < first_[r]) continue;
        V sum = k == taps_ - 1 ? grad_token_[r] : V{};
        for (int g = 0; g < groups_; ++g) sum += grad_input_[g * kChunk + r] * weights_.taps[k * groups_ + g];
        grad_tokens[token] += Sum<T>(sum);
      }
    }
  }

  const Scan& scan_;
  const Item& item_;
  const int groups_, states_, taps_, projected_, width_;
  const Rows<T> weights_, grads_;
  const T* const tokens_;

  int rows_ = 0;                       // of the chunk
  bool is_wanted_ = false;             // some output lies in the chunk
  int64_t *token_, *first_, *output_;  // of each row: its token, the first of its sequence, its output or -1
  Cursor* cursors_;
  T *windows_, *keep_, *transposed_, *projection_, *grad_projection_;
  V *rates_, *state_, *carry_;  // [states][groups]; rates are A for Exp2
  V *u_, *dt_, *input_, *y_, *u_slope_, *dt_slope_, *gated_, *gate_slope_, *grad_y_, *grad_dt_, *grad_input_;
  V *decay_, *before_, *grad_B_, *grad_C_, *grad_token_;
  char* memory_ = nullptr;
};

bool ScanForward(const Scan& scan, const Item& item) {
  return scan.is_double ? Worker<double>(scan, item).Forward() : Worker<float>(scan, item).Forward();
}

bool ScanBackward(const Scan& scan, const Item& item) {
  return scan.is_double ? Worker<double>(scan, item).Backward() : Worker<float>(scan, item).Backward();
}

const ScanKernels kKernels = {FSG_SCAN_NAME, ScanForward, ScanBackward};
