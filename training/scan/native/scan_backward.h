// Part of scan_body.h: from the outputs' gradients to those of parameters and tokens.
#ifndef FSG_TRAINING_NATIVE_SCAN_BACKWARD_H_
#define FSG_TRAINING_NATIVE_SCAN_BACKWARD_H_

#include "scan_worker.h"

template <typename T>
inline bool Worker<T>::Backward() {
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

// silu(gate) and its slope, both times the output's gradient, and the gradient of y.
template <typename T>
inline void Worker<T>::ReadOutputGradients() {
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
template <typename T>
template <bool wanted>
inline void Worker<T>::Retreat(const V* border) {
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

template <typename T>
template <bool wanted>
inline void Worker<T>::Replay(int g, int s, V h) {
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

template <typename T>
template <bool wanted>
inline void Worker<T>::Reverse(int g, int s) {
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

template <typename T>
inline void Worker<T>::CollectProjectedGradients() {
  for (int r = 0; r < rows_; ++r) {
    T* to = grad_projection_ + r * width_ + 1;
    for (int s = 0; s < states_; ++s) {
      to[s] = Sum<T>(grad_B_[s * kChunk + r]);
      to[states_ + s] = is_wanted_ ? Sum<T>(grad_C_[s * kChunk + r]) : T{0};
    }
  }
}

// From the gradients of dt, dt * u and y to those of r, u (left in grad_input_), gate and their parameters.
template <typename T>
inline void Worker<T>::LeaveScan() {
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

template <typename T>
inline void Worker<T>::LeaveGate(int g) {
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
template <typename T>
inline void Worker<T>::LeaveProjection() {
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

template <typename T>
inline void Worker<T>::LeaveConvolution() {
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

template <typename T>
inline void Worker<T>::WriteTokenGradients() {
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

#endif  // FSG_TRAINING_NATIVE_SCAN_BACKWARD_H_
