// Part of scan_body.h: the chunk of tokens that a thread works on, and which tokens it takes.
//
// Arrays of vectors are [groups][kChunk] or [states][kChunk], a group being as many channels as fill a
// vector. The states are the outer loop of the scan and the tokens its inner one, so that the recurrence
// needs one register and the exponentials of later tokens fill its waiting time. A decay of 0 at the first
// token of a sequence keeps it apart from the one before, forward and backward.
#ifndef FSG_TRAINING_NATIVE_SCAN_WORKER_H_
#define FSG_TRAINING_NATIVE_SCAN_WORKER_H_

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

  bool Forward();
  bool Backward();

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

  // ---- forward: scan_forward.h ----

  T Token(int row) const { return windows_[row * taps_ + taps_ - 1]; }

  template <bool slopes>
  void Activate();
  void Project(int columns);
  template <bool slopes>
  void FindSteps();
  template <bool wanted>
  void Advance();
  void StartWithD(int g);
  void WriteOutputs();

  // ---- backward: scan_backward.h ----

  void ReadOutputGradients();
  template <bool wanted>
  void Retreat(const V* border);
  template <bool wanted>
  void Replay(int g, int s, V h);
  template <bool wanted>
  void Reverse(int g, int s);
  void CollectProjectedGradients();
  void LeaveScan();
  void LeaveGate(int g);
  void LeaveProjection();
  void LeaveConvolution();
  void WriteTokenGradients();

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

#endif  // FSG_TRAINING_NATIVE_SCAN_WORKER_H_
